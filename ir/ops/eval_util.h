// What the ops' evaluations share.
#pragma once

#include <thread>

#include "ir/eval.h"

namespace prism::ir {

/// Product of the dims [from, to) of a shape.
inline int64_t product(const std::vector<int64_t>& shape, size_t from, size_t to) {
  int64_t n = 1;
  for (size_t i = from; i < to; ++i) n *= shape[i];
  return n;
}

/// Rows of the last axis: count and length.
struct Rows {
  int64_t count, size;
};
inline Rows rows_of(const Tensor& t) {
  const size_t rank = t.shape.size();
  if (rank == 0) return {1, 1};
  return {product(t.shape, 0, rank - 1), t.shape[rank - 1]};
}

/// Sum of a[i]*b[i] in double: eight running sums that the compiler can keep in vector registers, in a fixed order.
inline double dot(const double* a, const double* b, int64_t n) {
  constexpr int kLanes = 8;
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lanes[l] += a[i + l] * b[i + l];
  double sum = 0;
  for (double lane : lanes) sum += lane;
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

/// fn(begin, end) over [0, n) in two threads; the halves must not depend on each other. Each of the n items costs
/// about `work` operations; small jobs stay on this thread.
template <class Fn>
void in_two_threads(int64_t n, int64_t work, Fn&& fn) {
  if (n < 2 || n * work < 1'000'000) return fn(int64_t{0}, n);
  std::thread other([&] { fn(n / 2, n); });
  fn(int64_t{0}, n / 2);
  other.join();
}

/// out[i] = in[source(i)], whichever of floats and integers the tensors hold.
template <class Source>
void copy_elements(const Tensor& in, Tensor& out, Source&& source) {
  for (size_t i = 0; i < out.f.size(); ++i) out.f[i] = in.f[source(int64_t(i))];
  for (size_t i = 0; i < out.i.size(); ++i) out.i[i] = in.i[source(int64_t(i))];
}

/// Rounds each row of `size` values to what `t` can hold. False if the evaluator cannot make that format.
bool round_rows(DType t, float* values, int64_t count, int64_t size, Scales scales = Scales::Block);

}  // namespace prism::ir
