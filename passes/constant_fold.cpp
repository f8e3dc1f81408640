// constant-fold: ops on constants become constants, computed by the reference evaluator. Results above the size
// budget are left: they would trade computation for memory traffic.

#include <cmath>

#include "ir/eval.h"
#include "passes/util.h"

namespace prism::passes {

using namespace ir;

namespace {

bool foldable(const Operation& op, int64_t limit) {
  if (op.op == Op::Constant || has_trait(op.op, HasBody) || !has_trait(op.op, Pure)) return false;
  if (op.operands().empty() || op.results.size() != 1) return false;
  const Type& type = op.result()->type;
  if (type.is_kv() || info(type.dtype).quantized || type.bytes().value_or(INT64_MAX) > limit) return false;
  return llvm::all_of(op.operands(), [](const Value* v) { return defined_by(v, Op::Constant) != nullptr; });
}

/// The value of `op`, computed in a graph of its own.
Result<Tensor> evaluate(const Operation& op, Module& m) {
  Graph scratch(&m);
  llvm::SmallVector<Value*> operands;
  for (Value* v : op.operands()) operands.push_back(scratch.insert(Op::Constant, {}, v->def->attrs, v->type)->result());
  scratch.returns = {scratch.insert(op.op, operands, op.attrs, op.result()->type)->result()};
  PRISM_TRY(auto results, Evaluator(m).run(scratch, {}, {}));
  return std::move(results.front());
}

}  // namespace

Status constant_fold(Module& m, const Options& options) {
  const int64_t limit = options.get_int("limit", 65536);
  for (const auto& g : m.graphs)
    for (Operation& op : llvm::make_early_inc_range(g->ops)) {
      if (!foldable(op, limit)) continue;
      PRISM_TRY(Tensor value, evaluate(op, m));
      std::vector<double> values(value.f.begin(), value.f.end());
      if (values.empty()) values.assign(value.i.begin(), value.i.end());
      if (!llvm::all_of(values, [](double x) { return std::isfinite(x); })) continue;  // no literal in C
      const Type& type = op.result()->type;
      AttrMap attrs = {{"values", std::move(values)},
                       {"shape", shape_str(type.shape)},
                       {"dtype", std::string(info(type.dtype).name)}};
      Operation* folded = g->insert(Op::Constant, {}, std::move(attrs), type, &op);
      op.result()->replace_all_uses_with(folded->result());
      op.erase();
    }
  return ok();
}

}  // namespace prism::passes
