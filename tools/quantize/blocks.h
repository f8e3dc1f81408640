// Block formats made from floats, their scales (and minima) found by a search.
//
// The search minimises the sum of importance * (x - what the block stands for)^2. Candidates lie side by side in vectors, one a lane: each is
// fitted by least squares in turn with rounding, and what the format can hold of the scales near the best is compared by its true error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ir/quants.h"

namespace prism::quantize {

/// The formats that quantize_blocks makes, from the fewest bits to the most.
std::span<const ir::DType> block_types();
bool is_block_type(ir::DType t);

/// The largest magnitude of a weight: scales are f16.
inline constexpr float kLargestWeight = 65504;

/// Quantizes `n` elements, a multiple of the block of `t`, of magnitudes up to kLargestWeight. `importance`: what an element's squared error
/// costs, finite and not negative; nullptr: all 1. Returns the sum of importance * squared error. The bytes do not depend on the machine.
double quantize_blocks(ir::DType t, const float* x, const float* importance, uint8_t* out, size_t n);

}  // namespace prism::quantize
