// Picks the next token. Order: repetition penalty, temperature, top-k, top-p, min-p, draw. temperature 0 = greedy.
// Deterministic for a seed on every machine.
#pragma once

#include <cstdint>
#include <optional>
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

/// What is left of the logits where they are not all copied: the largest in order (ties by id; NaN counts as -inf) and the
/// sum over all of e^((logit - largest) / temperature), right to a relative kSumError.
struct LargestLogits {
  static constexpr double kSumError = 1e-4;
  std::span<const float> logits;
  std::span<const int32_t> ids;
  double sum = 0;
  int64_t vocab = 0;
};

class Sampler {
 public:
  static Result<Sampler> create(const SamplerOptions& options);  ///< checks the ranges
  int32_t sample(std::span<const float> logits);  ///< ties: lowest id. NaN logits never win
  /// The id that sample() gives for all logits, or nullopt, and nothing has changed, where only all of them can tell.
  std::optional<int32_t> sample(const LargestLogits& largest);
  float temperature() const { return options_.temperature > 0 ? options_.temperature : 1; }  ///< of LargestLogits::sum
  void accept(int32_t token);                     ///< records a token (prompt too) for the repetition penalty

 private:
  using Candidate = std::pair<float, int32_t>;

  float penalised(float logit) const { return logit > 0 ? logit / options_.repeat_penalty : logit * options_.repeat_penalty; }
  double exponent(const Candidate& c) const;
  double weight(const Candidate& c) const;
  double weigh_all();
  size_t reach(double enough, size_t sorted);
  bool keep_likeliest(const LargestLogits& all, size_t certain);
  int32_t draw();

  SamplerOptions options_;
  uint64_t rng_[4] = {};
  std::vector<int32_t> recent_;
  std::vector<float> penalised_;
  std::vector<Candidate> candidates_;
  float top_ = 0;                     ///< largest logit, whose weight is 1
  std::vector<double> weights_;
};

}  // namespace prism::rt
