// Pages that become old: their values in few bits (ir/kv_pages.cpp says which; here scales are found for 16 positions at once). A task
// is a page of one head's K or V. Where groups are staged, further tasks bring the last of them to the ring and the first to the sinks.
#include <cmath>

#include "codegen/kernels/kv_store.h"
#include "codegen/kernels/planes.h"
#include "ir/kv_pages.h"

namespace prism::codegen {

using namespace kir;
using ir::Op;

namespace {

constexpr int64_t kVectors = rt::kKvPage / kLanes;   // of positions

class Demote {
 public:
  Demote(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims) : r_(op, name, dims), b_(r_.b) {}

  Result<LoweredKernel> run() {
    const ir::Operation& op = r_.body.ops.front();
    const ir::Value* kv = op.operand(0);
    const int64_t heads = *kv->type.dim(1).constant();
    size_ = *kv->type.dim(2).constant();
    const KvStores stores = open_kv_stores(r_, kv, op.attr<int64_t>("most_tokens"));
    const bool staged = stores.keys.staged();
    x_ = b_.scratch("x", Elem::F32, size_ * rt::kKvPage);
    scales_ = b_.scratch("scales", Elem::F32, rt::kv_scales(size_) * rt::kKvPage);
    codes_ = b_.scratch("codes", Elem::U8, size_ * rt::kKvPage);
    words_ = b_.scratch("words", Elem::U32, size_ * kLanes);

    const ir::Dim pages = ir::Dim::symbol(rt::kDemoteDim) * ir::Dim(2 * heads);
    const Ex all = b_.let(r_.dim(pages));
    const auto each_plane = [&](Ex index, const std::function<void(const KvStore&, Ex)>& body) {  // index: of head and plane
      const Ex head = b_.let(index / 2);
      b_.if_(index % 2 == Ex(0), [&] { body(stores.keys, head); }, [&] { body(stores.values, head); });
    };
    b_.if_(b_.task() < all, [&] {
      const Ex page = b_.let(b_.dim(rt::kDemotedDim) + b_.task() / (2 * heads));
      each_plane(b_.let(b_.task() % (2 * heads)), [&](const KvStore& store, Ex head) { demote(store, head, page); });
    }, [&] {
      if (!staged) return;
      const Ex task = b_.let(b_.task() - all), last = b_.let((r_.dim(kv->type.dim(0)) - Ex(1)) / rt::kKvGroup), slot = b_.let(task / (2 * heads));
      // The last groups, and the sinks while they are staged.
      const Ex group = b_.let(select(slot < Ex(rt::kKvRing), last - slot, Ex(int64_t(0))));
      each_plane(b_.let(task % (2 * heads)), [&](const KvStore& store, Ex head) {
        b_.if_(store.first_staged() <= group, [&] {
          const Ex from = store.group(head, group), to = store.ring(head, group);
          b_.for_(0, store.shape().group_bytes(), 4 * kLanes, [&](Ex i) { b_.store(store.plane(), to + i, b_.load({Elem::U32, kLanes}, store.exact(), from + i)); });
        });
      });
    });
    return r_.finish(staged ? pages + ir::Dim(2 * heads * rt::kKvExactGroups) : pages);
  }

 private:
  /// The page as [channel][position].
  void load(const KvStore& store, Ex head, Ex page) {
    const int64_t bytes = elem_bytes(store.element());
    b_.for_(0, kVectors, 1, [&](Ex v) {
      const Ex group = store.group(head, b_.let(page * kVectors + v));
      if (store.shape().keys) {
        b_.for_(0, size_, 1, [&](Ex i) {
          b_.store(x_, i * rt::kKvPage + v * kLanes, cast(Elem::F32, b_.load({store.element(), kLanes}, store.exact(), group + i * (kLanes * bytes))));
        });
      } else {
        b_.for_(0, kLanes * size_, 1, [&](Ex i) {
          b_.store(x_, i % size_ * rt::kKvPage + v * kLanes + i / size_, cast(Elem::F32, b_.load({store.element(), 1}, store.exact(), group + i * bytes)));
        });
      }
    });
  }

  /// 16 positions of a channel.
  Ex values(Ex channel, Ex v) { return b_.load(x_, channel * rt::kKvPage + v * kLanes, kLanes); }

  /// Takes the channels' means from the page.
  void take_means(const KvStore& store, Ex scales) {
    const Buffer means = b_.scratch("means", Elem::F32, size_);
    const Ex most = b_.var(Ex(0.0));
    b_.for_(0, size_, 1, [&](Ex i) {
      Ex sum = values(i, Ex(int64_t(0)));
      for (int64_t v = 1; v < kVectors; ++v) sum = sum + values(i, Ex(v));
      const Ex mean = b_.let(call(Fn::ReduceAdd, {sum}) * Ex(1.0 / double(rt::kKvPage)));
      b_.store(means, i, mean);
      b_.assign(most, max(most, call(Fn::Abs, {mean})));
    });
    const Ex base = b_.let(most * Ex(1.0 / 127)), inverse = b_.let(inverse_or_zero(base));
    b_.store(store.plane(), store.mean_base_at(scales), base);
    b_.for_(0, size_, 1, [&](Ex i) {
      const Ex code = b_.let(call(Fn::RoundEven, {b_.load(means, i) * inverse})), mean = b_.let(code * base);
      b_.store(store.plane(), scales + Ex(store.means_at()) + i, cast(Elem::I8, cast(Elem::I32, code)));
      for (int64_t v = 0; v < kVectors; ++v) b_.store(x_, i * rt::kKvPage + Ex(v * kLanes), values(i, Ex(v)) - mean);
    });
  }

