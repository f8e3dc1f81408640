// A partition of a graph's ops into clusters that can each become one kernel: with every cluster contracted to a
// point the graph has no cycle.
#pragma once

#include "ir/module.h"
#include "llvm/ADT/DenseMap.h"

namespace prism::passes {

class Clusters {
 public:
  /// Every op is a cluster of its own, except positions and constants: each kernel that needs one gets a copy.
  explicit Clusters(ir::Graph& g);

  /// Puts the clusters of `ops` together; false, and nothing changes, if that would make a cycle.
  bool merge(llvm::ArrayRef<ir::Operation*> ops);

  /// Turns every cluster into a `kernel` op, in an order that respects dependences. The clusters are used up.
  void outline();

 private:
  using Members = llvm::SmallVector<unsigned, 4>;  // indices into ops_, ascending

  bool reenters(const Members& members) const;
  std::vector<unsigned> sorted() const;

  ir::Graph& graph_;
  std::vector<ir::Operation*> ops_;
  llvm::DenseMap<const ir::Operation*, unsigned> index_;
  std::vector<llvm::SmallVector<unsigned, 2>> users_;  // per op
  std::vector<unsigned> cluster_;                      // per op: its cluster, named by the first member
  std::vector<Members> members_;                       // per cluster
};

}  // namespace prism::passes
