#include "analysis/divergence.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "runtime/base/logits.h"

// A vocabulary of logits is long: the machine's widest vectors do it in a quarter of the time.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define PRISM_VECTOR_VARIANTS __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define PRISM_VECTOR_VARIANTS
#endif

namespace prism::analysis {

namespace {

/// Over all ids, each logit less the largest of its row.
struct Sums {
  double base = 0, variant = 0;  ///< of exponentials
  double difference = 0;         ///< of the base's exponentials, times base - variant; not finite if a logit is not
};

PRISM_VECTOR_VARIANTS
Sums sums(std::span<const float> base, float base_top, std::span<const float> variant, float variant_top) {
  constexpr size_t kLanes = 8;
  double b[kLanes] = {}, v[kLanes] = {}, d[kLanes] = {};
  const auto add = [&](size_t lane, double x, double y) {
    const double p = exp_nonpositive(x - base_top);
    b[lane] += p;
    v[lane] += exp_nonpositive(y - variant_top);
    d[lane] += p * (x - y);
  };
  size_t i = 0;
  for (; i + kLanes <= base.size(); i += kLanes)
    for (size_t l = 0; l < kLanes; ++l) add(l, base[i + l], variant[i + l]);
  for (; i < base.size(); ++i) add(0, base[i], variant[i]);
  const auto total = [](const double(&lanes)[kLanes]) { return std::accumulate(std::begin(lanes), std::end(lanes), 0.0); };
  return {total(b), total(v), total(d)};
}

Error not_finite(std::span<const float> base, std::span<const float> variant) {
  const auto bad = [](float x) { return !std::isfinite(x); };
  const auto in_base = std::find_if(base.begin(), base.end(), bad), in_variant = std::find_if(variant.begin(), variant.end(), bad);
  if (in_base != base.end()) return error("logit of id ", in_base - base.begin(), " of the base: found ", *in_base, ", expected a finite number");
  return error("logit of id ", in_variant - variant.begin(), " of the variant: found ", *in_variant, ", expected a finite number");
}

}  // namespace

Result<Comparison> compare(std::span<const float> base, std::span<const float> variant, int32_t next) {
  if (base.empty() || base.size() != variant.size())
    return error("logits: found ", base.size(), " of the base and ", variant.size(), " of the variant, expected equally many");
  if (next < -1 || next >= int64_t(base.size())) return error("next id: found ", next, ", expected less than ", base.size());
  const float base_top = largest_of(base), variant_top = largest_of(variant);
  const Sums s = sums(base, base_top, variant, variant_top);
  if (!std::isfinite(s.difference)) return not_finite(base, variant);
  const double base_log_sum = base_top + std::log(s.base), variant_log_sum = variant_top + std::log(s.variant);
  Comparison c;
  c.kl = std::max(0.0, s.difference / s.base - (base_log_sum - variant_log_sum));  // below 0 only by rounding
  const auto top = std::find(base.begin(), base.end(), base_top) - base.begin();
  c.same_top = top == std::find(variant.begin(), variant.end(), variant_top) - variant.begin();
  if (next >= 0) {
    c.base_loss = base_log_sum - base[size_t(next)];
    c.variant_loss = variant_log_sum - variant[size_t(next)];
  }
  return c;
}

}  // namespace prism::analysis
