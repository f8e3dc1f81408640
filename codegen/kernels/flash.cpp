// Attention by online softmax over tiles of 64 keys (FlashAttention, Dao et al. 2022): the score matrix is never stored.
//
// A task is a tile of tokens times the query heads that share one KV head, so K and V are converted once for all of
// them. Tiles of keys start at multiples of 64 whatever the chunking, so a token's result has the same bits however
// the prompt was split. Queries in bf16 go to matrix registers, queries in f32 to vectors.
#include <cmath>

#include "codegen/kernels/region.h"
#include "runtime/base/checked.h"

namespace prism::codegen {

using namespace kir;
using ir::DType;
using ir::Op;

namespace {

constexpr int kVectorRows = 12;     // query rows at once with vectors
constexpr int kAccumulators = 24;   // vector registers used for sums
constexpr int kMatrixRows = 64;     // query rows at once with matrix registers, at least

class Flash {
 public:
  Flash(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa)
      : r_(op, name, dims), b_(r_.b), isa_(isa) {}

  Result<LoweredKernel> run() {
    for (const ir::Operation& o : r_.body.ops) {
      if (o.op == Op::FlashAttention) op_ = &o;
      else if (o.op != Op::Reshape && o.op != Op::Quantize && o.op != Op::Cast) return r_.unsupported(o, "cannot join an attention kernel");
    }
    const ir::Value *q = op_->operand(0), *kv = op_->operand(1);
    while (!r_.is_argument(q) && q->def->op == Op::Reshape) q = q->def->operand(0);
    const ir::Type& qt = op_->operand(0)->type;
    PRISM_CHECK(choose_tiles(qt, kv->type));

    tokens_ = b_.let(r_.dim(qt.dim(0)));
    total_ = b_.let(r_.dim(kv->type.dim(0)));
    past_ = b_.let(total_ - tokens_);
    // Cheap (early) and dear (late) tiles alternate, so that a static split over threads is even.
    const int64_t slots = heads_ / group_, share = heads_ / kv_heads_;
    const Ex tiles = b_.let((tokens_ + Ex(tile_q_ - 1)) / int64_t(tile_q_));
    const Ex turn = b_.let(b_.task() / slots), slot = b_.let(b_.task() % slots);
    t0_ = b_.let(b_.let(select(turn % 2 == Ex(0), turn / 2, tiles - Ex(1) - turn / 2)) * int64_t(tile_q_));
    head0_ = b_.let(slot * int64_t(group_));
    const Ex plane = b_.let(b_.let(head0_ / share) * b_.dim("ctx") * d_);

    scratch();
    start_rows(r_.buffer(q));
    const Ex end = b_.let(op_->attr<bool>("causal") ? min(past_ + t0_ + Ex(tile_q_), total_) : total_);
    Ex begin(0);
    if (const int64_t window = op_->attr<int64_t>("window"); window > 0)
      begin = b_.let(max(past_ + t0_ - Ex(window - 1), Ex(0)) / int64_t(tile_k_) * int64_t(tile_k_));
    b_.for_(begin, end, tile_k_, [&](Ex key0) {
      const Ex at = b_.let(plane + key0 * d_);
      if (matrix_) matrix_scores(r_.keys(kv), at);
      else vector_scores(r_.keys(kv), at);
      softmax(key0);
      if (matrix_) matrix_values(r_.values(kv), at);
      else vector_values(r_.values(kv), at, b_.let(min(Ex(tile_k_), end - key0)));
    });
    PRISM_CHECK(finish_rows());
    return r_.finish(ir::Dim::floor_div(qt.dim(0) + ir::Dim(tile_q_ - 1), tile_q_) * ir::Dim(slots));
  }

