// Attention of many tokens, in bf16 with sums in f32. A task is a tile of tokens times query heads that share one KV head; K and V of
// a tile of keys become matrix operands once for all of its rows, which matrix registers or dot products of pairs multiply.
#include "codegen/kernels/attention.h"
#include "codegen/kernels/planes.h"

namespace prism::codegen {

using namespace kir;

namespace {

constexpr int kHeads = 12;          // query heads of a task, at most
constexpr int kRows = 96;           // query rows of a task, at least
constexpr int kMatrixRows = 48;     // the same with matrix registers, where more were not measured
constexpr int kAccumulators = 24;   // vector registers used for sums
constexpr int kColumns = 2;         // of 16 values: sizes are multiples of so many
constexpr double kMostWeights = 0x1p60;   // a lane's sum of weights whose reference is old: far from infinity times any value

class FlashMatrix : CpuAttention {
 public:
  FlashMatrix(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa) : CpuAttention(op, name, dims, isa) {}

  Result<LoweredKernel> run() {
    PRISM_CHECK(read(kColumns * kLanes));
    if (isa_ < rt::Isa::Avx512) return r_.unsupported(*op_, "bf16 queries on " + std::string(rt::isa_name(isa_)));
    coarse_ = true;
    choose_tile();

    begin_tiles();
    allocate(Elem::BF16, Elem::BF16);
    sums_ = b_.var(Ex(int64_t(0)));
    operand_ = b_.scratch("operand", Elem::U32, tile_k_ / 2 * d_);
    start_rows();
    sink_vectors_ = tile_k_ / kLanes;
    start_pages(rows_ % 12 ? 8 : 12, kColumns);
    const Ex first = first_tile(), end = b_.let(last_key());
    sink_tiles(end, [&](Ex key0, Part part) { tile(key0, part, Ex(int64_t(0))); });
    each_tile(first, end, [&](Ex key0, Part part) { tile(key0, part, first); });
    b_.for_(0, rows_, 1, [&](Ex row) { finish_row(row, sum_of(row)); });
    return finish_tiles();
  }

 private:
  bool registers() const { return isa_ >= rt::Isa::Amx; }

  void choose_tile() {
    group_ = heads_together(heads_ / kv_heads_, kHeads);
    if (registers()) {
      b_.use_tiles(std::vector<kir::TileShape>(8, {kLanes, 64}));
      for (tile_q_ = kLanes; group_ * tile_q_ < kMatrixRows || group_ * tile_q_ % (2 * kLanes); tile_q_ += kLanes) {}
    } else {
      for (tile_q_ = 1; group_ * tile_q_ < kRows || (group_ * tile_q_ % 12 && group_ * tile_q_ % 8); ++tile_q_) {}
    }
    rows_ = group_ * tile_q_;
  }

  /// first: where the first tile begins, of the sinks or of the others.
  void tile(Ex key0, Part part, Ex first) {
    if (part == Part::Demoted) return demoted_tile(key0, [&](const KvStore& store, Ex page) { return page_bytes(store, page); });
    keys_operand(key0, part);
    const auto exact = [&] {
      multiply(q_, d_, tile_k_ / kLanes, scores_, false);
      softmax(key0, part);
    };
    if (registers() || cap_ > 0 || part != Part::All) {
      exact();
    } else {
      const Ex weighed = b_.var(Ex(int64_t(0)));
      const auto whole = [&] { b_.if_(key0 + Ex(tile_k_ - 1) <= last_seen(b_.let(past_ + t0_), part), [&] { weigh(weighed); }); };
      b_.if_(first < key0, [&] {
        if (!sinks_) whole();  // a row whose window hides keys at the beginning has seen none, and weigh() finds that
        else b_.if_(first_seen(b_.let(past_ + token(Ex(rows_ - 1))), part) <= key0, whole);
      });
      b_.if_(weighed < Ex(int64_t(1)), exact);
    }
    values_operand(key0, part);
    multiply(weights_, tile_k_, d_ / kLanes, o_, true);
  }

