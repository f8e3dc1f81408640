// Batched products of activations.
#include "codegen/kernels/gpu/gpu.h"
#include "codegen/kernels/gpu/product.h"

namespace prism::codegen {

using namespace kir;

Result<LoweredKernel> lower_gpu_matmul(const ir::Operation& op, const ir::Operation& matmul, const std::string& name, const std::vector<std::string>& dims) {
  const ir::Value *x = matmul.operand(0), *w = matmul.operand(1), *out = matmul.result();
  const bool transposed = matmul.attr<bool>("transpose_b");
  Product p;
  p.m = out->type.dim(-2);
  p.n = out->type.dim(-1);
  p.k = x->type.dim(-1);
  p.batch = elements_of(ir::Shape(out->type.shape.begin(), out->type.shape.end() - 2));
  p.b_along_k = transposed;
  Region r(op, name, dims, Product::threads(p.tile()));
  Elements elements(r);
  const Ex m = r.dim(p.m), n = r.dim(p.n), k = r.dim(p.k);
  p.a = [&](Ex item, Ex row, Ex kk) { return elements.value(x, (item * m + row) * k + kk); };
  p.b = [&](Ex item, Ex kk, Ex column) { return elements.value(w, transposed ? (item * n + column) * k + kk : (item * k + kk) * n + column); };
  p.store = [&](Ex item, Ex row, Ex column, Ex sum) {
    return elements.store(elements.place(out->type.shape, r.b.let((item * m + row) * n + column)), out, sum);
  };
  PRISM_CHECK(p.emit(r));
  return r.finish(p.tasks());
}

}  // namespace prism::codegen
