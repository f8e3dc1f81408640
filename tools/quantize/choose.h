// One format for each tensor, so that all fit a number of bytes and the sum of what they cost is small.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ir/quants.h"
#include "runtime/base/result.h"

namespace prism::quantize {

struct Option {
  ir::DType type;
  uint64_t bytes;
  double cost;   ///< what this tensor adds to the divergence in this format
};

/// The position of the option chosen for each tensor: first the smallest everywhere, then the step that saves the most for a byte, as long as
/// one fits. The two largest tensors are tried in every format: a step of an embedding may be more than all that is left. Error if the smallest
/// do not fit.
Result<std::vector<size_t>> choose(std::span<const std::vector<Option>> tensors, uint64_t budget);

}  // namespace prism::quantize
