// Attention of many tokens, in bf16 with sums in f32. A task is a tile of tokens times query heads that share one KV head; K and V of
// a tile of keys become matrix operands once for all of its rows, which matrix registers or dot products of pairs multiply.
#include <array>

#include "codegen/kernels/attention.h"
#include "codegen/kernels/planes.h"

namespace prism::codegen {

using namespace kir;

namespace {

constexpr int kHeads = 12;          // query heads of a task, at most
constexpr int kRows = 48;           // query rows of a task, at least
constexpr int kAccumulators = 24;   // vector registers used for sums
constexpr int kColumns = 2;         // of 16 values, at once
constexpr int kBlockRows = 4 * kPlaneWords;   // channels, or positions, of a block of demoted codes

class FlashMatrix : CpuAttention {
 public:
  FlashMatrix(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa) : CpuAttention(op, name, dims, isa) {}

  Result<LoweredKernel> run() {
    PRISM_CHECK(read(kColumns * kLanes));
    if (isa_ < rt::Isa::Avx512) return r_.unsupported(*op_, "bf16 queries on " + std::string(rt::isa_name(isa_)));
    coarse_ = true;
    choose_tile();

    // Cheap (early) and dear (late) tiles alternate, so that a static split over threads is even.
    const int64_t slots = heads_ / group_;
    const Ex count = b_.let((tokens_ + Ex(tile_q_ - 1)) / int64_t(tile_q_));
    const Ex turn = b_.let(b_.task() / slots), slot = b_.let(b_.task() % slots);
    t0_ = b_.let(b_.let(select(turn % 2 == Ex(0), turn / 2, count - Ex(1) - turn / 2)) * int64_t(tile_q_));
    set_head(slot * int64_t(group_));

    allocate(Elem::BF16, Elem::BF16);
    operand_ = b_.scratch("operand", Elem::U32, tile_k_ / 2 * d_);
    if (compressed()) {
      means_ = b_.scratch("means", Elem::F32, d_);
      key_scales_ = b_.scratch("key_scales", Elem::F32, rt::kv_scales(d_) * tile_k_);
      sink_vectors_ = tile_k_ / kLanes;
    }
    start_rows();
    tiles(first_tile(), b_.let(last_key()));
    b_.for_(0, rows_, 1, [&](Ex row) { finish_row(row, call(Fn::ReduceAdd, {b_.load(sum_, row * kLanes, kLanes)})); });
    return r_.finish(ir::Dim::floor_div(query_type().dim(0) + ir::Dim(tile_q_ - 1), tile_q_) * ir::Dim(slots));
  }

 private:
  bool registers() const { return isa_ >= rt::Isa::Amx; }

  void choose_tile() {
    group_ = heads_together(heads_ / kv_heads_, kHeads);
    if (registers()) {
      b_.use_tiles(std::vector<kir::TileShape>(8, {kLanes, 64}));
      for (tile_q_ = kLanes; group_ * tile_q_ < kRows || group_ * tile_q_ % (2 * kLanes); tile_q_ += kLanes) {}
    } else {
      for (tile_q_ = 1; group_ * tile_q_ < kRows || (group_ * tile_q_ % 12 && group_ * tile_q_ % 8); ++tile_q_) {}
    }
    rows_ = group_ * tile_q_;
  }

  void tiles(Ex begin, Ex end) {
    if (!compressed()) return b_.for_(begin, end, tile_k_, [&](Ex key0) { tile(key0, Part::All); });
    const Ex demoted = first_exact(b_.let(past_ + token(Ex(rows_ - 1))));   // by the last row
    b_.for_(begin, b_.let(min(end, demoted)), rt::kKvPage, [&](Ex key0) { tile(key0, Part::Demoted); });
    b_.if_(begin < min(demoted, Ex(rt::kKvSinks)), [&] { tile(Ex(int64_t(0)), Part::Sinks); });
    b_.for_(b_.let(max(begin, first_exact(b_.let(past_ + t0_)))), end, tile_k_, [&](Ex key0) { tile(key0, Part::Exact); });
  }

