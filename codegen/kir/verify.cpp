// The verifier: types, definitions, and what each kind of kernel may contain.
#include <set>

#include "codegen/kir/kir.h"

namespace prism::kir {

namespace {

/// Which values may differ between the threads of a block. Whatever is loaded from an index that all threads share, they
/// share: a barrier that depends on it is the kernel's promise that nobody writes there meanwhile.
class Divergence {
 public:
  explicit Divergence(const Kernel& k) {
    if (!k.block_threads) return;
    varying_.insert(1);
    for (size_t before = 0; before != varying_.size();) {  // loops carry variables round
      before = varying_.size();
      block(k.body, false);
    }
  }

  bool varies(const Ref& r) const {
    if (r->kind == Kind::Var) return varying_.count(r->ival);
    if (r->kind == Kind::Call && has_effect(r->fn)) return true;
    for (const Ref& a : r->args)
      if (varies(a)) return true;
    return false;
  }

 private:
  void block(const Block& b, bool diverged) {
    for (const Stmt& s : b) {
      const bool apart = diverged || (s.a && varies(s.a));
      switch (s.kind) {
        case Stmt::Kind::Let: case Stmt::Kind::Var: case Stmt::Kind::Assign:
          if (apart) varying_.insert(s.id);
          break;
        case Stmt::Kind::For: {
          const bool inside = apart || varies(s.b) || varies(s.c);
          if (inside) varying_.insert(s.id);
          block(s.body, inside);
          break;
        }
        case Stmt::Kind::If:
          block(s.body, apart);
          block(s.otherwise, apart);
          break;
        default: break;
      }
    }
  }

  std::set<int64_t> varying_;
};

class Verifier {
 public:
  explicit Verifier(const Kernel& k) : k_(k), gpu_(k.block_threads > 0), divergence_(k) { defined_.insert(0); }

  Status kernel() {
    if (gpu_) {
      defined_.insert(1);
      if (k_.block_threads % 32 || k_.block_threads > 1024)
        return bad("a block of ", k_.block_threads, " threads, expected whole warps of 32, at most 1024");
    }
    for (const Buffer& b : k_.buffers)
      if (b.space == Buffer::Space::Shared && b.offset + b.size * elem_bytes(b.elem) > k_.shared_bytes)
        return bad("buffer ", b.name, " ends past the ", k_.shared_bytes, " bytes of shared memory");
    for (const Buffer& b : k_.buffers)
      if (b.space == (gpu_ ? Buffer::Space::Scratch : Buffer::Space::Shared))
        return bad("buffer ", b.name, " is ", gpu_ ? "scratch, which only CPU kernels have" : "shared, which only GPU kernels have");
    for (const Stmt& s : k_.body) waited_ = waited_ && s.kind != Stmt::Kind::GridWait;  // false until the one there is
    return block(k_.body, false);
  }

