// Ops that move elements, literals, and the kernel op that runs its body.
#include "ir/ops/eval_util.h"

namespace prism::ir {
Status eval_Reshape(EvalContext& c) {
  if (c.in[0]->elements() != c.out[0].elements()) {
    return error("found ", c.in[0]->elements(), " elements, expected ", c.out[0].elements());
  }
  c.out[0].f = c.in[0]->f;
  c.out[0].i = c.in[0]->i;
  return ok();
}

Status eval_Transpose(EvalContext& c) {
  const Tensor& in = *c.in[0];
  Tensor& out = c.out[0];
  const auto perm = c.op.attr<std::vector<int64_t>>("perm");
  const size_t rank = perm.size();
  std::vector<int64_t> steps(rank);  // in the source, for each axis of the result
  for (size_t i = 0; i < rank; ++i) steps[i] = product(in.shape, size_t(perm[i]) + 1, rank);
  copy_elements(in, out, [&](int64_t i) {
    int64_t at = 0;
    for (size_t axis = rank; axis-- > 0; i /= out.shape[axis]) at += i % out.shape[axis] * steps[axis];
    return at;
  });
  return ok();
}

Status eval_Slice(EvalContext& c) {
  const Tensor& in = *c.in[0];
  Tensor& out = c.out[0];
  const size_t axis = size_t(c.op.attr<int64_t>("axis")), rank = out.shape.size();
  const int64_t inner = product(out.shape, axis + 1, rank), size = out.shape[axis];
  const int64_t begin = c.op.attr<int64_t>("begin");
  copy_elements(in, out, [&](int64_t i) {
    const int64_t outer = i / (size * inner), rest = i % (size * inner);
    return (outer * in.shape[axis] + begin) * inner + rest;
  });
  return ok();
}

Status eval_Concat(EvalContext& c) {
  Tensor& out = c.out[0];
  const size_t axis = size_t(c.op.attr<int64_t>("axis")), rank = out.shape.size();
  const int64_t outer = product(out.shape, 0, axis), out_row = product(out.shape, axis, rank);
  int64_t offset = 0;
  for (const Tensor* in : c.in) {
    const int64_t row = product(in->shape, axis, rank);
    for (int64_t o = 0; o < outer; ++o) {
      for (int64_t i = 0; i < row; ++i) {
        if (!in->f.empty()) out.f[o * out_row + offset + i] = in->f[o * row + i];
        if (!in->i.empty()) out.i[o * out_row + offset + i] = in->i[o * row + i];
      }
    }
    offset += row;
  }
  return ok();
}

Status eval_Constant(EvalContext& c) {
  const auto values = c.op.attr<std::vector<double>>("values");
  Tensor& out = c.out[0];
  if (int64_t(values.size()) != out.elements()) {
    return error("found ", values.size(), " values, expected ", out.elements());
  }
  for (size_t i = 0; i < out.f.size(); ++i) out.f[i] = float(values[i]);
  for (size_t i = 0; i < out.i.size(); ++i) out.i[i] = int64_t(values[i]);
  return ok();
}

Status eval_Kernel(EvalContext& c) {
  PRISM_TRY(c.out, c.run_body(*c.op.body, c.in));
  return ok();
}

}  // namespace prism::ir
