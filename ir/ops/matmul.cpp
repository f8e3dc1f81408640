// Matrix products, sums in double.
#include <algorithm>

#include "ir/ops/eval_util.h"

namespace prism::ir {

// y = x w^T (+ b). A row of w is converted to double once and used for every row of x.
Status eval_Linear(EvalContext& c) {
  const Tensor& w = *c.in[1];
  const Rows x_rows = rows_of(*c.in[0]);
  const int64_t k = x_rows.size, n = w.shape[0];
  const std::vector<double> x(c.in[0]->f.begin(), c.in[0]->f.end());
  const Tensor* bias = c.in.size() > 2 ? c.in[2] : nullptr;
  float* y = c.out[0].f.data();
  in_two_threads(n, k * x_rows.count, [&](int64_t begin, int64_t end) {
    std::vector<double> w_row(k);
    for (int64_t o = begin; o < end; ++o) {
      std::copy_n(w.f.begin() + o * k, k, w_row.begin());
      for (int64_t r = 0; r < x_rows.count; ++r) {
        y[r * n + o] = float(dot(x.data() + r * k, w_row.data(), k) + (bias ? double(bias->f[o]) : 0.0));
      }
    }
  });
  return ok();
}

// Batched a[*,m,k] b[*,k,n], or b[*,n,k] with transpose_b.
Status eval_Matmul(EvalContext& c) {
  const Tensor &a = *c.in[0], &b = *c.in[1];
  Tensor& out = c.out[0];
  const bool transpose_b = c.op.attr<bool>("transpose_b");
  const size_t rank = out.shape.size();
  const int64_t m = out.shape[rank - 2], n = out.shape[rank - 1], k = a.shape[rank - 1];
  for (int64_t at = 0; at < out.elements(); ++at) {
    const int64_t batch = at / (m * n), i = at / n % m, j = at % n;
    const float* x = a.f.data() + (batch * m + i) * k;
    const float* w = b.f.data() + batch * k * n;
    double sum = 0;
    for (int64_t p = 0; p < k; ++p) sum += double(x[p]) * double(transpose_b ? w[j * k + p] : w[p * n + j]);
    out.f[at] = float(sum);
  }
  return ok();
}

}  // namespace prism::ir
