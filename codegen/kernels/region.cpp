#include "codegen/kernels/region.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/checked.h"

namespace prism::codegen {

using namespace kir;
using ir::DType;
using ir::Op;

Elem Region::elem_of(const ir::Type& t) {
  switch (t.dtype) {
    case DType::F32: return Elem::F32;
    case DType::F16: return Elem::F16;
    case DType::BF16: return Elem::BF16;
    case DType::I32: return Elem::I32;
    case DType::I64: return Elem::I64;
    case DType::F64: return Elem::F64;
    case DType::I8: return Elem::I8;
    case DType::I16: return Elem::I16;
    default: return Elem::U8;  // blocks: indexed in bytes
  }
}

Region::Region(const ir::Operation& op, std::string name, std::vector<std::string> dims, int block_threads)
    : body(*op.body), b(name, std::move(dims), block_threads), work(b), name_(std::move(name)) {
  unsigned i = 0;
  for (const auto& arg : body.args) {
    if (arg->type.is_kv()) {
      const Elem e = arg->type.is_compressed() ? Elem::U8 : elem_of(arg->type);
      keys_[arg.get()] = b.arg(arg->name + "_k", e, true);
      values_[arg.get()] = b.arg(arg->name + "_v", e, true);
      args.push_back({ArgSource::From::KeyPlane, i});
      args.push_back({ArgSource::From::ValuePlane, i});
    } else {
      buffers_[arg.get()] = b.arg(arg->name, elem_of(arg->type), false, block_threads && op.operand(i)->is_weight());
      args.push_back({ArgSource::From::Operand, i});
    }
    ++i;
  }
  i = 0;
  for (const ir::Value* v : body.returns) {
    if (!v->type.is_kv() && !buffers_.count(v)) {
      buffers_[v] = b.arg(v->name, elem_of(v->type), true);
      args.push_back({ArgSource::From::Result, i});
    }
    ++i;
  }
}

Ex Region::dim(ir::Dim d) {
  if (auto c = d.constant()) return Ex(*c);
  std::vector<std::string> names;
  const std::vector<int64_t> code = d.postfix([&](std::string_view symbol) {
    names.emplace_back(symbol);
    return int64_t(names.size()) - 1;
  });
  std::vector<Ex> stack;
  for (size_t i = 0; i + 1 < code.size(); i += 2) {
    if (code[i] == rt::Expr::Const) { stack.push_back(Ex(code[i + 1])); continue; }
    if (code[i] == rt::Expr::Dim) { stack.push_back(b.dim(names[size_t(code[i + 1])])); continue; }
    Ex r = stack.back();
    stack.pop_back();
    Ex& l = stack.back();
    switch (code[i]) {
      case rt::Expr::Add: l = l + r; break;
      case rt::Expr::Mul: l = l * r; break;
      case rt::Expr::FloorDiv: l = l / r; break;
      case rt::Expr::CeilDiv: l = (l + r - Ex(1)) / r; break;
      case rt::Expr::Mod: l = l % r; break;
      case rt::Expr::Min: l = min(l, r); break;
      case rt::Expr::Max: l = max(l, r); break;
    }
  }
  return stack.back();
}

Result<Ex> Region::position(const ir::Operation& positions, Ex i) {
  PRISM_TRY(const ir::Dim start, ir::Dim::parse(positions.attr<std::string>("start")));
  const int64_t most = positions.attr<int64_t>("most");
  const Ex position = dim(start) + i;
  return most ? min(position, Ex(most)) : position;
}

ir::Dim Region::rows_of(const ir::Type& t) {
  ir::Dim rows(1);
  for (size_t i = 0; i + 1 < t.rank(); ++i) rows = rows * t.dim(int(i));
  return rows;
}

Error Region::unsupported(const ir::Operation& op, const std::string& why) const {
  return error("kernel ", name_, ": ", ir::info(op.op).mnemonic, ": ", why);
}

Buffer Region::workspace(Elem elem, int64_t elements) {
  const int64_t at = int64_t(round_up(uint64_t(workspace_bytes_), 256));
  workspace_bytes_ = at + elements * elem_bytes(elem);
  args.push_back({ArgSource::From::Workspace, uint32_t(at)});
  return b.arg(at ? "workspace" + std::to_string(at) : "workspace", elem, true);
}

Buffer Region::counters(int64_t n) {
  counters_ = n;
  args.push_back({ArgSource::From::Counters, 0});
  return b.arg("counters", Elem::U32, true);
}

LoweredKernel Region::finish(ir::Dim tasks) {
  const bool gpu = b.block_threads() > 0;
  LoweredKernel k{b.finish(), args, tasks, workspace_bytes_, counters_};
  const bool waits = std::any_of(k.kernel.body.begin(), k.kernel.body.end(), [](const Stmt& s) { return s.kind == Stmt::Kind::GridWait; });
  if (gpu && !waits) k.kernel.body.insert(k.kernel.body.begin(), Stmt{Stmt::Kind::GridWait});
  return k;
}

Ex activation(const std::string& act, Ex x) {
  if (act == "relu") return max(x, Ex(0.0));
  if (act == "silu") return x / (call(Fn::Exp, {Ex(0.0) - x}) + Ex(1.0));
  if (act == "gelu_tanh") {
    const double c = std::sqrt(2.0 / M_PI);
    return x * Ex(0.5) * (call(Fn::Tanh, {x * fma(x * x, Ex(0.044715 * c), constant(x.ty(), c))}) + Ex(1.0));
  }
  if (act == "gelu_quick") return x / (call(Fn::Exp, {x * Ex(-1.702)}) + Ex(1.0));
  return x * Ex(0.5) * (call(Fn::Erf, {x * Ex(M_SQRT1_2)}) + Ex(1.0));  // gelu
}

namespace {

/// Of the op quantize to i8 or u8, in f64, so that ties are ties; NaN is the zero point.
Ex affine_integer(const ir::Operation& op, Ex x) {
  const auto f64 = [&](double v) { return constant({Elem::F64, x.ty().lanes}, v); };
  constexpr double kMost = 0x1p40, kRound = 0x1.8p52;  // adding it leaves an integer, ties to even
  const double zero = double(op.attr<int64_t>("zero_point"));
  const bool sign = op.result()->type.dtype == DType::I8;
  const Ex q = max(min(cast(Elem::F64, x) / f64(op.attr<double>("scale")), f64(kMost)), f64(-kMost));
  const Ex level = max(min((q + f64(kRound)) - f64(kRound) + f64(zero), f64(sign ? INT8_MAX : UINT8_MAX)), f64(sign ? INT8_MIN : 0));
  return select(x == x, cast(Elem::F32, level), constant({Elem::F32, x.ty().lanes}, zero));
}

Ex affine_value(const ir::Operation& op, Ex q) {
  const auto f64 = [&](double v) { return constant({Elem::F64, q.ty().lanes}, v); };
  return cast(Elem::F32, (cast(Elem::F64, q) - f64(double(op.attr<int64_t>("zero_point")))) * f64(op.attr<double>("scale")));
}

}  // namespace

std::optional<Ex> elementwise(const ir::Operation& op, const std::vector<Ex>& in) {
  switch (op.op) {
    case Op::Neg: return Ex(0.0) - in[0];
    case Op::Exp: return call(Fn::Exp, {in[0]});
    case Op::Sqrt: return call(Fn::Sqrt, {in[0]});
    case Op::Relu: return activation("relu", in[0]);
    case Op::Silu: return activation("silu", in[0]);
    case Op::Gelu: {
      const std::string how = op.attr<std::string>("approximate");
      return activation(how == "tanh" ? "gelu_tanh" : how == "quick" ? "gelu_quick" : "gelu", in[0]);
    }
    case Op::Tanh: return call(Fn::Tanh, {in[0]});
    case Op::Sigmoid: return constant(in[0].ty(), 1.0) / (call(Fn::Exp, {Ex(0.0) - in[0]}) + Ex(1.0));
    case Op::Softcap: {
      const double cap = op.attr<double>("cap");
      return call(Fn::Tanh, {in[0] * Ex(1.0 / cap)}) * Ex(cap);
    }
    case Op::Quantize:
      if (ir::info(op.result()->type.dtype).quantized) return std::nullopt;
      return affine_integer(op, in[0]);
    case Op::Dequantize:
      if (ir::info(op.operand(0)->type.dtype).quantized) return std::nullopt;
      return affine_value(op, in[0]);
    case Op::Cast: return in[0];  // rounded where it is stored
    case Op::Scale: return in[0] * Ex(op.attr<double>("by")) + Ex(op.attr<double>("plus"));
    case Op::Add: return in[0] + in[1];
    case Op::Sub: return in[0] - in[1];
    case Op::Mul: return in[0] * in[1];
    case Op::Div: return in[0] / in[1];
    case Op::Maximum: return max(in[0], in[1]);
    case Op::Minimum: return min(in[0], in[1]);
    default: return std::nullopt;
  }
}

Ex element_index(ir::Layout layout, int64_t width, Ex row, Ex column) {
  if (layout != ir::Layout::Tiles) return row * width + column;
  return (row / 16 * (width / 32) + column / 32) * 512 + row % 16 * 32 + column % 32;
}

Ex inverse_or_zero(Ex x) {
  const Ex zero = constant(x.ty(), 0);
  return select(zero < x, constant(x.ty(), 1) / x, zero);
}

Ex bf16_pairs(Builder& b, Ex low, Ex high) {
  auto rounded = [&](Ex v) { return bitcast({Elem::U32, v.ty().lanes}, v) + 0x8000; };
  return b.let((rounded(low) >> 16) | (rounded(high) & int64_t(0xffff0000)));
}

Result<LoweredKernel> lower_kernel(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa) {
  for (const ir::Operation& inner : op.body->ops) {
    if (inner.op == Op::Linear) return lower_linear(op, name, dims, isa);
    if (inner.op == Op::FlashAttention) return (inner.operand(0)->type.dtype == ir::DType::BF16 ? lower_flash_matrix : lower_flash_vector)(op, name, dims, isa);
    if (inner.op == Op::KvDemote) return lower_demote(op, name, dims);
    if (inner.op == Op::KvAppend || inner.op == Op::Rope) return lower_append(op, name, dims);
  }
  return lower_rowwise(op, name, dims);
}

}  // namespace prism::codegen
