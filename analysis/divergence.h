// How far apart two models are about the next token.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "runtime/base/result.h"

namespace prism::analysis {

/// After one position. Natural logarithms.
struct Comparison {
  double kl = 0;          ///< sum over ids of p log(p/q), p being the base's probability and q the variant's; 0 or more
  bool same_top = false;  ///< both find the same id likeliest; of equal logits the lowest id's counts
  double base_loss = std::numeric_limits<double>::quiet_NaN();     ///< -log p of the id that follows; NaN if none is known
  double variant_loss = std::numeric_limits<double>::quiet_NaN();  ///< -log q of it
};

/// Of two rows of logits; equal rows have a divergence of exactly 0. `next` is the id that follows, -1 if none is known. Error if the
/// rows are empty or differ in length, if `next` is outside them, or if a logit is not finite.
Result<Comparison> compare(std::span<const float> base, std::span<const float> variant, int32_t next);

}  // namespace prism::analysis
