// Picks the next token. Order: repetition penalty, temperature, top-k, top-p, min-p, draw. temperature 0 = greedy.
// Deterministic for a seed on every machine.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/base/result.h"

namespace prism::rt {

struct SamplerOptions {
  float temperature = 0.0f;
  int top_k = 0;                 ///< 0 = off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repeat_penalty = 1.0f;   ///< over the last repeat_window tokens; logits > 0 divided, < 0 multiplied
  int repeat_window = 64;
  uint64_t seed = 0;
};

class Sampler {
 public:
  static Result<Sampler> create(const SamplerOptions& options);  ///< checks the ranges
  int32_t sample(std::span<const float> logits);  ///< ties: lowest id. NaN logits never win
  void accept(int32_t token);                     ///< records a token (prompt too) for the repetition penalty

 private:
  SamplerOptions options_;
  uint64_t rng_[4] = {};
  std::vector<int32_t> recent_;
  std::vector<float> penalised_;
  std::vector<std::pair<float, int32_t>> candidates_;
  std::vector<double> weights_;
};

}  // namespace prism::rt