  /// Weights of a tile that hides no keys at its end, without scores in between: less what earlier tiles' scores were less. Should
  /// one be so much larger that sums might overflow, or a row have seen none (so that a window may hide keys of this
  /// tile), nothing has happened; else `weighed` becomes 1. Skipping most changes of the reference is FlashAttention 4's.
  void weigh(Ex weighed) {
    const int vectors = tile_k_ / kLanes, columns = columns_at_once(vectors), rows = rows_at_once(columns);
    const Ex other = b_.let(Ex(rows_ * kLanes) - sums_), most = b_.var(constant({Elem::F32, kLanes}, 0));
    b_.for_(0, rows_, rows, [&](Ex row) {
      const auto part = [&](Ex column, Ex sums) {
        const std::vector<Ex> scores = products(q_, d_, row, rows, column, columns, [](int, int) { return constant({Elem::F32, kLanes}, 0); });
        for (int i = 0; i < rows; ++i) {
          const Ex line = b_.let((row + Ex(i)) * kLanes), top = b_.let(b_.load(top_, row + Ex(i)));
          Ex sum = b_.load(sum_, line + sums, kLanes);
          for (int j = 0; j < columns; ++j) {
            const Ex e = b_.let(weight(scores[size_t(i * columns + j)], top));
            b_.store(weights_, (row + Ex(i)) * int64_t(tile_k_) + (column + Ex(j)) * kLanes, cast(weights_.elem, e));
            sum = b_.let(sum + e);
          }
          b_.store(sum_, line + other, sum);
          b_.assign(most, max(most, sum));
        }
      };
      part(Ex(int64_t(0)), sums_);
      if (vectors > columns) b_.for_(columns, vectors, columns, [&](Ex column) { part(column, other); });
    });
    b_.if_(b_.let(call(Fn::ReduceMax, {most})) < Ex(kMostWeights), [&] {
      b_.assign(weighed, Ex(int64_t(1)));
      b_.assign(sums_, other);
      b_.for_(0, rows_, kLanes, [&](Ex row) { b_.store(decay_, row, constant({Elem::F32, kLanes}, 1.0)); });
    });
  }

  /// The words of a page, taken from its planes once for all rows.
  ByteTile page_bytes(const KvStore& store, Ex page) {
    ByteTile tile = page_tile(store, page, false);
    b_.for_(0, d_ / kPlaneWords, 1, [&](Ex block) {
      const std::vector<Ex> all = tile.words(block);
      for (int j = 0; j < kPlaneWords; ++j) b_.store(operand_, (block * kPlaneWords + Ex(j)) * kLanes, all[size_t(j)]);
    });
    tile.words = [this](Ex block) {
      std::vector<Ex> all;
      for (int j = 0; j < kPlaneWords; ++j) all.push_back(b_.load(operand_, block * (kPlaneWords * kLanes) + Ex(j * kLanes), kLanes));
      return all;
    };
    return tile;
  }

  /// 16 values at `at` and those `apart` from them as pairs of bf16, which a cache of bf16 has as they are.
  Ex pairs(const Buffer& from, Ex at, int64_t apart) {
    const Elem elem = element();
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

  int columns_at_once(int64_t columns) const { return columns % 4 ? kColumns : 4; }
  int rows_at_once(int columns) const { return kAccumulators / columns <= rows_ && rows_ % (kAccumulators / columns) == 0 ? kAccumulators / columns : 16 / columns; }

  /// Sums of a few rows from `row` on by 16 * `columns` from `column` on, [row][column]: what `before` says plus a[rows, depth] times operand_.
  std::vector<Ex> products(const Buffer& a, int64_t depth, Ex row, int rows, Ex column, int columns, const std::function<Ex(int, int)>& before) {
    const int64_t block = depth / 2 * kLanes;  // words of operand_ for 16 columns
    const Ex from = b_.let(row * depth), at = b_.let(column * block);
    std::vector<Ex> sums;
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < columns; ++j) sums.push_back(b_.var(before(i, j)));
    b_.for_(0, depth / 2, 1, [&](Ex pair) {
      std::vector<Ex> w;
      for (int j = 0; j < columns; ++j) w.push_back(b_.let(b_.load(operand_, at + pair * kLanes + Ex(j * block), kLanes)));
      for (int i = 0; i < rows; ++i) {
        const Ex x = b_.let(splat(b_.load({Elem::U32, 1}, a, from + pair * 2 + Ex(i * depth)), kLanes));
        for (int j = 0; j < columns; ++j) {
          const Ex& s = sums[size_t(i * columns + j)];
          b_.assign(s, call(Fn::DotBf16, {s, w[size_t(j)], x}));
        }
      }
    });
    return sums;
  }

  void multiply_pairs(const Buffer& a, int64_t depth, int64_t columns, const Buffer& sum, bool add) {
    const int64_t width = columns * kLanes;
    const int wide = columns_at_once(columns), rows = rows_at_once(wide);
    b_.for_(0, columns, wide, [&](Ex column) {
      b_.for_(0, rows_, rows, [&](Ex row) {
        const Ex to = b_.let(row * width + column * kLanes);
        const auto place = [&](int i, int j) { return to + Ex(i * width + j * kLanes); };
        const std::vector<Ex> sums = products(a, depth, row, rows, column, wide, [&](int i, int j) {
          return add ? b_.load(sum, place(i, j), kLanes) * b_.load(decay_, row + Ex(i)) : constant({Elem::F32, kLanes}, 0);
        });
        for (int i = 0; i < rows; ++i)
          for (int j = 0; j < wide; ++j) b_.store(sum, place(i, j), sums[size_t(i * wide + j)]);
      });
    });
  }

  Buffer operand_;  ///< the tile's K or V as matrix operand b, or a demoted page's words
};

}  // namespace

Result<LoweredKernel> lower_flash_matrix(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa) {
  return FlashMatrix(op, name, dims, isa).run();
}

}  // namespace prism::codegen
