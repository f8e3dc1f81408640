// Text of a kernel, for people and for cache keys, and the verifier.
#include <set>

#include "codegen/kir/kir.h"

namespace prism::kir {

namespace {

const char* symbol(Kind k) {
  switch (k) {
    case Kind::Add: return "+";
    case Kind::Sub: return "-";
    case Kind::Mul: return "*";
    case Kind::Div: return "/";
    case Kind::Mod: return "%";
    case Kind::And: return "&";
    case Kind::Or: return "|";
    case Kind::Xor: return "^";
    case Kind::Shl: return "<<";
    case Kind::Shr: return ">>";
    case Kind::Lt: return "<";
    case Kind::Le: return "<=";
    case Kind::Eq: return "==";
    case Kind::Min: return "min";
    case Kind::Max: return "max";
    default: return "?";
  }
}

const char* fn_name(Fn f) {
  static const char* names[] = {"fma", "exp", "tanh", "erf", "sqrt", "exp2_coarse", "sin_turns", "cos_turns", "round_even", "abs",
                                "reduce_add", "reduce_max", "dot4", "dot4_small"};
  return names[size_t(f)];
}

class Printer {
 public:
  explicit Printer(const Kernel& k) : k_(k) {}

  std::string run() {
    out_ << "kernel " << k_.name << "(";
    bool first = true;
    for (const Buffer& b : k_.buffers)
      if (b.space == Buffer::Space::Arg) {
        out_ << (first ? "" : ", ") << (b.written ? "out " : "") << b.name << ": " << elem_name(b.elem);
        first = false;
      }
    out_ << ") {\n";
    for (const Buffer& b : k_.buffers)
      if (b.space != Buffer::Space::Arg)
        out_ << (b.space == Buffer::Space::Const ? "  table " : "  scratch ") << b.name << ": " << elem_name(b.elem) << "["
             << b.size << "]\n";
    block(k_.body, 1);
    out_ << "}\n";
    return out_.str();
  }

 private:
  void expr(const Ref& r) {
    const Node& n = *r;
    switch (n.kind) {
      case Kind::IntConst: out_ << n.ival; break;
      case Kind::FloatConst: out_ << n.fval; break;
      case Kind::Var:
        if (n.ival < 0) out_ << "?" << k_.dims[size_t(-1 - n.ival)];
        else if (n.ival == 0) out_ << "task";
        else out_ << "v" << n.ival;
        break;
      case Kind::Load:
        out_ << k_.buffers[size_t(n.ival)].name << "[";
        expr(n.args[0]);
        out_ << "]:" << str(n.ty);
        break;
      case Kind::Select: case Kind::Cast: case Kind::Bitcast: case Kind::Splat: case Kind::Call: case Kind::Min: case Kind::Max: {
        if (n.kind == Kind::Call) out_ << fn_name(n.fn);
        else if (n.kind == Kind::Select) out_ << "select";
        else if (n.kind == Kind::Min || n.kind == Kind::Max) out_ << symbol(n.kind);
        else out_ << (n.kind == Kind::Cast ? "cast." : n.kind == Kind::Bitcast ? "bitcast." : "splat.") << str(n.ty);
        out_ << "(";
        for (size_t i = 0; i < n.args.size(); ++i) {
          if (i) out_ << ", ";
          expr(n.args[i]);
        }
        out_ << ")";
        break;
      }
      default:
        out_ << "(";
        expr(n.args[0]);
        out_ << " " << symbol(n.kind) << " ";
        expr(n.args[1]);
        out_ << ")";
    }
  }

  void block(const Block& b, int depth) {
    const std::string pad(size_t(depth) * 2, ' ');
    for (const Stmt& s : b) {
      out_ << pad;
      switch (s.kind) {
        case Stmt::Kind::Let: case Stmt::Kind::Var:
          out_ << (s.kind == Stmt::Kind::Let ? "let v" : "var v") << s.id << ": " << str(k_.vars[size_t(s.id)]) << " = ";
          expr(s.a);
          break;
        case Stmt::Kind::Assign:
          out_ << "v" << s.id << " = ";
          expr(s.a);
          break;
        case Stmt::Kind::Store: case Stmt::Kind::StoreN:
          out_ << k_.buffers[size_t(s.id)].name << "[";
          expr(s.a);
          out_ << "] = ";
          expr(s.b);
          if (s.c) {
            out_ << " lanes ";
            expr(s.c);
          }
          break;
        case Stmt::Kind::For:
          out_ << "for v" << s.id << " in ";
          expr(s.a);
          out_ << "..";
          expr(s.b);
          out_ << " step ";
          expr(s.c);
          out_ << " {\n";
          block(s.body, depth + 1);
          out_ << pad << "}";
          break;
        case Stmt::Kind::Prefetch:
          out_ << "prefetch " << k_.buffers[size_t(s.id)].name << "[";
          expr(s.a);
          out_ << "]";
          break;
        case Stmt::Kind::TileZero: out_ << "tile" << s.tile[0] << " = 0"; break;
        case Stmt::Kind::TileLoad: case Stmt::Kind::TileStore:
          out_ << (s.kind == Stmt::Kind::TileLoad ? "load tile" : "store tile") << s.tile[0] << ", " << k_.buffers[size_t(s.id)].name << "[";
          expr(s.a);
          out_ << "] rows ";
          expr(s.b);
          break;
        case Stmt::Kind::TileDot: out_ << "tile" << s.tile[0] << " += dot(tile" << s.tile[1] << ", tile" << s.tile[2] << ")"; break;
        case Stmt::Kind::If:
          out_ << "if ";
          expr(s.a);
          out_ << " {\n";
          block(s.body, depth + 1);
          if (!s.otherwise.empty()) {
            out_ << pad << "} else {\n";
            block(s.otherwise, depth + 1);
          }
          out_ << pad << "}";
          break;
      }
      out_ << "\n";
    }
  }

