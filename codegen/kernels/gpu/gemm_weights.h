// A block's weights on their way into shared memory, where they are bf16 whatever their format.
#pragma once

#include <memory>

#include "codegen/kernels/region.h"

namespace prism::codegen {

constexpr int kStepColumns = 64;   // multiplied at once: rows of 128 bytes in shared memory
constexpr int kChunk = 8;          // columns in 16 bytes
constexpr int kRowChunks = kStepColumns / kChunk;

struct Tile {
  int rows, columns;               ///< tokens and outputs of a block
  int warp_rows, warp_columns;     ///< of a warp; all columns: of a warpgroup
  int stages;                      ///< steps in shared memory
  bool warpgroups() const { return warp_columns == columns; }
  int threads() const { return rows / warp_rows * (columns / warp_columns) * (warpgroups() ? 128 : 32); }
};

/// The element of a tile where a chunk of a row begins. The chunks of a row trade places, so that one column of 8 rows is
/// spread over all banks: the 128-byte swizzle of matrix descriptors.
inline kir::Ex swizzled(kir::Ex row, kir::Ex chunk) { return row * kStepColumns + (chunk ^ (row % 8)) * kChunk; }

/// Rows of a tile that threads copy chunk by chunk: thread t has chunk t % 8 of rows t / 8, t / 8 + threads / 8, ...
struct ChunkedRows {
  ChunkedRows(kir::Builder& b, int rows);
  int pieces, rows_apart;
  kir::Ex row, chunk, place;       ///< of piece 0; `place` in the tile
};

/// `rows` rows of w from row n0 on, in `tile`, a stage of which begins at element `to`.
class WeightTile {
 public:
  virtual ~WeightTile() = default;
  /// Starts the asynchronous copy of a step's columns; formats that come through registers have pieces instead.
  virtual void copy(kir::Ex step, kir::Ex to) {}
  virtual void wait(kir::Ex step) {}   ///< for copies that async_wait does not
  virtual int pieces() const { return 0; }
  virtual std::vector<kir::Ex> fetch(kir::Ex step, int piece) { return {}; }
  virtual void place(const std::vector<kir::Ex>& fetched, int piece, kir::Ex to) {}
};

/// Of the linear weight `type`, which is in `w`: row-major floats, Swizzled or Rows16.
std::unique_ptr<WeightTile> weight_tile(kir::Builder& b, const ir::Type& type, const kir::Buffer& w, const kir::Buffer& tile, const Tile& t, kir::Ex n0);

}  // namespace prism::codegen