 private:
  Status block(const Block& b, bool diverged) {
    for (const Stmt& s : b) {
      PRISM_CHECK(target(s));
      if (s.kind == Stmt::Kind::GridWait) {
        if (&b != &k_.body) return bad("grid_wait inside a statement, expected it at the top");
        if (waited_) return bad("a second grid_wait");
        waited_ = true;
      }
      const bool root = s.kind == Stmt::Kind::Let || s.kind == Stmt::Kind::Var || s.kind == Stmt::Kind::Assign;
      for (const Ref& r : {s.a, s.b, s.c})
        if (r) PRISM_CHECK(expr(r, root));
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
          if (!buffer(s.id).written) return bad("store to read-only buffer ", buffer(s.id).name);
          PRISM_CHECK(index(s.id, s.a));
          if (gpu_) PRISM_CHECK(register_size(s.b->ty));
          break;
        case Stmt::Kind::For:
          for (const Ref& r : {s.a, s.b, s.c})
            if (r->ty != k_.vars[size_t(s.id)]) return bad("loop of v", s.id, ": ", str(k_.vars[size_t(s.id)]), ", its bounds and step ", str(r->ty));
          defined_.insert(s.id);
          PRISM_CHECK(block(s.body, diverged || divergence_.varies(s.a) || divergence_.varies(s.b) || divergence_.varies(s.c)));
          break;
        case Stmt::Kind::If:
          PRISM_CHECK(block(s.body, diverged || divergence_.varies(s.a)));
          PRISM_CHECK(block(s.otherwise, diverged || divergence_.varies(s.a)));
          break;
        case Stmt::Kind::Barrier:
          if (diverged) return bad("barrier where the block's threads may part");
          break;
        case Stmt::Kind::AsyncCopy:
          if (buffer(s.id).space != Buffer::Space::Shared) return bad("async_copy to ", buffer(s.id).name, ", which is not shared");
          if (buffer(s.source).space != Buffer::Space::Arg) return bad("async_copy from ", buffer(s.source).name, ", which is no argument");
          PRISM_CHECK(index(s.id, s.a));
          PRISM_CHECK(index(s.source, s.b));
          break;
        case Stmt::Kind::Wgmma: {
          const Ty sum = k_.vars[size_t(s.id)];
          const int n = 2 * sum.lanes;
          if (k_.block_threads % 128 || !defined_.count(s.id) || sum.elem != Elem::F32 || (n != 64 && n != 128 && n != 256))
            return bad("wgmma to ", str(sum), " by ", k_.block_threads, " threads, expected 32, 64 or 128 f32 and whole warpgroups");
          for (auto [id, at] : {std::pair(s.source, s.a), std::pair(s.second, s.b)}) {
            PRISM_CHECK(index(id, at));
            if (buffer(id).space != Buffer::Space::Shared || buffer(id).elem != Elem::BF16) return bad("wgmma of ", buffer(id).name, ", expected shared bf16");
          }
          break;
        }
        case Stmt::Kind::MbarrierInit: case Stmt::Kind::MbarrierExpect: case Stmt::Kind::MbarrierWait:
          PRISM_CHECK(mbarrier(s.id, s.a));
          if (s.b->ty != Ty{Elem::I32, 1}) return bad("mbarrier ", buffer(s.id).name, " with ", str(s.b->ty), ", expected i32");
          break;
        case Stmt::Kind::BulkCopy:
          if (buffer(s.id).space != Buffer::Space::Shared) return bad("bulk_copy to ", buffer(s.id).name, ", which is not shared");
          if (!buffer(s.source).constant) return bad("bulk_copy from ", buffer(s.source).name, ", which is no constant argument");
          if (s.bytes <= 0 || s.bytes % 16) return bad("bulk_copy of ", s.bytes, " bytes, expected a multiple of 16");
          PRISM_CHECK(index(s.id, s.a));
          PRISM_CHECK(index(s.source, s.b));
          PRISM_CHECK(mbarrier(s.second, s.c));
          break;
        case Stmt::Kind::WaitAtLeast:
          PRISM_CHECK(index(s.id, s.a));
          if (buffer(s.id).elem != Elem::U32 || s.b->ty != Ty{Elem::U32, 1} || buffer(s.id).space != Buffer::Space::Arg)
            return bad("wait for ", str(s.b->ty), " in ", buffer(s.id).name, ", expected an argument of u32");
          break;
        case Stmt::Kind::TileZero: case Stmt::Kind::TileLoad: case Stmt::Kind::TileStore: case Stmt::Kind::TileDot:
          for (int t : s.tile)
            if (t < 0 || size_t(t) >= k_.tiles.size()) return bad("tile", t, " has no shape");
          if (s.kind == Stmt::Kind::TileStore && !buffer(s.id).written) return bad("store to read-only buffer ", buffer(s.id).name);
          break;
        case Stmt::Kind::Prefetch: case Stmt::Kind::WarpSync: case Stmt::Kind::GridWait: case Stmt::Kind::AsyncCommit: case Stmt::Kind::AsyncWait:
        case Stmt::Kind::WgmmaFence: case Stmt::Kind::WgmmaCommit: case Stmt::Kind::WgmmaWait: case Stmt::Kind::AsyncFence: break;
      }
    }
    return ok();
  }

