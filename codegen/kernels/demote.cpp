#include "codegen/kernels/demote.h"

#include <cmath>

#include "codegen/kernels/planes.h"
#include "ir/kv_pages.h"

namespace prism::codegen {

using namespace kir;
using ir::Op;

namespace {

constexpr int64_t kGroups = rt::kKvPage / kLanes;   // of positions

Ex code(Ex x, Ex inverse, int most) {
  const auto level = [&](double v) { return constant(x.ty(), v); };
  return min(max(call(Fn::RoundEven, {fma(x, inverse, level(double(most) / 2))}), level(0)), level(most));
}

}  // namespace

Demote::Demote(Region& r, const ir::Operation& op, const ir::Value* kv)
    : r_(r), b_(r.b), work_(r.b), kv_(kv), gpu_(r.b.block_threads() > 0), heads_(*kv->type.dim(1).constant()), size_(*kv->type.dim(2).constant()), stride_(rt::kKvPage + gpu_),
      stores_(open_kv_stores(r, kv, op.attr<int64_t>("most_tokens"))) {
  x_ = work_.memory("page", Elem::F32, size_ * stride_);
  means_ = work_.memory("means", Elem::F32, size_);
  scales_ = work_.memory("scales", Elem::F32, scales());
  codes_ = work_.memory("codes", Elem::U8, size_ * rt::kKvPage);
  words_ = gpu_ ? b_.overlay("words", Elem::U32, size_ * kLanes, x_) : work_.memory("words", Elem::U32, size_ * kLanes);
}

ir::Dim Demote::tasks() const {
  const ir::Dim pages = ir::Dim::symbol(rt::kDemoteDim) * ir::Dim(2 * heads_);
  if (stores_.keys.staged()) return pages + ir::Dim(2 * heads_ * rt::kKvExactGroups);
  // Few tokens demote one page at most; a GPU's number of blocks is constant, so that they can be recorded.
  return gpu_ ? ir::Dim(2 * heads_) : pages;
}

void Demote::run(Ex task) {
  const Ex all = b_.let(r_.dim(ir::Dim::symbol(rt::kDemoteDim) * ir::Dim(2 * heads_)));
  const auto each_plane = [&](Ex index, const std::function<void(const KvStore&, Ex)>& body) {  // index: of head and plane
    const Ex head = b_.let(index / 2);
    b_.if_(index % 2 == Ex(0), [&] { body(stores_.keys, head); }, [&] { body(stores_.values, head); });
  };
  b_.if_(task < all, [&] {
    const Ex page = b_.let(b_.dim(rt::kDemotedDim) + task / (2 * heads_));
    each_plane(b_.let(task % (2 * heads_)), [&](const KvStore& store, Ex head) { demote(store, head, page); });
  }, [&] {
    if (!stores_.keys.staged()) return;
    const Ex further = b_.let(task - all), last = b_.let((r_.dim(kv_->type.dim(0)) - Ex(1)) / rt::kKvGroup), slot = b_.let(further / (2 * heads_));
    // The last groups, and the sinks while they are staged.
    const Ex group = b_.let(select(slot < Ex(rt::kKvRing), last - slot, constant(slot.ty(), 0)));
    each_plane(b_.let(further % (2 * heads_)), [&](const KvStore& store, Ex head) {
      b_.if_(store.first_staged() <= group, [&] {
        const Ex from = store.group(head, group), to = store.ring(head, group);
        work_.over(store.shape().group_bytes() / 4, [&](Ex i, int l) { b_.store(store.plane(), to + i * 4, b_.load({Elem::U32, l}, store.exact(), from + i * 4)); });
      });
    });
  });
}

/// The page as [channel][position].
void Demote::load(const KvStore& store, Ex head, Ex page) {
  const int64_t bytes = elem_bytes(store.element());
  b_.for_(0, kGroups, 1, [&](Ex g) {
    const Ex group = store.group(head, b_.let(page * kGroups + g)), to = b_.let(g * kLanes);
    const auto value = [&](Ex i, int l) { return cast(Elem::F32, b_.load({store.element(), l}, store.exact(), group + i * bytes)); };
    if (store.shape().keys) work_.over(size_ * kLanes, [&](Ex i, int l) { b_.store(x_, i / kLanes * stride_ + i % kLanes + to, value(i, l)); });
    else work_.over_each(size_ * kLanes, [&](Ex i) { b_.store(x_, i % size_ * stride_ + i / size_ + to, value(i, 1)); });
  });
}

/// body(position, lanes) for all positions, by one thread.
void Demote::each_position(const std::function<void(Ex, int)>& body) {
  if (gpu_) return b_.for_(0, rt::kKvPage, 1, [&](Ex p) { body(p, 1); });
  for (int64_t p = 0; p < rt::kKvPage; p += kLanes) body(Ex(p), kLanes);
}

/// Takes the channels' means from the page.
void Demote::take_means(const KvStore& store, Ex scales) {
  work_.over_each(size_, [&](Ex i) {
    const Ex sum = b_.var(constant({Elem::F32, gpu_ ? 1 : kLanes}, 0));
    each_position([&](Ex p, int l) { b_.assign(sum, sum + values(i, p, l)); });
    b_.store(means_, i, (gpu_ ? sum : call(Fn::ReduceAdd, {sum})) * Ex(1.0 / double(rt::kKvPage)));
  });
  const Ex most = work_.reduce(size_, Fn::ReduceMax, [&](Ex i, int l) { return call(Fn::Abs, {b_.load(means_, i, l)}); });
  const Ex base = b_.let(most * Ex(1.0 / 127)), inverse = b_.let(inverse_or_zero(base));
  work_.once([&] { b_.store(store.plane(), store.mean_base_at(scales), base); });
  work_.over_each(size_, [&](Ex i) {
    const Ex code = b_.let(call(Fn::RoundEven, {b_.load(means_, i) * inverse})), mean = b_.let(code * base);
    b_.store(store.plane(), scales + Ex(store.means_at()) + i, cast(Elem::I8, cast(Elem::I32, code)));
    each_position([&](Ex p, int l) { b_.store(x_, i * stride_ + p, values(i, p, l) - mean); });
  });
}

/// body(channel) for those of scale i, counted by channel group and position.
void Demote::each_channel(Ex i, const std::function<void(Ex)>& body) {
  const int64_t channels = rt::kv_scale_group(size_);
  const Ex first = b_.let(i / rt::kKvPage * channels);
  b_.for_(0, channels, 1, [&](Ex c) { body(b_.let(first + c)); });
}

/// The scale i, and those of the next positions, that leaves the least squared error.
Ex Demote::best_scale(Ex i, int lanes, int most) {
  const Ex p = b_.let(i % rt::kKvPage), zero = constant({Elem::F32, lanes}, 0), largest = b_.var(zero);
  each_channel(i, [&](Ex c) { b_.assign(largest, max(largest, call(Fn::Abs, {values(c, p, lanes)}))); });
  std::vector<Ex> inverse, products, squares;
  for (float clip : ir::kKvClips) {
    inverse.push_back(b_.let(inverse_or_zero(largest * Ex(double(clip) / (double(most) / 2)))));
    products.push_back(b_.var(zero));
    squares.push_back(b_.var(zero));
  }
  each_channel(i, [&](Ex c) {
    const Ex x = b_.let(values(c, p, lanes));
    for (size_t t = 0; t < inverse.size(); ++t) {
      const Ex level = b_.let(code(x, inverse[t], most) - Ex(double(most) / 2));
      b_.assign(products[t], fma(x, level, products[t]));
      b_.assign(squares[t], fma(level, level, squares[t]));
    }
  });
  Ex best = zero, gained = zero;
  for (size_t t = 0; t < inverse.size(); ++t) {
    const Ex scale = b_.let(products[t] / squares[t]), gain = b_.let(scale * products[t]);
    best = b_.let(select(gained < gain, scale, best));
    gained = b_.let(max(gained, gain));
  }
  return best;
}

void Demote::demote(const KvStore& store, Ex head, Ex page) {
  const int most = (1 << store.shape().bits) - 1;
  load(store, head, page);
  const Ex scales = store.scales(page, head), codes = store.codes(page, head);
  if (store.shape().keys) take_means(store, scales);

  work_.over(this->scales(), [&](Ex i, int l) { b_.store(scales_, i, best_scale(i, l, most)); });
  const Ex largest = work_.reduce(this->scales(), Fn::ReduceMax, [&](Ex i, int l) { return b_.load(scales_, i, l); });
  const Ex base = b_.let(largest * Ex(1.0 / (255.0 * 255.0))), inverse = b_.let(inverse_or_zero(base));
  work_.once([&] { b_.store(store.plane(), store.scale_base_at(scales), base); });
  work_.over(this->scales(), [&](Ex i, int l) {
    const Ex byte = b_.let(call(Fn::RoundEven, {call(Fn::Sqrt, {b_.load(scales_, i, l) * inverse})}));
    b_.store(store.plane(), scales + i, cast(Elem::U8, cast(Elem::I32, byte)));
    const Ex p = b_.let(i % rt::kKvPage), scale = b_.let(byte * byte * base), by = b_.let(inverse_or_zero(scale));
    each_channel(i, [&](Ex c) { b_.store(codes_, c * rt::kKvPage + p, cast(Elem::U8, cast(Elem::I32, code(values(c, p, l), by, most)))); });
  });
  pack(store, codes);
}

/// Codes [channel][position] as words, and those as planes.
void Demote::pack(const KvStore& store, Ex codes) {
  if (store.shape().keys) {
    work_.over(size_ * kLanes, [&](Ex i, int l) {   // by 16 positions, four channels, position
      const Ex row = b_.let(i / kLanes), quad = b_.let(row % (size_ / 4)), at = b_.let(row / (size_ / 4) * kLanes + i % kLanes);
      Ex word;
      for (int byte = 0; byte < 4; ++byte) {
        const Ex c = cast(Elem::U32, b_.load({Elem::U8, l}, codes_, (quad * 4 + Ex(byte)) * rt::kKvPage + at));
        word = byte ? word | (c << (8 * byte)) : c;
      }
      b_.store(words_, i, word);
    });
  } else {
    work_.over_each(size_ * kLanes, [&](Ex i) {     // by 16 channels, four positions, channel
      const Ex row = b_.let(i / kLanes), channel = b_.let(row / kLanes * kLanes + i % kLanes);
      b_.store(words_, i, b_.load({Elem::U32, 1}, codes_, channel * rt::kKvPage + row % kLanes * 4));
    });
  }
  work_.over(size_ / kPlaneWords * kLanes, [&](Ex i, int l) {
    const Ex block = b_.let(i / kLanes), lane = b_.let(i % kLanes);
    std::vector<Ex> words;
    for (int j = 0; j < kPlaneWords; ++j) words.push_back(b_.let(b_.load(words_, (block * kPlaneWords + Ex(j)) * kLanes + lane, l)));
    store.store_words(codes, block, lane, words);
  });
}

Result<LoweredKernel> lower_demote(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, int block_threads) {
  Region r(op, name, dims, block_threads);
  const ir::Operation& demote = r.body.ops.front();
  Demote pages(r, demote, demote.operand(0));
  pages.run(r.b.task());
  return r.finish(pages.tasks());
}

}  // namespace prism::codegen
