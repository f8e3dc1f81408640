#include "analysis/quality.h"

#include <algorithm>

namespace prism::analysis {

namespace {

/// e^x of a mean x, its error by the delta method.
Estimate exponential(const Estimate& x) {
  const double value = std::exp(x.value);
  return {value, value * x.error};
}

}  // namespace

Estimate Mean::estimate() const {
  Estimate e;
  if (count_ > 0) e.value = mean_;
  if (count_ > 1) e.error = std::sqrt(squares_ / (double(count_) * double(count_ - 1)));
  return e;
}

void Summary::add(const Comparison& c) {
  kl_.add(c.kl);
  kls_.push_back(float(c.kl));
  same_top_.add(c.same_top);
  if (std::isnan(c.base_loss)) return;
  base_loss_.add(c.base_loss);
  variant_loss_.add(c.variant_loss);
  loss_change_.add(c.variant_loss - c.base_loss);
}

Estimate Summary::base_perplexity() const { return exponential(base_loss_.estimate()); }
Estimate Summary::variant_perplexity() const { return exponential(variant_loss_.estimate()); }

Estimate Summary::perplexity_change() const {
  const Estimate ratio = exponential(loss_change_.estimate());
  return {ratio.value - 1, ratio.error};
}

double Summary::kl_quantile(double q) const {
  if (kls_.empty()) return std::numeric_limits<double>::quiet_NaN();
  const double at = std::clamp(q, 0.0, 1.0) * double(kls_.size() - 1);
  const auto below = size_t(at);
  std::vector<float> sorted = kls_;
  std::nth_element(sorted.begin(), sorted.begin() + ptrdiff_t(below), sorted.end());
  if (below + 1 == sorted.size()) return sorted[below];
  const double next = *std::min_element(sorted.begin() + ptrdiff_t(below) + 1, sorted.end());
  return sorted[below] + (at - double(below)) * (next - sorted[below]);
}

void PositionSummaries::add(int64_t position, const Comparison& c) {
  all_.add(c);
  while (buckets_.empty() || buckets_.back().end <= position) {
    const int64_t begin = buckets_.empty() ? 0 : buckets_.back().end;
    buckets_.push_back({begin, begin ? 2 * begin : kFirstEnd, {}});
  }
  std::find_if(buckets_.begin(), buckets_.end(), [&](const Bucket& b) { return position < b.end; })->summary.add(c);
}

}  // namespace prism::analysis
