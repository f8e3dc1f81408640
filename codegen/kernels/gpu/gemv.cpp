// y = x w^T for few rows, bound by the reading of w: each weight is read once for up to 4 tokens, 16 bytes a thread, up to
// five of them under way. A block has groups of 16 outputs; its warps share the columns and add their sums in a fixed order, so that a
// token's result has the same bits whatever the tokens beside it.
//
// Quantized: 16 lanes have a block of 32 columns (rows16.h).
// Dense (row-major or swizzled): a warp has 4 rows or more, a lane 16 bytes of each.
#include "codegen/kernels/gpu/epilogue.h"
#include "codegen/kernels/gpu/gemm_weights.h"
#include "codegen/kernels/gpu/gpu.h"
#include "codegen/kernels/gpu/rows16.h"
#include "codegen/pack.h"

namespace prism::codegen {

using namespace kir;
using ir::DType;
using ir::Op;

namespace {

constexpr int kRows = 16;        // of a group
constexpr int kTokens = 4;       // at once

struct Shape {
  const ir::Operation* linear = nullptr;
  int64_t n = 0, k = 0;
  DType format = DType::F32;
  int64_t groups = 1;            ///< of 16 rows in a block
  int warps = 0;                 ///< of a group
  bool swizzled = false;         ///< dense weights in tiles
  bool quantized() const { return ir::info(format).quantized; }
};

Result<Shape> shape_of(const ir::Operation& op, const std::string& name) {
  Shape s;
  for (const ir::Operation& o : op.body->ops) {
    if (o.op == Op::Linear && s.linear) return error("kernel ", name, ": two linears in one kernel");
    if (o.op == Op::Linear) s.linear = &o;
    if (o.op == Op::Glu || o.op == Op::Quantize) s.groups *= 2;
  }
  const ir::Type &w = s.linear->operand(1)->type, &x = s.linear->operand(0)->type;
  s.n = *w.dim(0).constant();
  s.k = *w.dim(1).constant();
  s.format = w.dtype;
  const bool packed = w.layout == ir::Layout::Rows16;
  s.swizzled = w.layout == ir::Layout::Swizzled;
  if (s.quantized() != packed || s.quantized() != (x.dtype == DType::Q8A) || s.linear->operand(0)->kind != ir::Value::Kind::Argument)
    return error("kernel ", name, ": linear of ", x.str(), " and ", w.str(), " has no lowering; expected q8a with rows16, or f32 with row-major or swizzled floats");
  s.warps = int(kDecodeThreads / 32 / s.groups);
  return s;
}

class Gemv {
 public:
  Gemv(const ir::Operation& op, const Shape& s, const std::string& name, const std::vector<std::string>& dims)
      : s_(s), r_(op, name, dims, int(s.groups) * s.warps * 32), b_(r_.b), epilogue_(r_, *s.linear),
        x_(r_.buffer(s.linear->operand(0))), w_(r_.buffer(s.linear->operand(1))) {}

  Result<LoweredKernel> run() {
    const ir::Dim rows = Region::rows_of(s_.linear->operand(0)->type);
    const int64_t columns = s_.groups * kRows;
    const bool single = rows == ir::Dim(1);
    tokens_ = single ? 1 : kTokens;
    sums_ = s_.quantized() ? s_.warps : 1;
    lane_rows_ = s_.quantized() ? 4 : kRows / s_.warps;
    partial_ = b_.shared("partial", Elem::F32, s_.groups * sums_ * tokens_ * kRows);
    y_ = b_.shared("y", Elem::F32, tokens_ * columns);
    warp_ = b_.let(b_.thread() / 32);
    lane_ = b_.let(b_.thread() % 32);
    slot_ = b_.let(warp_ / s_.warps);                       // the thread's group in the block
    group_ = b_.let(b_.task() * s_.groups + slot_);
    Status status = ok();
    if (single) {
      status = tile(Ex(0), Ex(1), true);
    } else {
      b_.grid_wait();
      const Ex m = b_.let(r_.dim(rows));
      b_.for_(constant({Elem::I32, 1}, 0), m, kTokens, [&](Ex t0) { status = tile(t0, b_.let(min(m - t0, Ex(kTokens))), false); });
    }
    PRISM_CHECK(status);
    return r_.finish(ir::Dim((s_.n + columns - 1) / columns));
  }

