#include "codegen/kernels/gpu/attention.h"

#include <cmath>

#include "ir/hadamard.h"

namespace prism::codegen {

using namespace kir;
using ir::DType;
using ir::Op;

Status GpuAttention::read() {
  for (const ir::Operation& o : r_.body.ops) {
    if (o.op == Op::FlashAttention) op_ = &o;
    else if (o.op == Op::KvAppend) append_ = &o;
  }
  bool after = false;
  for (const ir::Operation& o : r_.body.ops) {
    if (&o == op_) after = true;
    else if (append_ && !after) continue;   // checked where they are generated
    else if (o.op == Op::Hadamard) rotated_ = true;
    else if (o.op != Op::Reshape && o.op != Op::Quantize && o.op != Op::Cast) return r_.unsupported(o, "cannot join an attention kernel");
  }
  const ir::Value *q = op_->operand(0), *kv = op_->operand(1);
  const ir::Type &qt = q->type, &kt = kv->type;
  heads_ = *qt.dim(1).constant();
  d_ = *qt.dim(2).constant();
  kv_heads_ = *kt.dim(1).constant();
  window_ = op_->attr<int64_t>("window");
  sinks_ = op_->attr<int64_t>("sinks");
  causal_ = op_->attr<bool>("causal");
  cap_ = op_->attr<double>("softcap");
  if (d_ % 16 || d_ > 256) return r_.unsupported(*op_, "head size " + std::to_string(d_) + ", expected a multiple of 16, at most 256");
  if (window_ > 0 && !causal_) return r_.unsupported(*op_, "a window that is not causal");
  if (!(op_->attr<double>("scale") > 0)) return r_.unsupported(*op_, "a scale that is not positive");
  for (const ir::Value* result : r_.body.returns)
    if (result->type.dtype == DType::Q8A && d_ % 32) return r_.unsupported(*op_, "q8a result needs a head size that is a multiple of 32");
  if (sinks_ % rt::kKvPage) return r_.unsupported(*op_, std::to_string(sinks_) + " sinks, expected whole tiles of " + std::to_string(rt::kKvPage) + " keys");
  for (const auto& [operand, buffer] : {std::pair(0u, &q_), {2u, &sink_q_}}) {
    if ((operand && !sinks_) || append_) continue;
    const ir::Value* v = op_->operand(operand);
    while (!r_.is_argument(v) && v->def->op == Op::Reshape) v = v->def->operand(0);
    if (!r_.is_argument(v)) return r_.unsupported(*op_, "queries that are computed in its kernel");
    *buffer = r_.buffer(v);
  }
  const ir::Value* cache = append_ ? append_->operand(0) : kv;
  if (!r_.is_argument(cache) || (append_ && (kv != append_->result() || kt.is_compressed() || sinks_))) return r_.unsupported(*op_, "what is appended in its kernel, expected one plain cache without sinks");
  if (append_ && (op_->attr<int64_t>("most_tokens") != 1 || !(qt.dim(0) == ir::Dim(1)))) return r_.unsupported(*append_, "several tokens in attention's kernel");
  keys_ = r_.keys(cache);
  values_ = r_.values(cache);
  if (kt.is_compressed()) {
    if (!causal_) return r_.unsupported(*op_, "a compressed cache needs causal attention");
    stores_.emplace(open_kv_stores(r_, kv, std::max(op_->attr<int64_t>("most_tokens"), op_->attr<int64_t>("most_appended"))));
  } else if (rotated_ && d_ % 32) {
    return r_.unsupported(*op_, "rotation of heads of " + std::to_string(d_) + ", expected a multiple of 32");
  }
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
  return b_.let(window_ > 0 && !in_sinks_ ? select(distance < Ex(window_), score, hidden) : score);
}

void GpuAttention::set_kv_head(Ex kv_head) {
  kv_head_ = b_.let(kv_head);
  if (!compressed()) plane_ = b_.let(kv_head_ * r_.kv_room(cache_type()) * d_);
}

void GpuAttention::copy_tile(const Buffer& tiles, Ex at, Ex key0, int64_t keys, Ex worker, int workers) {
  const int64_t chunks = keys * d_ / 8, row = d_ / 8;  // of 16 bytes
  const Ex half = b_.let(at + half_at(worker / 2, worker % 2)), values_at = b_.let(at + Ex(keys * d_)), place = b_.let(values_at + (worker + worker / row) * 8);
  const int64_t unit = compressed() ? elem_bytes(Elem::F16) : 1;
  const auto mine = [&](Ex begin) { return b_.let(cast(Elem::I64, begin + worker * (8 * unit))); };
  const auto in_store = [&](const KvStore& store) { return mine(store.group(kv_head_, b_.let(key0 / rt::kKvGroup))); };
  const Buffer &key_buffer = compressed() ? stores_->keys.exact() : keys_, &value_buffer = compressed() ? stores_->values.exact() : values_;
  const Ex key_from = compressed() ? in_store(stores_->keys) : mine(b_.let(plane_ + Region::kv_slot(cache_type(), key0) * d_));
  const Ex value_from = compressed() ? in_store(stores_->values) : key_from;
  for (int64_t first = 0; first < chunks; first += workers) {
    const auto copies = [&] {
      b_.async_copy(tiles, half + Ex(first * 8), key_buffer, key_from + Ex(first * 8 * unit));
      const Ex chunk = worker + Ex(first);
      b_.async_copy(tiles, workers % row ? values_at + (chunk + chunk / row) * 8 : place + Ex((first + first / row) * 8), value_buffer, value_from + Ex(first * 8 * unit));
    };
    if (first + workers <= chunks) copies();
    else b_.if_(worker < Ex(chunks - first), copies);
  }
}

Ex GpuAttention::seen(Ex distance, Part part, Ex page, Ex demoted) {
  if (part == Part::All) return distance;
  const Ex is_demoted = page < demoted, hidden = constant(distance.ty(), -1);
  return b_.let(part == Part::Demoted ? select(is_demoted, distance, hidden) : select(is_demoted, hidden, distance));
}

namespace {

/// The butterflies of a row of `size` channels whose values are `values`. The bits of a channel's number are, in this order: `in` bits of the value's
/// number, `lanes` bits of the lane's, those of the value's that are left.
void butterflies(Builder& b, std::vector<Ex>& values, Ex lane, int64_t size, int in, int lanes) {
  const int64_t block = ir::hadamard_block(size);
  for (int bit = 0; int64_t(1) << bit < block; ++bit) {
    if (bit >= in && bit < in + lanes) {
      const int mask = 1 << (bit - in);
      const Ex high = b.let((lane & Ex(mask)) == Ex(0));
      for (Ex& v : values) {
        const Ex other = b.shuffle_xor(v, mask);
        v = b.let(select(high, v + other, other - v));
      }
      continue;
    }
    const size_t step = size_t(1) << (bit < in ? bit : bit - lanes);
    for (size_t i = 0; i < values.size(); ++i) {
      if (i & step) continue;
      const Ex low = values[i], high = values[i + step];
      values[i] = b.let(low + high);
      values[i + step] = b.let(low - high);
    }
  }
  for (Ex& v : values) v = b.let(v * Ex(1 / std::sqrt(double(block))));
}

}  // namespace

void GpuAttention::rotate_lanes(std::vector<Ex>& values) { butterflies(b_, values, lane_, d_, 0, 5); }
void GpuAttention::rotate_columns(std::vector<Ex>& values) { butterflies(b_, values, lane_, d_, 1, 2); }

}  // namespace prism::codegen
