#include "codegen/kernels/gpu/epilogue.h"

namespace prism::codegen {

using namespace kir;
using ir::DType;
using ir::Op;

Epilogue::Epilogue(Region& r, const ir::Operation& linear)
    : r_(r), b_(r.b), n_(*linear.operand(1)->type.dim(0).constant()), rows_of_x_(Region::rows_of(linear.operand(0)->type)) {
  for (const ir::Operation& o : r.body.ops) {
    if (!made_of(o.result(), Op::Linear)) continue;   // makes what the linear reads
    glu_ = glu_ || o.op == Op::Glu;
    quantize_ = quantize_ || o.op == Op::Quantize;
  }
}

int64_t Epilogue::column_unit() const { return glu_ && quantize_ ? 64 : glu_ || quantize_ ? 32 : 1; }

bool Epilogue::made_of(const ir::Value* v, Op op) {
  if (!v->def) return false;
  if (v->def->op == op) return true;
  for (const ir::Value* o : v->def->operands())
    if (made_of(o, op)) return true;
  return false;
}

bool Epilogue::per_column(const ir::Value* v) const {
  return v->type.rank() == 1 || (Region::rows_of(v->type) == ir::Dim(1) && !(rows_of_x_ == ir::Dim(1)));
}

void Epilogue::load_early(Ex n0, int64_t columns) {
  if (glu_ || quantize_ || columns > b_.block_threads()) return;   // their threads have other columns
  const Ex column = b_.let(min(n0 + min(b_.thread(), Ex(columns - 1)), Ex(n_ - 1)));
  for (const ir::Operation& o : r_.body.ops)
    for (const ir::Value* v : o.operands())
      if (r_.is_argument(v) && v->type.elements() == n_ && !early_.count(v) && o.op != Op::Linear && is_floating(r_.buffer(v).elem) && made_of(o.result(), Op::Linear))
        early_[v] = b_.let(cast(Elem::F32, b_.load(r_.buffer(v), column)));
}

Result<Ex> Epilogue::value(const ir::Value* v, const Place& at) {
  if (r_.is_argument(v)) {
    const Buffer& buffer = r_.buffer(v);
    if (const auto early = early_.find(v); early != early_.end()) return early->second;
    if (!is_floating(buffer.elem)) return error("linear epilogue: operand %", v->name, " is ", v->type.str(), ", expected floats");
    Ex index(0);
    if (v->type.elements() != 1) {
      int64_t width = 1;  // of a token, its heads side by side
      for (size_t i = 1; i < v->type.rank(); ++i) width *= *v->type.dim(int(i)).constant();
      index = per_column(v) ? at.column : at.token * width + at.column;
    }
    return cast(Elem::F32, b_.load(buffer, index));
  }
  const ir::Operation& o = *v->def;
  switch (o.op) {
    case Op::Linear: {
      const Ex y = b_.load(y_, at.row * stride_ + (at.column - n0_));
      return o.operands().size() > 2 ? y + cast(Elem::F32, b_.load(r_.buffer(o.operand(2)), at.column)) : y;
    }
    case Op::Reshape: case Op::Cast: return value(o.operand(0), at);  // a cast is rounded by the store
    case Op::Glu: {
      const int64_t group = o.attr<int64_t>("group");
      const Ex gate_at = b_.let(at.column / group * (2 * group) + at.column % group);
      PRISM_TRY(Ex gate, value(o.operand(0), {at.token, at.row, gate_at}));
      PRISM_TRY(Ex up, value(o.operand(0), {at.token, at.row, b_.let(gate_at + Ex(group))}));
      return b_.let(activation(o.attr<std::string>("act"), b_.let(gate)) * up);
    }
    default: break;
  }
  std::vector<Ex> in;
  for (const ir::Value* operand : o.operands()) {
    PRISM_TRY(Ex e, value(operand, at));
    in.push_back(b_.let(e));
  }
  if (auto e = elementwise(o, in)) return b_.let(*e);
  return r_.unsupported(o, "cannot follow a linear in its kernel");
}

Status Epilogue::emit(const Buffer& y, int64_t stride, Ex t0, Ex rows, Ex n0, int64_t columns) {
  y_ = y;
  stride_ = stride;
  n0_ = n0;
  for (const ir::Operation& o : r_.body.ops)
    if (o.op == Op::Glu && (o.attr<int64_t>("group") != 16 || n_ % 32)) return r_.unsupported(o, "needs group 16 and a multiple of 32 outputs");
  const int threads = b_.block_threads();
  Status status = ok();
  for (const ir::Value* result : r_.body.returns) {
    const int64_t share = made_of(result, Op::Glu) ? 2 : 1, width = n_ / share, unit = result->type.dtype == DType::Q8A ? 32 : 1;
    const int64_t items = columns / share / unit;  // of a row in this tile: elements or blocks
    if (width % unit) return r_.unsupported(*result->def, "needs a multiple of 32 outputs");
    const Ex first = b_.let(n0 / share / unit), worker = b_.let(b_.thread() / unit);
    b_.for_(worker, b_.let(rows * items), threads / unit, [&](Ex i) {
      const Ex row = b_.let(i / items), item = b_.let(first + i % items), token = b_.let(t0 + row);
      auto store = [&] {
        const Ex column = unit == 1 ? item : b_.let(item * unit + b_.thread() % unit);
        auto v = value(unit == 1 ? result : result->def->operand(0), {token, row, column});
        if (!v) status = v.err();
        else if (unit == 1) b_.store(r_.buffer(result), token * width + column, cast(r_.buffer(result).elem, *v));
        else store_q8a_warp(b_, r_.buffer(result), b_.let(token * (width / 32 * ir::info(DType::Q8A).bytes)), width, item, *v, q8a_scale(result));
      };
      if (width % (columns / share) == 0) store();
      else b_.if_(item < Ex(width / unit), store);
    });
  }
  return status;
}

}  // namespace prism::codegen
