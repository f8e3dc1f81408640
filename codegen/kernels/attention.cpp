#include "codegen/kernels/attention.h"

#include <cmath>

#include "runtime/base/checked.h"

namespace prism::codegen {

using namespace kir;
using ir::DType;
using ir::Op;

Status CpuAttention::read(int64_t unit) {
  for (const ir::Operation& o : r_.body.ops) {
    if (o.op == Op::FlashAttention) op_ = &o;
    else if (o.op == Op::Hadamard) rotated_ = true;
    else if (o.op != Op::Reshape && o.op != Op::Quantize && o.op != Op::Cast) return r_.unsupported(o, "cannot join an attention kernel");
  }
  const ir::Value *q = op_->operand(0), *kv = op_->operand(1);
  heads_ = *q->type.dim(1).constant();
  d_ = *q->type.dim(2).constant();
  kv_heads_ = *kv->type.dim(1).constant();
  tile_k_ = int(op_->attr<int64_t>("tile_k"));
  window_ = op_->attr<int64_t>("window");
  causal_ = op_->attr<bool>("causal");
  cap_ = op_->attr<double>("softcap");
  scale_ = op_->attr<double>("scale");
  if (d_ % unit || tile_k_ % unit)
    return r_.unsupported(*op_, "head size " + std::to_string(d_) + " and key tile must be multiples of " + std::to_string(unit));
  if (!(scale_ > 0)) return r_.unsupported(*op_, "a scale that is not positive");
  for (const ir::Value* result : r_.body.returns)
    if (result->type.dtype == DType::Q8A && d_ % 32) return r_.unsupported(*op_, "q8a result needs a head size that is a multiple of 32");
  if (kv->type.ring % tile_k_) return r_.unsupported(*op_, "a ring of " + std::to_string(kv->type.ring) + " positions must have whole tiles of " + std::to_string(tile_k_) + " keys");
  const auto buffer = [&](const ir::Value* v) {
    while (!r_.is_argument(v) && v->def->op == Op::Reshape) v = v->def->operand(0);
    return r_.buffer(v);
  };
  queries_ = buffer(q);
  sinks_ = op_->attr<int64_t>("sinks");
  if (sinks_) sink_queries_ = buffer(op_->operand(2));
  if (sinks_ % tile_k_) return r_.unsupported(*op_, std::to_string(sinks_) + " sinks, expected whole tiles of " + std::to_string(tile_k_) + " keys");
  keys_ = r_.keys(kv);
  values_ = r_.values(kv);
  if (kv->type.is_compressed()) {
    if (tile_k_ != rt::kKvPage || !causal_) return r_.unsupported(*op_, "a compressed cache needs causal attention in tiles of " + std::to_string(rt::kKvPage) + " keys");
    stores_.emplace(open_kv_stores(r_, kv, std::max(op_->attr<int64_t>("most_tokens"), op_->attr<int64_t>("most_appended"))));
  }
  tokens_ = b_.let(r_.dim(op_->operand(0)->type.dim(0)));
  total_ = b_.let(r_.dim(kv->type.dim(0)));
  past_ = b_.let(total_ - tokens_);
  return ok();
}

void CpuAttention::allocate(Elem queries, Elem weights) {
  q_ = b_.scratch("q", queries, rows_ * d_);
  o_ = b_.scratch("o", Elem::F32, rows_ * d_);
  scores_ = b_.scratch("scores", Elem::F32, rows_ * tile_k_);
  weights_ = weights == Elem::F32 ? scores_ : b_.scratch("weights", weights, rows_ * tile_k_);
  const int64_t padded = int64_t(round_up(uint64_t(rows_), kLanes));
  top_ = b_.scratch("top", Elem::F32, padded);
  sum_ = b_.scratch("sum", Elem::F32, 2 * rows_ * kLanes);
  decay_ = b_.scratch("decay", Elem::F32, padded);
  std::vector<float> iota;
  for (int i = 0; i < kLanes; ++i) iota.push_back(float(i));
  lanes_ = b_.let(b_.load(b_.table("lane", iota), 0, kLanes));
}

void CpuAttention::each_tile(Ex begin, Ex end, const std::function<void(Ex, Part)>& body) {
  if (!compressed()) return b_.for_(begin, end, tile_k_, [&](Ex key0) { body(key0, Part::All); });
  const Ex demoted = first_exact(b_.let(past_ + token(Ex(rows_ - 1))));   // by the last row
  b_.for_(begin, b_.let(min(end, demoted)), tile_k_, [&](Ex key0) { body(key0, Part::Demoted); });
  if (in_sinks_ || !sinks_) b_.if_(begin < min(demoted, Ex(rt::kKvSinks)), [&] { body(Ex(int64_t(0)), Part::Sinks); });
  b_.for_(b_.let(max(begin, first_exact(b_.let(past_ + t0_)))), end, tile_k_, [&](Ex key0) { body(key0, Part::Exact); });
}

ByteTile CpuAttention::page_tile(const KvStore& store, Ex page, bool ahead) {
  const Ex codes = store.codes(page, kv_head_), scales = store.scales(page, kv_head_), base = store.scale_base(scales);
  const Ex mean_base = store.shape().keys ? store.mean_base(scales) : Ex();
  if (ahead) store.prefetch_next_scales(scales);
  return {[=, &store](Ex block) { return store.words(codes, block, ahead); }, [=, &store](int64_t group, Ex v) { return store.scale(scales, base, group, v); },
          [=, &store](Ex i) { return store.mean(scales, mean_base, i); }, store.middle()};
}

void CpuAttention::start_pages(int at_once, int vectors) {
  if (!compressed()) return;
  products_.emplace(b_, d_, rows_, at_once, vectors);
  products_->set_queries(q_);
}

void CpuAttention::demoted_tile(Ex key0, const std::function<ByteTile(const KvStore&, Ex)>& tile) {
  const Ex page = b_.let(key0 / rt::kKvPage);
  products_->scores(tile(stores_->keys, page), scores_);
  softmax(key0, Part::Demoted);
  products_->add_values(tile(stores_->values, page), weights_, decay_, o_);
}

void CpuAttention::begin_tiles() {
  const int64_t slots = heads_ / group_;
  const Ex count = b_.let((tokens_ + Ex(tile_q_ - 1)) / int64_t(tile_q_));
  const Ex turn = b_.let(b_.task() / slots), slot = b_.let(b_.task() % slots);
  t0_ = b_.let(b_.let(select(turn % 2 == Ex(0), turn / 2, count - Ex(1) - turn / 2)) * int64_t(tile_q_));
  set_head(slot * int64_t(group_));
}

LoweredKernel CpuAttention::finish_tiles() {
  return r_.finish(ir::Dim::floor_div(query_type().dim(0) + ir::Dim(tile_q_ - 1), tile_q_) * ir::Dim(heads_ / group_));
}

void CpuAttention::set_head(Ex head) {
  head0_ = b_.let(head);
  kv_head_ = b_.let(head0_ / (heads_ / kv_heads_));
  if (!compressed()) plane_ = b_.let(kv_head_ * r_.kv_room(cache_type()) * d_);
}

Ex CpuAttention::group_at(bool keys, Ex key0, Ex g, Part part) {
  if (!compressed()) return b_.let(plane_ + (Region::kv_slot(cache_type(), key0) + g * kLanes) * d_);
  const KvStore& store = keys ? stores_->keys : stores_->values;
  return part == Part::Sinks ? store.sinks(kv_head_) : store.group(kv_head_, b_.let(key0 / rt::kKvGroup + g));
}

const Buffer& CpuAttention::exact(bool keys, Part part) const {
  if (!compressed()) return keys ? keys_ : values_;
  const KvStore& store = keys ? stores_->keys : stores_->values;
  return part == Part::Sinks ? store.plane() : store.exact();
}

void CpuAttention::take_queries(const Buffer& queries) {
  b_.for_(0, rows_, 1, [&](Ex row) {
    const Ex from = b_.let((token(row) * heads_ + head0_ + row % int64_t(group_)) * d_), to = b_.let(row * d_);
    b_.for_(0, d_, kLanes, [&](Ex i) { b_.store(q_, to + i, cast(q_.elem, b_.load(queries, from + i, kLanes))); });
  });
  if (products_) products_->set_queries(q_);
}

void CpuAttention::sink_tiles(Ex end, const std::function<void(Ex, Part)>& body) {
  if (!sinks_) return;
  in_sinks_ = true;
  take_queries(sink_queries_);
  each_tile(Ex(int64_t(0)), b_.let(min(end, Ex(sinks_))), body);
  take_queries(queries_);
  in_sinks_ = false;
}

void CpuAttention::start_rows() {
  take_queries(queries_);
  clear_rows();
}

void CpuAttention::clear_rows() {
  b_.for_(0, rows_, 1, [&](Ex row) {
    const Ex to = b_.let(row * d_);
    b_.for_(0, d_, kLanes, [&](Ex i) { b_.store(o_, to + i, constant({Elem::F32, kLanes}, 0)); });
    b_.store(top_, row, Ex(-1e30));
    b_.store(sum_, sum_at(row), constant({Elem::F32, kLanes}, 0));
  });
}

Ex CpuAttention::first_seen(Ex position, Part part) {
  Ex first = window_ > 0 && !in_sinks_ ? position - Ex(window_ - 1) : Ex(int64_t(0));
  if (part == Part::Exact) first = max(first, first_exact(position));
  if (part == Part::Demoted) first = max(first, Ex(rt::kKvSinks));
  return b_.let(first);
}

Ex CpuAttention::last_seen(Ex position, Part part) {
  if (part == Part::Demoted) return b_.let(first_exact(position) - Ex(1));
  if (part == Part::Sinks) return b_.let(min(first_exact(position), Ex(rt::kKvSinks)) - Ex(1));
  return b_.let(causal_ ? position : total_ - Ex(1));
}

void CpuAttention::softmax(Ex key0, Part part) {
  const int vectors = this->vectors(part);
  // The first row sees the fewest keys at the end, the last one the fewest at the beginning.
  const Ex first = first_seen(past_ + token(Ex(rows_ - 1)), part), last = last_seen(past_ + t0_, part);
  const auto masked = [&] { highest(key0, part, true); };
  b_.if_(b_.let(key0 + Ex(vectors * kLanes - 1) <= last), [&] {
    if (!hides_first(part)) highest(key0, part, false);
    else b_.if_(first <= key0, [&] { highest(key0, part, false); }, masked);
  }, masked);
  b_.for_(0, rows_, kLanes, [&](Ex row) {
    Ex most = b_.let(b_.load(decay_, row, kLanes) * Ex(score_unit()));
    if (coarse_) most = b_.let(call(Fn::RoundEven, {most}));
    const Ex before = b_.let(b_.load(top_, row, kLanes)), after = b_.let(max(before, most));
    b_.store(top_, row, after);
    b_.store(decay_, row, exponential(before - after));
  });
  b_.for_(0, rows_, 1, [&](Ex row) {
    const Ex line = b_.let(row * int64_t(tile_k_)), top = b_.let(b_.load(top_, row)), at = b_.let(sum_at(row));
    Ex sum = b_.let(b_.load(sum_, at, kLanes) * b_.load(decay_, row));
    for (int v = 0; v < vectors; ++v) {
      const Ex e = b_.let(weight(b_.load(scores_, line + Ex(v * kLanes), kLanes), top));
      b_.store(weights_, line + Ex(v * kLanes), cast(weights_.elem, e));
      sum = b_.let(sum + e);
    }
    b_.store(sum_, at, sum);
  });
}

double CpuAttention::score_unit() const { return (coarse_ ? M_LOG2E : 1.0) * (cap_ > 0 ? 1.0 : scale_); }

Ex CpuAttention::weight(Ex score, Ex top) {
  const Ex unit = constant({Elem::F32, kLanes}, score_unit());
  if (!coarse_) return exponential(fma(score, unit, b_.let(Ex(0.0) - top)));
  // Rounded to multiples of 2^-14 exponents stay exact when a whole number is taken from them; so which one it is scales
  // all weights and sums by a power of 2, and changes no bit of what remains when one is divided by the other.
  constexpr double kGrid = 1.5 * (1 << 9);
  return exponential(fma(score, unit, constant({Elem::F32, kLanes}, kGrid)) - b_.let(top + Ex(kGrid)));
}

void CpuAttention::highest(Ex key0, Part part, bool masked) {
  const Ex hidden = constant({Elem::F32, kLanes}, -INFINITY);
  b_.for_(0, rows_, 1, [&](Ex row) {
    Ex most, first, last;
    if (masked) {  // positions are exact in f32 below 2^24
      const Ex position = b_.let(past_ + token(row));
      first = splat(b_.let(cast(Elem::F32, first_seen(position, part))), kLanes);
      last = splat(b_.let(cast(Elem::F32, last_seen(position, part))), kLanes);
    }
    for (int v = 0; v < vectors(part); ++v) {
      const Ex at = b_.let(row * int64_t(tile_k_) + Ex(v * kLanes));
      Ex x = b_.let(b_.load(scores_, at, kLanes));
      if (cap_ > 0) x = b_.let(call(Fn::Tanh, {x * Ex(scale_ / cap_)}) * Ex(cap_));
      if (masked) {
        const Ex key = b_.let(cast(Elem::F32, key0 + Ex(v * kLanes)) + lanes_);
        x = select(key <= last, x, hidden);
        if (hides_first(part)) x = select(first <= key, x, hidden);
        x = b_.let(x);
      }
      if (cap_ > 0 || masked) b_.store(scores_, at, x);
      most = v == 0 ? x : b_.let(max(most, x));
    }
    b_.store(decay_, row, call(Fn::ReduceMax, {most}));
  });
}

void CpuAttention::finish_row(Ex row, Ex sum) {
  const Ex line = b_.let(row * d_), t = b_.let(t0_ + row / int64_t(group_)), head = b_.let(head0_ + row % int64_t(group_));
  b_.if_(t < tokens_, [&] {
    if (rotated_) hadamard(b_, o_, line, d_);
    const Ex inverse = b_.let(constant({Elem::F32, 1}, 1.0) / sum);
    auto result_at = [&](Ex i) { return b_.load(o_, line + i, kLanes) * inverse; };
    for (const ir::Value* result : r_.body.returns) {
      const Buffer& out = r_.buffer(result);
      if (result->type.dtype == DType::Q8A) {
        const int64_t width = heads_ * d_;
        const Ex to = b_.let(t * (width / 32 * ir::info(DType::Q8A).bytes));
        b_.for_(0, d_ / 32, 1, [&](Ex k) {
          store_q8a(b_, out, to, width, b_.let(head * (d_ / 32) + k), result_at(k * 32), result_at(k * 32 + kLanes), q8a_scale(result));
        });
      } else {
        const Ex column = b_.let(head * d_);
        b_.for_(0, d_, kLanes, [&](Ex i) {
          b_.store(out, element_index(result->type.layout, heads_ * d_, t, column + i), cast(out.elem, result_at(i)));
        });
      }
    }
  });
}

}  // namespace prism::codegen
