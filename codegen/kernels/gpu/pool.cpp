// Windows that slide over images, NCHW, and pooling.
#include <cmath>

#include "codegen/kernels/gpu/elements.h"

namespace prism::codegen {

using namespace kir;
using ir::Op;

Status Elements::window(const Window& w, const ir::Type& image, Ex y, Ex x, const WindowBody& body) {
  const Ex top = b_.let(y * Ex(w.stride[0]) - Ex(w.padding[0])), left = b_.let(x * Ex(w.stride[1]) - Ex(w.padding[1]));
  return for_(integer(w.rows), [&](Ex i) {
    const Ex row = b_.let(top + i * Ex(w.dilation[0]));
    return if_((integer(0) <= row) & (row < r_.dim(image.dim(2))), [&] {
      return for_(integer(w.columns), [&](Ex j) {
        const Ex column = b_.let(left + j * Ex(w.dilation[1]));
        return if_((integer(0) <= column) & (column < r_.dim(image.dim(3))), [&] { return body(i, j, row, column); });
      });
    });
  });
}

Result<Ex> Elements::pool(const ir::Operation& op, const Place& p) {
  const ir::Value* x = op.operand(0);
  const bool max_pool = op.op == Op::MaxPool2d;
  const auto kernel = op.attr<std::vector<int64_t>>("kernel");
  const Window w{kernel[0], kernel[1], op.attr<std::vector<int64_t>>("stride"), op.attr<std::vector<int64_t>>("padding"), {1, 1}};
  const Ex all = b_.var(kir::constant({Elem::F32, 1}, max_pool ? -INFINITY : 0)), count = b_.var(Ex(0.0));
  PRISM_CHECK(window(w, x->type, p.at[2], p.at[3], [&](Ex, Ex, Ex row, Ex column) -> Status {
    PRISM_TRY(Ex v, value(x, place(x->type.shape, {p.at[0], p.at[1], row, column})));
    b_.assign(all, max_pool ? max(all, v) : all + v);
    if (!max_pool) b_.assign(count, count + Ex(1.0));
    return ok();
  }));
  if (max_pool) return all;
  if (op.attr<bool>("count_padding")) return all / Ex(double(kernel[0] * kernel[1]));
  return select(Ex(0.0) < count, all / count, Ex(0.0));
}

}  // namespace prism::codegen
