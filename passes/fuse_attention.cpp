// fuse-attention: attention becomes flash_attention, which walks over tiles of keys and never holds the score matrix.
// Scale, mask, window and soft cap are kept; heads are grouped (GQA) by the shapes as before.

#include "passes/pattern.h"
#include "passes/plan_memory.h"
#include "passes/util.h"
#include "runtime/base/checked.h"

namespace prism::passes {

using namespace ir;

namespace {

constexpr int64_t kKeyBlock = 32;  // two of the cache's blocks of 16 positions, a column of matrix registers

/// Of the step that a compressed cache is read in.
int64_t most_appended(const Value* kv, const Dim::Ranges& ranges) {
  const Operation* append = kv->def && kv->def->op == Op::KvDemote ? kv->def->operand(0)->def : kv->def;
  return append && append->op == Op::KvAppend ? append->operand(1)->type.dim(0).bounds(ranges).hi : 0;
}

void most_tokens(Operation& append, int64_t rows) {
  append.attrs["most_tokens"] = rows;
  for (const Use& u : append.result()->uses)
    if (u.op->op == Op::KvDemote) u.op->attrs["most_tokens"] = rows;
}

}  // namespace

Status fuse_attention(Module& m, const Options& options) {
  const int64_t tile_k = options.get_int("tile_k", 64);
  if (tile_k % kKeyBlock) return error("option tile_k: found ", tile_k, ", expected a multiple of ", kKeyBlock);
  for (const auto& g : m.graphs)
    for (Operation& op : llvm::make_early_inc_range(g->ops)) {
      // A compressed cache is fed in another way when there can be many tokens.
      if (op.op == Op::KvAppend && op.result()->type.is_compressed()) most_tokens(op, op.operand(1)->type.dim(0).bounds(entry_ranges(m, *g)).hi);
      if (op.op != Op::Attention) continue;
      const int64_t window = op.attr<int64_t>("window");
      const int64_t rows = op.operand(0)->type.dim(0).bounds(entry_ranges(m, *g)).hi;
      AttrMap attrs = op.attrs;
      attrs["most_tokens"] = rows;
      if (const int64_t appended = op.operand(1)->type.is_compressed() ? most_appended(op.operand(1), entry_ranges(m, *g)) : 0; appended > rows) attrs["most_appended"] = appended;
      attrs["tile_k"] = window > 0 && window < tile_k ? int64_t(round_up(window, kKeyBlock)) : tile_k;
      Operation* flash = g->insert(Op::FlashAttention, op.operands(), std::move(attrs), op.result()->type, &op);
      op.result()->replace_all_uses_with(flash->result());
      op.erase();
    }
  return ok();
}

}  // namespace prism::passes
