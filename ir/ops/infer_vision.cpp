// Convolution and pooling over NCHW images.
#include "ir/ops/infer.h"

namespace prism::ir {

namespace {

struct Window {
  std::vector<int64_t> kernel, stride, padding, dilation;  // padding [top, left, bottom, right], the others [h, w]
};

/// Sizes of the last two axes after sliding the window.
Result<Shape> slide(InferContext& c, const Window& w) {
  const Type& x = c.type(0);
  Shape out{x.dim(0), x.dim(1)};
  for (size_t i = 0; i < 2; ++i) {
    const Dim padded = x.dim(int(i) + 2) + w.padding[i] + w.padding[i + 2];
    int64_t extent;
    if (__builtin_mul_overflow(w.dilation[i], w.kernel[i] - 1, &extent) || extent == INT64_MAX ||
        less_equal(extent + 1, padded, c.module.ranges()) == Answer::No)
      return c.fail("x is ", x.str(), ", expected room for a window of ", w.kernel[i]);
    out.push_back(Dim::floor_div(padded - (extent + 1), w.stride[i]) + 1);
  }
  return out;
}

Result<Types> pool(InferContext& c) {
  Window w;
  PRISM_TRY(w.kernel, c.integers("kernel", 2, 1));
  PRISM_TRY(w.stride, c.integers("stride", 2, 1));
  PRISM_TRY(w.padding, c.integers("padding", 4, 0));
  for (size_t i = 0; i < 4; ++i)
    if (w.padding[i] >= w.kernel[i % 2]) return c.fail("padding is ", w.padding[i], ", expected less than the kernel");
  w.dilation = {1, 1};
  PRISM_TRY(Shape shape, slide(c, w));
  return Types{Type::tensor(c.type(0).dtype, shape)};
}

}  // namespace

Result<Types> infer_MaxPool2d(InferContext& c) { return pool(c); }
Result<Types> infer_AvgPool2d(InferContext& c) { return pool(c); }

Result<Types> infer_Conv2d(InferContext& c) {
  const Type& k = c.type(1);
  Window w;
  for (int i = 2; i < 4; ++i) {
    w.kernel.push_back(k.dim(i).constant().value_or(0));
    if (w.kernel.back() <= 0 || w.kernel.back() > INT32_MAX)
      return c.fail("k is ", k.str(), ", expected a fixed window");
  }
  PRISM_TRY(w.stride, c.integers("stride", 2, 1));
  PRISM_TRY(w.padding, c.integers("padding", 4, 0));
  PRISM_TRY(w.dilation, c.integers("dilation", 2, 1));
  const int64_t groups = c.integer("groups");
  if (groups < 1 || !(c.axis("c") == c.axis("i") * groups) ||
      divides(groups, c.axis("o"), c.module.ranges()) != Answer::Yes)
    return c.fail("x is ", c.type(0).str(), " and k is ", k.str(), ", expected channels of ", groups, " groups");
  PRISM_TRY(Shape shape, slide(c, w));
  shape[1] = c.axis("o");
  return Types{Type::tensor(c.type(0).dtype, shape)};
}

}  // namespace prism::ir
