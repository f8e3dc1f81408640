#include "codegen/work.h"

#include <algorithm>

#include "codegen/expr.h"
#include "codegen/fill_weight.h"
#include "codegen/generate.h"
#include "ir/kv_pages.h"
#include "ir/op_info.h"

namespace prism::codegen {
namespace {

using ir::Dim;
using ir::Op;
using rt::Expr;

Expr constant(int64_t v) { return Expr::constant(v); }

Dim elements(const ir::Type& t) {
  Dim n = 1;
  for (Dim d : t.shape) n = n * d;
  return n;
}

/// Quantized formats are blocked along the last axis.
Dim bytes(const ir::Type& t) {
  const ir::DTypeInfo& f = ir::info(t.dtype);
  if (f.block == 1) return elements(t) * Dim(int64_t(f.bytes));
  Dim n = int64_t(f.bytes);
  for (size_t i = 0; i < t.rank(); ++i) n = n * (i + 1 < t.rank() ? t.dim(int(i)) : Dim::floor_div(t.dim(int(i)), int64_t(f.block)));
  return n;
}

class Counter {
 public:
  Counter(const ir::Operation& kernel, const std::function<Expr(Dim)>& expression) : kernel_(kernel), expression_(expression) {}

  Result<rt::Work> run() {
    const ir::Graph& body = *kernel_.body;
    for (const auto& a : body.args) PRISM_CHECK(argument(*a));
    for (const ir::Value* v : body.returns)
      if (!v->type.is_kv()) activations_ = activations_ + bytes(v->type);
    for (const ir::Operation& op : body.ops) operation(op);
    return rt::Work{weights_, kv_, expression_(activations_), operations_};
  }

 private:
  Status argument(const ir::Value& a) {
    if (a.type.is_kv()) return ok();  // by the ops that use it
    const bool weight = kernel_.operand(a.index)->is_weight();
    const auto reads = [&](Op op) { return !a.uses.empty() && std::all_of(a.uses.begin(), a.uses.end(), [&](const ir::Use& u) { return u.op->op == op; }); };
    if (weight && reads(Op::Embedding)) {  // a row for each id
      PRISM_TRY(const uint64_t table, weight_bytes(a.type));
      const Expr rows = expression_(a.uses[0].op->operand(0)->type.dim(0));
      weights_ = weights_ + rows * constant(int64_t(table) / *a.type.dim(0).constant());
    } else if (weight) {
      PRISM_TRY(const uint64_t all, weight_bytes(a.type));
      weights_ = weights_ + constant(int64_t(all));
    } else if (reads(Op::Tail) || reads(Op::Slice)) {  // a part of it
      for (const ir::Use& u : a.uses) activations_ = activations_ + bytes(u.op->result()->type);
    } else {
      activations_ = activations_ + bytes(a.type);
    }
    return ok();
  }

  void operation(const ir::Operation& op) {
    switch (op.op) {
      case Op::Reshape: case Op::Slice: case Op::Tail: case Op::Transpose: case Op::Concat: case Op::Constant: case Op::Positions: return;
      case Op::Linear: return add(elements(op.result()->type) * op.operand(1)->type.dim(-1) * Dim(2));
      case Op::Matmul: return add(elements(op.result()->type) * op.operand(0)->type.dim(-1) * Dim(2));
      case Op::Conv2d: {
        const ir::Type& k = op.operand(1)->type;
        return add(elements(op.result()->type) * k.dim(1) * k.dim(2) * k.dim(3) * Dim(2));
      }
      case Op::KvDemote: return;   // most steps have none to do
      case Op::KvAppend: {
        const ir::Type& kv = op.operand(0)->type;
        kv_ = kv_ + expression_(op.operand(1)->type.dim(0) * position_bytes(kv));
        return;
      }
      case Op::FlashAttention: return attention(op);
      default:
        for (const auto& r : op.results) add(elements(r->type));
    }
  }

  /// Keys by keys: q k^T and the sum of the values take a product and a sum for each element of a head.
  void attention(const ir::Operation& op) {
    const ir::Type &q = op.operand(0)->type, &kv = op.operand(1)->type;
    const Expr rows = expression_(q.dim(0)), positions = expression_(kv.dim(0)), before = positions - rows;
    const int64_t seen = op.attr<int64_t>("window"), window = seen ? seen + op.attr<int64_t>("sinks") : 0;   // the sinks are seen beside it
    Expr keys = rows * positions, read = positions;  // seen by all rows together, and by at least one
    if (op.attr<bool>("causal")) {
      // Row i sees i + 1 keys, or the window: all of them up to the last row's less those up to the row before the first.
      const auto up_to = [&](const Expr& x) {
        const Expr all = window > 0 ? min(x, constant(window)) : x;
        const Expr sum = floor_div(all * (all + constant(1)), constant(2));
        return window > 0 ? sum + max(x - constant(window), constant(0)) * constant(window) : sum;
      };
      keys = up_to(positions) - up_to(before);
      if (window > 0) read = min(positions, rows + constant(window - 1));
    }
    kv_ = kv_ + read * expression_(position_bytes(kv));
    operations_ = operations_ + keys * expression_(q.dim(1) * q.dim(2) * Dim(4));
  }

  /// A key and a value of every head.
  static Dim position_bytes(const ir::Type& kv) {
    if (!kv.is_compressed()) return kv.dim(1) * kv.dim(2) * Dim(2 * int64_t(ir::info(kv.dtype).bytes));
    // The few exact positions are counted like the others.
    const int64_t page = ir::kv_plane(kv, true).page_bytes() + ir::kv_plane(kv, false).page_bytes();
    return page / rt::kKvPage;
  }
  void add(Dim n) { operations_ = operations_ + expression_(n); }

  const ir::Operation& kernel_;
  const std::function<Expr(Dim)>& expression_;
  Expr weights_ = constant(0), kv_ = constant(0), operations_ = constant(0);
  Dim activations_ = 0;
};

}  // namespace

Result<rt::Work> work_of(const ir::Operation& kernel, const std::function<rt::Expr(ir::Dim)>& expression) { return Counter(kernel, expression).run(); }

}  // namespace prism::codegen
