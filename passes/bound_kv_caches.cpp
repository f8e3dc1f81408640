// bound-kv-caches: a cache whose readers all have a window keeps as many positions as the windows and the tokens of one step need, in a
// ring, beside the sinks that they read. All entry points share a cache, so the longest step of any of them counts.
#include "passes/plan_memory.h"
#include "passes/util.h"
#include "runtime/base/checked.h"
#include "runtime/base/kv_pages.h"

namespace prism::passes {

using namespace ir;

namespace {

/// The largest window of those that read `cache` or what is made of it; 0 if one reads everything.
int64_t largest_window(const Value* cache) {
  int64_t largest = 0;
  for (const Use& u : cache->uses) {
    const int64_t window = u.op->result()->type.is_kv() ? largest_window(u.op->result()) : u.op->op == Op::Attention ? u.op->attr<int64_t>("window") : 0;
    if (window == 0) return 0;
    largest = std::max(largest, window);
  }
  return largest;
}

/// Of the reader that has most; code generation refuses one that has others.
int64_t most_sinks(const Value* cache) {
  int64_t most = 0;
  for (const Use& u : cache->uses) most = std::max(most, u.op->result()->type.is_kv() ? most_sinks(u.op->result()) : u.op->attr<int64_t>("sinks"));
  return most;
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
      if (const int64_t window = largest_window(arg.get())) {
        const int64_t sinks = most_sinks(arg.get());
        set_ring(arg.get(), sinks + int64_t(round_up(uint64_t(window - 1 + most_tokens), rt::kKvPage)), sinks);
      }
    }
  return ok();
}

}  // namespace prism::passes