 private:
  Status choose_tiles(const ir::Type& q, const ir::Type& kv) {
    heads_ = *q.dim(1).constant();
    d_ = *q.dim(2).constant();
    kv_heads_ = *kv.dim(1).constant();
    tile_k_ = int(op_->attr<int64_t>("tile_k"));
    matrix_ = q.dtype == DType::BF16;
    const int64_t unit = matrix_ ? 2 * kLanes : kLanes;
    if (d_ % unit || tile_k_ % unit)
      return r_.unsupported(*op_, "head size " + std::to_string(d_) + " and key tile must be multiples of " + std::to_string(unit));
    if (matrix_ && isa_ < rt::Isa::Amx) return r_.unsupported(*op_, "bf16 queries on " + std::string(rt::isa_name(isa_)));
    if (!(op_->attr<double>("scale") > 0)) return r_.unsupported(*op_, "a scale that is not positive");
    const int64_t share = heads_ / kv_heads_;
    for (int64_t g = 1; g <= std::min<int64_t>(share, kVectorRows); ++g)
      if (share % g == 0) group_ = int(g);
    if (matrix_) {
      b_.use_tiles(std::vector<kir::TileShape>(8, {kLanes, 64}));
      for (tile_q_ = kLanes; tile_q_ * group_ < kMatrixRows || tile_q_ * group_ % (2 * kLanes); tile_q_ += kLanes) {}
    } else {
      tile_q_ = q.dim(0) == ir::Dim(1) ? 1 : std::max(1, std::min(int(op_->attr<int64_t>("tile_q")), kVectorRows / group_));
    }
    rows_ = group_ * tile_q_;
    return ok();
  }

  void scratch() {
    q_ = b_.scratch("q", matrix_ ? Elem::BF16 : Elem::F32, rows_ * d_);
    o_ = b_.scratch("o", Elem::F32, rows_ * d_);
    scores_ = b_.scratch("scores", Elem::F32, rows_ * tile_k_);
    weights_ = matrix_ ? b_.scratch("weights", Elem::BF16, rows_ * tile_k_) : scores_;
    if (matrix_) operand_ = b_.scratch("operand", Elem::U32, tile_k_ / 2 * d_);
    const int64_t padded = int64_t(round_up(uint64_t(rows_), kLanes));
    top_ = b_.scratch("top", Elem::F32, padded);
    sum_ = b_.scratch("sum", Elem::F32, rows_ * kLanes);
    decay_ = b_.scratch("decay", Elem::F32, padded);
    std::vector<float> iota;
    for (int i = 0; i < kLanes; ++i) iota.push_back(float(i));
    lanes_ = b_.let(b_.load(b_.table("lane", iota), 0, kLanes));
  }

  /// Token of a row, the last one again past the end.
  Ex token(Ex row) const { return min(t0_ + row / int64_t(group_), tokens_ - Ex(1)); }

  void start_rows(const Buffer& q) {
    b_.for_(0, rows_, 1, [&](Ex row) {
      const Ex from = b_.let((token(row) * heads_ + head0_ + row % int64_t(group_)) * d_), to = b_.let(row * d_);
      b_.for_(0, d_, kLanes, [&](Ex i) {
        b_.store(q_, to + i, b_.load(q, from + i, kLanes));
        b_.store(o_, to + i, constant({Elem::F32, kLanes}, 0));
      });
      b_.store(top_, row, Ex(-1e30));
      b_.store(sum_, row * kLanes, constant({Elem::F32, kLanes}, 0));
    });
  }

