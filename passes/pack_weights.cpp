// pack-weights: the layout of weights is decided here, not at run time. Matrices of linears get the layout the matrix
// kernels read, and so do quantized embeddings: one that shares its matrix with a linear exists once. Vectors become
// f32.
//
// Dense matrices: rows16, or row_major as they are, or those of bf16 that only linears read swizzled. `mixed`: swizzled where the
// product of many rows is ours for what follows it, row-major where a library may do it.

#include "passes/util.h"

namespace prism::passes {

using namespace ir;

namespace {

/// A weight with the same values as `w` in another type. One that is already made from others is retyped in place.
void retype(Module& m, Weight& w, const Type& type, const std::string& suffix) {
  if (!w.sources.empty()) {
    w.value.type = type;
    return;
  }
  w.value.replace_all_uses_with(&made_weight(m, w.value.name + suffix, type, {w.value.name})->value);
}

/// A product that libraries do not do: with a bias, or something else than a sum after it.
bool is_ours(const Operation& linear) {
  return linear.operands().size() > 2 || llvm::any_of(linear.result()->uses, [](const Use& u) {
           return u.op->op == Op::Glu || (has_trait(u.op->op, Elementwise) && u.op->op != Op::Add && u.op->op != Op::Cast);
         });
}

bool becomes_swizzled(const Weight& w, std::string_view dense) {
  const Type& t = w.value.type;
  if (t.dtype != DType::BF16 || t.rank() != 2 || *t.dim(1).constant() % 32) return false;
  const auto linear = [](const Use& u) { return u.operand == 1 && u.op->op == Op::Linear; };
  if (!llvm::all_of(w.value.uses, linear)) return false;
  return dense == "swizzled" || (dense == "mixed" && llvm::any_of(w.value.uses, [](const Use& u) { return is_ours(*u.op); }));
}

}  // namespace

Status pack_weights(Module& m, const Options& options) {
  const std::string dense = options.get("dense", "rows16");
  const size_t count = m.weights.size();  // new ones are appended
  for (size_t i = 0; i < count; ++i) {
    Weight& w = *m.weights[i];
    if (w.value.uses.empty()) continue;
    Type type = w.value.type;
    const bool blocks = info(type.dtype).quantized;
    const bool matrix = type.rank() == 2 && llvm::any_of(w.value.uses, [&](const Use& u) {
                          return u.operand == 1 && (u.op->op == Op::Linear || (u.op->op == Op::Embedding && blocks));
                        });
    if (becomes_swizzled(w, dense) && type.layout == Layout::RowMajor) {
      type.layout = Layout::Swizzled;
      retype(m, w, type, ".swizzled");
    } else if (matrix && (blocks || dense == "rows16") && type.layout == Layout::RowMajor) {
      type.layout = Layout::Rows16;
      retype(m, w, type, ".rows16");
    } else if (type.rank() == 1 && (type.dtype == DType::F16 || type.dtype == DType::BF16)) {
      type.dtype = DType::F32;
      retype(m, w, type, ".f32");
    }
  }
  return ok();
}

}  // namespace prism::passes
