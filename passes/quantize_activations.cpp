// quantize-activations: activations in the type the kernels multiply. A linear with a quantized weight reads its input
// as q8a (int8 blocks of 32), so that its products are integers. In graphs that can have `bf16_rows` rows or more, linears (all,
// or those with dense weights; those with f32 weights if asked) read bf16 instead, and so do queries of flash attention if
// asked. Users of one input share it.

#include "llvm/ADT/DenseMap.h"
#include "passes/plan_memory.h"
#include "passes/util.h"

namespace prism::passes {

using namespace ir;

namespace {

constexpr int64_t kMatrixColumns = 32;  // bf16 in one row of a matrix register

class Quantizer {
 public:
  Quantizer(Module& m, Graph& g, const Options& options)
      : graph_(g), ranges_(entry_ranges(m, g)), bf16_rows_(options.get_int("bf16_rows", 0)), layout_(options.get("bf16_layout", "tiles")),
        all_linears_(options.get("bf16_linears", "all") == "all"), f32_(options.get("bf16_f32", "no") == "yes"), queries_(options.get("bf16_queries", "no") == "yes") {}

  Status run() {
    for (Operation& op : graph_.ops) {
      if (op.op == Op::Linear) PRISM_CHECK(linear(op));
      if (op.op == Op::FlashAttention) PRISM_CHECK(attention(op));
    }
    return ok();
  }

 private:
  bool many(Dim rows) const { return bf16_rows_ > 0 && rows.bounds(ranges_).hi >= bf16_rows_; }

  Status linear(Operation& op) {
    Value* x = op.operand(0);
    const DType weight = op.operand(1)->type.dtype;
    const std::optional<int64_t> k = x->type.dim(-1).constant();
    if (x->type.dtype != DType::F32) return ok();
    if (many(rows_of(x->type)) && (f32_ || weight != DType::F32) && (all_linears_ || !info(weight).quantized) && k && *k % kMatrixColumns == 0) {
      PRISM_TRY(Value* narrow, bf16(x, layout_, &op));
      op.set_operand(0, narrow);
      return ok();
    }
    if (!info(weight).quantized) return ok();
    const int64_t block = info(DType::Q8A).block;
    if (!k || *k % block)
      return error("linear %", op.result()->name, ": found ", x->type.dim(-1).str(), " columns, expected a multiple of ",
                   block, " for q8a");
    Value*& q = q8a_[x];
    if (!q) {
      Builder b(&graph_, &op);
      q = b.Quantize({x}, {{"format", std::string("q8a")}}, x->name + ".q8a");
      PRISM_CHECK(b.status());
    }
    op.set_operand(0, q);
    return ok();
  }

  /// The queries become bf16, and so does the result, with its heads side by side: users go on with f32, unless they
  /// take bf16 too.
  Status attention(Operation& op) {
    Value* q = op.operand(0);
    if (!queries_ || q->type.dtype != DType::F32 || !many(q->type.dim(0)) || *q->type.dim(-1).constant() % kMatrixColumns) return ok();
    Value* old = op.result();
    const Operation* heads = only_user(old);
    Builder b(&graph_, &op);
    llvm::SmallVector<Value*> operands(op.operands());
    for (Value*& v : operands)
      if (!v->type.is_kv()) {
        PRISM_TRY(v, bf16(v, "row_major", &op));
      }
    Value* narrow = b.FlashAttention(operands, op.attrs, old->name + ".bf16");
    if (heads && heads->op == Op::Hadamard) {
      old = heads->result();
      narrow = b.Hadamard({narrow}, {}, old->name + ".bf16");
      heads = only_user(old);
    }
    if (heads && heads->op == Op::Reshape) {
      old = heads->result();
      narrow = b.Reshape({narrow}, heads->attrs, old->name + ".bf16");
    }
    Value* wide = b.Cast({narrow}, {{"to", std::string("f32")}}, old->name + ".f32");
    PRISM_CHECK(b.status());
    old->replace_all_uses_with(wide);
    narrow_[wide] = narrow;
    return ok();
  }

  /// x in bf16; what was widened is not rounded again.
  Result<Value*> bf16(Value* x, std::string layout, Operation* before) {
    Value*& made = (layout == "tiles" ? tiles_ : bf16_)[x];
    if (!made) {
      Builder b(&graph_, before);
      Value* narrow = narrow_.lookup(x);
      made = b.Cast({narrow ? narrow : x}, {{"to", std::string("bf16")}, {"layout", std::move(layout)}}, x->name + ".bf16");
      PRISM_CHECK(b.status());
    }
    return made;
  }

  Graph& graph_;
  Dim::Ranges ranges_;
  int64_t bf16_rows_;
  std::string layout_;
  bool all_linears_, f32_, queries_;
  llvm::DenseMap<Value*, Value*> q8a_, bf16_, tiles_;
  llvm::DenseMap<Value*, Value*> narrow_;  // what a widened value was made of
};

}  // namespace

Status quantize_activations(Module& m, const Options& options) {
  for (const auto& g : m.graphs) PRISM_CHECK(Quantizer(m, *g, options).run());
  return ok();
}

}  // namespace prism::passes
