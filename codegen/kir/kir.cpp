#include "codegen/kir/kir.h"

#include "runtime/base/checked.h"

namespace prism::kir {

int elem_bytes(Elem e) {
  switch (e) {
    case Elem::I8: case Elem::U8: return 1;
    case Elem::I16: case Elem::U16: case Elem::F16: case Elem::BF16: return 2;
    case Elem::I32: case Elem::U32: case Elem::F32: return 4;
    case Elem::I64: case Elem::F64: return 8;
  }
  return 0;
}

std::string_view elem_name(Elem e) {
  static constexpr std::string_view names[] = {"i8", "u8", "i16", "u16", "i32", "u32", "i64", "f16", "bf16", "f32", "f64"};
  return names[size_t(e)];
}

std::string str(Ty t) {
  return std::string(elem_name(t.elem)) + (t.lanes > 1 ? "x" + std::to_string(t.lanes) : "");
}

namespace {

Ex make(Kind kind, Ty ty, std::vector<Ex> args) {
  auto n = std::make_shared<Node>();
  n->kind = kind;
  n->ty = ty;
  for (Ex& a : args) n->args.push_back(a.node);
  return Ex(n);
}

bool is_const(const Ex& a) { return a.node->kind == Kind::IntConst || a.node->kind == Kind::FloatConst; }

/// Brings both sides to one type: constants adapt, scalars splat.
void unify(Ex& a, Ex& b) {
  const Ty ta = a.ty(), tb = b.ty();
  if (ta == tb) return;
  if (is_const(a) && !is_const(b))
    a = constant(tb, a.node->kind == Kind::IntConst ? double(a.node->ival) : a.node->fval);
  else if (is_const(b))
    b = constant(ta, b.node->kind == Kind::IntConst ? double(b.node->ival) : b.node->fval);
  else if (ta.lanes == 1 && tb.lanes > 1)
    a = splat(a, tb.lanes);
  else if (tb.lanes == 1 && ta.lanes > 1)
    b = splat(b, ta.lanes);
  else if (ta.elem == Elem::I32 && tb.elem == Elem::I64)
    a = cast(Elem::I64, a);
  else if (tb.elem == Elem::I32 && ta.elem == Elem::I64)
    b = cast(Elem::I64, b);
}

std::optional<int64_t> fold(Kind k, int64_t a, int64_t b) {
  switch (k) {
    case Kind::Add: return a + b;
    case Kind::Sub: return a - b;
    case Kind::Mul: return a * b;
    case Kind::Div: return b ? std::optional(a / b) : std::nullopt;
    case Kind::Mod: return b ? std::optional(a % b) : std::nullopt;
    case Kind::Min: return std::min(a, b);
    case Kind::Max: return std::max(a, b);
    case Kind::Lt: return a < b;
    case Kind::Le: return a <= b;
    case Kind::Eq: return a == b;
    default: return std::nullopt;
  }
}

bool is_int(const Ex& a, int64_t v) { return a.constant() && *a.constant() == v; }

Ex binary(Kind k, Ex a, Ex b) {
  unify(a, b);
  if (a.constant() && b.constant() && a.ty().elem == Elem::I64)
    if (auto v = fold(k, *a.constant(), *b.constant())) return Ex(*v);
  if (k == Kind::Add && is_int(a, 0)) return b;
  const bool nothing = k == Kind::Add || k == Kind::Sub || k == Kind::Xor || k == Kind::Shl || k == Kind::Shr;
  if (nothing && is_int(b, 0)) return a;
  if (k == Kind::Mul && (is_int(a, 0) || is_int(b, 1))) return a;
  if (k == Kind::Mul && (is_int(b, 0) || is_int(a, 1))) return b;
  if (k == Kind::Div && is_int(b, 1)) return a;
  Ty ty = a.ty();
  if (k == Kind::Lt || k == Kind::Le || k == Kind::Eq) ty.elem = Elem::I32;
  return make(k, ty, {a, b});
}

}  // namespace

Ex::Ex(int64_t v) {
  auto n = std::make_shared<Node>();
  n->kind = Kind::IntConst;
  n->ty = {Elem::I64, 1};
  n->ival = v;
  node = n;
}

Ex::Ex(double v) : Ex(prism::kir::constant({Elem::F32, 1}, v)) {}

const int64_t* Ex::constant() const { return node->kind == Kind::IntConst ? &node->ival : nullptr; }

Ex constant(Ty t, double v) {
  if (t.lanes > 1) return splat(constant({t.elem, 1}, v), t.lanes);
  auto n = std::make_shared<Node>();
  n->kind = is_floating(t.elem) ? Kind::FloatConst : Kind::IntConst;
  n->ty = t;
  n->ival = is_floating(t.elem) ? 0 : int64_t(v);
  n->fval = v;
  return Ex(n);
}

Ex operator+(Ex a, Ex b) { return binary(Kind::Add, a, b); }
Ex operator-(Ex a, Ex b) { return binary(Kind::Sub, a, b); }
Ex operator*(Ex a, Ex b) { return binary(Kind::Mul, a, b); }
Ex operator/(Ex a, Ex b) { return binary(Kind::Div, a, b); }
Ex operator%(Ex a, Ex b) { return binary(Kind::Mod, a, b); }
Ex operator&(Ex a, Ex b) { return binary(Kind::And, a, b); }
Ex operator|(Ex a, Ex b) { return binary(Kind::Or, a, b); }
Ex operator^(Ex a, Ex b) { return binary(Kind::Xor, a, b); }
Ex operator<<(Ex a, Ex b) { return binary(Kind::Shl, a, b); }
Ex operator>>(Ex a, Ex b) { return binary(Kind::Shr, a, b); }
Ex operator<(Ex a, Ex b) { return binary(Kind::Lt, a, b); }
Ex operator<=(Ex a, Ex b) { return binary(Kind::Le, a, b); }
Ex operator==(Ex a, Ex b) { return binary(Kind::Eq, a, b); }
Ex min(Ex a, Ex b) { return binary(Kind::Min, a, b); }
Ex max(Ex a, Ex b) { return binary(Kind::Max, a, b); }

Ex select(Ex c, Ex a, Ex b) {
  unify(a, b);
  return make(Kind::Select, a.ty(), {c, a, b});
}

Ex cast(Elem to, Ex a) {
  if (a.ty().elem == to) return a;
  if (is_const(a)) return constant({to, a.ty().lanes}, a.node->kind == Kind::IntConst ? double(a.node->ival) : a.node->fval);
  return make(Kind::Cast, {to, a.ty().lanes}, {a});
}

Ex bitcast(Ty to, Ex a) { return a.ty() == to ? a : make(Kind::Bitcast, to, {a}); }

Ex splat(Ex a, int lanes) { return a.ty().lanes == lanes ? a : make(Kind::Splat, {a.ty().elem, lanes}, {a}); }

Ex call(Fn fn, std::vector<Ex> args) {
  for (size_t i = 1; i < args.size(); ++i) {  // arguments share the widest type, so Fma(vector, scalar, vector) works
    unify(args[0], args[i]);
    unify(args[i - 1], args[i]);
  }
  Ty ty = args[0].ty();
  if (fn == Fn::ReduceAdd || fn == Fn::ReduceMax) ty.lanes = 1;
  if (fn == Fn::Dot4 || fn == Fn::SumPairs) ty.elem = Elem::I32;
  if (fn == Fn::PackF16 || fn == Fn::PackBf16) ty.elem = Elem::U32;
  Ex e = make(Kind::Call, ty, std::move(args));
  std::const_pointer_cast<Node>(e.node)->fn = fn;
  return e;
}

Ex lookup(Fn which, Ex nibbles, const LookupTable& table) {
  std::vector<Ex> args = {nibbles};
  for (size_t i = 0; i < table.size(); i += 4)
    args.push_back(constant(nibbles.ty(), double(table[i] | table[i + 1] << 8 | table[i + 2] << 16 | uint32_t(table[i + 3]) << 24)));
  return call(which, std::move(args));
}

Ex pack(std::vector<Ex> lanes) {
  const Ty ty = {lanes[0].ty().elem, int(lanes.size())};
  return make(Kind::Pack, ty, std::move(lanes));
}

Ex lane(Ex v, int i) {
  if (v.node->kind == Kind::Pack) return Ex(v.node->args[size_t(i)]);
  Ex e = make(Kind::Lane, {v.ty().elem, 1}, {v});
  std::const_pointer_cast<Node>(e.node)->ival = i;
  return e;
}

static Ex var_ref(int id, Ty t) {
  auto n = std::make_shared<Node>();
  n->kind = Kind::Var;
  n->ty = t;
  n->ival = id;
  return Ex(n);
}

Builder::Builder(std::string name, std::vector<std::string> dims, int block_threads) {
  kernel_.name = std::move(name);
  kernel_.dims = std::move(dims);
  kernel_.block_threads = block_threads;
  blocks_.push_back(&kernel_.body);
  const Ty index = {block_threads ? Elem::I32 : Elem::I64, 1};
  task_ = var_ref(new_var(index), index);
  if (block_threads) thread_ = var_ref(new_var(index), index);
}

int Builder::new_var(Ty t) {
  kernel_.vars.push_back(t);
  return int(kernel_.vars.size()) - 1;
}

Buffer Builder::arg(std::string name, Elem elem, bool written, bool constant) {
  Buffer b;
  b.id = int(kernel_.buffers.size());
  b.elem = elem;
  b.name = std::move(name);
  b.written = written;
  b.constant = constant;
  kernel_.buffers.push_back(b);
  return b;
}

/// A buffer after the `total` bytes of those before it.
Buffer Builder::reserve(Buffer::Space space, std::string name, Elem elem, int64_t size, int64_t alignment, int64_t& total) {
  arg(std::move(name), elem, true);
  Buffer& b = kernel_.buffers.back();
  b.space = space;
  b.size = size;
  b.offset = total;
  total += int64_t(round_up(uint64_t(size) * elem_bytes(elem), uint64_t(alignment)));
  return b;
}

Buffer Builder::scratch(std::string name, Elem elem, int64_t size) {
  return reserve(Buffer::Space::Scratch, std::move(name), elem, size, 64, kernel_.scratch_bytes);
}

Buffer Builder::table(std::string name, std::vector<float> values) {
  Buffer b = arg(std::move(name), Elem::F32);
  b.space = kernel_.buffers.back().space = Buffer::Space::Const;
  b.size = kernel_.buffers.back().size = int64_t(values.size());
  kernel_.buffers.back().values = std::move(values);
  return b;
}

Buffer Builder::shared(std::string name, Elem elem, int64_t size) {
  return reserve(Buffer::Space::Shared, std::move(name), elem, size, 128, kernel_.shared_bytes);
}

Buffer Builder::overlay(std::string name, Elem elem, int64_t size, const Buffer& first) {
  Buffer b = first;
  b.id = int(kernel_.buffers.size());
  b.name = std::move(name);
  b.elem = elem;
  b.size = size;
  kernel_.buffers.push_back(b);
  return b;
}

Ex Builder::dim(std::string_view name) const {
  // Dims are variables with negative ids: -1 is dims[0].
  for (size_t i = 0; i < kernel_.dims.size(); ++i)
    if (kernel_.dims[i] == name) {
      auto n = std::make_shared<Node>();
      n->kind = Kind::Var;
      n->ty = task_.ty();
      n->ival = -1 - int64_t(i);
      return Ex(n);
    }
  return Ex();
}

Ex Builder::load(Ty t, const Buffer& b, Ex index) {
  Ex e = make(Kind::Load, t, {index});
  std::const_pointer_cast<Node>(e.node)->ival = b.id;
  return e;
}

void Builder::store(const Buffer& b, Ex index, Ex value) {
  Stmt s{Stmt::Kind::Store, b.id, index.node, value.node, {}, {}, {}};
  blocks_.back()->push_back(std::move(s));
}

void Builder::store_n(const Buffer& b, Ex index, Ex value, Ex count) {
  Stmt s{Stmt::Kind::StoreN, b.id, index.node, value.node, count.node, {}, {}};
  blocks_.back()->push_back(std::move(s));
}

void Builder::prefetch(const Buffer& b, Ex index, int cache) {
  Stmt s{Stmt::Kind::Prefetch, b.id, index.node, {}, {}, {}, {}};
  s.cache = cache;
  blocks_.back()->push_back(std::move(s));
}

Ex Builder::let(Ex value) {
  if (is_const(value) || value.node->kind == Kind::Var) return value;
  const int id = new_var(value.ty());
  blocks_.back()->push_back({Stmt::Kind::Let, id, value.node, {}, {}, {}, {}});
  return var_ref(id, value.ty());
}

Ex Builder::var(Ex init) {
  const int id = new_var(init.ty());
  blocks_.back()->push_back({Stmt::Kind::Var, id, init.node, {}, {}, {}, {}});
  return var_ref(id, init.ty());
}

void Builder::assign(Ex var, Ex value) {
  unify(var, value);
  blocks_.back()->push_back({Stmt::Kind::Assign, int(var.node->ival), value.node, {}, {}, {}, {}});
}

void Builder::for_(Ex begin, Ex end, Ex step, const std::function<void(Ex)>& body, int unroll) {
  if (begin.constant() && end.constant() && *end.constant() <= *begin.constant()) return;
  unify(begin, end);  // a loop counts in the type of its bounds
  const Ty index = begin.ty();
  if (step.constant()) step = constant(index, double(*step.constant()));
  const int id = new_var(index);
  Block inner;
  blocks_.push_back(&inner);
  body(var_ref(id, index));
  blocks_.pop_back();
  blocks_.back()->push_back({Stmt::Kind::For, id, begin.node, end.node, step.node, std::move(inner), {}});
  blocks_.back()->back().unroll = unroll;
}

void Builder::if_(Ex cond, const std::function<void()>& then, const std::function<void()>& otherwise) {
  if (const int64_t* c = cond.constant()) {
    if (*c) then();
    else if (otherwise) otherwise();
    return;
  }
  Block yes, no;
  blocks_.push_back(&yes);
  then();
  blocks_.back() = &no;
  if (otherwise) otherwise();
  blocks_.pop_back();
  blocks_.back()->push_back({Stmt::Kind::If, -1, cond.node, {}, {}, std::move(yes), std::move(no)});
}

void Builder::use_tiles(std::vector<TileShape> shapes) { kernel_.tiles = std::move(shapes); }

void Builder::tile_zero(int t) { blocks_.back()->push_back({Stmt::Kind::TileZero, -1, {}, {}, {}, {}, {}, {t}}); }

void Builder::tile_load(int t, const Buffer& b, Ex index, Ex row_bytes) {
  blocks_.back()->push_back({Stmt::Kind::TileLoad, b.id, index.node, row_bytes.node, {}, {}, {}, {t}});
}

void Builder::tile_store(int t, const Buffer& b, Ex index, Ex row_bytes) {
  blocks_.back()->push_back({Stmt::Kind::TileStore, b.id, index.node, row_bytes.node, {}, {}, {}, {t}});
}

void Builder::tile_dot(int sum, int a, int b) {
  blocks_.back()->push_back({Stmt::Kind::TileDot, -1, {}, {}, {}, {}, {}, {sum, a, b}});
}

void Builder::barrier() { push({Stmt::Kind::Barrier}); }
void Builder::warp_sync() { push({Stmt::Kind::WarpSync}); }
void Builder::grid_wait() { push({Stmt::Kind::GridWait}); }

static Ex effect(Fn fn, Ty ty, const Buffer* buffer, std::vector<Ex> args) {
  Ex e = make(Kind::Call, ty, std::move(args));
  const auto node = std::const_pointer_cast<Node>(e.node);
  node->fn = fn;
  if (buffer) node->ival = buffer->id;
  return e;
}

Ex Builder::shuffle_xor(Ex value, int mask) {
  return let(effect(Fn::ShuffleXor, value.ty(), nullptr, {value, constant({Elem::I32, 1}, mask)}));
}

Ex Builder::atomic_add(const Buffer& b, Ex index, Ex value) {
  if (is_const(value)) value = cast(b.elem, value);
  return let(effect(Fn::AtomicAdd, {b.elem, 1}, &b, {index, value}));
}

Ex Builder::ld_matrix(const Buffer& b, Ex index, bool transposed) {
  return let(effect(transposed ? Fn::LdMatrixT : Fn::LdMatrix, {Elem::U32, 4}, &b, {index}));
}

void Builder::mma(Fn shape, Ex sum, Ex a, Ex b) { assign(sum, effect(shape, sum.ty(), nullptr, {sum, a, b})); }

void Builder::async_copy(const Buffer& to, Ex index, const Buffer& from, Ex source, Ex bytes) {
  Stmt s{Stmt::Kind::AsyncCopy, to.id, index.node, source.node, cast(Elem::I32, bytes).node, {}, {}};
  s.source = from.id;
  push(std::move(s));
}

void Builder::async_commit() { push({Stmt::Kind::AsyncCommit}); }
void Builder::async_wait(int groups) { push({Stmt::Kind::AsyncWait, -1, Ex(groups).node}); }

void Builder::wgmma(Ex sum, const Buffer& a, Ex a_index, const Buffer& b, Ex b_index) {
  Stmt s{Stmt::Kind::Wgmma, int(sum.node->ival), a_index.node, b_index.node};
  s.source = a.id;
  s.second = b.id;
  push(std::move(s));
}

void Builder::wgmma_fence() { push({Stmt::Kind::WgmmaFence}); }
void Builder::wgmma_commit() { push({Stmt::Kind::WgmmaCommit}); }
void Builder::wgmma_wait(int groups) { push({Stmt::Kind::WgmmaWait, -1, Ex(groups).node}); }
void Builder::async_fence() { push({Stmt::Kind::AsyncFence}); }

void Builder::mbarrier_init(const Buffer& m, Ex index, Ex count) { push({Stmt::Kind::MbarrierInit, m.id, index.node, cast(Elem::I32, count).node}); }
void Builder::mbarrier_expect(const Buffer& m, Ex index, Ex bytes) { push({Stmt::Kind::MbarrierExpect, m.id, index.node, cast(Elem::I32, bytes).node}); }
void Builder::mbarrier_wait(const Buffer& m, Ex index, Ex parity) { push({Stmt::Kind::MbarrierWait, m.id, index.node, cast(Elem::I32, parity).node}); }

void Builder::bulk_copy(const Buffer& to, Ex index, const Buffer& from, Ex source, int bytes, const Buffer& m, Ex m_index) {
  Stmt s{Stmt::Kind::BulkCopy, to.id, index.node, source.node, m_index.node};
  s.source = from.id;
  s.second = m.id;
  s.bytes = bytes;
  push(std::move(s));
}

void Builder::wait_at_least(const Buffer& counter, Ex index, Ex value) {
  if (is_const(value)) value = cast(Elem::U32, value);
  push({Stmt::Kind::WaitAtLeast, counter.id, index.node, value.node});
}

Kernel Builder::finish() { return std::move(kernel_); }

}  // namespace prism::kir
