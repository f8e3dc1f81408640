// Broken copies of a kernel, to see that tests notice: statements left out, expressions replaced. Everything is numbered in
// the order of the text.
#pragma once

#include <functional>

#include "codegen/kir/kir.h"

namespace prism::kir {

namespace detail {

inline void each_block(Block& b, const std::function<void(Block&)>& f) {
  f(b);
  for (Stmt& s : b) {
    each_block(s.body, f);
    each_block(s.otherwise, f);
  }
}

/// Keeps or erases statements; `erase` is asked for each, outer ones first.
inline void filter(Block& b, const std::function<bool(const Stmt&)>& erase) {
  for (auto s = b.begin(); s != b.end();) {
    if (erase(*s)) {
      s = b.erase(s);
      continue;
    }
    filter(s->body, erase);
    filter(s->otherwise, erase);
    ++s;
  }
}

inline Ref rewrite(const Ref& r, const std::function<Ref(const Ref&)>& f) {
  if (!r) return r;
  std::vector<Ref> args;
  bool changed = false;
  for (const Ref& a : r->args) {
    args.push_back(rewrite(a, f));
    changed = changed || args.back() != a;
  }
  Ref now = r;
  if (changed) {
    auto copy = std::make_shared<Node>(*r);
    copy->args = std::move(args);
    now = copy;
  }
  const Ref other = f(now);
  return other ? other : now;
}

}  // namespace detail

using StmtTest = std::function<bool(const Stmt&)>;

inline StmtTest of_kind(Stmt::Kind kind) {
  return [kind](const Stmt& s) { return s.kind == kind; };
}
/// Stores to the buffer of that name.
inline StmtTest store_to(const Kernel& k, const std::string& name) {
  std::vector<bool> named;
  for (const Buffer& b : k.buffers) named.push_back(b.name == name);
  return [named](const Stmt& s) { return s.kind == Stmt::Kind::Store && named[size_t(s.id)]; };
}

inline int count(Kernel k, const StmtTest& test) {
  int n = 0;
  detail::filter(k.body, [&](const Stmt& s) {
    n += test(s);
    return false;
  });
  return n;
}

/// Without the n-th statement that passes the test.
inline Kernel without(Kernel k, const StmtTest& test, int n) {
  detail::filter(k.body, [&](const Stmt& s) { return test(s) && n-- == 0; });
  return k;
}

/// With the n-th statement that passes the test changed by `f`.
inline Kernel changed(Kernel k, const StmtTest& test, int n, const std::function<void(Stmt&)>& f) {
  detail::each_block(k.body, [&](Block& b) {
    for (Stmt& s : b)
      if (test(s) && n-- == 0) f(s);
  });
  return k;
}

/// With every expression for which `f` gives another, inner ones first, replaced by it; `f` gives null for the others.
inline Kernel rewritten(Kernel k, const std::function<Ref(const Ref&)>& f) {
  detail::each_block(k.body, [&](Block& b) {
    for (Stmt& s : b)
      for (Ref* r : {&s.a, &s.b, &s.c}) *r = detail::rewrite(*r, f);
  });
  return k;
}

/// With another kind of operation instead of one: Lt for Le.
inline Kernel with_operation(Kernel k, Kind from, Kind to) {
  return rewritten(std::move(k), [=](const Ref& r) -> Ref {
    if (r->kind != from) return nullptr;
    auto copy = std::make_shared<Node>(*r);
    copy->kind = to;
    return copy;
  });
}

/// With another integer constant instead of one, in all expressions.
inline Kernel with_constant(Kernel k, int64_t from, int64_t to) {
  return rewritten(std::move(k), [=](const Ref& r) -> Ref {
    if (r->kind != Kind::IntConst || r->ival != from) return nullptr;
    auto copy = std::make_shared<Node>(*r);
    copy->ival = to;
    return copy;
  });
}

}  // namespace prism::kir