  void tile(Ex key0, Part part) {
    const Ex page = b_.let(key0 / rt::kKvPage);
    if (part == Part::Demoted) demoted_keys(page);
    else keys_operand(key0, part);
    multiply(q_, d_, tile_k_ / kLanes, scores_, false);
    if (part == Part::Demoted) add_mean_products(page);
    softmax(key0, part);
    if (part == Part::Demoted) demoted_values(page);
    else values_operand(key0, part);
    multiply(weights_, tile_k_, d_ / kLanes, o_, true);
  }

  void keys_operand(Ex at) {
    b_.for_(0, tile_k_ / 2 * d_, kLanes, [&](Ex i) {  // [group of 16 keys][pair of dimensions][16]
      b_.store(operand_, i, pairs(keys_, at + i * 2, kLanes));
    });
  }

  void values_operand(Ex at) {
    b_.for_(0, d_ / kLanes, 1, [&](Ex c) {  // [16 dimensions][pair of keys][16]
      b_.for_(0, tile_k_ / 2, 1, [&](Ex pair) {
        b_.store(operand_, (c * int64_t(tile_k_ / 2) + pair) * kLanes, pairs(values_, at + pair * 2 * d_ + c * kLanes, d_));
      });
    });
  }

  /// 16 values at `at` and those `apart` from them as pairs of bf16, which a cache of bf16 has as they are.
  Ex pairs(const Buffer& from, Ex at, int64_t apart) {
    const Elem elem = element(true);
    const auto load = [&](Elem e, int64_t offset) { return b_.load({e, kLanes}, from, at + Ex(offset * unit())); };
    if (elem == Elem::BF16) return b_.let(cast(Elem::U32, load(Elem::U16, 0)) | (cast(Elem::U32, load(Elem::U16, apart)) << 16));
    const auto value = [&](int64_t offset) { return b_.let(cast(Elem::F32, load(elem, offset))); };
    return bf16_pairs(b_, value(0), value(apart));
  }
  void keys_operand(Ex key0, Part part) {
    b_.for_(0, tile_k_ / kLanes, 1, [&](Ex g) {  // [group of 16 keys][pair of dimensions][16]
      const Ex at = group_at(true, key0, g, part), to = b_.let(g * (d_ / 2 * kLanes));
      b_.for_(0, d_ / 2 * kLanes, kLanes, [&](Ex i) { b_.store(operand_, to + i, pairs(exact(true, part), at + i * (2 * unit()), kLanes)); });
    });
  }

  void values_operand(Ex key0, Part part) {
    b_.for_(0, tile_k_ / kLanes, 1, [&](Ex g) {
      const Ex at = group_at(false, key0, g, part);
      b_.for_(0, d_ / kLanes, 1, [&](Ex c) {  // [16 dimensions][pair of keys][16]
        b_.for_(0, kLanes / 2, 1, [&](Ex pair) {
          b_.store(operand_, (c * int64_t(tile_k_ / 2) + g * (kLanes / 2) + pair) * kLanes, pairs(exact(false, part), at + (pair * 2 * d_ + c * kLanes) * unit(), d_));
        });
      });
    });
  }

  /// The four codes of a word as two vectors of pairs: scale[byte] * (code - middle).
  std::array<Ex, 2> code_pairs(Ex word, const std::array<Ex, 4>& scale, const std::array<Ex, 4>& least) {
    std::array<Ex, 4> value;
    for (size_t i = 0; i < 4; ++i) value[i] = b_.let(fma(cast(Elem::F32, cast(Elem::I32, (word >> int64_t(8 * i)) & 0xff)), scale[i], least[i]));
    return {bf16_pairs(b_, value[0], value[1]), bf16_pairs(b_, value[2], value[3])};
  }