  Ex code(Ex x, Ex inverse, int most) {
    return min(max(call(Fn::RoundEven, {fma(x, inverse, constant({Elem::F32, kLanes}, double(most) / 2))}), constant({Elem::F32, kLanes}, 0)), constant({Elem::F32, kLanes}, most));
  }

  /// Of 16 positions and the channels from `first` on the scale that leaves the least squared error.
  Ex best_scale(int64_t first, Ex v, int most) {
    const int64_t end = first + rt::kv_scale_group(size_);
    const Ex largest = b_.var(constant({Elem::F32, kLanes}, 0));
    b_.for_(first, end, 1, [&](Ex i) { b_.assign(largest, max(largest, call(Fn::Abs, {values(i, v)}))); });
    std::vector<Ex> inverse, products, squares;
    for (float clip : ir::kKvClips) {
      inverse.push_back(b_.let(inverse_or_zero(largest * Ex(double(clip) / (double(most) / 2)))));
      products.push_back(b_.var(constant({Elem::F32, kLanes}, 0)));
      squares.push_back(b_.var(constant({Elem::F32, kLanes}, 0)));
    }
    b_.for_(first, end, 1, [&](Ex i) {
      const Ex x = b_.let(values(i, v));
      for (size_t c = 0; c < inverse.size(); ++c) {
        const Ex level = b_.let(code(x, inverse[c], most) - Ex(double(most) / 2));
        b_.assign(products[c], fma(x, level, products[c]));
        b_.assign(squares[c], fma(level, level, squares[c]));
      }
    });
    Ex best = constant({Elem::F32, kLanes}, 0), gained = best;
    for (size_t c = 0; c < inverse.size(); ++c) {
      const Ex scale = b_.let(products[c] / squares[c]), gain = b_.let(scale * products[c]);
      best = b_.let(select(gained < gain, scale, best));
      gained = b_.let(max(gained, gain));
    }
    return best;
  }

  void demote(const KvStore& store, Ex head, Ex page) {
    const int64_t groups = rt::kv_scales(size_), channels = rt::kv_scale_group(size_);
    const int most = (1 << store.shape().bits) - 1;
    load(store, head, page);
    const Ex scales = store.scales(page, head), codes = store.codes(page, head);
    if (store.shape().keys) take_means(store, scales);

    Ex largest = b_.var(constant({Elem::F32, kLanes}, 0));
    for (int64_t g = 0; g < groups; ++g)
      b_.for_(0, kVectors, 1, [&](Ex v) {
        const Ex scale = best_scale(g * channels, v, most);
        b_.store(scales_, Ex(g * rt::kKvPage) + v * kLanes, scale);
        b_.assign(largest, max(largest, scale));
      });
    const Ex base = b_.let(call(Fn::ReduceMax, {largest}) * Ex(1.0 / (255.0 * 255.0))), inverse = b_.let(inverse_or_zero(base));
    b_.store(store.plane(), store.scale_base_at(scales), base);
    b_.for_(0, kVectors, 1, [&](Ex v) {
      for (int64_t g = 0; g < groups; ++g) {
        const Ex at = b_.let(Ex(g * rt::kKvPage) + v * kLanes);
        const Ex byte = b_.let(call(Fn::RoundEven, {call(Fn::Sqrt, {b_.load(scales_, at, kLanes) * inverse})}));
        b_.store(store.plane(), scales + at, cast(Elem::U8, cast(Elem::I32, byte)));
        const Ex scale = b_.let(byte * byte * base), by = b_.let(inverse_or_zero(scale));
        b_.for_(g * channels, (g + 1) * channels, 1, [&](Ex i) {
          b_.store(codes_, i * rt::kKvPage + v * kLanes, cast(Elem::U8, cast(Elem::I32, code(values(i, v), by, most))));
        });
      }
    });
    pack(store, codes);
  }

  /// Codes [channel][position] as words, and those as planes.
  void pack(const KvStore& store, Ex codes) {
    if (store.shape().keys) {
      b_.for_(0, kVectors, 1, [&](Ex v) {
        b_.for_(0, size_ / 4, 1, [&](Ex quad) {
          Ex word;
          for (int byte = 0; byte < 4; ++byte) {
            const Ex c = cast(Elem::U32, b_.load({Elem::U8, kLanes}, codes_, (quad * 4 + Ex(byte)) * rt::kKvPage + v * kLanes));
            word = byte ? word | (c << (8 * byte)) : c;
          }
          b_.store(words_, (v * (size_ / 4) + quad) * kLanes, word);
        });
      });
    } else {
      b_.for_(0, size_, 1, [&](Ex i) {
        b_.for_(0, rt::kKvPage / 4, 1, [&](Ex quad) {
          b_.store(words_, (i / kLanes * (rt::kKvPage / 4) + quad) * kLanes + i % kLanes, b_.load({Elem::U32, 1}, codes_, i * rt::kKvPage + quad * 4));
        });
      });
    }
    b_.for_(0, size_ / kPlaneWords, 1, [&](Ex block) {
      std::vector<Ex> words;
      for (int j = 0; j < kPlaneWords; ++j) words.push_back(b_.let(b_.load(words_, (block * kPlaneWords + Ex(j)) * kLanes, kLanes)));
      store.store_words(codes, block, words);
    });
  }

  Region r_;
  Builder& b_;
  int64_t size_ = 0;
  Buffer x_, scales_, codes_, words_;
};

}  // namespace

Result<LoweredKernel> lower_demote(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims) {
  return Demote(op, name, dims).run();
}

}  // namespace prism::codegen
