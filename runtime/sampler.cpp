#include "runtime/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "runtime/base/logits.h"

namespace prism::rt {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

/// xoshiro256** by Blackman and Vigna.
uint64_t next(uint64_t (&s)[4]) {
  const uint64_t result = std::rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = std::rotl(s[3], 45);
  return result;
}

uint64_t splitmix64(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// Larger logits first, ties by id: a total order, so that partial sorts have one answer.
bool before(const std::pair<float, int32_t>& a, const std::pair<float, int32_t>& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

/// Brings the n first to the front, in order: in one pass over the rest when they are few.
template <class Iterator>
void sort_first(Iterator begin, ptrdiff_t n, Iterator end) {
  if (n < (end - begin) / 64) return std::partial_sort(begin, begin + n, end, before);
  std::nth_element(begin, begin + n, end, before);
  std::sort(begin, begin + n, before);
}

}  // namespace

Result<Sampler> Sampler::create(const SamplerOptions& o) {
  if (!(o.temperature >= 0 && std::isfinite(o.temperature)))
    return error("temperature: found ", o.temperature, ", expected 0 or more");
  if (o.top_k < 0) return error("top-k: found ", o.top_k, ", expected 0 or more");
  if (!(o.top_p > 0 && o.top_p <= 1)) return error("top-p: found ", o.top_p, ", expected more than 0, at most 1");
  if (!(o.min_p >= 0 && o.min_p <= 1)) return error("min-p: found ", o.min_p, ", expected 0 to 1");
  if (!(o.repeat_penalty > 0 && std::isfinite(o.repeat_penalty)))
    return error("repetition penalty: found ", o.repeat_penalty, ", expected more than 0");
  if (o.repeat_window < 0) return error("repetition window: found ", o.repeat_window, ", expected 0 or more");
  Sampler s;
  s.options_ = o;
  uint64_t state = o.seed;
  for (uint64_t& word : s.rng_) word = splitmix64(state);
  return s;
}

void Sampler::accept(int32_t token) {
  if (options_.repeat_penalty == 1 || options_.repeat_window == 0) return;
  if (recent_.size() == size_t(options_.repeat_window)) recent_.erase(recent_.begin());
  recent_.push_back(token);
}

/// In units of the temperature, 0 for the largest, which may be infinite.
double Sampler::exponent(const Candidate& c) const {
  return c.first == top_ ? 0.0 : (double(c.first) - top_) / double(options_.temperature);
}

/// In proportion to the probability; 1 for the largest.
double Sampler::weight(const Candidate& c) const { return exp_nonpositive(exponent(c)); }

double Sampler::weigh_all() {
  weights_.resize(candidates_.size());
  for (size_t i = 0; i < candidates_.size(); ++i) weights_[i] = exponent(candidates_[i]);
  for (double& w : weights_) w = exp_nonpositive(w);
  return std::accumulate(weights_.begin(), weights_.end(), 0.0);
}

int32_t Sampler::sample(std::span<const float> logits) {
  if (!recent_.empty()) {
    penalised_.assign(logits.begin(), logits.end());
    for (int32_t token : recent_) {
      if (token < 0 || size_t(token) >= logits.size()) continue;
      penalised_[size_t(token)] = penalised(logits[size_t(token)]);  // not what is there now: a token seen twice is penalised once
    }
    logits = penalised_;
  }
  top_ = largest_of(logits);
  if (options_.temperature == 0 || top_ == kNever) {  // a -inf beats a NaN
    const auto best = std::find(logits.begin(), logits.end(), top_);
    return best == logits.end() ? 0 : int32_t(best - logits.begin());
  }

  candidates_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) candidates_[i] = {std::isnan(logits[i]) ? kNever : logits[i], int32_t(i)};
  if (options_.top_k > 0 && size_t(options_.top_k) < candidates_.size()) {
    sort_first(candidates_.begin(), options_.top_k, candidates_.end());
    candidates_.resize(size_t(options_.top_k));
  }
  if (options_.top_p < 1) candidates_.resize(reach(options_.top_p * weigh_all(), 0));
  return draw();
}

/// The fewest of the likeliest whose weights sum to `enough`, brought to the front in order; the first `sorted` are. They are
/// usually few, so the rest is sorted in growing pieces.
size_t Sampler::reach(double enough, size_t sorted) {
  double sum = 0;
  size_t kept = 0;
  for (; kept < candidates_.size() && sum < enough; ++kept) {
    if (kept == sorted) {
      sorted = std::min(candidates_.size(), std::max<size_t>(64, 4 * sorted));
      sort_first(candidates_.begin() + ptrdiff_t(kept), ptrdiff_t(sorted - kept), candidates_.end());
    }
    sum += weight(candidates_[kept]);
  }
  return kept;
}

/// By min_p and by chance.
int32_t Sampler::draw() {
  if (options_.min_p > 0) std::erase_if(candidates_, [&](const auto& c) { return weight(c) < options_.min_p; });
  double left = weigh_all() * (double(next(rng_) >> 11) * 0x1p-53);
  size_t drawn = 0;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    if (weights_[i] == 0) continue;
    drawn = i;  // rounding may leave nothing after the last
    if (left < weights_[i]) break;
    left -= weights_[i];
  }
  return candidates_[drawn].second;
}

