// Ops that move elements: where an element of the result comes from.
#include "codegen/kernels/gpu/elements.h"

namespace prism::codegen {

using namespace kir;
using ir::Op;

Result<Ex> Elements::moved(const ir::Operation& op, const Place& p) {
  const ir::Value* in = op.operand(0);
  if (op.op == Op::Reshape) return value(in, p.flat);
  std::vector<Ex> at = p.at;
  if (op.op == Op::Transpose) {
    const auto perm = op.attr<std::vector<int64_t>>("perm");
    for (size_t i = 0; i < perm.size(); ++i) at[size_t(perm[i])] = p.at[i];
  } else if (op.op == Op::Slice) {
    Ex& moved = at[size_t(op.attr<int64_t>("axis"))];
    moved = b_.let(moved + Ex(op.attr<int64_t>("begin")));
  } else {  // tail
    at[0] = b_.let(at[0] + (r_.dim(in->type.dim(0)) - r_.dim(p.shape[0])));
  }
  return value(in, place(in->type.shape, std::move(at)));
}

Result<Ex> Elements::concat(const ir::Operation& op, const Place& p) {
  const auto axis = size_t(op.attr<int64_t>("axis"));
  const bool floats = ir::is_float(op.result()->type.dtype);
  const Ex out = b_.var(kir::constant({floats ? Elem::F32 : Elem::I64, 1}, 0));
  ir::Dim begin(0);
  for (const ir::Value* v : op.operands()) {
    const Ex from = r_.dim(begin);
    begin = begin + v->type.shape[axis];
    PRISM_CHECK(if_((from <= p.at[axis]) & (p.at[axis] < r_.dim(begin)), [&]() -> Status {
      std::vector<Ex> at = p.at;
      at[axis] = b_.let(at[axis] - from);
      PRISM_TRY(Ex x, value(v, place(v->type.shape, std::move(at))));
      b_.assign(out, x);
      return ok();
    }));
  }
  return out;
}

}  // namespace prism::codegen