  const Kernel& k_;
  std::ostringstream out_;
};

class Verifier {
 public:
  explicit Verifier(const Kernel& k) : k_(k) { defined_.insert(0); }

  Status block(const Block& b) {
    for (const Stmt& s : b) {
      for (const Ref& r : {s.a, s.b, s.c})
        if (r) PRISM_CHECK(expr(r));
      switch (s.kind) {
        case Stmt::Kind::Let: case Stmt::Kind::Var:
          if (s.a->ty != k_.vars[size_t(s.id)]) return bad("v", s.id, " is ", str(k_.vars[size_t(s.id)]), ", its value ", str(s.a->ty));
          defined_.insert(s.id);
          break;
        case Stmt::Kind::Assign:
          if (!defined_.count(s.id)) return bad("v", s.id, " is assigned before it is defined");
          if (s.a->ty != k_.vars[size_t(s.id)]) return bad("v", s.id, " is ", str(k_.vars[size_t(s.id)]), ", assigned ", str(s.a->ty));
          break;
        case Stmt::Kind::Store: case Stmt::Kind::StoreN:
          if (!k_.buffers[size_t(s.id)].written) return bad("store to read-only buffer ", k_.buffers[size_t(s.id)].name);
          if (s.a->ty != Ty{Elem::I64, 1}) return bad("index of ", k_.buffers[size_t(s.id)].name, " is ", str(s.a->ty));
          break;
        case Stmt::Kind::For:
          defined_.insert(s.id);
          PRISM_CHECK(block(s.body));
          break;
        case Stmt::Kind::Prefetch: break;
        case Stmt::Kind::TileZero: case Stmt::Kind::TileLoad: case Stmt::Kind::TileStore: case Stmt::Kind::TileDot:
          for (int t : s.tile)
            if (t < 0 || size_t(t) >= k_.tiles.size()) return bad("tile", t, " has no shape");
          if (s.kind == Stmt::Kind::TileStore && !k_.buffers[size_t(s.id)].written) return bad("store to read-only buffer ", k_.buffers[size_t(s.id)].name);
          break;
        case Stmt::Kind::If:
          PRISM_CHECK(block(s.body));
          PRISM_CHECK(block(s.otherwise));
          break;
      }
    }
    return ok();
  }

 private:
  template <class... P>
  Error bad(const P&... parts) { return error("kernel ", k_.name, ": ", parts...); }

  Status expr(const Ref& r) {
    if (!checked_.insert(r.get()).second) return ok();
    for (const Ref& a : r->args) PRISM_CHECK(expr(a));
    switch (r->kind) {
      case Kind::Var:
        if (r->ival >= 0 && !defined_.count(int(r->ival))) return bad("v", r->ival, " is used before it is defined");
        break;
      case Kind::Load:
        if (r->args[0]->ty != Ty{Elem::I64, 1}) return bad("index of ", k_.buffers[size_t(r->ival)].name, " is ", str(r->args[0]->ty), ", expected i64");
        break;
      case Kind::Add: case Kind::Sub: case Kind::Mul: case Kind::Div: case Kind::Mod: case Kind::And: case Kind::Or:
      case Kind::Xor: case Kind::Shl: case Kind::Shr: case Kind::Min: case Kind::Max: case Kind::Lt: case Kind::Le: case Kind::Eq:
        if (r->args[0]->ty != r->args[1]->ty)
          return bad("'", symbol(r->kind), "' of ", str(r->args[0]->ty), " and ", str(r->args[1]->ty));
        break;
      case Kind::Select:
        if (r->args[1]->ty != r->args[2]->ty || r->args[0]->ty.lanes != r->ty.lanes)
          return bad("select of ", str(r->args[0]->ty), ", ", str(r->args[1]->ty), ", ", str(r->args[2]->ty));
        break;
      case Kind::Cast:
        if (r->args[0]->ty.lanes != r->ty.lanes) return bad("cast of ", str(r->args[0]->ty), " to ", str(r->ty));
        break;
      case Kind::Bitcast:
        if (elem_bytes(r->ty.elem) * r->ty.lanes != elem_bytes(r->args[0]->ty.elem) * r->args[0]->ty.lanes)
          return bad("bitcast of ", str(r->args[0]->ty), " to ", str(r->ty));
        break;
      case Kind::Splat:
        if (r->args[0]->ty.lanes != 1) return bad("splat of ", str(r->args[0]->ty));
        break;
      case Kind::Call:
        for (const Ref& a : r->args)
          if (a->ty.lanes != r->args[0]->ty.lanes) return bad(fn_name(r->fn), " mixes ", str(r->args[0]->ty), " and ", str(a->ty));
        break;
      default: break;
    }
    return ok();
  }

  const Kernel& k_;
  std::set<int> defined_;
  std::set<const Node*> checked_;
};

}  // namespace

std::string print(const Kernel& k) { return Printer(k).run(); }

Status verify(const Kernel& k) { return Verifier(k).block(k.body); }

}  // namespace prism::kir