std::optional<int32_t> Sampler::sample(const LargestLogits& all) {
  if (all.logits.empty() || !std::isfinite(all.logits[0])) return std::nullopt;
  const Candidate last = {all.logits.back(), all.ids.back()};  // every token not here comes after it, penalised or not
  if (!recent_.empty() && options_.repeat_penalty < 1) return std::nullopt;
  candidates_.clear();
  for (size_t i = 0; i < all.logits.size(); ++i) {
    const bool recent = std::find(recent_.begin(), recent_.end(), all.ids[i]) != recent_.end();
    candidates_.push_back({recent ? penalised(all.logits[i]) : all.logits[i], all.ids[i]});
  }
  std::sort(candidates_.begin(), candidates_.end(), before);
  size_t certain = candidates_.size();  // so many are the first of all
  while (certain > 0 && before(last, candidates_[certain - 1])) --certain;
  if (certain == 0) return std::nullopt;
  top_ = candidates_[0].first;
  if (!std::isfinite(top_)) return std::nullopt;
  if (options_.temperature == 0) return candidates_[0].second;

  if (options_.top_k > 0 && options_.top_k < all.vocab) {
    if (size_t(options_.top_k) > certain) return std::nullopt;
    candidates_.resize(size_t(options_.top_k));
    if (options_.top_p < 1) candidates_.resize(reach(options_.top_p * weigh_all(), candidates_.size()));
  } else if (options_.top_p < 1) {
    if (!keep_likeliest(all, certain)) return std::nullopt;
  } else {
    if (weight(last) >= options_.min_p * (1 - 1e-9)) return std::nullopt;
    std::sort(candidates_.begin(), candidates_.end(), [](const auto& a, const auto& b) { return a.second < b.second; });  // as all logits are
  }
  return draw();
}

/// Keeps the fewest of the likeliest whose share of all reaches top_p; false if the first `certain` do not tell which. The weight
/// of all is known between two bounds: what is not here weighs what the sum leaves, less what the penalty may have taken.
bool Sampler::keep_likeliest(const LargestLogits& all, size_t certain) {
  const float penalised_top = std::exchange(top_, all.logits[0]);
  double here = 0;
  for (size_t i = 0; i < all.logits.size(); ++i) here += weight({all.logits[i], all.ids[i]});
  const double error = LargestLogits::kSumError * all.sum;
  const auto elsewhere = std::count_if(recent_.begin(), recent_.end(), [&](int32_t t) { return std::find(all.ids.begin(), all.ids.end(), t) == all.ids.end(); });
  const double most = std::max(0.0, all.sum - here + error);
  const double least = std::max(0.0, all.sum - here - error - double(elsewhere) * weight({all.logits.back(), all.ids.back()}));
  const double unit = 1 / weight({penalised_top, 0});
  top_ = penalised_top;
  const double known = weigh_all();
  candidates_.resize(certain);
  const double enough_at_least = options_.top_p * (known + unit * least) * (1 - LargestLogits::kSumError);
  const double enough_at_most = options_.top_p * (known + unit * most) * (1 + LargestLogits::kSumError);
  if (!(all.sum > 0.5) || !std::isfinite(enough_at_most)) return false;
  const size_t kept = reach(enough_at_least, certain);
  double sum = 0;
  for (size_t i = 0; i < kept; ++i) sum += weight(candidates_[i]);
  if (sum < enough_at_most) return false;
  candidates_.resize(kept);
  return true;
}

}  // namespace prism::rt