  /// Scores: a vector is 16 keys. K is in groups of 16 keys, [size][16].
  void vector_scores(const Buffer& keys, Ex at) {
    const int vectors = tile_k_ / kLanes, at_once = std::max(1, std::min(vectors, kAccumulators / rows_));
    for (int v0 = 0; v0 < vectors; v0 += at_once) {
      const int n = std::min(at_once, vectors - v0);
      std::vector<Ex> acc;
      for (int i = 0; i < rows_ * n; ++i) acc.push_back(b_.var(constant({Elem::F32, kLanes}, 0)));
      const Ex k_at = b_.let(at + Ex(int64_t(v0) * d_ * kLanes));
      b_.for_(0, d_, 1, [&](Ex i) {
        std::vector<Ex> k;
        for (int v = 0; v < n; ++v)
          k.push_back(b_.let(cast(Elem::F32, b_.load(keys, k_at + i * kLanes + Ex(int64_t(v) * d_ * kLanes), kLanes))));
        for (int row = 0; row < rows_; ++row)
          for (int v = 0; v < n; ++v)
            b_.assign(acc[size_t(row * n + v)], fma(k[size_t(v)], b_.load(q_, i + Ex(row * d_)), acc[size_t(row * n + v)]));
      });
      for (int row = 0; row < rows_; ++row)
        for (int v = 0; v < n; ++v) b_.store(scores_, Ex(row * tile_k_ + (v0 + v) * kLanes), acc[size_t(row * n + v)]);
    }
  }

  /// One step of the online softmax: scores become weights relative to the largest score so far. Tiles that all rows see
  /// whole, most of them, need no mask.
  void softmax(Ex key0) {
    const bool causal = op_->attr<bool>("causal");
    const int64_t window = op_->attr<int64_t>("window");
    const double cap = op_->attr<double>("softcap"), scale = op_->attr<double>("scale");
    if (window > 0) {
      highest(key0, true);
    } else {
      const Ex seen = b_.let(causal ? past_ + t0_ + Ex(1) : total_);
      b_.if_(key0 + Ex(tile_k_) <= seen, [&] { highest(key0, false); }, [&] { highest(key0, true); });
    }
    const double unit = (matrix_ ? M_LOG2E : 1.0) * (cap > 0 ? 1.0 : scale);  // of scores_, for exponential()
    b_.for_(0, rows_, kLanes, [&](Ex row) {
      const Ex before = b_.let(b_.load(top_, row, kLanes)), after = b_.let(max(before, b_.load(decay_, row, kLanes) * Ex(unit)));
      b_.store(top_, row, after);
      b_.store(decay_, row, exponential(before - after));
    });
    b_.for_(0, rows_, 1, [&](Ex row) {
      const Ex line = b_.let(row * int64_t(tile_k_)), least = b_.let(Ex(0.0) - b_.load(top_, row));
      Ex sum = b_.let(b_.load(sum_, row * kLanes, kLanes) * b_.load(decay_, row));
      for (int v = 0; v < tile_k_ / kLanes; ++v) {
        const Ex e = b_.let(exponential(fma(b_.load(scores_, line + Ex(v * kLanes), kLanes), constant({Elem::F32, kLanes}, unit), least)));
        b_.store(weights_, line + Ex(v * kLanes), cast(weights_.elem, e));
        sum = b_.let(sum + e);
      }
      b_.store(sum_, row * kLanes, sum);
    });
  }

  Ex exponential(Ex x) { return call(matrix_ ? Fn::Exp2Coarse : Fn::Exp, {x}); }

  /// Each row's largest score of this tile into decay_. Scores get their cap, and -inf where `masked` hides keys.
  void highest(Ex key0, bool masked) {
    const int64_t window = op_->attr<int64_t>("window");
    const double cap = op_->attr<double>("softcap"), scale = op_->attr<double>("scale");
    const Ex hidden = constant({Elem::F32, kLanes}, -INFINITY);
    b_.for_(0, rows_, 1, [&](Ex row) {
      const Ex position = b_.let(cast(Elem::F32, past_ + token(row)));  // exact below 2^24
      Ex most;
      for (int v = 0; v < tile_k_ / kLanes; ++v) {
        const Ex at = b_.let(row * int64_t(tile_k_) + Ex(v * kLanes));
        Ex x = b_.let(b_.load(scores_, at, kLanes));
        if (cap > 0) x = b_.let(call(Fn::Tanh, {x * Ex(scale / cap)}) * Ex(cap));
        if (masked) {
          const Ex key = b_.let(cast(Elem::F32, key0 + Ex(v * kLanes)) + lanes_);
          x = select(op_->attr<bool>("causal") ? key <= splat(position, kLanes) : key < splat(cast(Elem::F32, total_), kLanes), x, hidden);
          if (window > 0) x = select(splat(position - Ex(double(window)), kLanes) < key, x, hidden);
          x = b_.let(x);
        }
        if (cap > 0 || masked) b_.store(scores_, at, x);
        most = v == 0 ? x : b_.let(max(most, x));
      }
      b_.store(decay_, row, call(Fn::ReduceMax, {most}));
    });
  }

