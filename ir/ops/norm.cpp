// Normalisation, softmax and reduction.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ir/hadamard.h"
#include "ir/ops/eval_util.h"

namespace prism::ir {
namespace {

/// fn(row of x, row of y, size) for every row of the last axis.
template <class Fn>
Status each_row(EvalContext& c, Fn&& fn) {
  const Rows rows = rows_of(*c.in[0]);
  for (int64_t r = 0; r < rows.count; ++r) {
    fn(c.in[0]->f.data() + r * rows.size, c.out[0].f.data() + r * rows.size, rows.size);
  }
  return ok();
}

}  // namespace

Status eval_RmsNorm(EvalContext& c) {
  const double eps = c.op.attr<double>("eps");
  const std::vector<float>& w = c.in[1]->f;
  return each_row(c, [&](const float* x, float* y, int64_t n) {
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += double(x[i]) * x[i];
    const double scale = 1 / std::sqrt(squares / double(n) + eps);
    for (int64_t i = 0; i < n; ++i) y[i] = float(x[i] * scale * w[i]);
  });
}

Status eval_Hadamard(EvalContext& c) {
  return each_row(c, hadamard_row);
}

Status eval_LayerNorm(EvalContext& c) {
  const double eps = c.op.attr<double>("eps");
  const std::vector<float>& w = c.in[1]->f;
  const Tensor* bias = c.in.size() > 2 ? c.in[2] : nullptr;
  return each_row(c, [&](const float* x, float* y, int64_t n) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < n; ++i) mean += x[i];
    mean /= double(n);
    for (int64_t i = 0; i < n; ++i) variance += (x[i] - mean) * (x[i] - mean);
    const double scale = 1 / std::sqrt(variance / double(n) + eps);
    for (int64_t i = 0; i < n; ++i) y[i] = float((x[i] - mean) * scale * w[i] + (bias ? double(bias->f[i]) : 0.0));
  });
}

Status eval_BatchNorm(EvalContext& c) {
  const double eps = c.op.attr<double>("eps");
  const Tensor &x = *c.in[0], &w = *c.in[1], &b = *c.in[2], &mean = *c.in[3], &var = *c.in[4];
  const int64_t channels = x.shape[1], pixels = x.shape[2] * x.shape[3];
  for (int64_t i = 0; i < x.elements(); ++i) {
    const int64_t ch = i / pixels % channels;
    c.out[0].f[i] = float((x.f[i] - double(mean.f[ch])) / std::sqrt(double(var.f[ch]) + eps) * w.f[ch] + b.f[ch]);
  }
  return ok();
}

Status eval_Softmax(EvalContext& c) {
  return each_row(c, [](const float* x, float* y, int64_t n) {
    if (n == 0) return;
    const double max = *std::max_element(x, x + n);
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - max);
    for (int64_t i = 0; i < n; ++i) y[i] = float(std::exp(x[i] - max) / sum);
  });
}

Status eval_Reduce(EvalContext& c) {
  const auto kind = c.op.attr<std::string>("kind");
  const bool max = kind == "max";
  const Tensor& x = *c.in[0];
  const int64_t rank = int64_t(x.shape.size());
  std::vector<bool> reduced(rank, false);
  int64_t count = 1;
  for (int64_t axis : c.op.attr<std::vector<int64_t>>("axes")) {
    count *= x.shape[axis];
    reduced[axis] = true;
  }
  std::vector<double> sums(c.out[0].f.size(), max ? -std::numeric_limits<double>::infinity() : 0.0);
  for (int64_t i = 0; i < x.elements(); ++i) {
    int64_t rest = i, at = 0, step = 1;  // place of element i in the result: its index without the reduced axes
    for (int64_t axis = rank; axis-- > 0;) {
      const int64_t index = rest % x.shape[axis];
      rest /= x.shape[axis];
      if (reduced[axis]) continue;
      at += index * step;
      step *= x.shape[axis];
    }
    sums[at] = max ? std::max(sums[at], double(x.f[i])) : sums[at] + x.f[i];
  }
  for (size_t i = 0; i < sums.size(); ++i) c.out[0].f[i] = float(kind == "mean" ? sums[i] / double(count) : sums[i]);
  return ok();
}

}  // namespace prism::ir
