// Quantize and dequantize. Block formats stay floats here, rounded to what the format can hold.
#include <algorithm>
#include <cmath>

#include "ir/ops/eval_util.h"

namespace prism::ir {

Status eval_Quantize(EvalContext& c) {
  const Tensor& x = *c.in[0];
  Tensor& out = c.out[0];
  const DType format = c.op.result()->type.dtype;
  const double scale = c.op.attr<double>("scale");
  const int64_t zero = c.op.attr<int64_t>("zero_point");
  const auto level = [&](float value, double lo, double hi) {
    const double q = std::nearbyint(value / scale) + double(zero);  // ties to even
    return std::isnan(q) ? double(zero) : std::clamp(q, lo, hi);
  };
  if (format == DType::Q8A && scale > 0) {
    out.f.resize(x.f.size());
    std::ranges::transform(x.f, out.f.begin(), [&](float value) { return float(level(value, -127, 127) * scale); });
    return ok();
  }
  if (out.i.empty()) {
    out.f = x.f;
    const Rows rows = rows_of(out);
    if (!round_rows(format, out.f.data(), rows.count, rows.size, *scales_from_name(c.op.attr<std::string>("scales")))) {
      return error("cannot make rows of ", rows.size, " in ", info(format).name);
    }
    return ok();
  }
  if (!(scale > 0)) return error("scale is ", scale, ", expected more than 0");
  const double lo = format == DType::U8 ? 0 : -128, hi = format == DType::U8 ? 255 : 127;
  for (size_t i = 0; i < x.f.size(); ++i) out.i[i] = int64_t(level(x.f[i], lo, hi));
  return ok();
}

Status eval_Dequantize(EvalContext& c) {
  const Tensor& x = *c.in[0];
  Tensor& out = c.out[0];
  if (x.i.empty()) {
    out.f = x.f;
    return ok();
  }
  const double scale = c.op.attr<double>("scale");
  const int64_t zero = c.op.attr<int64_t>("zero_point");
  for (size_t i = 0; i < x.i.size(); ++i) out.f[i] = float(double(x.i[i] - zero) * scale);
  return ok();
}

}  // namespace prism::ir
