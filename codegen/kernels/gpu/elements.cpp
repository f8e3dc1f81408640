#include "codegen/kernels/gpu/elements.h"

#include "codegen/kernels/gpu/gpu.h"

namespace prism::codegen {

using namespace kir;
using ir::DType;
using ir::Op;

namespace {

bool is_integer(const ir::Type& t) { return !ir::is_float(t.dtype) && !ir::info(t.dtype).quantized; }
Ty value_type(const ir::Type& t) { return {is_integer(t) ? Elem::I64 : Elem::F32, 1}; }

/// Least and greatest of an integer type of up to 32 bits.
std::pair<int64_t, int64_t> int_range(DType t) {
  switch (t) {
    case DType::I8: return {INT8_MIN, INT8_MAX};
    case DType::U8: return {0, UINT8_MAX};
    case DType::I16: return {INT16_MIN, INT16_MAX};
    default: return {INT32_MIN, INT32_MAX};
  }
}

Ex f64(double v) { return constant({Elem::F64, 1}, v); }

}  // namespace

ir::Dim elements_of(const ir::Shape& shape) {
  ir::Dim n(1);
  for (ir::Dim d : shape) n = n * d;
  return n;
}

bool Elements::computes(const ir::Operation& op) {
  for (const auto& r : op.results)
    if (r->type.layout != ir::Layout::RowMajor || ir::info(r->type.dtype).quantized) return false;
  for (const ir::Value* v : op.operands())
    if (v->type.is_kv() || v->type.layout != ir::Layout::RowMajor || ir::info(v->type.dtype).quantized) return false;
  switch (op.op) {
    case Op::BatchNorm: case Op::Reduce: case Op::Conv2d: case Op::MaxPool2d: case Op::AvgPool2d: case Op::Reshape: case Op::Transpose:
    case Op::Slice: case Op::Concat: case Op::Tail: case Op::Constant: case Op::Positions: case Op::Quantize: case Op::Dequantize:
      return true;
    default: return ir::has_trait(op.op, ir::Elementwise);
  }
}

Ex Elements::index(llvm::ArrayRef<ir::Dim> shape, const std::vector<Ex>& at) {
  Ex flat(0);
  for (size_t i = 0; i < shape.size(); ++i) flat = i ? flat * r_.dim(shape[i]) + at[i] : at[i];
  return b_.let(flat);
}

std::vector<Ex> Elements::coordinates(llvm::ArrayRef<ir::Dim> shape, Ex flat) {
  std::vector<Ex> at(shape.size(), Ex(0));
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] == ir::Dim(1)) continue;
    const bool outermost = std::all_of(shape.begin(), shape.begin() + long(i), [](ir::Dim d) { return d == ir::Dim(1); });
    at[i] = outermost ? flat : b_.let(flat % r_.dim(shape[i]));
    if (outermost) break;
    flat = b_.let(flat / r_.dim(shape[i]));
  }
  return at;
}

Elements::Place Elements::place(const ir::Shape& shape, std::vector<Ex> at) {
  const Ex flat = index(shape, at);
  return {shape, std::move(at), flat, std::make_shared<std::map<const ir::Value*, Ex>>()};
}

Elements::Place Elements::place(const ir::Shape& shape, Ex flat) {
  return {shape, coordinates(shape, flat), flat, std::make_shared<std::map<const ir::Value*, Ex>>()};
}

Status Elements::if_(Ex condition, const Inner& then) {
  Status status = ok();
  b_.if_(condition, [&] { status = then(); });
  return status;
}

Status Elements::for_(Ex end, const std::function<Status(Ex)>& body) {
  Status status = ok();
  b_.for_(integer(0), end, 1, [&](Ex i) { status = body(i); });
  return status;
}

Result<Ex> Elements::load(const ir::Value* v, Ex flat) {
  if (v->type.layout != ir::Layout::RowMajor || ir::info(v->type.dtype).quantized)
    return error("GPU kernel: %", v->name, " is ", v->type.str(), ", expected single elements row by row");
  return b_.let(kir::cast(value_type(v->type).elem, b_.load(r_.buffer(v), flat)));
}

Result<Ex> Elements::value(const ir::Value* v, Ex flat) {
  if (r_.is_argument(v)) return load(v, flat);
  return value(v, place(v->type.shape, flat));
}

Result<Ex> Elements::value(const ir::Value* v, const Place& p) {
  if (auto it = p.known->find(v); it != p.known->end()) return it->second;
  if (r_.is_argument(v)) {
    PRISM_TRY(Ex x, load(v, p.flat));
    return (*p.known)[v] = x;
  }
  PRISM_TRY(Ex x, compute(*v->def, p));
  const DType t = v->type.dtype;
  if (t == DType::F16 || t == DType::BF16) x = kir::cast(Elem::F32, kir::cast(Region::elem_of(v->type), x));  // as if it had been stored
  return (*p.known)[v] = b_.let(x);
}

