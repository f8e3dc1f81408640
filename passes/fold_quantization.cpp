// fold-quantization: quantize and dequantize go into what is around them. Of weights they become a weight of that type, made when the
// program's weights are; an input's are dropped where the linear's kernel multiplies its integers.
//   linear(dequantize(quantize(x) : q8a), dequantize(quantize(hadamard(@w)) : q8_0))  ->  linear(quantize(x), @w.q8_0)
//   linear(x, cast(@w) : f16)                                                         ->  linear(x, @w.f16)
//   linear(dequantize(quantize(x) : i8), @w.q8_0), no zero point                      ->  linear(quantize(x) {format=q8a, scale}, @w.q8_0)

#include "llvm/ADT/DenseMap.h"
#include "passes/util.h"

namespace prism::passes {

using namespace ir;

namespace {

/// The weight that holds what is computed from another by hadamard, quantize and cast; nullptr if `v` is no such value.
Value* converted(Module& m, const Value* v) {
  Type type = v->type;
  Conversion conversion;
  if (const Operation* wide = defined_by(v, Op::Dequantize)) v = wide->operand(0);
  if (const Operation* quantize = defined_by(v, Op::Quantize); quantize && v->type.dtype == DType::Q8_0) {
    conversion.scales = *scales_from_name(quantize->attr<std::string>("scales"));
    type.dtype = DType::Q8_0;
    v = quantize->operand(0);
  } else if (const Operation* cast = defined_by(v, Op::Cast)) {
    v = cast->operand(0);
  } else {
    return nullptr;
  }
  if (const Operation* rotation = defined_by(v, Op::Hadamard)) {
    conversion.hadamard = true;
    v = rotation->operand(0);
  }
  if (!v->is_weight() || !m.weight_of(v)->sources.empty()) return nullptr;
  return &made_weight(m, v->name + "." + std::string(info(type.dtype).name), type, {v->name}, conversion)->value;
}

/// q8a of what `wide` has widened from i8 with one scale for all; nullptr if it is no such value.
Result<Value*> with_scale(Graph& g, Operation* wide, llvm::DenseMap<Value*, Value*>& made) {
  const Operation* narrow = defined_by(wide->operand(0), Op::Quantize);
  const std::optional<int64_t> k = wide->result()->type.dim(-1).constant();
  if (!narrow || narrow->result()->type.dtype != DType::I8 || wide->attr<int64_t>("zero_point") || narrow->attr<int64_t>("zero_point") || !k || *k % int64_t(info(DType::Q8A).block)) return nullptr;
  Value*& q = made[wide->result()];
  if (!q) {
    Builder b(&g, wide);
    q = b.Quantize({narrow->operand(0)}, {{"format", std::string("q8a")}, {"scale", narrow->attr<double>("scale")}}, narrow->operand(0)->name + ".q8a");
    PRISM_CHECK(b.status());
  }
  return q;
}

}  // namespace

Status fold_quantization(Module& m, const Options&) {
  for (const auto& g : m.graphs) {
    llvm::DenseMap<Value*, Value*> made;
    for (Operation& op : g->ops) {
      if (op.op != Op::Linear) continue;
      if (Value* w = converted(m, op.operand(1))) op.set_operand(1, w);
      Operation* wide = op.operand(0)->def;
      if (!wide || wide->op != Op::Dequantize || !info(op.operand(1)->type.dtype).quantized) continue;
      PRISM_TRY(Value* scaled, with_scale(*g, wide, made));
      if (scaled) op.set_operand(0, scaled);
      else if (wide->operand(0)->type.dtype == DType::Q8A) op.set_operand(0, wide->operand(0));
    }
  }
  return ok();
}

}  // namespace prism::passes