  /// K of a page without its means, as keys_operand.
  void demoted_keys(Ex page) {
    const KvStore& store = *keys_store_;
    const Ex codes = store.codes(page, kv_head_), scales = store.scales(page, kv_head_);
    const Ex base = b_.let(b_.load({Elem::F32, 1}, store.plane(), scales + Ex(store.bases_at())));
    const int64_t blocks = d_ / kBlockRows, group_blocks = rt::kv_scale_group(d_) / kBlockRows;
    b_.for_(0, tile_k_ / kLanes, 1, [&](Ex g) {
      for (int64_t part = 0; part < rt::kv_scales(d_); ++part) {
        const Ex scale = store.scale(scales, base, part, g), least = b_.let(scale * Ex(-store.middle()));
        b_.for_(part * group_blocks, (part + 1) * group_blocks, 1, [&](Ex block) {
          const std::vector<Ex> words = store.words(codes, b_.let(g * blocks + block));
          const Ex to = b_.let((g * (d_ / 2) + block * (kBlockRows / 2)) * kLanes);
          for (int j = 0; j < kPlaneWords; ++j) {
            const auto pair = code_pairs(words[size_t(j)], {scale, scale, scale, scale}, {least, least, least, least});
            for (int i = 0; i < 2; ++i) b_.store(operand_, to + Ex((2 * j + i) * kLanes), pair[size_t(i)]);
          }
        });
      }
    });
  }

  /// To each row's scores what the means of the page's keys give.
  void add_mean_products(Ex page) {
    const KvStore& store = *keys_store_;
    const Ex scales = store.scales(page, kv_head_);
    const Ex base = b_.let(b_.load({Elem::F32, 1}, store.plane(), scales + Ex(store.bases_at() + 4)));
    b_.for_(0, d_, kLanes, [&](Ex i) {
      b_.store(means_, i, cast(Elem::F32, cast(Elem::I32, b_.load({Elem::I8, kLanes}, store.plane(), scales + Ex(store.means_at()) + i))) * base);
    });
    b_.for_(0, rows_, 1, [&](Ex row) {
      const Ex sum = b_.var(constant({Elem::F32, kLanes}, 0)), from = b_.let(row * d_), to = b_.let(row * int64_t(tile_k_));
      b_.for_(0, d_, kLanes, [&](Ex i) { b_.assign(sum, fma(cast(Elem::F32, b_.load(q_, from + i, kLanes)), b_.load(means_, i, kLanes), sum)); });
      const Ex product = b_.let(call(Fn::ReduceAdd, {sum}));
      for (int v = 0; v < tile_k_ / kLanes; ++v) b_.store(scores_, to + Ex(v * kLanes), b_.load(scores_, to + Ex(v * kLanes), kLanes) + product);
    });
  }

  /// V of a page, as values_operand.
  void demoted_values(Ex page) {
    const KvStore& store = *values_store_;
    const Ex codes = store.codes(page, kv_head_), scales = store.scales(page, kv_head_);
    const Ex base = b_.let(b_.load({Elem::F32, 1}, store.plane(), scales + Ex(store.bases_at())));
    for (int64_t part = 0; part < rt::kv_scales(d_); ++part)
      for (int v = 0; v < tile_k_ / kLanes; ++v) b_.store(key_scales_, Ex(part * tile_k_ + v * kLanes), store.scale(scales, base, part, Ex(v)));
    b_.for_(0, d_ / kLanes, 1, [&](Ex c) {
      const Ex line = b_.let(c / (rt::kv_scale_group(d_) / kLanes) * int64_t(tile_k_));
      for (int block = 0; block < tile_k_ / kBlockRows; ++block) {
        const std::vector<Ex> words = store.words(codes, b_.let(c * int64_t(tile_k_ / kBlockRows) + Ex(block)));
        for (int j = 0; j < kPlaneWords; ++j) {
          const int key = block * kBlockRows + 4 * j;
          std::array<Ex, 4> scale, least;
          for (int i = 0; i < 4; ++i) {
            scale[size_t(i)] = splat(b_.let(b_.load(key_scales_, line + Ex(key + i))), kLanes);
            least[size_t(i)] = scale[size_t(i)] * Ex(-store.middle());
          }
          const auto pair = code_pairs(words[size_t(j)], scale, least);
          for (int i = 0; i < 2; ++i) b_.store(operand_, (c * int64_t(tile_k_ / 2) + Ex(key / 2 + i)) * kLanes, pair[size_t(i)]);
        }
      }
    });
  }

  /// sum[rows, 16 * columns] = (sum * decay +) a[rows, depth] times operand_.
  void multiply(const Buffer& a, int64_t depth, int64_t columns, const Buffer& sum, bool add) {
    if (!registers()) return multiply_pairs(a, depth, columns, sum, add);
    if (add) decay_sums();
    multiply_tiles(a, depth, columns, sum, add);
  }

