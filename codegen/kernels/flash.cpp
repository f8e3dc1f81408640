// Attention by online softmax over tiles of 64 keys (FlashAttention, Dao et al. 2022): the score matrix is never stored.
//
// A task is a tile of tokens times the query heads that share one KV head, so K and V are converted once for all of
// them. Tiles of keys start at multiples of 64 whatever the chunking, so a token's result has the same bits however
// the prompt was split.
#include <cmath>

#include "codegen/kernels/region.h"

namespace prism::codegen {

using namespace kir;
using ir::DType;
using ir::Op;

namespace {

constexpr int kMaxRows = 12;        // query rows at once
constexpr int kAccumulators = 24;   // vector registers used for sums

class Flash {
 public:
  Flash(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims) : r_(op, name, dims), b_(r_.b) {}

  Result<LoweredKernel> run() {
    const ir::Operation* op = nullptr;
    for (const ir::Operation& o : r_.body.ops) {
      if (o.op == Op::FlashAttention) op = &o;
      else if (o.op != Op::Reshape && o.op != Op::Quantize) return r_.unsupported(o, "cannot join an attention kernel");
    }
    const ir::Value *q = op->operand(0), *kv = op->operand(1);
    while (!r_.is_argument(q) && q->def->op == Op::Reshape) q = q->def->operand(0);
    const ir::Type& qt = op->operand(0)->type;
    heads_ = *qt.dim(1).constant();
    d_ = *qt.dim(2).constant();
    kv_heads_ = *kv->type.dim(1).constant();
    tile_k_ = int(op->attr<int64_t>("tile_k"));
    if (d_ % kLanes || tile_k_ % kLanes)
      return r_.unsupported(*op, "head size " + std::to_string(d_) + " and key tile must be multiples of 16");
    const bool one_token = qt.dim(0) == ir::Dim(1);
    const int64_t share = heads_ / kv_heads_;
    group_ = 1;
    for (int64_t g = 1; g <= std::min<int64_t>(share, kMaxRows); ++g)
      if (share % g == 0) group_ = int(g);
    tile_q_ = one_token ? 1 : std::max(1, std::min(int(op->attr<int64_t>("tile_q")), kMaxRows / group_));
    const int rows = group_ * tile_q_;

    const Buffer qs = b_.scratch("q_scaled", Elem::F32, rows * d_), o = b_.scratch("o", Elem::F32, rows * d_);
    const Buffer p = b_.scratch("p", Elem::F32, rows * tile_k_), m = b_.scratch("m", Elem::F32, rows);
    const Buffer l = b_.scratch("l", Elem::F32, rows), alpha = b_.scratch("alpha", Elem::F32, rows);
    std::vector<float> iota;
    for (int i = 0; i < kLanes; ++i) iota.push_back(float(i));
    const Buffer lane = b_.table("lane", iota);

    const Ex tokens = b_.let(r_.dim(qt.dim(0)));
    const Ex total = b_.let(r_.dim(kv->type.dim(0)));
    const Ex past = b_.let(total - tokens), ctx = b_.dim("ctx");
    // Cheap (early) and dear (late) tiles alternate, so that a static split over threads is even.
    const int64_t slots = heads_ / group_;
    const Ex tiles = b_.let((tokens + Ex(tile_q_ - 1)) / int64_t(tile_q_));
    const Ex turn = b_.let(b_.task() / slots), slot = b_.let(b_.task() % slots);
    const Ex tile = b_.let(select(turn % 2 == Ex(0), turn / 2, tiles - Ex(1) - turn / 2));
    const Ex t0 = b_.let(tile * int64_t(tile_q_)), head0 = b_.let(slot * int64_t(group_));
    const Ex kv_head = b_.let(head0 / share);

    std::vector<Ex> position;  // of each token of the tile, as float: exact below 2^24
    const Buffer& qb = r_.buffer(q);
    for (int t = 0; t < tile_q_; ++t) {
      const Ex token = b_.let(min(t0 + Ex(t), tokens - Ex(1)));
      position.push_back(b_.let(cast(Elem::F32, past + token)));
      for (int g = 0; g < group_; ++g) {
        const int64_t row = int64_t(t) * group_ + g;
        const Ex from = b_.let((token * heads_ + head0 + Ex(g)) * d_);
        b_.for_(0, d_, kLanes, [&](Ex i) {
          b_.store(qs, i + Ex(row * d_), b_.load(qb, from + i, kLanes) * Ex(op->attr<double>("scale")));
          b_.store(o, i + Ex(row * d_), constant({Elem::F32, kLanes}, 0));
        });
        b_.store(m, Ex(row), Ex(-1e30));
        b_.store(l, Ex(row), Ex(0.0));
      }
    }

    const bool causal = op->attr<bool>("causal");
    const int64_t window = op->attr<int64_t>("window");
    const double cap = op->attr<double>("softcap");
    const Ex end = b_.let(causal ? min(past + t0 + Ex(tile_q_), total) : total);
    Ex begin(0);
    if (window > 0) begin = b_.let(max(past + t0 - Ex(window - 1), Ex(0)) / int64_t(tile_k_) * int64_t(tile_k_));
    const Buffer &kb = r_.keys(kv), &vb = r_.values(kv);
    const Ex k_base = b_.let(kv_head * ctx * d_), v_base = k_base;
    const Ex lanes = b_.let(b_.load(lane, 0, kLanes));

    b_.for_(begin, end, tile_k_, [&](Ex key0) {
      // Scores: a vector is 16 keys.
      const int vectors = tile_k_ / kLanes, at_once = std::max(1, std::min(vectors, kAccumulators / rows));
      for (int v0 = 0; v0 < vectors; v0 += at_once) {
        const int n = std::min(at_once, vectors - v0);
        std::vector<Ex> acc;
        for (int i = 0; i < rows * n; ++i) acc.push_back(b_.var(constant({Elem::F32, kLanes}, 0)));
        const Ex k_at = b_.let(k_base + key0 * d_ + Ex(int64_t(v0) * d_ * kLanes));
        b_.for_(0, d_, 1, [&](Ex i) {
          std::vector<Ex> k;
          for (int v = 0; v < n; ++v)
            k.push_back(b_.let(cast(Elem::F32, b_.load(kb, k_at + i * kLanes + Ex(int64_t(v) * d_ * kLanes), kLanes))));
          for (int row = 0; row < rows; ++row)
            for (int v = 0; v < n; ++v)
              b_.assign(acc[size_t(row * n + v)], fma(k[size_t(v)], b_.load(qs, i + Ex(row * d_)), acc[size_t(row * n + v)]));
        });
        for (int row = 0; row < rows; ++row)
          for (int v = 0; v < n; ++v) {
            Ex s = acc[size_t(row * n + v)];
            if (cap > 0) s = b_.let(call(Fn::Tanh, {s * Ex(1.0 / cap)}) * Ex(cap));
            const Ex at = position[size_t(row / group_)];
            const Ex key = b_.let(cast(Elem::F32, key0 + Ex((v0 + v) * kLanes)) + lanes);
            const Ex hidden = constant({Elem::F32, kLanes}, -INFINITY);
            s = select(causal ? key <= splat(at, kLanes) : key < splat(cast(Elem::F32, total), kLanes), s, hidden);
            if (window > 0) s = select(splat(at - Ex(double(window)), kLanes) < key, s, hidden);
            b_.store(p, Ex(int64_t(row) * tile_k_ + (v0 + v) * kLanes), s);
          }
      }
      b_.for_(0, rows, 1, [&](Ex row) {
        std::vector<Ex> s;
        for (int v = 0; v < vectors; ++v) s.push_back(b_.let(b_.load(p, row * int64_t(tile_k_) + Ex(v * kLanes), kLanes)));
        Ex top = s[0], sum;
        for (int v = 1; v < vectors; ++v) top = b_.let(max(top, s[size_t(v)]));
        const Ex before = b_.let(b_.load(m, row)), after = b_.let(max(before, call(Fn::ReduceMax, {top})));
        for (int v = 0; v < vectors; ++v) {
          const Ex e = b_.let(call(Fn::Exp, {s[size_t(v)] - after}));
          b_.store(p, row * int64_t(tile_k_) + Ex(v * kLanes), e);
          sum = v == 0 ? e : b_.let(sum + e);
        }
        const Ex a = b_.let(call(Fn::Exp, {before - after}));
        b_.store(m, row, after);
        b_.store(alpha, row, a);
        b_.store(l, row, b_.load(l, row) * a + call(Fn::ReduceAdd, {sum}));
      });
      // Weighted values: a vector is 16 of the head's dimensions.
      const int chunks = int(d_ / kLanes), together = std::max(1, std::min(chunks, kAccumulators / rows));
      const Ex keys = b_.let(min(Ex(tile_k_), end - key0));
      for (int c0 = 0; c0 < chunks; c0 += together) {
        const int n = std::min(together, chunks - c0);
        std::vector<Ex> acc;
        for (int row = 0; row < rows; ++row)
          for (int c = 0; c < n; ++c)
            acc.push_back(b_.var(b_.load(o, Ex(row * d_ + (c0 + c) * kLanes), kLanes) * b_.load(alpha, Ex(row))));
        const Ex v_at = b_.let(v_base + key0 * d_ + Ex(c0 * kLanes));
        b_.for_(0, keys, 1, [&](Ex key) {
          std::vector<Ex> v;
          for (int c = 0; c < n; ++c) v.push_back(b_.let(cast(Elem::F32, b_.load(vb, v_at + key * d_ + Ex(c * kLanes), kLanes))));
          for (int row = 0; row < rows; ++row) {
            const Ex w = splat(b_.load(p, key + Ex(int64_t(row) * tile_k_)), kLanes);
            for (int c = 0; c < n; ++c) b_.assign(acc[size_t(row * n + c)], fma(v[size_t(c)], w, acc[size_t(row * n + c)]));
          }
        });
        for (int row = 0; row < rows; ++row)
          for (int c = 0; c < n; ++c) b_.store(o, Ex(row * d_ + (c0 + c) * kLanes), acc[size_t(row * n + c)]);
      }
    });

    Status status = ok();
    for (int t = 0; t < tile_q_; ++t)
      b_.if_(t0 + Ex(t) < tokens, [&] {
        for (int g = 0; g < group_; ++g) {
          const int64_t row = int64_t(t) * group_ + g;
          const Ex inverse = b_.let(constant({Elem::F32, 1}, 1.0) / b_.load(l, Ex(row)));
          auto value = [&](Ex i) { return b_.load(o, i + Ex(row * d_), kLanes) * inverse; };
          for (const ir::Value* result : r_.body.returns) {
            const Buffer& out = r_.buffer(result);
            const Ex head = head0 + Ex(g);
            if (result->type.dtype == DType::Q8A) {
              if (d_ % 32) status = r_.unsupported(*op, "q8a result needs a head size that is a multiple of 32");
              const int64_t width = heads_ * d_;
              b_.for_(0, d_ / 32, 1, [&](Ex k) {
                store_q8a(b_, out, b_.let((t0 + Ex(t)) * (width / 32 * ir::info(DType::Q8A).bytes)), width,
                          b_.let(head * (d_ / 32) + k), value(k * 32), value(k * 32 + kLanes));
              });
            } else {
              const Ex at = b_.let(((t0 + Ex(t)) * heads_ + head) * d_);
              b_.for_(0, d_, kLanes, [&](Ex i) { b_.store(out, at + i, value(i)); });
            }
          }
        }
      });
    PRISM_CHECK(status);
    return r_.finish(ir::Dim::floor_div(qt.dim(0) + ir::Dim(tile_q_ - 1), tile_q_) * ir::Dim(slots));
  }

 private:
  Region r_;
  Builder& b_;
  int64_t heads_ = 0, kv_heads_ = 0, d_ = 0;
  int group_ = 1, tile_q_ = 1, tile_k_ = 64;
};

}  // namespace

Result<LoweredKernel> lower_flash(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims) {
  return Flash(op, name, dims).run();
}

}  // namespace prism::codegen
