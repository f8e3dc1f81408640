// bound-kv-caches: a cache whose readers all have a window keeps as many positions as the windows and the tokens of one step need, in a
// ring, beside the sinks that they read. All entry points share a cache, so the longest step of any of them counts.
#include "passes/plan_memory.h"
#include "passes/util.h"
#include "runtime/base/checked.h"
#include "runtime/base/kv_pages.h"

namespace prism::passes {

using namespace ir;

namespace {

/// What reads `cache`, or what is made of it.
void add_readers(const Value* cache, llvm::SmallVectorImpl<const Operation*>& readers) {
  for (const Use& u : cache->uses) {
    if (u.op->result()->type.is_kv()) add_readers(u.op->result(), readers);
    else readers.push_back(u.op);
  }
}

void set_ring(Value* cache, int64_t ring, int64_t sinks) {
  cache->type.ring = ring;
  cache->type.sinks = sinks;
  for (const Use& u : cache->uses)
    if (u.op->result()->type.is_kv()) set_ring(u.op->result(), ring, sinks);
}

}  // namespace

Status bound_kv_caches(Module& m, const Options&) {
  int64_t most_tokens = 1;
  for (const auto& g : m.graphs)
    for (const Operation& op : g->ops)
      if (op.op == Op::KvAppend || op.op == Op::Attention)
        most_tokens = std::max(most_tokens, op.operand(op.op == Op::KvAppend)->type.dim(0).bounds(entry_ranges(m, *g)).hi);
  for (const auto& g : m.graphs)
    for (const auto& arg : g->args) {
      if (!arg->type.is_kv()) continue;
      llvm::SmallVector<const Operation*> readers;
      add_readers(arg.get(), readers);
      int64_t window = 0, sinks = 0;   // of the reader that has most; code generation refuses one that has other sinks
      const auto has_window = [](const Operation* op) { return op->op == Op::Attention && op->attr<int64_t>("window") > 0; };
      if (!llvm::all_of(readers, has_window)) continue;
      for (const Operation* op : readers) {
        window = std::max(window, op->attr<int64_t>("window"));
        sinks = std::max(sinks, op->attr<int64_t>("sinks"));
      }
      if (window) set_ring(arg.get(), sinks + int64_t(round_up(uint64_t(window - 1 + most_tokens), rt::kKvPage)), sinks);
    }
  return ok();
}

}  // namespace prism::passes
