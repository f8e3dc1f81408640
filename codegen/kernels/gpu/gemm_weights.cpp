#include "codegen/kernels/gpu/gemm_weights.h"

#include "codegen/kernels/gpu/rows16.h"
#include "codegen/pack.h"
#include "runtime/base/checked.h"

namespace prism::codegen {

using namespace kir;
using ir::DType;

ChunkedRows::ChunkedRows(Builder& b, int rows)
    : pieces(rows * kRowChunks / b.block_threads()), rows_apart(b.block_threads() / kRowChunks),
      row(b.let(b.thread() / kRowChunks)), chunk(b.let(b.thread() % kRowChunks)), place(b.let(swizzled(row, chunk))) {}

namespace {

struct Matrix {
  const Buffer& data;
  int64_t n, k;
};

/// bf16: copied as they are; what is past the last row or column becomes zero.
class Copied final : public WeightTile {
 public:
  Copied(Builder& b, Matrix w, const Buffer& tile, int rows, Ex n0)
      : b_(b), w_(w), tile_(tile), mine_(b, rows), row_(b.let(n0 + mine_.row)),
        from_(b.let(cast(Elem::I64, row_) * w.k + cast(Elem::I64, mine_.chunk * kChunk))), masked_(w.n % rows != 0) {}

  void copy(Ex step, Ex to) override {
    const Ex column = b_.let(step * kStepColumns);
    Ex columns = constant({Elem::I32, 1}, 16);
    if (w_.k % kStepColumns) columns = b_.let(select(column + mine_.chunk * kChunk < Ex(w_.k), Ex(16), Ex(0)));
    for (int i = 0; i < mine_.pieces; ++i) {
      const int64_t rows = i * mine_.rows_apart;
      const Ex bytes = masked_ ? select(row_ + Ex(rows) < Ex(w_.n), columns, Ex(0)) : columns;
      b_.async_copy(tile_, to + mine_.place + Ex(rows * kStepColumns), w_.data, from_ + cast(Elem::I64, column) + Ex(rows * w_.k), bytes);
    }
  }

 private:
  Builder& b_;
  const Matrix w_;
  const Buffer& tile_;
  const ChunkedRows mine_;
  const Ex row_, from_;
  const bool masked_;
};

/// Swizzled bf16: tiles that are in memory as they will be here. Past the last row the last tile comes again.
class Tiles : public WeightTile {
 public:
  Tiles(Builder& b, Matrix w, const Buffer& tile, int rows, Ex n0) : b_(b), w_(w), tile_(tile) {
    const int64_t groups = ceil_div(w.n, kTileSide);
    for (int64_t i = 0; i < rows / kTileSide; ++i)
      from_.push_back(b.let(cast(Elem::I64, min(n0 / kTileSide + Ex(i), Ex(groups - 1))) * (swizzled_group_bytes(w.k) / 2)));
  }

  /// Each thread has 16 bytes at a time.
  void copy(Ex step, Ex to) override {
    const Ex at = b_.let(cast(Elem::I64, step) * kTile);
    const int together = b_.block_threads() * kChunk;
    for (size_t i = 0; i < from_.size(); ++i)
      for (int begin = 0; begin < kTile; begin += together) {
        const Ex mine = b_.thread() * kChunk + Ex(begin);
        b_.async_copy(tile_, to + Ex(int64_t(i) * kTile) + mine, w_.data, from_[i] + at + cast(Elem::I64, mine));
      }
  }

 protected:
  static constexpr int kTile = kTileSide * kTileSide;
  Builder& b_;
  const Matrix w_;
  const Buffer& tile_;
  std::vector<Ex> from_;   ///< by tile of the block
};

/// The same by bulk copies: one thread begins them, and the mbarrier of a stage counts what has come.
class BulkTiles final : public Tiles {
 public:
  BulkTiles(Builder& b, Matrix w, const Buffer& tile, const Tile& t, Ex n0)
      : Tiles(b, w, tile, t.columns, n0), stages_(t.stages), full_(b.shared("full", Elem::I64, t.stages)) {
    b.if_(b.thread() == Ex(0), [&] {
      for (int s = 0; s < stages_; ++s) b.mbarrier_init(full_, Ex(s), 1);
    });
  }

  void copy(Ex step, Ex to) override {
    b_.if_(b_.thread() == Ex(0), [&] {
      const Ex stage = b_.let(step % stages_), at = b_.let(cast(Elem::I64, step) * kTile);
      b_.mbarrier_expect(full_, stage, int64_t(from_.size()) * kTile * 2);
      for (size_t i = 0; i < from_.size(); ++i) b_.bulk_copy(tile_, to + Ex(int64_t(i) * kTile), w_.data, from_[i] + at, kTile * 2, full_, stage);
    });
  }

  void wait(Ex step) override { b_.mbarrier_wait(full_, step % stages_, step / stages_ % 2); }

 private:
  const int stages_;
  const Buffer full_;
};

/// f16 and f32: what is past the last row or column is what is there; x is zero in columns past the last.
class Converted final : public WeightTile {
 public:
  Converted(Builder& b, Matrix w, const Buffer& tile, int rows, Ex n0) : b_(b), w_(w), tile_(tile), mine_(b, rows), row_(b.let(n0 + mine_.row)) {}

  int pieces() const override { return mine_.pieces; }

