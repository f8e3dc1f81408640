// What comparisons after many positions say together: perplexities, divergence, agreement, each with its standard error. Errors take
// the positions to be independent.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "analysis/divergence.h"

namespace prism::analysis {

/// A value and its standard error; NaN where there is too little to tell.
struct Estimate {
  double value = std::numeric_limits<double>::quiet_NaN(), error = value;
};

/// The mean of numbers that come one by one.
class Mean {
 public:
  void add(double x) {
    const double from_mean = x - mean_;
    mean_ += from_mean / double(++count_);
    squares_ += from_mean * (x - mean_);
  }
  size_t count() const { return count_; }
  /// The error needs two numbers.
  Estimate estimate() const;

 private:
  size_t count_ = 0;
  double mean_ = 0, squares_ = 0;  // squares: of distances from the mean
};

class Summary {
 public:
  void add(const Comparison& c);

  size_t positions() const { return kl_.count(); }
  size_t predictions() const { return base_loss_.count(); }  ///< positions whose next id is known: the perplexities are of these
  Estimate base_perplexity() const;
  Estimate variant_perplexity() const;
  /// The variant's perplexity over the base's, less 1. Both see the same ids, so its error is that of paired differences.
  Estimate perplexity_change() const;
  Estimate kl() const { return kl_.estimate(); }
  Estimate same_top() const { return same_top_.estimate(); }  ///< a fraction
  const std::vector<float>& kls() const { return kls_; }     ///< of the positions in their order
  /// The divergence that a fraction `q` of positions, 0 to 1, stays below; between two positions linearly. NaN without any.
  double kl_quantile(double q) const;

 private:
  Mean base_loss_, variant_loss_, loss_change_, kl_, same_top_;
  std::vector<float> kls_;
};

/// Summaries of positions [0,512), [512,1024), [1024,2048) and so on of their contexts.
class PositionSummaries {
 public:
  static constexpr int64_t kFirstEnd = 512;
  struct Bucket {
    int64_t begin, end;
    Summary summary;
  };
  void add(int64_t position, const Comparison& c);
  const Summary& all() const { return all_; }
  const std::vector<Bucket>& buckets() const { return buckets_; }  ///< up to that of the last position; some may be empty

 private:
  Summary all_;
  std::vector<Bucket> buckets_;
};

}  // namespace prism::analysis
