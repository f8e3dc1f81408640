// Mutants: a kernel with one statement less or one expression changed, to see that the tests notice.
#pragma once

#include <functional>

#include "codegen/kir/kir.h"

namespace prism::kir {

/// Calls visit(block, i) for the statements in order, inner ones after the statement they are in, until it returns true.
inline bool find_statement(Block& block, const std::function<bool(Block&, size_t)>& visit) {
  for (size_t i = 0; i < block.size(); ++i) {
    if (visit(block, i)) return true;
    if (find_statement(block[i].body, visit) || find_statement(block[i].otherwise, visit)) return true;
  }
  return false;
}

/// The kernel without statement number `n` of those that `wanted` picks; false if there are not so many.
inline bool drop_statement(Kernel& k, int n, const std::function<bool(const Stmt&)>& wanted) {
  return find_statement(k.body, [&](Block& block, size_t i) {
    if (!wanted(block[i]) || n-- > 0) return false;
    block.erase(block.begin() + long(i));
    return true;
  });
}

/// The expression with every node that `change` has something for replaced by it.
inline Ref rewritten(const Ref& r, const std::function<Ref(const Node&)>& change) {
  if (!r) return r;
  if (Ref other = change(*r)) return other;
  auto copy = std::make_shared<Node>(*r);
  for (Ref& a : copy->args) a = rewritten(a, change);
  return copy;
}

inline void rewrite(Block& block, const std::function<Ref(const Node&)>& change) {
  for (Stmt& s : block) {
    for (Ref* r : {&s.a, &s.b, &s.c}) *r = rewritten(*r, change);
    rewrite(s.body, change);
    rewrite(s.otherwise, change);
  }
}

}  // namespace prism::kir
