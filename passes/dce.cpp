// dce: removes ops whose results nobody uses, then weights that no op uses and no used weight is made from.

#include "llvm/ADT/StringSet.h"
#include "passes/util.h"

namespace prism::passes {

using namespace ir;

Status dce(Module& m, const Options&) {
  for (const auto& g : m.graphs)
    for (auto it = g->ops.rbegin(); it != g->ops.rend();) {
      Operation& op = *it++;
      const bool used =
          llvm::any_of(op.results, [&](const auto& r) { return !r->uses.empty() || g->returned(r.get()); });
      if (!used && has_trait(op.op, Pure)) op.erase();
    }

  llvm::StringSet<> sources;
  for (const auto& w : m.weights)
    if (!w->value.uses.empty()) sources.insert(w->sources.begin(), w->sources.end());
  for (size_t i = m.weights.size(); i-- > 0;) {
    Weight* w = m.weights[i].get();
    if (w->value.uses.empty() && !sources.contains(w->value.name)) m.erase_weight(w);
  }
  return ok();
}

}  // namespace prism::passes
