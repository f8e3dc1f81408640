// fold-quantization: quantize and dequantize go into what is around them. Of weights they become a weight of that type, made when the
// program's weights are; an input's are dropped where the linear's kernel multiplies its integers.
//   linear(dequantize(quantize(x) : q8a), dequantize(quantize(hadamard(@w)) : q8_0))  ->  linear(quantize(x), @w.q8_0)
//   linear(x, cast(@w) : f16)                                                         ->  linear(x, @w.f16)

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

}  // namespace

Status fold_quantization(Module& m, const Options&) {
  for (const auto& g : m.graphs)
    for (Operation& op : g->ops) {
      if (op.op != Op::Linear) continue;
      if (Value* w = converted(m, op.operand(1))) op.set_operand(1, w);
      const Operation* wide = defined_by(op.operand(0), Op::Dequantize);
      if (wide && wide->operand(0)->type.dtype == DType::Q8A && info(op.operand(1)->type.dtype).quantized) op.set_operand(0, wide->operand(0));
    }
  return ok();
}

}  // namespace prism::passes
