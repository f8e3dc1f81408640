// evict-kv: attention that reads everything reads the first positions and the newest instead, and streams may be longer than the context
// that a model was made for. Not exact: what is evicted is forgotten. Without the first positions, attention's sinks, models break
// (StreamingLLM, Xiao et al. 2023).
//
// Keys stay rotated by the positions at which they were appended. A query stands no further from the sinks than from the oldest of the others
// that are kept, however long the stream (LM-Infinite, Han et al. 2023): for them it is rotated by a position of its own. Until
// something is evicted that is its position, and nothing changes.
#include "llvm/ADT/STLExtras.h"
#include "passes/util.h"
#include "runtime/base/kv_pages.h"

namespace prism::passes {

using namespace ir;

namespace {

constexpr int64_t kSinks = rt::kKvPage;
constexpr int64_t kLeast = 4 * rt::kKvPage;        // positions that are kept
constexpr int64_t kMostPositions = 1 << 24;        // of a stream: masks have positions in f32

class Evicter {
 public:
  Evicter(Graph& g, int64_t kept) : graph_(g), kept_(kept) {}

  Status attention(Operation& op) {
    if (!op.attr<bool>("causal")) return error("attention %", op.result()->name, ": found causal=false, expected true to evict what its cache has");
    Builder b(&graph_, &op);
    PRISM_TRY(Value* sink_q, for_sinks(op.operand(0), b));
    AttrMap attrs = op.attrs;
    attrs["window"] = kept_ - kSinks;
    attrs["sinks"] = kSinks;
    Value* evicting = b.Attention({op.operand(0), op.operand(1), sink_q}, std::move(attrs), op.result()->name);
    PRISM_CHECK(b.status());
    op.result()->replace_all_uses_with(evicting);
    op.erase();
    return ok();
  }

 private:
  /// What makes the queries `q`, by positions that are less than kept_.
  Result<Value*> for_sinks(Value* q, Builder& b) {
    const Operation* op = q->def;
    const auto unrotated = [&] {
      return error("%", q->name, ": found queries that no rope of their positions makes, expected one: without, positions can't go on after evictions");
    };
    const auto again = [&](unsigned operand, Value* v) {
      llvm::SmallVector<Value*> operands(op->operands());
      operands[operand] = v;
      return b.build(op->op, operands, op->attrs, q->name + ".sinks");
    };
    if (!op) return unrotated();
    switch (op->op) {
      case Op::Rope: {
        const Operation* positions = defined_by(op->operand(1), Op::Positions);
        if (!positions) return unrotated();
        AttrMap attrs = positions->attrs;
        attrs["most"] = kept_ - 1;
        return again(1, b.Positions({}, std::move(attrs), op->operand(1)->name + ".sinks"));
      }
      case Op::Hadamard: case Op::RmsNorm: case Op::Scale: case Op::Mul: case Op::Add: case Op::Reshape: {
        PRISM_TRY(Value* v, for_sinks(op->operand(0), b));
        return again(0, v);
      }
      default: return unrotated();
    }
  }

  Graph& graph_;
  const int64_t kept_;
};

}  // namespace

Status evict_kv(Module& m, const Options& options) {
  const int64_t kept = options.get_int("positions", 4096);
  if (kept < kLeast || kept % rt::kKvPage || kept > kMostPositions)
    return error("option positions: found ", kept, ", expected a multiple of ", rt::kKvPage, " from ", kLeast, " to ", kMostPositions);
  for (const auto& g : m.graphs) {
    Evicter evicter(*g, kept);
    for (Operation& op : llvm::make_early_inc_range(g->ops))
      if (op.op == Op::Attention && op.attr<int64_t>("window") == 0) PRISM_CHECK(evicter.attention(op));
  }
  if (const auto past = m.dims.find("past"); past != m.dims.end()) past->second.hi = kMostPositions;
  if (find_module_attr(m, "context_length")) set_module_attr(m, "context_length", kMostPositions);
  return ok();
}

}  // namespace prism::passes
