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
                                "reduce_add", "reduce_max", "dot4", "dot_pairs", "sum_pairs", "lookup_low", "lookup_high", "dot_bf16", "pack_f16", "pack_bf16", "byte_permute", "shuffle_xor", "atomic_add", "ld_matrix", "ld_matrix_t", "mma_bf16", "mma_f16", "mma_u8"};
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
  /// An element of a buffer.
  struct Place {
    int64_t buffer;
    const Ref& index;
  };
  static Place at(int64_t buffer, const Ref& index) { return {buffer, index}; }

  template <class... P>
  void put(const P&... parts) { (one(parts), ...); }
  void one(const Ref& r) { expr(r); }
  void one(const Place& p) { put(k_.buffers[size_t(p.buffer)].name, "[", p.index, "]"); }
  template <class T>
  void one(const T& text) { out_ << text; }

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
        put(at(n.ival, n.args[0]), ":", str(n.ty));
        break;
      case Kind::Lane: put(n.args[0], ".", n.ival); break;
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
        put("(", n.args[0], " ", symbol(n.kind), " ", n.args[1], ")");
    }
  }

  void block(const Block& b, int depth) {
    const std::string pad(size_t(depth) * 2, ' ');
    for (const Stmt& s : b) {
      out_ << pad;
      switch (s.kind) {
        case Stmt::Kind::Let: case Stmt::Kind::Var:
          put(s.kind == Stmt::Kind::Let ? "let v" : "var v", s.id, ": ", str(k_.vars[size_t(s.id)]), " = ", s.a);
          break;
        case Stmt::Kind::Assign: put("v", s.id, " = ", s.a); break;
        case Stmt::Kind::Store: case Stmt::Kind::StoreN:
          put(at(s.id, s.a), " = ", s.b);
          if (s.c) put(" lanes ", s.c);
          break;
        case Stmt::Kind::For:
          put("for v", s.id, " in ", s.a, "..", s.b, " step ", s.c);
          if (s.unroll) put(" unroll ", s.unroll);
          put(" {\n");
          block(s.body, depth + 1);
          put(pad, "}");
          break;
        case Stmt::Kind::Prefetch: put("prefetch ", s.cache > 1 ? "far " : "", at(s.id, s.a)); break;
        case Stmt::Kind::TileZero: put("tile", s.tile[0], " = 0"); break;
        case Stmt::Kind::TileLoad: case Stmt::Kind::TileStore:
          put(s.kind == Stmt::Kind::TileLoad ? "load tile" : "store tile", s.tile[0], ", ", at(s.id, s.a), " rows ", s.b);
          break;
        case Stmt::Kind::Barrier: put("barrier"); break;
        case Stmt::Kind::WarpSync: put("warp_sync"); break;
        case Stmt::Kind::GridWait: put("grid_wait"); break;
        case Stmt::Kind::AsyncCommit: put("async_commit"); break;
        case Stmt::Kind::AsyncWait: put("async_wait ", s.a); break;
        case Stmt::Kind::AsyncCopy: put("async_copy ", at(s.id, s.a), " = ", at(s.source, s.b), " bytes ", s.c); break;
        case Stmt::Kind::WgmmaFence: put("wgmma_fence"); break;
        case Stmt::Kind::WgmmaCommit: put("wgmma_commit"); break;
        case Stmt::Kind::AsyncFence: put("async_fence"); break;
        case Stmt::Kind::WgmmaWait: put("wgmma_wait ", s.a); break;
        case Stmt::Kind::Wgmma: put("wgmma v", s.id, " += ", at(s.source, s.a), " * ", at(s.second, s.b)); break;
        case Stmt::Kind::MbarrierInit: put("mbarrier_init ", at(s.id, s.a), " count ", s.b); break;
        case Stmt::Kind::MbarrierExpect: put("mbarrier_expect ", at(s.id, s.a), " bytes ", s.b); break;
        case Stmt::Kind::MbarrierWait: put("mbarrier_wait ", at(s.id, s.a), " parity ", s.b); break;
        case Stmt::Kind::BulkCopy: put("bulk_copy ", at(s.id, s.a), " = ", at(s.source, s.b), " bytes ", s.bytes, " on ", at(s.second, s.c)); break;
        case Stmt::Kind::WaitAtLeast: put("wait ", at(s.id, s.a), " >= ", s.b); break;
        case Stmt::Kind::TileDot: put("tile", s.tile[0], " += dot(tile", s.tile[1], ", tile", s.tile[2], ")"); break;
        case Stmt::Kind::If:
          put("if ", s.a, " {\n");
          block(s.body, depth + 1);
          if (!s.otherwise.empty()) {
            put(pad, "} else {\n");
            block(s.otherwise, depth + 1);
          }
          put(pad, "}");
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