 private:
  using Raw = std::vector<Ex>;

  /// Tokens t0.. of which `count` are there. With `wait` the weights' first loads begin before the kernels before have ended.
  Status tile(Ex t0, Ex count, bool wait) {
    last_token_ = b_.let(t0 + count - Ex(1));
    if (s_.quantized()) quantized(t0, wait);
    else dense(t0, wait);
    b_.barrier();
    const int64_t columns = s_.groups * kRows;
    b_.for_(b_.thread(), tokens_ * columns, b_.block_threads(), [&](Ex i) {
      const Ex t = b_.let(i / columns), c = b_.let(i % columns), at = b_.let((c / kRows * (sums_ * tokens_) + t) * kRows + c % kRows);
      Ex sum = b_.load(partial_, at);
      for (int64_t p = 1; p < sums_; ++p) sum = sum + b_.load(partial_, at + Ex(p * tokens_ * kRows));
      b_.store(y_, i, sum);
    });
    b_.barrier();
    return epilogue_.emit(y_, columns, t0, count, b_.let(b_.task() * columns), columns);
  }

  /// Loads under way beside the one in use: more where registers are free.
  int ahead() const { return tokens_ > 1 || lane_rows_ > 8 ? 1 : lane_rows_ > 4 ? 2 : s_.quantized() ? 4 : 3; }

  Ex token(Ex t0, int t) { return t == 0 ? t0 : min(t0 + Ex(t), last_token_); }

  /// Calls compute(i, raw) for i = first, first + step, ... below `end`, raw(i) having been loaded ahead() steps before.
  void stream(Ex first, int64_t end, int64_t step, bool wait, const std::function<Raw(Ex)>& raw, const std::function<void(Ex, const Raw&)>& compute) {
    std::vector<Raw> stages;
    for (int a = 0; a <= ahead(); ++a) {
      Raw vars;
      for (Ex e : raw(b_.let(min(first + Ex(a * step), Ex(end - 1))))) vars.push_back(b_.var(e));
      stages.push_back(vars);
    }
    if (wait) b_.grid_wait();
    prepare();
    b_.for_(first, end, step, [&](Ex i) {
      compute(i, stages[0]);
      for (int a = 0; a < ahead(); ++a)
        for (size_t v = 0; v < stages[0].size(); ++v) b_.assign(stages[size_t(a)][v], stages[size_t(a + 1)][v]);
      const Raw next = raw(b_.let(min(i + Ex((ahead() + 1) * step), Ex(end - 1))));
      for (size_t v = 0; v < next.size(); ++v) b_.assign(stages.back()[v], next[v]);
    }, 1);
  }

  /// Where the tokens' rows of x begin; after grid_wait as the dims' values may be used.
  void prepare() {
    row_.clear();
    const int64_t row = s_.quantized() ? s_.k / 32 * ir::info(DType::Q8A).bytes : s_.k;
    for (int t = 0; t < tokens_; ++t) row_.push_back(b_.let(token(t0_, t) * row));
  }

  void reset(Ex t0) {
    t0_ = t0;
    acc_.clear();
    for (int64_t i = 0; i < tokens_ * lane_rows_; ++i) acc_.push_back(b_.var(constant({Elem::F32, 1}, 0)));
  }

