// quantize-activations: a linear with a quantized weight reads its input as q8a (int8 blocks of 32), so that the
// products are integer dot products. Linears of one input share the quantized value.

#include "llvm/ADT/DenseMap.h"
#include "passes/util.h"

namespace prism::passes {

using namespace ir;

Status quantize_activations(Module& m, const Options&) {
  const int64_t block = info(DType::Q8A).block;
  for (const auto& g : m.graphs) {
    llvm::DenseMap<Value*, Value*> quantized;
    for (Operation& op : g->ops) {
      if (op.op != Op::Linear || !info(op.operand(1)->type.dtype).quantized) continue;
      Value* x = op.operand(0);
      if (info(x->type.dtype).quantized) continue;
      const std::optional<int64_t> k = x->type.dim(-1).constant();
      if (!k || *k % block)
        return error("linear %", op.result()->name, ": found ", x->type.dim(-1).str(),
                     " columns, expected a multiple of ", block, " for q8a");
      Value*& q = quantized[x];
      if (!q) {
        Builder b(g.get(), &op);
        q = b.Quantize({x}, {{"format", std::string("q8a")}}, x->name + ".q8a");
        PRISM_CHECK(b.status());
      }
      op.set_operand(0, q);
    }
  }
  return ok();
}

}  // namespace prism::passes