  std::vector<Ex> fetch(Ex step, int piece) override {
    const Ex row = min(row_ + Ex(piece * mine_.rows_apart), Ex(w_.n - 1));
    Ex column = step * kStepColumns + mine_.chunk * kChunk;
    if (w_.k % kStepColumns) column = min(column, Ex(w_.k - kChunk));
    const Ex at = b_.let(cast(Elem::I64, row) * w_.k + cast(Elem::I64, column));
    if (w_.data.elem == Elem::F16) return {b_.load(w_.data, at, 8)};
    return {b_.load(w_.data, at, 4), b_.load(w_.data, at + Ex(4), 4)};
  }

  void place(const std::vector<Ex>& fetched, int piece, Ex to) override {
    std::vector<Ex> pairs;
    for (const Ex& part : fetched)
      for (int i = 0; i < part.ty().lanes; i += 2)
        pairs.push_back(b_.let(pack_bf16(cast(Elem::F32, lane(part, i)), cast(Elem::F32, lane(part, i + 1)))));
    b_.store(tile_, to + mine_.place + Ex(piece * mine_.rows_apart * kStepColumns), pack(pairs));
  }

 private:
  Builder& b_;
  const Matrix w_;
  const Buffer& tile_;
  const ChunkedRows mine_;
  const Ex row_;
};

/// Rows16: a warp takes both blocks of a group at a time. A half-warp has quads 2h and 2h+1 of both; where its lanes of the
/// first block store word j, those of the second store word j+4, so that its 16 stores meet all banks.
class Dequantized final : public WeightTile {
 public:
  Dequantized(Builder& b, DType format, Matrix w, const Buffer& tile, int rows, Ex n0)
      : b_(b), w_(w), tile_(tile), lane_(b.let(b.thread() % 32)), word_(b.let(lane_ % 4)), block_(b.let(lane_ / 8 % 2)),
        quad_(b.let(lane_ / 16 * 2 + lane_ / 4 % 2)), rows16_(b, format, w.data, quad_, word_, block_), warps_(b.block_threads() / 32),
        pieces_(rows / 16 / warps_) {
    const Ex warp = b.let(b.thread() / 32), last_group = Ex((w.n + 15) / 16 - 1);
    for (int p = 0; p < pieces_; ++p) {
      const Ex group = b.let(n0 / 16 + warp + Ex(p * warps_));
      base_.push_back(b.let(cast(Elem::I64, w.n % rows ? min(group, last_group) : group) * rows16_group_bytes(format, w.k)));
    }
    const Ex row = b.let(warp * 16 + quad_ * 4);
    chunk_ = b.let((block_ * 6 + word_ / 2) ^ (row % 8));
    row_ = b.let(row * kStepColumns + word_ % 2 * 4);
  }

  int pieces() const override { return pieces_; }

  std::vector<Ex> fetch(Ex step, int piece) override {
    Ex k = step * 2 + block_;
    if (w_.k % kStepColumns) k = min(k, Ex(w_.k / 32 - 1));
    return rows16_.load(base_[size_t(piece)], b_.let(k));
  }

  void place(const std::vector<Ex>& fetched, int piece, Ex to) override {
    for (int i = 0; i < 4; ++i) {
      const LaneWeights w = rows16_.weights(fetched, i);
      for (int p = 0; p < 2; ++p) {
        const int part = p % rows16_.parts();
        const Ex chunk = chunk_ ^ (i ^ 2 * p);
        b_.store(tile_, to + row_ + Ex((piece * warps_ * 16 + i) * kStepColumns) + chunk * kChunk, values(w.word[p], w.scale[part], w.minimum[part]));
      }
    }
  }

 private:
  /// A word's four weights as bf16. A byte put into the mantissa of a float makes one that has it added.
  Ex values(Ex word, Ex scale, Ex minimum) {
    const bool small = rows16_.small();
    const double added = small ? 128 : 8388608, middle = added + rows16_.middle();
    const Ex exponent = constant({Elem::U32, 1}, small ? 0x43000000 : 0x4b000000);
    const Ex offset = !small ? minimum : b_.let(rows16_.middle() ? scale * Ex(-middle) : fma(scale, Ex(-added), minimum));
    auto value = [&](int i) {
      const Ex with = bitcast({Elem::F32, 1}, byte_permute(word, exponent, small ? 0x7044 | i << 8 : 0x7650 | i));
      return small ? fma(with, scale, offset) : (with - Ex(middle)) * scale;
    };
    return pack({b_.let(pack_bf16(value(0), value(1))), b_.let(pack_bf16(value(2), value(3)))});
  }

  Builder& b_;
  const Matrix w_;
  const Buffer& tile_;
  const Ex lane_, word_, block_, quad_;
  const Rows16Lane rows16_;
  const int warps_, pieces_;
  std::vector<Ex> base_;   ///< first byte of each piece's group
  Ex row_, chunk_;         ///< where the quad's first row begins in the tile; the chunk of its first store there
};

}  // namespace

std::unique_ptr<WeightTile> weight_tile(Builder& b, const ir::Type& type, const Buffer& w, const Buffer& tile, const Tile& t, Ex n0) {
  const int rows = t.columns;
  const Matrix m = {w, *type.dim(0).constant(), *type.dim(1).constant()};
  if (ir::info(type.dtype).quantized) return std::make_unique<Dequantized>(b, type.dtype, m, tile, rows, n0);
  if (type.layout == ir::Layout::Swizzled && t.warpgroups()) return std::make_unique<BulkTiles>(b, m, tile, t, n0);
  if (type.layout == ir::Layout::Swizzled) return std::make_unique<Tiles>(b, m, tile, rows, n0);
  if (type.dtype == DType::BF16) return std::make_unique<Copied>(b, m, tile, rows, n0);
  return std::make_unique<Converted>(b, m, tile, rows, n0);
}

}  // namespace prism::codegen