  /// Adds `masks` lanes apart and stores the sums of the group's rows `first`.. as its partial number `p`.
  void store_sums(std::initializer_list<int> masks, Ex writes, Ex first, Ex p) {
    for (Ex& a : acc_) {
      Ex v = a;
      for (int mask : masks) v = b_.let(v + b_.shuffle_xor(v, mask));
      a = v;
    }
    b_.if_(writes, [&] {
      for (int64_t t = 0; t < tokens_; ++t)
        for (int64_t i = 0; i < lane_rows_; i += 4) {
          const auto from = acc_.begin() + t * lane_rows_ + i;
          b_.store(partial_, ((slot_ * sums_ + p) * tokens_ + Ex(t)) * kRows + first + Ex(i), pack({from, from + 4}));
        }
    });
  }

  // --- quantized -----------------------------------------------------------------------------------------------------

  void quantized(Ex t0, bool wait) {
    reset(t0);
    const int64_t half_warps = 2 * s_.warps;
    const Ex quad = b_.let(lane_ % 4);
    word_ = b_.let(lane_ % 16 / 4);
    const Rows16Lane rows(b_, s_.format, w_, quad, word_);
    const Ex first = b_.let(warp_ % s_.warps * 2 + lane_ / 16);
    const Ex base = b_.let(cast(Elem::I64, group_) * rows16_group_bytes(s_.format, s_.k));
    stream(first, s_.k / 32, half_warps, wait, [&](Ex k) { return rows.load(base, k); }, [&](Ex k, const Raw& raw) { multiply(rows, k, raw); });
    store_sums({4, 8, 16}, lane_ < Ex(4), b_.let(quad * 4), b_.let(warp_ % s_.warps));
  }

  /// A token's values of a block: two words of int8, their scale, and the sums that minima multiply, which one of the four
  /// lanes that share a row's block adds.
  struct Activations {
    Ex word[2], scale, sum[2];
  };

  Activations activations(int t, Ex k, int parts) {
    const Ex row = row_[size_t(t)], q = b_.let(row + k * 32 + word_ * 4);
    Activations x;
    for (int p = 0; p < 2; ++p) x.word[p] = b_.let(b_.load({Elem::I32, 1}, x_, q + Ex(16 * p)));
    x.scale = b_.let(b_.load({Elem::F32, 1}, x_, row + Ex(s_.k) + k * 4));
    const Ex minus = b_.let(Ex(0.0) - x.scale);
    for (int p = 0; p < parts; ++p) {
      const Ex at = parts == 1 ? row + Ex(s_.k + s_.k / 8) + k * 4 : row + Ex(s_.k + s_.k / 4 + 4 * p) + k * 8;
      x.sum[p] = b_.let(select(word_ == Ex(0), minus * cast(Elem::F32, b_.load({Elem::I32, 1}, x_, at)), constant({Elem::F32, 1}, 0)));
    }
    return x;
  }

  void multiply(const Rows16Lane& rows, Ex k, const Raw& raw) {
    const int parts = rows.parts();
    std::vector<Activations> x;
    for (int t = 0; t < tokens_; ++t) x.push_back(activations(t, k, parts));
    const Ex zero = constant({Elem::I32, 1}, 0);
    for (int i = 0; i < 4; ++i) {
      const LaneWeights w = rows.weights(raw, i);
      for (int t = 0; t < tokens_; ++t) {
        const Ex acc = acc_[size_t(t * 4 + i)];
        const Activations& v = x[size_t(t)];
        const Ex low = b_.let(call(Fn::Dot4, {zero, w.word[0], v.word[0]}));
        const Ex high = b_.let(call(Fn::Dot4, {parts == 1 ? low : zero, w.word[1], v.word[1]}));
        if (parts == 2) b_.assign(acc, fma(cast(Elem::F32, low), w.scale[0] * v.scale, acc));
        b_.assign(acc, fma(cast(Elem::F32, high), w.scale[parts - 1] * v.scale, acc));
        for (int p = 0; p < parts; ++p) b_.assign(acc, fma(w.minimum[p], v.sum[p], acc));
      }
    }
  }

  using Address = std::function<Ex(Ex c, int64_t i)>;   ///< of chunk c of row `first` + i of the group

