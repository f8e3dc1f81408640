// Text of a kernel, for people and for cache keys.
#include <sstream>

#include "codegen/kir/kir.h"

namespace prism::kir {

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
                                "reduce_add", "reduce_max", "dot4", "dot_pairs", "sum_pairs", "lookup_low", "lookup_high", "dot_bf16", "pack_f16", "pack_bf16", "byte_permute", "shuffle_xor", "atomic_add", "ld_matrix", "ld_matrix_t", "mma_bf16", "mma_f16", "mma_s8"};
  return names[size_t(f)];
}

namespace {

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
    out_ << ")";
    if (k_.block_threads) out_ << " threads " << k_.block_threads;
    out_ << " {\n";
    for (const Buffer& b : k_.buffers)
      if (b.space != Buffer::Space::Arg)
        out_ << (b.space == Buffer::Space::Const ? "  table " : b.space == Buffer::Space::Shared ? "  shared " : "  scratch ") << b.name << ": " << elem_name(b.elem) << "["
             << b.size << "]" << (b.space == Buffer::Space::Shared ? " at " + std::to_string(b.offset) : "") << "\n";
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
        else if (n.ival == 1 && k_.block_threads) out_ << "thread";
        else out_ << "v" << n.ival;
        break;
      case Kind::Load:
        out_ << k_.buffers[size_t(n.ival)].name << "[";
        expr(n.args[0]);
        out_ << "]:" << str(n.ty);
        break;
      case Kind::Lane:
        expr(n.args[0]);
        out_ << "." << n.ival;
        break;
      case Kind::Select: case Kind::Cast: case Kind::Bitcast: case Kind::Splat: case Kind::Call: case Kind::Min: case Kind::Max:
      case Kind::Pack: {
        if (n.kind == Kind::Call) out_ << fn_name(n.fn);
        else if (n.kind == Kind::Select) out_ << "select";
        else if (n.kind == Kind::Pack) out_ << "pack";
        else if (n.kind == Kind::Min || n.kind == Kind::Max) out_ << symbol(n.kind);
        else out_ << (n.kind == Kind::Cast ? "cast." : n.kind == Kind::Bitcast ? "bitcast." : "splat.") << str(n.ty);
        out_ << "(";
        if (n.kind == Kind::Call && has_buffer(n.fn)) out_ << k_.buffers[size_t(n.ival)].name << ", ";
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
          if (s.unroll) out_ << " unroll " << s.unroll;
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
        case Stmt::Kind::Barrier: out_ << "barrier"; break;
        case Stmt::Kind::WarpSync: out_ << "warp_sync"; break;
        case Stmt::Kind::GridWait: out_ << "grid_wait"; break;
        case Stmt::Kind::AsyncCommit: out_ << "async_commit"; break;
        case Stmt::Kind::AsyncWait:
          out_ << "async_wait ";
          expr(s.a);
          break;
        case Stmt::Kind::AsyncCopy:
          out_ << "async_copy " << k_.buffers[size_t(s.id)].name << "[";
          expr(s.a);
          out_ << "] = " << k_.buffers[size_t(s.source)].name << "[";
          expr(s.b);
          out_ << "] bytes ";
          expr(s.c);
          break;
        case Stmt::Kind::WgmmaFence: out_ << "wgmma_fence"; break;
        case Stmt::Kind::WgmmaCommit: out_ << "wgmma_commit"; break;
        case Stmt::Kind::AsyncFence: out_ << "async_fence"; break;
        case Stmt::Kind::WgmmaWait:
          out_ << "wgmma_wait ";
          expr(s.a);
          break;
        case Stmt::Kind::Wgmma:
          out_ << "wgmma v" << s.id << " += " << k_.buffers[size_t(s.source)].name << "[";
          expr(s.a);
          out_ << "] * " << k_.buffers[size_t(s.second)].name << "[";
          expr(s.b);
          out_ << "]";
          break;
        case Stmt::Kind::MbarrierInit: case Stmt::Kind::MbarrierExpect: case Stmt::Kind::MbarrierWait:
          out_ << (s.kind == Stmt::Kind::MbarrierInit ? "mbarrier_init " : s.kind == Stmt::Kind::MbarrierExpect ? "mbarrier_expect " : "mbarrier_wait ")
               << k_.buffers[size_t(s.id)].name << "[";
          expr(s.a);
          out_ << (s.kind == Stmt::Kind::MbarrierInit ? "] count " : s.kind == Stmt::Kind::MbarrierExpect ? "] bytes " : "] parity ");
          expr(s.b);
          break;
        case Stmt::Kind::BulkCopy:
          out_ << "bulk_copy " << k_.buffers[size_t(s.id)].name << "[";
          expr(s.a);
          out_ << "] = " << k_.buffers[size_t(s.source)].name << "[";
          expr(s.b);
          out_ << "] bytes " << s.bytes << " on " << k_.buffers[size_t(s.second)].name << "[";
          expr(s.c);
          out_ << "]";
          break;
        case Stmt::Kind::WaitAtLeast:
          out_ << "wait " << k_.buffers[size_t(s.id)].name << "[";
          expr(s.a);
          out_ << "] >= ";
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

}  // namespace

std::string print(const Kernel& k) { return Printer(k).run(); }

}  // namespace prism::kir
