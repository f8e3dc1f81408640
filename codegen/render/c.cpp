#include "codegen/render/c.h"

#include <cmath>
#include <cstdio>

namespace prism::codegen {

using namespace kir;

std::string CRenderer::render(const std::vector<const Kernel*>& kernels) {
  out_ = prelude();
  for (const Kernel* k : kernels) {
    kernel_ = k;
    out_ += open(*k);
    block(k->body, 2);
    out_ += close(*k);
  }
  return std::move(out_);
}

std::string CRenderer::type(Ty t) {
  static constexpr const char* names[] = {"i8", "u8", "i16", "u16", "i32", "u32", "i64", "u16", "u16", "f32", "f64"};
  return names[size_t(t.elem)] + (t.lanes > 1 ? "x" + std::to_string(t.lanes) : "");
}

std::string CRenderer::address(int buffer, const Ref& index) {
  const Buffer& b = kernel_->buffers[size_t(buffer)];
  return "b" + std::to_string(b.id) + " + " + expr((Ex(index) * Ex(int64_t(elem_bytes(b.elem)))).node);
}

static std::string literal(double v) {
  char text[40];
  if (std::isinf(v)) return v < 0 ? "(-__builtin_inff())" : "__builtin_inff()";
  snprintf(text, sizeof text, "%.9e", v);
  return v < 0 ? "(" + std::string(text) + "f)" : std::string(text) + "f";
}

std::string CRenderer::expr(const Ref& r) {
  const Node& n = *r;
  auto arg = [&](size_t i) { return expr(n.args[i]); };
  auto infix = [&](const char* op) { return "(" + arg(0) + " " + op + " " + arg(1) + ")"; };
  switch (n.kind) {
    case Kind::IntConst: return n.ty.elem == Elem::I64 ? std::to_string(n.ival) + "L" : "((" + type(n.ty) + ")" + std::to_string(n.ival) + ")";
    case Kind::FloatConst: {
      if (n.ty.elem != Elem::F64) return literal(n.fval);
      char text[40];
      snprintf(text, sizeof text, "(%.17e)", n.fval);
      return text;
    }
    case Kind::Var: return n.ival < 0 ? "d" + std::to_string(-1 - n.ival) : n.ival == 0 ? "task" : "v" + std::to_string(n.ival);
    case Kind::Load: return load(n.ty, address(int(n.ival), n.args[0]));
    case Kind::Add: return infix("+");
    case Kind::Sub: return infix("-");
    case Kind::Mul: return infix("*");
    case Kind::Div: return infix("/");
    case Kind::Mod: return infix("%");
    case Kind::And: return infix("&");
    case Kind::Or: return infix("|");
    case Kind::Xor: return infix("^");
    case Kind::Shl: return infix("<<");
    case Kind::Shr: return infix(">>");
    case Kind::Lt: return infix("<");
    case Kind::Le: return infix("<=");
    case Kind::Eq: return infix("==");
    case Kind::Min: case Kind::Max: {
      const std::string a = arg(0), b = arg(1);
      return "(" + a + (n.kind == Kind::Min ? " < " : " > ") + b + " ? " + a + " : " + b + ")";
    }
    case Kind::Select: return "(" + arg(0) + " ? " + arg(1) + " : " + arg(2) + ")";
    case Kind::Cast: return convert(n.ty, n.args[0]->ty, arg(0));
    case Kind::Bitcast: return "__builtin_bit_cast(" + type(n.ty) + ", " + arg(0) + ")";
    case Kind::Splat: return "((" + type(n.ty) + ")(" + arg(0) + "))";
    case Kind::Call: {
      if (has_buffer(n.fn)) return std::string(fn_name(n.fn)) + "(" + address(int(n.ival), n.args[0]) + (n.args.size() > 1 ? ", " + arg(1) : "") + ")";
      std::vector<std::string> args;
      for (size_t i = 0; i < n.args.size(); ++i) args.push_back(arg(i));
      return call(n.fn, n.args[0]->ty, args);
    }
    case Kind::Pack: case Kind::Lane: break;  // GPU kernels'
  }
  return {};
}

void CRenderer::block(const Block& b, int depth) {
  const std::string pad(size_t(depth) * 2, ' ');
  for (const Stmt& s : b) {
    const std::string v = "v" + std::to_string(s.id);
    switch (s.kind) {
      // Not const: NVRTC evaluates the initializers of constants again at every use, which takes exponential time.
      case Stmt::Kind::Let: out_ += pad + type(kernel_->vars[size_t(s.id)]) + " " + v + " = " + expr(s.a) + ";\n"; break;
      case Stmt::Kind::Var: out_ += pad + type(kernel_->vars[size_t(s.id)]) + " " + v + " = " + expr(s.a) + ";\n"; break;
      case Stmt::Kind::Assign: out_ += pad + v + " = " + expr(s.a) + ";\n"; break;
      case Stmt::Kind::Store: out_ += pad + store(s.b->ty, address(s.id, s.a), expr(s.b)) + ";\n"; break;
      case Stmt::Kind::StoreN: out_ += pad + store_n(s.b->ty, address(s.id, s.a), expr(s.b), expr(s.c)) + ";\n"; break;
      case Stmt::Kind::For:
        if (s.unroll) out_ += pad + "#pragma unroll " + std::to_string(s.unroll) + "\n";
        out_ += pad + "for (" + type(kernel_->vars[size_t(s.id)]) + " " + v + " = " + expr(s.a) + "; " + v + " < " + expr(s.b) + "; " + v + " += " + expr(s.c) + ") {\n";
        block(s.body, depth + 1);
        out_ += pad + "}\n";
        break;
      case Stmt::Kind::If:
        out_ += pad + "if (" + expr(s.a) + ") {\n";
        block(s.body, depth + 1);
        if (!s.otherwise.empty()) {
          out_ += pad + "} else {\n";
          block(s.otherwise, depth + 1);
        }
        out_ += pad + "}\n";
        break;
      default: out_ += pad + statement(s) + ";\n";
    }
  }
}

}  // namespace prism::codegen
