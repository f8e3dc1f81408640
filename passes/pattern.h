// Rewrites driven by a worklist: deterministic order (graph order), capped number of rewrites.
#pragma once

#include <deque>

#include "ir/builder.h"
#include "llvm/ADT/DenseSet.h"

namespace prism::passes {

class Rewriter {
 public:
  ir::Builder before(ir::Operation* op) { return ir::Builder(op->parent, op); }
  /// Replaces all uses of op's results, queues the users, erases op and operands that became dead.
  void replace(ir::Operation* op, llvm::ArrayRef<ir::Value*> with);
  void erase(ir::Operation* op);
  void changed(ir::Operation* op);  ///< op is new or was edited in place: visit it and its users again

 private:
  friend Status apply_patterns(ir::Graph& g, llvm::ArrayRef<struct Pattern> patterns, size_t cap);
  void push(ir::Operation* op);
  ir::Operation* pop();               ///< nullptr when empty
  std::deque<ir::Operation*> queue_;  ///< may hold erased ops; `queued_` says which entries count
  llvm::DenseSet<ir::Operation*> queued_;
};

struct Pattern {
  ir::Op root;
  bool (*apply)(ir::Operation*, Rewriter&);  ///< true if it changed something
};

/// Applies patterns to a graph until nothing changes. Error if `cap` rewrites did not reach a fixpoint.
Status apply_patterns(ir::Graph& g, llvm::ArrayRef<Pattern> patterns, size_t cap = 1'000'000);

}  // namespace prism::passes
