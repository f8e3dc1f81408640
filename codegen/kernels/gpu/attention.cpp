#include "codegen/kernels/gpu/attention.h"

#include <cmath>

namespace prism::codegen {

using namespace kir;
using ir::DType;
using ir::Op;

Status GpuAttention::read() {
  for (const ir::Operation& o : r_.body.ops) {
    if (o.op == Op::FlashAttention) op_ = &o;
    else if (o.op != Op::Reshape && o.op != Op::Quantize && o.op != Op::Cast) return r_.unsupported(o, "cannot join an attention kernel");
  }
  const ir::Value *q = op_->operand(0), *kv = op_->operand(1);
  const ir::Type &qt = q->type, &kt = kv->type;
  while (!r_.is_argument(q) && q->def->op == Op::Reshape) q = q->def->operand(0);
  if (!r_.is_argument(q)) return r_.unsupported(*op_, "queries that are computed in its kernel");
  heads_ = *qt.dim(1).constant();
  d_ = *qt.dim(2).constant();
  kv_heads_ = *kt.dim(1).constant();
  window_ = op_->attr<int64_t>("window");
  if (op_->attr<int64_t>("sinks")) return r_.unsupported(*op_, "GPUs evict nothing from caches yet (see --kv-evict)");
  causal_ = op_->attr<bool>("causal");
  cap_ = op_->attr<double>("softcap");
  if (d_ % 16 || d_ > 256) return r_.unsupported(*op_, "head size " + std::to_string(d_) + ", expected a multiple of 16, at most 256");
  if (window_ > 0 && !causal_) return r_.unsupported(*op_, "a window that is not causal");
  if (!(op_->attr<double>("scale") > 0)) return r_.unsupported(*op_, "a scale that is not positive");
  for (const ir::Value* result : r_.body.returns)
    if (result->type.dtype == DType::Q8A && d_ % 32) return r_.unsupported(*op_, "q8a result needs a head size that is a multiple of 32");
  q_ = r_.buffer(q);
  keys_ = r_.keys(kv);
  values_ = r_.values(kv);
  tokens_ = b_.let(r_.dim(qt.dim(0)));
  total_ = b_.let(r_.dim(kt.dim(0)));
  past_ = b_.let(total_ - tokens_);
  warp_ = b_.let(b_.thread() / 32);
  lane_ = b_.let(b_.thread() % 32);
  return ok();
}

double GpuAttention::query_unit() const { return op_->attr<double>("scale") * (cap_ > 0 ? 1 / cap_ : M_LOG2E); }

Ex GpuAttention::capped(Ex score) const { return cap_ > 0 ? call(Fn::Tanh, {score}) * Ex(cap_ * M_LOG2E) : score; }

Ex GpuAttention::masked(Ex score, Ex distance) {
  const Ex hidden(-INFINITY);
  score = select(constant(distance.ty(), 0) <= distance, score, hidden);
  return b_.let(window_ > 0 ? select(distance < Ex(window_), score, hidden) : score);
}

void GpuAttention::copy_tile(const Buffer& tiles, Ex at, Ex source, int64_t keys, Ex worker, int workers) {
  const int64_t chunks = keys * d_ / 8, row = d_ / 8;  // of 16 bytes
  const Ex from = b_.let(cast(Elem::I64, source + worker * 8)), half = b_.let(at + half_at(worker / 2, worker % 2));
  const Ex values_at = b_.let(at + Ex(keys * d_)), place = b_.let(values_at + (worker + worker / row) * 8);
  for (int64_t first = 0; first < chunks; first += workers) {
    const auto copies = [&] {
      b_.async_copy(tiles, half + Ex(first * 8), keys_, from + Ex(first * 8));
      const Ex chunk = worker + Ex(first);
      b_.async_copy(tiles, workers % row ? values_at + (chunk + chunk / row) * 8 : place + Ex((first + first / row) * 8), values_, from + Ex(first * 8));
    };
    if (first + workers <= chunks) copies();
    else b_.if_(worker < Ex(chunks - first), copies);
  }
}

}  // namespace prism::codegen
