// Matrix products in f32: a block computes a square tile of the result from tiles of the operands in shared memory.
#pragma once

#include "codegen/kernels/gpu/elements.h"

namespace prism::codegen {

struct Product {
  ir::Dim batch, m, n, k;                              ///< for each of `batch`: [m,k] times [k,n]
  std::function<Result<kir::Ex>(kir::Ex batch, kir::Ex row, kir::Ex k)> a;
  std::function<Result<kir::Ex>(kir::Ex batch, kir::Ex k, kir::Ex column)> b;
  bool b_along_k = false;                              ///< neighbours in memory differ in k, as those of a do
  std::function<Status(kir::Ex batch, kir::Ex row, kir::Ex column, kir::Ex sum)> store;

  /// Edge of a tile: so large that operands are read seldom, so small that there are enough blocks.
  int64_t tile() const;
  static int threads(int64_t tile) { return int(tile * tile / 16); }   ///< each has 4x4 sums
  ir::Dim tasks() const { return batch * ceil_div(m, tile()) * ceil_div(n, tile()); }
  /// In a region whose blocks have threads(tile()) threads.
  Status emit(Region& r) const;
};

}  // namespace prism::codegen
