// The search for scales: sixteen candidates at once, one in each lane of a vector.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

namespace prism::quantize {

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed only between functions that are inlined

#define PRISM_INLINE inline __attribute__((always_inline))

constexpr int kLanes = 16;
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));

/// Elements that share a scale (and a minimum), and what squared errors cost there; codes lie in [lo, hi].
struct Group {
  const float *x, *w;
  int n;
  float lo, hi;
};

/// x is about scale * q + min
struct Candidates {
  Lanes scale{}, min{}, error{};
};
struct Fit {
  float scale = 0, min = 0, error = 0;
};

/// Sums of w*q, w*q^2, w*q*x and the error, with q the codes nearest to the candidate.
struct Sums {
  Lanes q{}, qq{}, qx{}, error{};
};

/// The nearest integer within [lo, hi]; x must lie within +-2^22.
PRISM_INLINE float nearest(float x, float lo, float hi) {
  constexpr float kMagic = 0x1.8p23f;  // adding it leaves no bits for fractions
  return (std::min(std::max(x, lo), hi) + kMagic) - kMagic;
}

PRISM_INLINE Lanes inverse(const Lanes& v) {
  const Lanes one = Lanes{} + 1.0f;
  return v != 0.0f ? one / v : Lanes{};
}

PRISM_INLINE void evaluate(const Group& g, const Candidates& c, Sums& s) {
  constexpr float kMagic = 0x1.8p23f;
  const Lanes lo = Lanes{} + g.lo, hi = Lanes{} + g.hi, by = inverse(c.scale);
  s = {};
  for (int j = 0; j < g.n; ++j) {
    Lanes q = (g.x[j] - c.min) * by;
    q = q > lo ? q : lo;
    q = q < hi ? q : hi;
    q = (q + kMagic) - kMagic;
    const Lanes wq = g.w[j] * q, off = (g.x[j] - c.min) - c.scale * q;
    s.q += wq;
    s.qq += wq * q;
    s.qx += wq * g.x[j];
    s.error += g.w[j] * off * off;
  }
}

/// The lane of the least error, the first of several.
PRISM_INLINE int least(const Lanes& error) {
  int best = 0;
  for (int i = 1; i < kLanes; ++i)
    if (error[i] < error[best]) best = i;
  return best;
}

enum class Minimum { None, Any, NotPositive };

/// Fits each candidate in turn with rounding, `rounds` times, and returns the best that was seen.
template <Minimum kMinimum>
PRISM_INLINE Fit refine(const Group& g, const Candidates& from, int rounds) {
  Candidates c = from;
  float sum_w = 0, sum_x = 0;
  for (int j = 0; j < g.n; ++j) {
    sum_w += g.w[j];
    sum_x += g.w[j] * g.x[j];
  }
  Candidates best = c;
  best.error = Lanes{} + std::numeric_limits<float>::infinity();
  for (int round = 0;; ++round) {
    Sums s;
    evaluate(g, c, s);
    const auto better = s.error < best.error;
    best.scale = better ? c.scale : best.scale;
    best.min = better ? c.min : best.min;
    best.error = better ? s.error : best.error;
    if (round == rounds) break;
    const Lanes alone = s.qq > 0.0f ? s.qx / s.qq : c.scale;  // without a minimum
    if constexpr (kMinimum == Minimum::None) {
      c.scale = alone;
    } else {
      const Lanes spread = sum_w * s.qq - s.q * s.q;
      const auto can = spread > 1e-5f * sum_w * s.qq;
      c.scale = can ? (sum_w * s.qx - s.q * sum_x) / spread : c.scale;
      c.min = can ? (sum_x - c.scale * s.q) / sum_w : c.min;
      if constexpr (kMinimum == Minimum::NotPositive) {
        const auto positive = c.min > 0.0f;
        c.min = positive ? Lanes{} : c.min;
        c.scale = positive ? alone : c.scale;
      }
    }
  }
  const int i = least(best.error);
  return {best.scale[i], best.min[i], best.error[i]};
}

/// Where the search of a scale without a minimum begins: the largest magnitude becomes the last code of either side, or lies up to 14 steps of
/// `step` beyond it.
PRISM_INLINE Fit search_scale(const Group& g, float step, int rounds) {
  float extreme = 0;
  for (int j = 0; j < g.n; ++j)
    if (std::fabs(g.x[j]) > std::fabs(extreme)) extreme = g.x[j];
  Fit best{0, 0, std::numeric_limits<float>::infinity()};
  for (float last : {g.lo, g.hi}) {
    Candidates c;
    for (int i = 0; i < kLanes; ++i) c.scale[i] = extreme / last * (1 + step * float(1 - i));
    const Fit fit = refine<Minimum::None>(g, c, rounds);
    if (fit.error < best.error) best = fit;
  }
  return best;
}

/// The same with a minimum: each end of the range is cut by 0 to 3 steps of `step` of it.
template <Minimum kMinimum>
PRISM_INLINE Fit search_scale_and_min(const Group& g, float step, int rounds) {
  float low = g.x[0], high = g.x[0];
  for (int j = 1; j < g.n; ++j) {
    low = std::min(low, g.x[j]);
    high = std::max(high, g.x[j]);
  }
  if (kMinimum == Minimum::NotPositive) low = std::min(low, 0.0f);
  Candidates c;
  for (int i = 0; i < kLanes; ++i) {
    const float from = low + (high - low) * step * float(i % 4), to = high - (high - low) * step * float(i / 4);
    c.scale[i] = (to - from) / (g.hi - g.lo);
    c.min[i] = from;
  }
  return refine<kMinimum>(g, c, rounds);
}

}  // namespace prism::quantize
