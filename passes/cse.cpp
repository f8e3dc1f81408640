// cse: of several equal pure ops the first one stays.

#include <tuple>

#include "passes/util.h"

namespace prism::passes {

using namespace ir;

Status cse(Module& m, const Options&) {
  using Key = std::tuple<Op, std::vector<Value*>, AttrMap>;
  for (const auto& g : m.graphs) {
    std::map<Key, Operation*> seen;
    for (Operation& op : llvm::make_early_inc_range(g->ops)) {
      if (!has_trait(op.op, Pure) || has_trait(op.op, HasBody)) continue;
      auto [it, inserted] = seen.emplace(Key(op.op, op.operands().vec(), op.attrs), &op);
      if (inserted) continue;
      for (size_t i = 0; i < op.results.size(); ++i) op.result(i)->replace_all_uses_with(it->second->result(i));
      op.erase();
    }
  }
  return ok();
}

}  // namespace prism::passes