  template <class... P>
  Error bad(const P&... parts) { return error("kernel ", k_.name, ": ", parts...); }
  const Buffer& buffer(int64_t id) const { return k_.buffers[size_t(id)]; }

  Status target(const Stmt& s) {
    const bool cpu_only = s.kind == Stmt::Kind::StoreN || (s.kind >= Stmt::Kind::TileZero && s.kind <= Stmt::Kind::TileDot);
    if (gpu_ ? cpu_only : s.kind >= Stmt::Kind::Barrier) return bad("a statement that only ", gpu_ ? "CPU" : "GPU", " kernels have");
    return ok();
  }

  Status index(int64_t id, const Ref& r) {
    if (!waited_ && buffer(id).space == Buffer::Space::Arg && !buffer(id).constant)
      return bad("access to ", buffer(id).name, " before grid_wait");
    if (r->ty == Ty{Elem::I64, 1} || (gpu_ && r->ty == Ty{Elem::I32, 1})) return ok();
    return bad("index of ", buffer(id).name, " is ", str(r->ty), ", expected i64", gpu_ ? " or i32" : "");
  }

  Status mbarrier(int id, const Ref& at) {
    if (buffer(id).space != Buffer::Space::Shared || buffer(id).elem != Elem::I64) return bad("mbarrier in ", buffer(id).name, ", expected shared i64");
    return index(id, at);
  }

  Status register_size(Ty t) {  // what one instruction moves
    const int bytes = elem_bytes(t.elem) * t.lanes;
    if (bytes > 16 || (bytes & (bytes - 1))) return bad("access of ", str(t), ", expected 1, 2, 4, 8 or 16 bytes");
    return ok();
  }

  /// `root`: stands alone in a Let, Var or Assign.
  Status expr(const Ref& r, bool root = false) {
    if (r->kind == Kind::Call) {  // before the cache: whether it may stand here depends on the place
      if (gpu_ ? cpu_only(r->fn) : gpu_only(r->fn)) return bad(fn_name(r->fn), " in a ", gpu_ ? "GPU" : "CPU", " kernel");
      if (has_effect(r->fn) && !root) return bad(fn_name(r->fn), " within an expression, expected it alone in a let, var or assignment");
    }
    if (!checked_.insert(r.get()).second) return ok();
    for (const Ref& a : r->args) PRISM_CHECK(expr(a));
    const Ty first = r->args.empty() ? Ty{} : r->args[0]->ty;
    switch (r->kind) {
      case Kind::Var:
        if (r->ival >= 0 && !defined_.count(int(r->ival))) return bad("v", r->ival, " is used before it is defined");
        break;
      case Kind::Load:
        PRISM_CHECK(index(r->ival, r->args[0]));
        if (gpu_) PRISM_CHECK(register_size(r->ty));
        break;
      case Kind::Add: case Kind::Sub: case Kind::Mul: case Kind::Div: case Kind::Mod: case Kind::And: case Kind::Or:
      case Kind::Xor: case Kind::Shl: case Kind::Shr: case Kind::Min: case Kind::Max: case Kind::Lt: case Kind::Le: case Kind::Eq:
        if (first != r->args[1]->ty) return bad("'", symbol(r->kind), "' of ", str(first), " and ", str(r->args[1]->ty));
        PRISM_CHECK(scalar(r));
        break;
      case Kind::Select:
        if (r->args[1]->ty != r->args[2]->ty || first.lanes != r->ty.lanes)
          return bad("select of ", str(first), ", ", str(r->args[1]->ty), ", ", str(r->args[2]->ty));
        PRISM_CHECK(scalar(r));
        break;
      case Kind::Cast:
        if (first.lanes != r->ty.lanes) return bad("cast of ", str(first), " to ", str(r->ty));
        PRISM_CHECK(scalar(r));
        break;
      case Kind::Bitcast:
        if (elem_bytes(r->ty.elem) * r->ty.lanes != elem_bytes(first.elem) * first.lanes) return bad("bitcast of ", str(first), " to ", str(r->ty));
        break;
      case Kind::Splat:
        if (first.lanes != 1) return bad("splat of ", str(first));
        break;
      case Kind::Pack:
        for (const Ref& a : r->args)
          if (a->ty != Ty{r->ty.elem, 1}) return bad("pack of ", str(a->ty), " into ", str(r->ty));
        break;
      case Kind::Lane:
        if (r->ival < 0 || r->ival >= first.lanes) return bad("lane ", r->ival, " of ", str(first));
        break;
      case Kind::Call:
        if (has_effect(r->fn)) return effect(r);
        if (gpu_only(r->fn)) PRISM_CHECK(arguments(r, {r->fn == Fn::BytePermute ? Elem::U32 : Elem::F32, 1}));
        if (r->fn == Fn::LookupLow || r->fn == Fn::LookupHigh) PRISM_CHECK(arguments(r, {Elem::U32, first.lanes}));
        if (r->fn == Fn::DotBf16 && (first.elem != Elem::F32 || r->args[1]->ty.elem != Elem::U32 || r->args[2]->ty.elem != Elem::U32))
          return bad("dot_bf16 of ", str(first), ", ", str(r->args[1]->ty), ", ", str(r->args[2]->ty));
        for (const Ref& a : r->args)
          if (a->ty.lanes != first.lanes) return bad(fn_name(r->fn), " mixes ", str(first), " and ", str(a->ty));
        PRISM_CHECK(scalar(r));
        break;
      case Kind::IntConst: case Kind::FloatConst: break;
    }
    return ok();
  }