  /// Weighted values: a vector is 16 of the head's dimensions.
  void vector_values(const Buffer& values, Ex at, Ex keys) {
    const int chunks = int(d_ / kLanes), together = std::max(1, std::min(chunks, kAccumulators / rows_));
    for (int c0 = 0; c0 < chunks; c0 += together) {
      const int n = std::min(together, chunks - c0);
      std::vector<Ex> acc;
      for (int row = 0; row < rows_; ++row)
        for (int c = 0; c < n; ++c)
          acc.push_back(b_.var(b_.load(o_, Ex(row * d_ + (c0 + c) * kLanes), kLanes) * b_.load(decay_, Ex(row))));
      const Ex v_at = b_.let(at + Ex(c0 * kLanes));
      b_.for_(0, keys, 1, [&](Ex key) {
        std::vector<Ex> v;
        for (int c = 0; c < n; ++c) v.push_back(b_.let(cast(Elem::F32, b_.load(values, v_at + key * d_ + Ex(c * kLanes), kLanes))));
        for (int row = 0; row < rows_; ++row) {
          const Ex w = splat(b_.load(weights_, key + Ex(row * tile_k_)), kLanes);
          for (int c = 0; c < n; ++c) b_.assign(acc[size_t(row * n + c)], fma(v[size_t(c)], w, acc[size_t(row * n + c)]));
        }
      });
      for (int row = 0; row < rows_; ++row)
        for (int c = 0; c < n; ++c) b_.store(o_, Ex(row * d_ + (c0 + c) * kLanes), acc[size_t(row * n + c)]);
    }
  }

  /// sum[rows, 16 * columns] = (sum +) a[rows, depth] times operand_, 32 rows by 32 columns in four registers.
  void multiply(const Buffer& a, int64_t depth, int64_t columns, const Buffer& sum, bool add) {
    const int64_t block = depth / 2 * kLanes;  // words of operand_ for 16 columns
    b_.for_(0, rows_, 2 * kLanes, [&](Ex row) {
      b_.for_(0, columns, 2, [&](Ex column) {
        auto at = [&](int t) { return row * (columns * kLanes) + column * kLanes + Ex(t / 2 * kLanes * columns * kLanes + t % 2 * kLanes); };
        for (int t = 0; t < 4; ++t) {
          if (add) b_.tile_load(t, sum, at(t), Ex(columns * kLanes * 4));
          else b_.tile_zero(t);
        }
        b_.for_(0, depth / 32, 1, [&](Ex k) {
          for (int i = 0; i < 2; ++i) {
            b_.tile_load(4 + i, a, (row + Ex(i * kLanes)) * depth + k * 32, Ex(depth * 2));
            for (int j = 0; j < 2; ++j) {
              if (i == 0) b_.tile_load(6 + j, operand_, (column + Ex(j)) * block + k * (16 * kLanes), 64);
              b_.tile_dot(2 * i + j, 4 + i, 6 + j);
            }
          }
        });
        for (int t = 0; t < 4; ++t) b_.tile_store(t, sum, at(t), Ex(columns * kLanes * 4));
      });
    });
  }