  void decay_sums() {
    b_.for_(0, rows_, 1, [&](Ex row) {
      const Ex decay = b_.let(b_.load(decay_, row)), line = b_.let(row * d_);
      b_.if_(decay < Ex(1.0), [&] {
        b_.for_(0, d_, kLanes, [&](Ex i) { b_.store(o_, line + i, b_.load(o_, line + i, kLanes) * decay); });
      });
    });
  }

  /// 32 rows by 32 columns in four registers.
  void multiply_tiles(const Buffer& a, int64_t depth, int64_t columns, const Buffer& sum, bool add) {
    const int64_t block = depth / 2 * kLanes;  // words of operand_ for 16 columns
    b_.for_(0, rows_, 2 * kLanes, [&](Ex row) {
      b_.for_(0, columns, 2, [&](Ex column) {
        auto at = [&](int t) { return row * (columns * kLanes) + column * kLanes + Ex(t / 2 * kLanes * columns * kLanes + t % 2 * kLanes); };
        for (int t = 0; t < 4; ++t) {
          if (add) b_.tile_load(t, sum, at(t), Ex(columns * kLanes * 4));
          else b_.tile_zero(t);
        }
        b_.for_(0, depth / 32, 1, [&](Ex k) {
          for (int i = 0; i < 2; ++i) {
            b_.tile_load(4 + i, a, (row + Ex(i * kLanes)) * depth + k * 32, Ex(depth * 2));
            for (int j = 0; j < 2; ++j) {
              if (i == 0) b_.tile_load(6 + j, operand_, (column + Ex(j)) * block + k * (16 * kLanes), 64);
              b_.tile_dot(2 * i + j, 4 + i, 6 + j);
            }
          }
        });
        for (int t = 0; t < 4; ++t) b_.tile_store(t, sum, at(t), Ex(columns * kLanes * 4));
      });
    });
  }

  /// A few rows by 32 columns in vectors.
  void multiply_pairs(const Buffer& a, int64_t depth, int64_t columns, const Buffer& sum, bool add) {
    const int64_t block = depth / 2 * kLanes, width = columns * kLanes;
    const int rows = rows_ % (kAccumulators / kColumns) ? 8 : kAccumulators / kColumns;
    b_.for_(0, columns, kColumns, [&](Ex column) {
      b_.for_(0, rows_, rows, [&](Ex row) {
        const Ex to = b_.let(row * width + column * kLanes), from = b_.let(row * depth), at = b_.let(column * block);
        std::vector<Ex> acc;
        for (int i = 0; i < rows; ++i)
          for (int j = 0; j < kColumns; ++j)
            acc.push_back(b_.var(add ? b_.load(sum, to + Ex(i * width + j * kLanes), kLanes) * b_.load(decay_, row + Ex(i)) : constant({Elem::F32, kLanes}, 0)));
        b_.for_(0, depth / 2, 1, [&](Ex pair) {
          std::vector<Ex> w;
          for (int j = 0; j < kColumns; ++j) w.push_back(b_.let(b_.load(operand_, at + pair * kLanes + Ex(j * block), kLanes)));
          for (int i = 0; i < rows; ++i) {
            const Ex x = b_.let(splat(b_.load({Elem::U32, 1}, a, from + pair * 2 + Ex(i * depth)), kLanes));
            for (int j = 0; j < kColumns; ++j) {
              const Ex& s = acc[size_t(i * kColumns + j)];
              b_.assign(s, call(Fn::DotBf16, {s, w[size_t(j)], x}));
            }
          }
        });
        for (int i = 0; i < rows; ++i)
          for (int j = 0; j < kColumns; ++j) b_.store(sum, to + Ex(i * width + j * kLanes), acc[size_t(i * kColumns + j)]);
      });
    });
  }

  Buffer operand_;             ///< the tile's K or V as matrix operand b
  Buffer means_, key_scales_;  ///< of a demoted page
};

}  // namespace

Result<LoweredKernel> lower_flash_matrix(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa) {
  return FlashMatrix(op, name, dims, isa).run();
}

}  // namespace prism::codegen