  Status arguments(const Ref& r, Ty expected) {
    for (const Ref& a : r->args)
      if (a->ty != expected) return bad(fn_name(r->fn), " of ", str(a->ty), ", expected ", str(expected));
    return ok();
  }

  /// A GPU's thread computes with scalars; a vector is a group of registers that is moved, packed and taken apart.
  Status scalar(const Ref& r) {
    if (gpu_ && r->args[0]->ty.lanes > 1) return bad("arithmetic on ", str(r->args[0]->ty), ", expected scalars in a GPU kernel");
    return ok();
  }

  Status effect(const Ref& r) {
    auto is = [&](size_t arg, Ty t) { return r->args[arg]->ty == t; };
    bool fits = false;
    switch (r->fn) {
      case Fn::ShuffleXor: fits = r->args[0]->ty.lanes == 1 && elem_bytes(r->ty.elem) == 4; break;
      case Fn::AtomicAdd:
        if (!buffer(r->ival).written) return bad("atomic_add to read-only buffer ", buffer(r->ival).name);
        PRISM_CHECK(index(r->ival, r->args[0]));
        fits = is(1, {buffer(r->ival).elem, 1}) && elem_bytes(r->ty.elem) == 4;
        break;
      case Fn::LdMatrix: case Fn::LdMatrixT:
        PRISM_CHECK(index(r->ival, r->args[0]));
        fits = buffer(r->ival).space == Buffer::Space::Shared;
        break;
      default: {
        const Ty sum = {r->fn == Fn::MmaU8 ? Elem::I32 : Elem::F32, 4};
        fits = is(0, sum) && is(1, {Elem::U32, 4}) && is(2, {Elem::U32, 2});
      }
    }
    std::string found;
    for (const Ref& a : r->args) found += (found.empty() ? "" : ", ") + str(a->ty);
    return fits ? ok() : Status(bad(fn_name(r->fn), " of ", found, has_buffer(r->fn) ? " in " + buffer(r->ival).name : ""));
  }

  const Kernel& k_;
  const bool gpu_;
  Divergence divergence_;
  bool waited_ = true;       ///< no grid_wait is still to come
  std::set<int> defined_;
  std::set<const Node*> checked_;
};

}  // namespace

Status verify(const Kernel& k) { return Verifier(k).kernel(); }

}  // namespace prism::kir