  /// Past the last row that row again.
  Address rows_of_w(Ex first, int64_t chunk) {
    std::vector<Ex> begin;
    for (int64_t i = 0; i < lane_rows_; ++i) begin.push_back(b_.let(cast(Elem::I64, min(group_ * kRows + first + Ex(i), Ex(s_.n - 1))) * s_.k));
    return [=](Ex c, int64_t i) { return begin[size_t(i)] + cast(Elem::I64, c * chunk); };
  }

  /// The rows are of one tile after the other, and a lane's chunks all in one place of these. There are rows past the last to fill tiles.
  Address swizzled_rows(Ex first) {
    const Ex row = b_.let(group_ * kRows + first), last_tile = Ex((s_.n - 1) / kTileSide);
    const Ex begin = b_.let(cast(Elem::I64, min(row / kTileSide, last_tile)) * (swizzled_group_bytes(s_.k) / 2));
    std::vector<Ex> place;
    for (int64_t i = 0; i < lane_rows_; ++i) place.push_back(b_.let(swizzled(row % kTileSide + Ex(i), lane_ % kRowChunks)));
    return [=](Ex c, int64_t i) { return begin + cast(Elem::I64, c / kRowChunks * (kTileSide * kTileSide) + place[size_t(i)]); };
  }

  // --- dense ---------------------------------------------------------------------------------------------------------

  void dense(Ex t0, bool wait) {
    reset(t0);
    const int64_t widest = 16 / elem_bytes(w_.elem), chunk = s_.k % widest == 0 ? widest : 1, piece = std::min<int64_t>(chunk, 4);
    const Ex first = b_.let(warp_ % s_.warps * lane_rows_);
    const auto address = s_.swizzled ? swizzled_rows(first) : rows_of_w(first, chunk);
    stream(lane_, s_.k / chunk, 32, wait,
           [&](Ex c) {
             Raw raw;
             for (int64_t i = 0; i < lane_rows_; ++i) raw.push_back(b_.load({w_.elem, int(chunk)}, w_, address(c, i)));
             return raw;
           },
           [&](Ex c, const Raw& raw) {
             for (int64_t e = 0; e < chunk; e += piece) {
               std::vector<Ex> x;
               for (const Ex& row : row_) x.push_back(b_.let(b_.load({Elem::F32, int(piece)}, x_, row + c * chunk + Ex(e))));
               for (int64_t i = 0; i < lane_rows_; ++i)
                 for (int64_t p = 0; p < piece; ++p) {
                   const Ex w = b_.let(cast(Elem::F32, chunk == 1 ? raw[size_t(i)] : lane(raw[size_t(i)], int(e + p))));
                   for (int64_t t = 0; t < tokens_; ++t) {
                     const Ex acc = acc_[size_t(t * lane_rows_ + i)];
                     b_.assign(acc, fma(w, piece == 1 ? x[size_t(t)] : lane(x[size_t(t)], int(p)), acc));
                   }
                 }
             }
           });
    store_sums({1, 2, 4, 8, 16}, lane_ == Ex(0), first, Ex(0));
  }

  const Shape s_;
  Region r_;
  Builder& b_;
  Epilogue epilogue_;
  const Buffer &x_, &w_;
  int64_t tokens_ = 1, sums_ = 1;  ///< sums_: of a group's output, from different warps
  int64_t lane_rows_ = 4;          ///< of a group, that a lane has columns of
  Buffer partial_;                 ///< [group of the block][sum][token][16]
  Buffer y_;                       ///< [token][output of the block]
  Ex warp_, lane_, slot_, group_, last_token_, t0_;
  Ex word_;                        ///< quantized: the lane's
  std::vector<Ex> row_, acc_;      ///< by token; by token and lane's row
};

}  // namespace

Result<LoweredKernel> lower_gpu_gemv(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims) {
  PRISM_TRY(const Shape s, shape_of(op, name));
  return Gemv(op, s, name, dims).run();
}

}  // namespace prism::codegen
