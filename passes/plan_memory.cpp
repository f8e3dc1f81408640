// plan-memory: every kernel result and every graph input gets an offset in the entry point's arena. Values whose
// lifetimes do not overlap share bytes; KV caches live outside the arena (offset -1).
//   kernel attribute     offsets = one per result
//   module attributes    "<entry>.input_offsets", "<entry>.arena_bytes"

#include "passes/plan_memory.h"

#include <cstdio>

#include "ir/op_info.h"
#include "llvm/ADT/DenseMap.h"
#include "passes/util.h"
#include "runtime/base/checked.h"

namespace prism::passes {

using namespace ir;

namespace {

constexpr int64_t kAlignment = 64;  // a cache line, and the widest vector
constexpr int64_t kOutside = -1;    // offset of a value that is not in the arena
constexpr int64_t kMaxBytes = int64_t{1} << 40;

/// A stretch of the arena in use from kernel `first` to kernel `last`, both included.
struct Buffer {
  int64_t bytes = 0;
  size_t first = 0, last = 0;
  int64_t offset = kOutside;
};

/// A kernel may write its only result over the operand it reads at the same places: all its ops are elementwise on one
/// shape, so an element is written after everything that needs it was read.
bool is_pointwise(const Operation& kernel) {
  if (kernel.results.size() != 1) return false;
  const Type& type = kernel.result()->type;
  return llvm::all_of(kernel.body->ops, [&](const Operation& op) {
    return has_trait(op.op, Elementwise) && op.result()->type == type &&
           llvm::all_of(op.operands(), [&](const Value* v) { return v->type == type || v->type.rank() == 1; });
  });
}

class Planner {
 public:
  Planner(Module& m, Graph& g) : module_(m), graph_(g), ranges_(entry_ranges(m, g)) {}

  Status run() {
    PRISM_CHECK(collect());
    place();
    int64_t arena = 0;
    for (const Buffer& b : buffers_) arena = std::max(arena, b.offset + b.bytes);
    for (Operation& op : graph_.ops) {
      std::vector<int64_t> offsets;
      for (const auto& r : op.results) offsets.push_back(offset(r.get()));
      op.attrs["offsets"] = std::move(offsets);
    }
    std::vector<int64_t> inputs;
    for (const auto& a : graph_.args) inputs.push_back(offset(a.get()));
    set_module_attr(module_, graph_.name + ".input_offsets", std::move(inputs));
    set_module_attr(module_, graph_.name + ".arena_bytes", arena);
    return ok();
  }

 private:
  int64_t offset(const Value* v) const {
    auto it = buffer_of_.find(v);
    return it == buffer_of_.end() ? kOutside : buffers_[it->second].offset;
  }

  Status add(const Value* v, size_t now) {
    if (v->type.is_kv()) return ok();
    auto bytes = arena_bytes(v->type, ranges_);
    if (!bytes) return error("graph @", graph_.name, ", %", v->name, ": ", bytes.message());
    buffer_of_[v] = buffers_.size();
    buffers_.push_back({int64_t(round_up(uint64_t(*bytes), kAlignment)), now, last_use(v, now)});
    return ok();
  }

  size_t last_use(const Value* v, size_t now) const {
    if (graph_.returned(v)) return position_.size();
    size_t last = now;
    for (const Use& u : v->uses) last = std::max(last, position_.at(u.op));
    return last;
  }

  /// The buffer of an operand that dies at `kernel` and that its result may take over.
  std::optional<size_t> reusable(const Operation& kernel, size_t now) const {
    if (!is_pointwise(kernel)) return std::nullopt;
    for (const Value* v : kernel.operands()) {
      auto it = buffer_of_.find(v);
      if (it != buffer_of_.end() && v->type == kernel.result()->type && buffers_[it->second].last == now)
        return it->second;
    }
    return std::nullopt;
  }

  Status collect() {
    size_t now = 0;
    for (Operation& op : graph_.ops) position_[&op] = now++;
    for (const auto& a : graph_.args) PRISM_CHECK(add(a.get(), 0));
    for (Operation& op : graph_.ops) {
      now = position_.at(&op);
      if (auto taken = reusable(op, now)) {
        buffer_of_[op.result()] = *taken;
        buffers_[*taken].last = last_use(op.result(), now);
        continue;
      }
      for (const auto& r : op.results) PRISM_CHECK(add(r.get(), now));
    }
    return ok();
  }

