// Convolution, NCHW. Of each group a matrix product: [outputs, inputs x window] times [inputs x window, pixels of all images],
// the second operand read from the images as it is needed. Groups with few outputs: a thread for each output element.
#include "codegen/kernels/gpu/gpu.h"
#include "codegen/kernels/gpu/product.h"

namespace prism::codegen {

using namespace kir;

namespace {

constexpr int64_t kFewOutputs = 8;

int64_t constant_dim(const ir::Value* v, int i) { return v->type.dim(i).constant().value_or(0); }

}  // namespace

Result<Ex> Elements::conv(const ir::Operation& op, const Place& p) {
  const ir::Value *x = op.operand(0), *k = op.operand(1);
  const int64_t group_in = constant_dim(k, 1), group_out = constant_dim(k, 0) / op.attr<int64_t>("groups");
  const Window w{constant_dim(k, 2), constant_dim(k, 3), op.attr<std::vector<int64_t>>("stride"), op.attr<std::vector<int64_t>>("padding"),
                 op.attr<std::vector<int64_t>>("dilation")};
  Ex bias(0.0);
  if (op.operands().size() > 2) {
    PRISM_TRY(bias, value(op.operand(2), p.at[1]));
  }
  const Ex sum = b_.var(bias), first = b_.let(p.at[1] / Ex(group_out) * Ex(group_in));
  PRISM_CHECK(for_(integer(group_in), [&](Ex i) {
    return window(w, x->type, p.at[2], p.at[3], [&](Ex ky, Ex kx, Ex row, Ex column) -> Status {
      PRISM_TRY(Ex pixel, value(x, place(x->type.shape, {p.at[0], b_.let(first + i), row, column})));
      PRISM_TRY(Ex weight, value(k, place(k->type.shape, {p.at[1], i, ky, kx})));
      b_.assign(sum, fma(pixel, weight, sum));
      return ok();
    });
  }));
  return sum;
}

Result<LoweredKernel> lower_gpu_conv(const ir::Operation& op, const ir::Operation& conv, const std::string& name, const std::vector<std::string>& dims) {
  const ir::Value *x = conv.operand(0), *k = conv.operand(1), *out = conv.result();
  const int64_t groups = conv.attr<int64_t>("groups"), outputs = constant_dim(k, 0), group_in = constant_dim(k, 1);
  if (!outputs || !group_in) return error("kernel ", name, ": conv2d with weights ", k->type.str(), ", expected constant dims");
  const int64_t group_out = outputs / groups, rows = constant_dim(k, 2), columns = constant_dim(k, 3), area = rows * columns;
  if (group_out < kFewOutputs) return lower_gpu_elements(op, name, dims);
  const auto stride = conv.attr<std::vector<int64_t>>("stride"), padding = conv.attr<std::vector<int64_t>>("padding"),
             dilation = conv.attr<std::vector<int64_t>>("dilation");
  const ir::Dim height = out->type.dim(2), width = out->type.dim(3);
  Product p;
  p.batch = groups;
  p.m = group_out;
  p.k = group_in * area;
  p.n = out->type.dim(0) * height * width;
  Region r(op, name, dims, Product::threads(p.tile()));
  Elements elements(r);
  p.a = [&](Ex group, Ex row, Ex kk) { return elements.value(k, (group * group_out + row) * (group_in * area) + kk); };
  p.b = [&](Ex group, Ex kk, Ex pixel) -> Result<Ex> {
    const std::vector<Ex> at = elements.coordinates({out->type.dim(0), height, width}, pixel);
    const Ex in_window = kk % area;
    const Ex y = r.b.let(at[1] * stride[0] - padding[0] + in_window / columns * dilation[0]);
    const Ex x_at = r.b.let(at[2] * stride[1] - padding[1] + in_window % columns * dilation[1]);
    const Ex value = r.b.var(Ex(0.0));
    Status status = ok();
    r.b.if_((integer(0) <= y) & (y < r.dim(x->type.dim(2))) & (integer(0) <= x_at) & (x_at < r.dim(x->type.dim(3))), [&] {
      auto loaded = elements.value(x, elements.index(x->type.shape, {at[0], r.b.let(group * group_in + kk / area), y, x_at}));
      if (loaded) r.b.assign(value, *loaded);
      else status = loaded.err();
    });
    PRISM_CHECK(status);
    return value;
  };
  p.store = [&](Ex group, Ex row, Ex pixel, Ex sum) -> Status {
    const std::vector<Ex> at = elements.coordinates({out->type.dim(0), height, width}, pixel);
    const Ex output = r.b.let(group * group_out + row);
    if (conv.operands().size() > 2) {
      PRISM_TRY(Ex bias, elements.value(conv.operand(2), output));
      sum = r.b.let(sum + bias);
    }
    return elements.store(elements.place(out->type.shape, {at[0], output, at[1], at[2]}), out, sum);
  };
  PRISM_CHECK(p.emit(r));
  return r.finish(p.tasks());
}

}  // namespace prism::codegen