Result<Ex> Elements::broadcast(const ir::Value* v, const Place& p) {
  if (v->type.shape == p.shape) return value(v, p);
  std::vector<Ex> at;
  const size_t more = p.shape.size() - v->type.rank();
  for (size_t i = 0; i < v->type.rank(); ++i) at.push_back(v->type.shape[i] == ir::Dim(1) ? Ex(0) : p.at[more + i]);
  return value(v, place(v->type.shape, std::move(at)));
}

Result<Ex> Elements::compute(const ir::Operation& op, const Place& p) {
  switch (op.op) {
    case Op::Cast: return cast(op, p);
    case Op::Quantize: case Op::Dequantize: {
      PRISM_TRY(const Ex x, value(op.operand(0), p));
      return kir::cast(value_type(op.result()->type).elem, *elementwise(op, {x}));
    }
    case Op::BatchNorm: return batch_norm(op, p);
    case Op::Constant: return constant(op, p);
    case Op::Concat: return concat(op, p);
    case Op::Reshape: case Op::Transpose: case Op::Slice: case Op::Tail: return moved(op, p);
    case Op::MaxPool2d: case Op::AvgPool2d: return pool(op, p);
    case Op::Conv2d: return conv(op, p);
    case Op::Reduce: return reduce(op, p);
    case Op::Positions: {
      PRISM_TRY(const Ex position, r_.position(op, p.at[0]));
      return kir::cast(Elem::I64, position);
    }
    default: break;
  }
  std::vector<Ex> in;
  for (const ir::Value* v : op.operands()) {
    PRISM_TRY(Ex x, broadcast(v, p));
    in.push_back(x);
  }
  if (auto y = elementwise(op, in)) return *y;
  return r_.unsupported(op, "has no lowering element by element");
}

/// Integers saturate, as does what is too large for them; NaN is 0.
Result<Ex> Elements::cast(const ir::Operation& op, const Place& p) {
  const ir::Type &from = op.operand(0)->type, &to = op.result()->type;
  PRISM_TRY(Ex x, value(op.operand(0), p));
  if (!is_integer(to)) return kir::cast(Elem::F32, x);
  if (to.dtype == DType::I64) {
    if (is_integer(from)) return x;
    const Ex lo = Ex(1) << Ex(63), top = Ex(9223372036854775808.0);
    return select(x == x, select(x < top, select(x < Ex(0.0) - top, lo, kir::cast(Elem::I64, x)), Ex(INT64_MAX)), Ex(0));
  }
  const auto [lo, hi] = int_range(to.dtype);
  if (is_integer(from)) return max(min(x, Ex(hi)), Ex(lo));
  const Ex wide = f64(0) + kir::cast(Elem::F64, x);
  return select(x == x, kir::cast(Elem::I64, max(min(wide, f64(double(hi))), f64(double(lo)))), Ex(0));
}

Result<Ex> Elements::batch_norm(const ir::Operation& op, const Place& p) {
  Ex of[4];  // the channel's weight, bias, mean, variance
  for (unsigned i = 0; i < 4; ++i) {
    PRISM_TRY(of[i], value(op.operand(i + 1), p.at[1]));
  }
  PRISM_TRY(Ex x, value(op.operand(0), p));
  return (x - of[2]) * (of[0] / call(Fn::Sqrt, {of[3] + Ex(op.attr<double>("eps"))})) + of[1];
}

Result<Ex> Elements::constant(const ir::Operation& op, const Place& p) {
  const auto values = op.attr<std::vector<double>>("values");
  if (!tables_.count(&op)) {
    std::vector<float> table(values.begin(), values.end());
    for (size_t i = 0; i < table.size(); ++i)
      if (is_integer(op.result()->type) && double(table[i]) != values[i]) return r_.unsupported(op, "integers beyond 24 bits");
    tables_[&op] = b_.table(op.result()->name, std::move(table));
  }
  return kir::cast(value_type(op.result()->type).elem, b_.load(tables_[&op], kir::cast(Elem::I64, p.flat)));
}

Status Elements::store(const Place& p, const ir::Value* anchor, Ex computed) {
  if (anchor) (*p.known)[anchor] = computed;
  for (const ir::Value* v : r_.body.returns) {
    if (v->type.shape != p.shape) return error("GPU kernel: results are ", v->type.str(), " and [", ir::shape_str(p.shape), "], expected one shape");
    PRISM_TRY(Ex x, value(v, p));
    b_.store(r_.buffer(v), p.flat, kir::cast(Region::elem_of(v->type), x));
  }
  return ok();
}

Result<LoweredKernel> lower_gpu_elements(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims) {
  constexpr int kThreads = kDecodeThreads;
  Region r(op, name, dims, kThreads);
  Elements elements(r);
  const ir::Shape& shape = r.body.returns.front()->type.shape;
  const ir::Dim count = elements_of(shape);
  if (count.constant().value_or(0) > INT32_MAX) return error("kernel ", name, ": ", count.str(), " elements, expected at most ", INT32_MAX);
  const Ex flat = r.b.let(r.b.task() * kThreads + r.b.thread());
  Status status = ok();
  r.b.if_(flat < r.dim(count), [&] { status = elements.store(elements.place(shape, flat)); });
  PRISM_CHECK(status);
  return r.finish(ceil_div(count, kThreads));
}

}  // namespace prism::codegen
