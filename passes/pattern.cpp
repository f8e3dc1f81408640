#include "passes/pattern.h"

namespace prism::passes {

using namespace ir;

namespace {

bool dead(const Operation* op) {
  return has_trait(op->op, Pure) && llvm::all_of(op->results, [&](const std::unique_ptr<Value>& r) {
           return r->uses.empty() && !op->parent->returned(r.get());
         });
}

}  // namespace

void Rewriter::push(Operation* op) {
  if (queued_.insert(op).second) queue_.push_back(op);
}

Operation* Rewriter::pop() {
  while (!queue_.empty()) {
    Operation* op = queue_.front();
    queue_.pop_front();
    if (queued_.erase(op)) return op;
  }
  return nullptr;
}

void Rewriter::changed(Operation* op) {
  push(op);
  for (const auto& r : op->results)
    for (const Use& u : r->uses) push(u.op);
}

void Rewriter::replace(Operation* op, llvm::ArrayRef<Value*> with) {
  for (size_t i = 0; i < with.size(); ++i) {
    for (const Use& u : op->result(i)->uses) push(u.op);
    if (with[i]->def) push(with[i]->def);
    op->result(i)->replace_all_uses_with(with[i]);
  }
  erase(op);
}

void Rewriter::erase(Operation* root) {
  std::vector<Operation*> doomed = {root};
  while (!doomed.empty()) {
    Operation* op = doomed.back();
    doomed.pop_back();
    llvm::SmallVector<Value*, 4> operands(op->operands());
    queued_.erase(op);
    op->erase();
    llvm::DenseSet<Operation*> seen;
    for (Value* v : operands) {
      for (const Use& u : v->uses)
        if (!v->is_weight()) push(u.op);  // a single use enables rewrites
      if (!v->def || !seen.insert(v->def).second) continue;
      if (dead(v->def)) {
        doomed.push_back(v->def);
      } else {
        push(v->def);
      }
    }
  }
}

Status apply_patterns(Graph& g, llvm::ArrayRef<Pattern> patterns, size_t cap) {
  Rewriter rewriter;
  for (Operation& op : g.ops) rewriter.push(&op);
  size_t rewrites = 0;
  while (Operation* op = rewriter.pop()) {
    const Op kind = op->op;
    for (const Pattern& p : patterns) {
      if (p.root != kind || !p.apply(op, rewriter)) continue;
      if (++rewrites > cap) return error("graph @", g.name, ": patterns reached no fixpoint after ", cap, " rewrites");
      break;  // op may be gone
    }
  }
  return ok();
}

}  // namespace prism::passes
