// What sampling from logits and comparing them share. Loops that compilers turn into vector code, if they may turn comparisons into
// selects (-fno-trapping-math, see CMakeLists.txt of the users).
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <span>

namespace prism {

/// e^x for x <= 0 from additions and multiplications alone: the C library's differs from machine to machine in the last
/// bit. Relative error below 1e-14; 0 below -700. Without branches, so that a loop of it becomes vector code.
inline double exp_nonpositive(double x) {
  const double bounded = x > -700 ? x : -700;
  const double shifted = bounded * 1.4426950408889634 + 0x1.8p52;                     // its low bits are an integer, n
  const double n = shifted - 0x1.8p52;
  const double r = (bounded - n * 0x1.62e42fee00000p-1) - n * 0x1.a39ef35793c76p-33;  // |r| <= ln(2)/2
  constexpr double kInverseFactorials[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880,
                                           1.0 / 40320,     1.0 / 5040,     1.0 / 720,     1.0 / 120,
                                           1.0 / 24,        1.0 / 6,        1.0 / 2,       1.0,
                                           1.0};
  double sum = 0;
  for (double c : kInverseFactorials) sum = sum * r + c;
  const double power = std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) + 1023) << 52);
  return x > -700 ? sum * power : 0;
}

/// -inf if there is none; NaNs are passed over. In lanes that the compiler can keep in a vector.
inline float largest_of(std::span<const float> values) {
  constexpr size_t kLanes = 32;
  float lanes[kLanes];
  std::fill(std::begin(lanes), std::end(lanes), -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes)
    for (size_t l = 0; l < kLanes; ++l) lanes[l] = values[i + l] > lanes[l] ? values[i + l] : lanes[l];
  for (; i < values.size(); ++i) lanes[0] = values[i] > lanes[0] ? values[i] : lanes[0];
  return *std::max_element(std::begin(lanes), std::end(lanes));
}

}  // namespace prism
