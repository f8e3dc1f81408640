#include "passes/clusters.h"

#include <set>

#include "ir/op_info.h"

namespace prism::passes {

using namespace ir;

namespace {

/// Ops that cost less than reading their result.
bool is_copied(const Operation& op) {
  return (op.op == Op::Positions || op.op == Op::Constant) && !op.parent->returned(op.result());
}

/// Replaces `ops`, which are adjacent and in order, by one kernel.
void make_kernel(Graph& g, llvm::ArrayRef<Operation*> ops) {
  auto body = std::make_unique<Graph>(g.module);
  llvm::DenseMap<const Value*, Value*> inner;
  llvm::SmallVector<Value*> operands;
  unsigned values = 0;

  // Names depend on places only, so that the bodies of equal kernels print alike.
  auto copy = [&](const Operation& op, llvm::ArrayRef<Value*> with) {
    llvm::SmallVector<Type, 2> types;
    for (const auto& r : op.results) types.push_back(r->type);
    Operation* made = body->insert(op.op, with, op.attrs, types);
    for (size_t i = 0; i < op.results.size(); ++i) {
      body->rename(made->result(i), "v" + std::to_string(values++));
      inner[op.result(i)] = made->result(i);
    }
  };
  auto inside = [&](Value* v) {
    auto it = inner.find(v);
    if (it != inner.end()) return it->second;
    if (v->def && is_copied(*v->def)) {
      copy(*v->def, {});
    } else {
      inner[v] = body->add_arg(v->type, "a" + std::to_string(operands.size()));
      operands.push_back(v);
    }
    return inner[v];
  };

  llvm::SmallVector<Value*> results;
  llvm::SmallVector<Type> types;
  for (Operation* op : ops) {
    llvm::SmallVector<Value*, 4> with;
    for (Value* v : op->operands()) with.push_back(inside(v));
    copy(*op, with);
  }
  for (Operation* op : ops)
    for (const auto& r : op->results) {
      const bool outside = llvm::any_of(r->uses, [&](const Use& u) { return !llvm::is_contained(ops, u.op); });
      if (!outside && !g.returned(r.get())) continue;
      results.push_back(r.get());
      types.push_back(r->type);
      body->returns.push_back(inner[r.get()]);
    }

  Operation* kernel = g.insert(Op::Kernel, operands, {}, types, ops.front());
  kernel->body = std::move(body);
  std::vector<std::string> names;
  for (size_t i = 0; i < results.size(); ++i) {
    results[i]->replace_uses_if(kernel->result(i), [&](const Use& u) { return !llvm::is_contained(ops, u.op); });
    for (Value*& returned : g.returns)
      if (returned == results[i]) returned = kernel->result(i);
    names.push_back(results[i]->name);
  }
  for (Operation* op : llvm::reverse(ops)) op->erase();
  for (size_t i = 0; i < names.size(); ++i) g.rename(kernel->result(i), names[i]);
}

}  // namespace

Clusters::Clusters(Graph& g) : graph_(g) {
  for (Operation& op : g.ops) {
    if (is_copied(op)) continue;
    index_[&op] = unsigned(ops_.size());
    cluster_.push_back(unsigned(ops_.size()));
    members_.push_back({unsigned(ops_.size())});
    ops_.push_back(&op);
  }
  users_.resize(ops_.size());
  for (unsigned i = 0; i < ops_.size(); ++i)
    for (const auto& r : ops_[i]->results)
      for (const Use& u : r->uses) users_[i].push_back(index_.at(u.op));
}

/// Is there a way out of `members` and, through other clusters, back in?
bool Clusters::reenters(const Members& members) const {
  std::vector<char> visited(ops_.size());  // per cluster; 2 = one of ours
  for (unsigned i : members) visited[cluster_[i]] = 2;
  std::vector<unsigned> work;
  auto leave = [&](unsigned op, bool from_inside) {
    for (unsigned user : users_[op]) {
      const unsigned c = cluster_[user];
      if (visited[c] == 2 && !from_inside) return true;
      if (visited[c]) continue;
      visited[c] = 1;
      work.push_back(c);
    }
    return false;
  };
  for (unsigned i : members) leave(i, true);
  while (!work.empty()) {
    const unsigned c = work.back();
    work.pop_back();
    for (unsigned i : members_[c])
      if (leave(i, false)) return true;
  }
  return false;
}

bool Clusters::merge(llvm::ArrayRef<Operation*> ops) {
  std::set<unsigned> clusters;
  for (Operation* op : ops) clusters.insert(cluster_[index_.at(op)]);
  Members all;
  for (unsigned c : clusters) all.append(members_[c]);
  llvm::sort(all);
  if (reenters(all)) return false;
  for (unsigned c : clusters) members_[c].clear();
  for (unsigned i : all) cluster_[i] = all.front();
  members_[all.front()] = std::move(all);
  return true;
}

/// Clusters so that each comes after those it reads from; the earliest first op goes first.
std::vector<unsigned> Clusters::sorted() const {
  std::vector<unsigned> waiting(ops_.size());  // edges from clusters not yet placed
  for (unsigned i = 0; i < ops_.size(); ++i)
    for (unsigned user : users_[i]) waiting[cluster_[user]] += cluster_[user] != cluster_[i];
  std::set<unsigned> ready;
  for (unsigned c = 0; c < ops_.size(); ++c)
    if (!members_[c].empty() && !waiting[c]) ready.insert(c);
  std::vector<unsigned> order;
  while (!ready.empty()) {
    const unsigned c = *ready.begin();
    ready.erase(ready.begin());
    order.push_back(c);
    for (unsigned i : members_[c])
      for (unsigned user : users_[i])
        if (cluster_[user] != c && --waiting[cluster_[user]] == 0) ready.insert(cluster_[user]);
  }
  return order;
}

void Clusters::outline() {
  const std::vector<unsigned> order = sorted();
  for (unsigned c : order)
    for (unsigned i : members_[c]) graph_.ops.splice(graph_.ops.end(), graph_.ops, ops_[i]->getIterator());
  for (unsigned c : order) {
    std::vector<Operation*> ops;
    for (unsigned i : members_[c]) ops.push_back(ops_[i]);
    if (ops.size() > 1 || ops.front()->op != Op::Kernel) make_kernel(graph_, ops);
  }
  for (Operation& op : llvm::make_early_inc_range(graph_.ops))
    if (is_copied(op)) op.erase();
}

}  // namespace prism::passes
