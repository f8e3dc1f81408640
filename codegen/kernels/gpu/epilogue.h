// What follows a linear in its kernel, applied to a tile of finished sums in shared memory.
#pragma once

#include "codegen/kernels/region.h"

namespace prism::codegen {

class Epilogue {
 public:
  Epilogue(Region& r, const ir::Operation& linear);

  /// Columns of the linear that a tile must have a multiple of, and begin at: 1; 32 with a glu or a quantize, 64 with both.
  int64_t column_unit() const;

  /// For one row and no more columns than threads: loads what the results need beside the sums, so that it is there when emit() with the same
  /// columns comes.
  void load_early(kir::Ex n0, int64_t columns);

  /// Computes and stores the region's results for the sums y[row * stride + column]: rows [0, rows) are tokens t0.., columns
  /// [0, columns) are outputs n0.. of the linear. Columns past the linear's are left out. All threads of the block call it after a
  /// barrier; bias is added here.
  Status emit(const kir::Buffer& y, int64_t stride, kir::Ex t0, kir::Ex rows, kir::Ex n0, int64_t columns);

 private:
  struct Place {
    kir::Ex token, row, column;   ///< token t, row of the tile, column of the value
  };
  Result<kir::Ex> value(const ir::Value* v, const Place& at);
  static bool made_of(const ir::Value* v, ir::Op op);   ///< whether such an op is among those that v is computed by
  bool per_column(const ir::Value* v) const;   ///< the same for all rows

  Region& r_;
  kir::Builder& b_;
  int64_t n_;                     ///< outputs of the linear
  ir::Dim rows_of_x_;
  bool glu_ = false, quantize_ = false;
  std::map<const ir::Value*, kir::Ex> early_;   ///< of this thread's column
  kir::Buffer y_;
  int64_t stride_ = 0;
  kir::Ex n0_;
};

}  // namespace prism::codegen