  void matrix_scores(const Buffer& keys, Ex at) {
    b_.for_(0, tile_k_ / 2 * d_, kLanes, [&](Ex i) {  // [group of 16 keys][pair of dimensions][16]
      auto dimension = [&](int h) { return b_.let(cast(Elem::F32, b_.load(keys, at + i * 2 + Ex(h * kLanes), kLanes))); };
      b_.store(operand_, i, bf16_pairs(b_, dimension(0), dimension(1)));
    });
    multiply(q_, d_, tile_k_ / kLanes, scores_, false);
  }

  void matrix_values(const Buffer& values, Ex at) {
    b_.for_(0, rows_, 1, [&](Ex row) {
      const Ex decay = b_.let(b_.load(decay_, row)), line = b_.let(row * d_);
      b_.if_(decay < Ex(1.0), [&] {
        b_.for_(0, d_, kLanes, [&](Ex i) { b_.store(o_, line + i, b_.load(o_, line + i, kLanes) * decay); });
      });
    });
    b_.for_(0, d_ / kLanes, 1, [&](Ex c) {  // [16 dimensions][pair of keys][16]
      b_.for_(0, tile_k_ / 2, 1, [&](Ex pair) {
        auto key = [&](int h) { return b_.let(cast(Elem::F32, b_.load(values, at + (pair * 2 + Ex(h)) * d_ + c * kLanes, kLanes))); };
        b_.store(operand_, (c * int64_t(tile_k_ / 2) + pair) * kLanes, bf16_pairs(b_, key(0), key(1)));
      });
    });
    multiply(weights_, tile_k_, d_ / kLanes, o_, true);
  }

  Status finish_rows() {
    Status status = ok();
    b_.for_(0, rows_, 1, [&](Ex row) {
      const Ex t = b_.let(t0_ + row / int64_t(group_)), head = b_.let(head0_ + row % int64_t(group_)), line = b_.let(row * d_);
      b_.if_(t < tokens_, [&] {
        const Ex inverse = b_.let(constant({Elem::F32, 1}, 1.0) / call(Fn::ReduceAdd, {b_.load(sum_, row * kLanes, kLanes)}));
        auto value = [&](Ex i) { return b_.load(o_, line + i, kLanes) * inverse; };
        for (const ir::Value* result : r_.body.returns) {
          const Buffer& out = r_.buffer(result);
          if (result->type.dtype == DType::Q8A) {
            if (d_ % 32) status = r_.unsupported(*op_, "q8a result needs a head size that is a multiple of 32");
            const int64_t width = heads_ * d_;
            const Ex to = b_.let(t * (width / 32 * ir::info(DType::Q8A).bytes));
            b_.for_(0, d_ / 32, 1, [&](Ex k) {
              store_q8a(b_, out, to, width, b_.let(head * (d_ / 32) + k), value(k * 32), value(k * 32 + kLanes));
            });
          } else {
            const Ex column = b_.let(head * d_);
            b_.for_(0, d_, kLanes, [&](Ex i) {
              b_.store(out, element_index(result->type.layout, heads_ * d_, t, column + i), cast(out.elem, value(i)));
            });
          }
        }
      });
    });
    return status;
  }

  Region r_;
  Builder& b_;
  rt::Isa isa_;
  const ir::Operation* op_ = nullptr;
  int64_t heads_ = 0, kv_heads_ = 0, d_ = 0;
  int group_ = 1, tile_q_ = 1, tile_k_ = 64, rows_ = 1;
  bool matrix_ = false;
  Ex tokens_, total_, past_, t0_, head0_, lanes_;
  Buffer q_, o_, scores_, weights_;     ///< [row][...], rows = tokens of the tile times heads of the group
  Buffer operand_;                      ///< the tile's K or V as matrix operand b
  Buffer top_, decay_;                  ///< per row: largest score, factor of the sums so far
  Buffer sum_;                          ///< [row][16]: sums of weights by lane
};

}  // namespace

Result<LoweredKernel> lower_flash(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa) {
  return Flash(op, name, dims, isa).run();
}

}  // namespace prism::codegen
