// The factors by which Llama 3 slows its rotations, one for each pair of dims (rope_freqs.weight).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

namespace prism::gguf {

struct Llama3Rope {
  double base, factor, low = 1, high = 4, trained = 8192;
};

/// Rotations shorter than trained / high positions stay, those longer than trained / low slow down, and between them it is gradual.
inline std::vector<float> llama3_rope_factors(const Llama3Rope& r, int64_t head_size) {
  std::vector<float> factors;
  for (int64_t i = 0; i < head_size / 2; ++i) {
    const double wave = 2 * std::numbers::pi * std::pow(r.base, 2.0 * double(i) / double(head_size));
    const double stays = std::clamp((r.trained / wave - r.low) / (r.high - r.low), 0.0, 1.0);
    factors.push_back(float(1 / ((1 - stays) / r.factor + stays)));
  }
  return factors;
}

}  // namespace prism::gguf
