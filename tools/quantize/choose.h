// One format for each tensor, so that all fit a number of bytes and the sum of what they cost is small.
#pragma once

#include "analysis/choose.h"
#include "ir/quants.h"

namespace prism::quantize {

struct Option {
  ir::DType type;
  uint64_t bytes;
  double cost;   ///< what this tensor adds to the divergence in this format
};

inline Result<std::vector<size_t>> choose(std::span<const std::vector<Option>> tensors, uint64_t budget) { return analysis::choose_option(tensors, budget); }

}  // namespace prism::quantize
