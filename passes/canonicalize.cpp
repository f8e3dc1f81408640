// canonicalize: rewrites that make ops fewer or simpler and change no number, except that x * sigmoid(x) rounds once
// less.

#include "passes/pattern.h"
#include "passes/util.h"

namespace prism::passes {

using namespace ir;

namespace {

/// Replaces op by one built before it; nothing happens if inference refuses the new op.
bool replace_with(Operation* op, Rewriter& rw, Op kind, llvm::ArrayRef<Value*> operands, AttrMap attrs) {
  Builder b = rw.before(op);
  Value* v = b.build(kind, operands, std::move(attrs));
  if (!b.status()) return false;
  rw.replace(op, v);
  return true;
}

bool is_splat(const Value* v, double value) {
  const Operation* c = defined_by(v, Op::Constant);
  return c && llvm::all_of(c->attr<std::vector<double>>("values"), [&](double x) { return x == value; });
}

/// x op neutral = x, when broadcasting does not change x's shape.
bool drop_neutral(Operation* op, Rewriter& rw, double neutral, bool commutes) {
  for (unsigned side : {0u, 1u}) {
    if (side == 1 && !commutes) break;
    if (!is_splat(op->operand(1 - side), neutral) || op->operand(side)->type != op->result()->type) continue;
    rw.replace(op, op->operand(side));
    return true;
  }
  return false;
}

bool simplify_add(Operation* op, Rewriter& rw) { return drop_neutral(op, rw, 0, true); }
bool simplify_sub(Operation* op, Rewriter& rw) { return drop_neutral(op, rw, 0, false); }
bool simplify_div(Operation* op, Rewriter& rw) { return drop_neutral(op, rw, 1, false); }

bool simplify_mul(Operation* op, Rewriter& rw) {
  if (drop_neutral(op, rw, 1, true)) return true;
  for (unsigned side : {0u, 1u}) {
    const Operation* gate = defined_by(op->operand(side), Op::Sigmoid);
    if (gate && gate->operand(0) == op->operand(1 - side))
      return replace_with(op, rw, Op::Silu, {gate->operand(0)}, {});
  }
  return false;
}

bool simplify_maximum(Operation* op, Rewriter& rw) {
  for (unsigned side : {0u, 1u})
    if (is_splat(op->operand(1 - side), 0) && op->operand(side)->type == op->result()->type)
      return replace_with(op, rw, Op::Relu, {op->operand(side)}, {});
  return false;
}

bool simplify_scale(Operation* op, Rewriter& rw) {
  if (op->attr<double>("by") != 1 || op->attr<double>("plus") != 0) return false;
  rw.replace(op, op->operand(0));
  return true;
}

/// cast, reshape, slice and concat of one that give back the type they got.
bool drop_if_same_type(Operation* op, Rewriter& rw) {
  if (op->operand(0)->type != op->result()->type) return false;
  rw.replace(op, op->operand(0));
  return true;
}

bool simplify_reshape(Operation* op, Rewriter& rw) {
  if (drop_if_same_type(op, rw)) return true;
  const Operation* inner = defined_by(op->operand(0), Op::Reshape);
  return inner && replace_with(op, rw, Op::Reshape, {inner->operand(0)}, op->attrs);
}

bool simplify_transpose(Operation* op, Rewriter& rw) {
  auto perm = op->attr<std::vector<int64_t>>("perm");
  if (llvm::is_sorted(perm)) {
    rw.replace(op, op->operand(0));
    return true;
  }
  const Operation* inner = defined_by(op->operand(0), Op::Transpose);
  if (!inner) return false;
  const auto first = inner->attr<std::vector<int64_t>>("perm");
  for (int64_t& axis : perm) axis = first[axis];
  return replace_with(op, rw, Op::Transpose, {inner->operand(0)}, {{"perm", perm}});
}

bool simplify_slice(Operation* op, Rewriter& rw) {
  if (drop_if_same_type(op, rw)) return true;
  const Operation* inner = defined_by(op->operand(0), Op::Slice);
  if (!inner || inner->attr<int64_t>("axis") != op->attr<int64_t>("axis")) return false;
  const int64_t begin = inner->attr<int64_t>("begin");
  return replace_with(op, rw, Op::Slice, {inner->operand(0)},
                      {{"axis", op->attrs.at("axis")},
                       {"begin", begin + op->attr<int64_t>("begin")},
                       {"end", begin + op->attr<int64_t>("end")}});
}

bool simplify_concat(Operation* op, Rewriter& rw) { return op->operands().size() == 1 && drop_if_same_type(op, rw); }

/// The one `tail` of v with these rows, right after v so that every user may take it.
Value* tail_of(Value* v, const Attr& rows, Rewriter& rw, Graph& g) {
  auto same = [&](const Operation& op) {
    return op.op == Op::Tail && op.parent == &g && op.operand(0) == v && op.attrs.at("rows") == rows;
  };
  Operation* first = insertion_point_after(g, v);
  for (auto it = first ? first->getIterator() : g.ops.end(); it != g.ops.end() && it->op == Op::Tail; ++it)
    if (same(*it)) return it->result();
  llvm::SmallVector<Operation*> others;
  for (const Use& u : v->uses)
    if (same(*u.op)) others.push_back(u.op);
  Builder b(&g, first);
  Value* tail = b.Tail({v}, {{"rows", rows}});
  if (!b.status()) return nullptr;
  for (Operation* other : others) rw.replace(other, tail);
  rw.changed(tail->def);
  return tail;
}

/// Operand `i` of a row-wise op holds one row per row of the result (the other operands are the same for all rows).
/// nullopt: the op is not row-wise.
std::optional<bool> operand_has_rows(const Operation& op, unsigned i) {
  const Type& result = op.result()->type;
  const Type& operand = op.operand(i)->type;
  if (result.rank() != 2) return std::nullopt;
  if (has_trait(op.op, Elementwise)) {
    if (operand.rank() == 2 && operand.dim(0) == result.dim(0)) return true;
    return operand.rank() < 2 ? std::optional(false) : std::nullopt;
  }
  if (has_trait(op.op, RowReduce) || op.op == Op::Linear || op.op == Op::Glu || op.op == Op::Quantize) return i == 0;
  return std::nullopt;
}

/// tail(f(x)) = f(tail(x)) for a row-wise f nobody else needs: rows that are thrown away are not computed.
bool hoist_tail(Operation* op, Rewriter& rw) {
  const Attr rows = op->attrs.at("rows");
  Operation* f = op->operand(0)->def;
  if (!f || only_user(op->operand(0)) != op || f->results.size() != 1 || f->operands().empty()) return false;
  for (unsigned i = 0; i < f->operands().size(); ++i)
    if (!operand_has_rows(*f, i)) return false;
  llvm::SmallVector<Value*> operands(f->operands());
  for (unsigned i = 0; i < operands.size(); ++i)
    if (*operand_has_rows(*f, i)) operands[i] = tail_of(operands[i], rows, rw, *op->parent);
  if (llvm::is_contained(operands, nullptr)) return false;
  return replace_with(op, rw, f->op, operands, f->attrs);
}

bool simplify_tail(Operation* op, Rewriter& rw) {
  if (drop_if_same_type(op, rw)) return true;
  if (const Operation* inner = defined_by(op->operand(0), Op::Tail))
    return replace_with(op, rw, Op::Tail, {inner->operand(0)}, op->attrs);
  return hoist_tail(op, rw);
}

constexpr Pattern kPatterns[] = {
    {Op::Add, simplify_add},       {Op::Sub, simplify_sub},         {Op::Mul, simplify_mul},
    {Op::Div, simplify_div},       {Op::Maximum, simplify_maximum}, {Op::Scale, simplify_scale},
    {Op::Cast, drop_if_same_type}, {Op::Reshape, simplify_reshape}, {Op::Transpose, simplify_transpose},
    {Op::Slice, simplify_slice},   {Op::Concat, simplify_concat},   {Op::Tail, simplify_tail},
};

}  // namespace

Status canonicalize(Module& m, const Options&) {
  for (const auto& g : m.graphs) PRISM_CHECK(apply_patterns(*g, kPatterns));
  return ok();
}

}  // namespace prism::passes
