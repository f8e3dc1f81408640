#include "codegen/gpus.h"
#include "codegen/kernels/gpu/elements.h"
#include "codegen/kernels/gpu/gpu.h"

#include <algorithm>

namespace prism::codegen {

using ir::DType;
using ir::Op;

namespace {

/// Threads for rows of `width` elements. A single row's kernel has as many as all kernels of @decode, which can then be one; many
/// short rows have a thread for each element: sums are the same, as what the other threads add is zero.
int row_threads(int64_t width, ir::Dim rows) {
  return rows == ir::Dim(1) || width > kDecodeThreads ? kDecodeThreads : int(width + 31) / 32 * 32;
}

bool by_elements(const ir::Graph& body) {
  for (const ir::Operation& op : body.ops)
    if (!Elements::computes(op)) return false;
  for (const ir::Value* v : body.returns)
    if (v->type.shape != body.returns.front()->type.shape) return false;
  return true;
}

}  // namespace

GpuTarget gpu_target(const std::vector<std::string>& archs) {
  const bool hopper = !archs.empty() && std::all_of(archs.begin(), archs.end(), [](const std::string& a) { return a == "sm_90a"; });
  GpuTarget target{.wgmma = hopper};
  if (archs.size() == 1)
    if (const auto gpu = gpu_of(archs[0])) target.multiprocessors = gpu->multiprocessors;   // of others nothing is known
  return target;
}

Result<LoweredKernel> lower_gpu_kernel(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, const GpuTarget& target) {
  int64_t width = 1;
  ir::Dim rows(1);
  for (const ir::Operation& inner : op.body->ops)   // may come after what it appends
    if (inner.op == Op::FlashAttention)
      return inner.attr<int64_t>("most_tokens") > kFewTokens ? lower_gpu_flash_prefill(op, name, dims) : lower_gpu_flash_decode(op, name, dims, target);
  for (const ir::Operation& inner : op.body->ops) {
    switch (inner.op) {
      case Op::Linear:
        return inner.operand(0)->type.dtype == DType::BF16 ? lower_gpu_gemm(op, name, dims, target) : lower_gpu_gemv(op, name, dims, target);
      case Op::KvDemote: return lower_demote(op, name, dims, kDecodeThreads);   // alone
      case Op::KvAppend: case Op::Rope: return lower_append(op, name, dims, kDecodeThreads);
      default: break;
    }
    if (inner.results.size() == 1 && inner.result()->type.rank() > 0)
      if (const auto n = inner.result()->type.dim(-1).constant()) {
        width = std::max(width, *n);
        rows = Region::rows_of(inner.result()->type);
      }
  }
  for (const ir::Operation& inner : op.body->ops) {
    if (inner.op == Op::Conv2d) return lower_gpu_conv(op, inner, name, dims);
    if (inner.op == Op::Matmul) return lower_gpu_matmul(op, inner, name, dims);
    if (inner.op == Op::Reduce) return lower_gpu_reduce(op, inner, name, dims);
  }
  if (by_elements(*op.body)) return lower_gpu_elements(op, name, dims);
  return lower_rowwise(op, name, dims, row_threads(width, rows));
}

}  // namespace prism::codegen
