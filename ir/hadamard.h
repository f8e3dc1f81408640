// The product of the op hadamard, for those who do not generate code.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace prism::ir {

/// How many of n values are transformed together: the largest power of two that divides n, and no more than what spreads them well.
constexpr int64_t hadamard_block(int64_t n) { return std::min<int64_t>(n & -n, 512); }

/// y = x times the matrix, both of n values; summed in double.
inline void hadamard_row(const float* x, float* y, int64_t n) {
  const int64_t block = hadamard_block(n);
  const double scale = 1 / std::sqrt(double(block));
  std::vector<double> v(x, x + n);
  for (int64_t half = 1; half < block; half *= 2)
    for (int64_t i = 0; i < n; i += 2 * half)
      for (int64_t j = i; j < i + half; ++j) {
        const double a = v[size_t(j)], b = v[size_t(j + half)];
        v[size_t(j)] = a + b;
        v[size_t(j + half)] = a - b;
      }
  for (int64_t i = 0; i < n; ++i) y[i] = float(v[size_t(i)] * scale);
}

}  // namespace prism::ir
