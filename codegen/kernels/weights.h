// Reading weights in the Rows16 layout (codegen/pack.h) inside kernels: all 16 rows at once, or one row of the 16.
#pragma once

#include <functional>

#include "codegen/kernels/region.h"

namespace prism::codegen {

/// ir::kIq4Values with 128 added, as kir::lookup takes them.
kir::LookupTable iq4_table();

/// 32 consecutive weights of each row: word j holds weights 4j..4j+3 as unsigned bytes, value = scale * byte + minimum.
struct WeightBlock {
  std::vector<kir::Ex> words;    ///< 8, u32 lanes
  int parts;                     ///< 1: one scale for all; 2: words 0-3 and 4-7 have their own
  kir::Ex scale[2], minimum[2];  ///< f32 lanes
  int most;                      ///< largest byte
  int zero;                      ///< the byte whose value is 0, a power of two; 0: there are minima

  kir::Ex value(int i) const;    ///< f32 lanes: weight i of the 32
};

/// Calls `fn(index of the 32-weight block in the row, block)` inside the loops that walk the row(s) of group `group`.
/// lane: absent = all 16 rows as vectors, else that row alone as scalars. prefetch: bytes to run ahead of the loads, 0 = none.
void for_each_block(kir::Builder& b, ir::DType format, const kir::Buffer& w, kir::Ex group, int64_t columns,
                    std::optional<kir::Ex> lane, int64_t prefetch, const std::function<void(kir::Ex, const WeightBlock&)>& fn);

/// Block k of a row or of the 16.
WeightBlock weight_block(kir::Builder& b, ir::DType format, const kir::Buffer& w, kir::Ex group, int64_t columns,
                         std::optional<kir::Ex> lane, kir::Ex k);

}  // namespace prism::codegen
