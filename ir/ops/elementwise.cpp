// Elementwise ops: each result element is computed in double from the elements at the same (broadcast) place.
#include <algorithm>
#include <cmath>
#include <map>

#include "ir/ops/eval_util.h"

namespace prism::ir {
namespace {

template <class Fn>
Status unary(EvalContext& c, Fn&& fn) {
  for (size_t i = 0; i < c.out[0].f.size(); ++i) c.out[0].f[i] = float(fn(double(c.in[0]->f[i])));
  return ok();
}

template <class Fn>
Status binary(EvalContext& c, Fn&& fn) {
  const Tensor &a = *c.in[0], &b = *c.in[1];
  Tensor& out = c.out[0];
  // Steps of a and b for each axis of the result; 0 where they broadcast.
  const size_t rank = out.shape.size();
  const auto steps_of = [&](const Tensor& t) {
    std::vector<int64_t> steps(rank, 0);
    int64_t step = 1;
    for (size_t i = 1; i <= t.shape.size(); ++i) {
      const int64_t n = t.shape[t.shape.size() - i];
      steps[rank - i] = n == 1 ? 0 : step;
      step *= n;
    }
    return steps;
  };
  const auto a_steps = steps_of(a), b_steps = steps_of(b);
  for (size_t i = 0; i < out.f.size(); ++i) {
    int64_t rest = int64_t(i), at_a = 0, at_b = 0;
    for (size_t axis = rank; axis-- > 0;) {
      const int64_t index = rest % out.shape[axis];
      rest /= out.shape[axis];
      at_a += index * a_steps[axis];
      at_b += index * b_steps[axis];
    }
    out.f[i] = float(fn(double(a.f[at_a]), double(b.f[at_b])));
  }
  return ok();
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

/// By the names that `glu` uses.
const std::map<std::string, double (*)(double), std::less<>> kActivations = {
    {"relu", [](double x) { return std::max(x, 0.0); }},
    {"silu", [](double x) { return x * sigmoid(x); }},
    {"tanh", [](double x) { return std::tanh(x); }},
    {"sigmoid", sigmoid},
    {"gelu", [](double x) { return 0.5 * x * (1 + std::erf(x * M_SQRT1_2)); }},
    {"gelu_tanh",
     [](double x) { return 0.5 * x * (1 + std::tanh(M_SQRT1_2 * M_2_SQRTPI * (x + 0.044715 * x * x * x))); }},
    {"gelu_quick", [](double x) { return x * sigmoid(1.702 * x); }},
};

struct IntRange {
  int64_t lo, hi;
};
IntRange int_range(DType t) {
  switch (t) {
    case DType::I8: return {INT8_MIN, INT8_MAX};
    case DType::U8: return {0, UINT8_MAX};
    case DType::I16: return {INT16_MIN, INT16_MAX};
    case DType::I32: return {INT32_MIN, INT32_MAX};
    default: return {INT64_MIN, INT64_MAX};
  }
}

/// Towards zero, saturating; NaN is 0.
int64_t float_to_int(double x, IntRange range) {
  if (std::isnan(x)) return 0;
  if (x <= double(range.lo)) return range.lo;
  if (x >= double(range.hi)) return range.hi;
  return int64_t(x);
}

}  // namespace


Status eval_Neg(EvalContext& c) { return unary(c, [](double x) { return -x; }); }
Status eval_Exp(EvalContext& c) { return unary(c, [](double x) { return std::exp(x); }); }
Status eval_Sqrt(EvalContext& c) { return unary(c, [](double x) { return std::sqrt(x); }); }
Status eval_Relu(EvalContext& c) { return unary(c, kActivations.at("relu")); }
Status eval_Silu(EvalContext& c) { return unary(c, kActivations.at("silu")); }
Status eval_Tanh(EvalContext& c) { return unary(c, kActivations.at("tanh")); }
Status eval_Sigmoid(EvalContext& c) { return unary(c, kActivations.at("sigmoid")); }
Status eval_Gelu(EvalContext& c) {
  const auto approximate = c.op.attr<std::string>("approximate");
  return unary(c, kActivations.at(approximate == "none" ? "gelu" : "gelu_" + approximate));
}

Status eval_Softcap(EvalContext& c) {
  const double cap = c.op.attr<double>("cap");
  return unary(c, [cap](double x) { return cap * std::tanh(x / cap); });
}

Status eval_Scale(EvalContext& c) {
  const double by = c.op.attr<double>("by"), plus = c.op.attr<double>("plus");
  return unary(c, [=](double x) { return x * by + plus; });
}

Status eval_Cast(EvalContext& c) {
  const Tensor& in = *c.in[0];
  Tensor& out = c.out[0];
  const IntRange range = int_range(c.op.result()->type.dtype);
  for (size_t i = 0; i < out.f.size(); ++i) out.f[i] = in.f.empty() ? float(in.i[i]) : in.f[i];
  for (size_t i = 0; i < out.i.size(); ++i) {
    out.i[i] = in.f.empty() ? std::clamp(in.i[i], range.lo, range.hi) : float_to_int(in.f[i], range);
  }
  return ok();
}

Status eval_Add(EvalContext& c) { return binary(c, [](double a, double b) { return a + b; }); }
Status eval_Sub(EvalContext& c) { return binary(c, [](double a, double b) { return a - b; }); }
Status eval_Mul(EvalContext& c) { return binary(c, [](double a, double b) { return a * b; }); }
Status eval_Div(EvalContext& c) { return binary(c, [](double a, double b) { return a / b; }); }
Status eval_Maximum(EvalContext& c) { return binary(c, [](double a, double b) { return std::max(a, b); }); }
Status eval_Minimum(EvalContext& c) { return binary(c, [](double a, double b) { return std::min(a, b); }); }

// y[..., b*group+i] = act(x[..., 2*b*group+i]) * x[..., (2*b+1)*group+i]
Status eval_Glu(EvalContext& c) {
  const auto act = kActivations.at(c.op.attr<std::string>("act"));
  const Rows rows = rows_of(*c.in[0]);
  const int64_t half = rows.size / 2;
  const int64_t group = c.op.attr<int64_t>("group") ? c.op.attr<int64_t>("group") : half;
  if (half == 0) return ok();
  for (int64_t r = 0; r < rows.count; ++r) {
    const float* x = c.in[0]->f.data() + r * rows.size;
    float* y = c.out[0].f.data() + r * half;
    for (int64_t j = 0; j < half; ++j) {
      const int64_t block = j / group, i = j % group;
      y[j] = float(act(x[2 * block * group + i]) * double(x[(2 * block + 1) * group + i]));
    }
  }
  return ok();
}

}  // namespace prism::ir