  /// Large buffers first; each takes the smallest gap that fits between those placed before and alive at the same time.
  void place() {
    std::vector<Buffer*> order;
    for (Buffer& b : buffers_) order.push_back(&b);
    llvm::stable_sort(order, [](const Buffer* a, const Buffer* b) { return a->bytes > b->bytes; });
    std::vector<const Buffer*> placed;  // by offset
    for (Buffer* b : order) {
      int64_t end = 0, best = kOutside, best_gap = INT64_MAX;
      for (const Buffer* p : placed) {
        if (p->last < b->first || b->last < p->first) continue;
        const int64_t gap = p->offset - end;
        if (gap >= b->bytes && gap < best_gap) {
          best = end;
          best_gap = gap;
        }
        end = std::max(end, p->offset + p->bytes);
      }
      b->offset = best == kOutside ? end : best;
      placed.insert(
          llvm::upper_bound(placed, b, [](const Buffer* x, const Buffer* y) { return x->offset < y->offset; }), b);
    }
  }

  Module& module_;
  Graph& graph_;
  Dim::Ranges ranges_;
  llvm::DenseMap<const Operation*, size_t> position_;
  llvm::DenseMap<const Value*, size_t> buffer_of_;
  std::vector<Buffer> buffers_;
};

template <class T>
T attr_or(const Module& m, const std::string& key, T fallback) {
  const Attr* a = find_module_attr(m, key);
  return a && std::holds_alternative<T>(*a) ? std::get<T>(*a) : fallback;
}

}  // namespace

Dim::Ranges entry_ranges(const Module& m, const Graph& entry) {
  return [&m, prefix = entry.name + "."](std::string_view symbol) {
    Range range = m.ranges()(symbol);
    range.hi = std::min(range.hi, attr_or<int64_t>(m, prefix + std::string(symbol) + ".max", INT64_MAX));
    return range;
  };
}

Result<int64_t> arena_bytes(const Type& t, const Dim::Ranges& ranges) {
  if (t.is_kv()) return 0;
  Type largest = t;
  for (Dim& d : largest.shape) {
    const int64_t hi = d.bounds(ranges).hi;
    if (hi > kMaxBytes) return error("dim ", d.str(), " of ", t.str(), " has no bound below ", kMaxBytes);
    d = hi;
  }
  const std::optional<int64_t> bytes = largest.bytes();
  if (!bytes || *bytes > kMaxBytes) return error("found ", largest.str(), ", expected at most ", kMaxBytes, " bytes");
  return *bytes;
}

std::string memory_plan_table(const Module& m) {
  std::string text;
  char line[256];
  for (const auto& g : m.graphs) {
    const Dim::Ranges ranges = entry_ranges(m, *g);
    auto row = [&](const Value* v, int64_t offset) {
      if (offset == kOutside) return;
      auto bytes = arena_bytes(v->type, ranges);
      std::snprintf(line, sizeof line, "  %10lld %10lld  %-24s %s\n", static_cast<long long>(offset),
                    static_cast<long long>(bytes ? *bytes : 0), v->name.c_str(), v->type.str().c_str());
      text += line;
    };
    const auto inputs = attr_or<std::vector<int64_t>>(m, g->name + ".input_offsets", {});
    std::snprintf(line, sizeof line, "@%s: %lld bytes, %zu kernels\n      offset      bytes  value\n", g->name.c_str(),
                  static_cast<long long>(attr_or<int64_t>(m, g->name + ".arena_bytes", 0)), g->ops.size());
    text += line;
    for (size_t i = 0; i < std::min(inputs.size(), g->args.size()); ++i) row(g->args[i].get(), inputs[i]);
    for (const Operation& op : g->ops) {
      const auto offsets = op.attr<std::vector<int64_t>>("offsets");
      for (size_t i = 0; i < std::min(offsets.size(), op.results.size()); ++i) row(op.result(i), offsets[i]);
    }
  }
  return text;
}

Status plan_memory(Module& m, const Options&) {
  if (m.level != Level::Kernel)
    return error("found a module at level ", level_name(m.level), ", expected ", level_name(Level::Kernel),
                 ": run fuse-epilogues first");
  for (const auto& g : m.graphs) PRISM_CHECK(Planner(m, *g).run());
  return ok();
}

}  // namespace prism::passes
