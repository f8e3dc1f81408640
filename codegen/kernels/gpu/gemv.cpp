// y = x w^T for few rows, bound by the reading of w: each weight is read once for up to 4 tokens, in loads of 16 bytes, several
// of a thread's under way. A block has groups of 16 outputs or fewer; its warps share the columns and add their sums in a fixed order, so that
// a token's result has the same bits whatever the tokens beside it. x is brought to shared memory first, if there is room.
//
// Quantized: half a warp has a block of 32 columns (rows16.h). The products of a warp's two blocks with all tokens are matrix
// products of bytes: operand b has a column for each token and half, and of the sums a lane takes those of its half.
// Dense (row-major or swizzled): a warp has some of the rows, a lane 16 bytes of each, by way of shared memory.
#include "codegen/kernels/gpu/epilogue.h"
#include "codegen/kernels/gpu/gemm_weights.h"
#include "codegen/kernels/gpu/gpu.h"
#include "codegen/kernels/gpu/rows16.h"
#include "codegen/pack.h"
#include "runtime/base/checked.h"

namespace prism::codegen {

using namespace kir;
using ir::DType;
using ir::Op;

namespace {

constexpr int64_t kRows = 16;    // of a group; of dense weights fewer where multiprocessors would get uneven shares
constexpr int kTokens = 4;       // at once
constexpr int64_t kMostShared = 96 << 10;    // what a block can have on smaller GPUs, less the sums
constexpr int64_t kMostStaged = 64 << 10;    // bytes of x in shared memory
constexpr int64_t kMultiprocessorShared = 200 << 10;   // that a large GPU's has for the blocks on it

struct Shape {
  const ir::Operation* linear = nullptr;
  int64_t n = 0, k = 0;
  DType format = DType::F32;
  bool swizzled = false;         ///< dense weights in tiles
  bool quantized() const { return ir::info(format).quantized; }
};

Result<Shape> shape_of(const ir::Operation& op, const std::string& name) {
  Shape s;
  for (const ir::Operation& o : op.body->ops) {
    if (o.op == Op::Linear && s.linear) return error("kernel ", name, ": two linears in one kernel");
    if (o.op == Op::Linear) s.linear = &o;
  }
  const ir::Type &w = s.linear->operand(1)->type, &x = s.linear->operand(0)->type;
  s.n = *w.dim(0).constant();
  s.k = *w.dim(1).constant();
  s.format = w.dtype;
  const bool packed = w.layout == ir::Layout::Rows16;
  s.swizzled = w.layout == ir::Layout::Swizzled;
  if (s.quantized() != packed || s.quantized() != (x.dtype == DType::Q8A))
    return error("kernel ", name, ": linear of ", x.str(), " and ", w.str(), " has no lowering; expected q8a with rows16, or f32 with row-major or swizzled floats");
  return s;
}

/// Of the time that `blocks` take, the part in which multiprocessors have work, if one block of each takes as long as any.
double evenness(int64_t blocks, int64_t multiprocessors) { return double(blocks) / double(ceil_div(blocks, multiprocessors) * multiprocessors); }

int64_t group_rows(const Shape& s, int64_t column_unit, int64_t multiprocessors) {
  int64_t rows = kRows;
  const bool single = Region::rows_of(s.linear->operand(0)->type) == ir::Dim(1);
  if (s.quantized() || column_unit > 1 || !single) return rows;
  for (const int64_t fewer : {kRows / 2, kRows / 4})
    if (s.n % fewer == 0 && evenness(s.n / fewer, multiprocessors) > 1.1 * evenness(ceil_div(s.n, rows), multiprocessors)) rows = fewer;
  return rows;
}

class Gemv {
 public:
  Gemv(const ir::Operation& op, const Shape& s, const std::string& name, const std::vector<std::string>& dims, int64_t multiprocessors)
      : s_(s), r_(op, name, dims, kDecodeThreads), b_(r_.b), epilogue_(r_, *s.linear), multiprocessors_(multiprocessors), rows_(group_rows(s, epilogue_.column_unit(), multiprocessors)),
        groups_(std::max<int64_t>(epilogue_.column_unit() / kRows, 1)), warps_(kDecodeThreads / 32 / groups_), made_here_(!r_.is_argument(s.linear->operand(0))), w_(r_.buffer(s.linear->operand(1))) {
    if (!made_here_) x_ = r_.buffer(s.linear->operand(0));
  }

  Result<LoweredKernel> run() {
    const ir::Dim rows = Region::rows_of(s_.linear->operand(0)->type);
    const int64_t columns = groups_ * rows_;
    const bool single = rows == ir::Dim(1);
    tokens_ = single ? 1 : kTokens;
    // A block alone on its multiprocessor must have more under way than one of four.
    beside_ = std::clamp<int64_t>(ceil_div(ceil_div(s_.n, columns), multiprocessors_), 1, 4);
    // With two rather than three blocks, what is unpacked of formats with supers finds room in registers.
    const int64_t most = !s_.quantized() ? 4 : rows16_format(s_.format).blocks > 1 ? 2 : 3;
    if (single) b_.blocks_together(int(std::min(beside_, most)));
    sums_ = s_.quantized() ? warps_ : 1;
    lane_rows_ = s_.quantized() ? 4 : rows_ / warps_;
    partial_ = b_.shared("partial", Elem::F32, groups_ * sums_ * tokens_ * rows_);
    y_ = b_.shared("y", Elem::F32, tokens_ * columns);
    row_size_ = s_.quantized() ? s_.k / 32 * ir::info(DType::Q8A).bytes : s_.k;
    if (made_here_ && !single) return r_.unsupported(*s_.linear, "computes what it multiplies for several rows");
    if (!made_here_) {
      piece_ = 16 / elem_bytes(x_.elem);
      staged_ = row_size_ % piece_ == 0 && tokens_ * row_size_ * elem_bytes(x_.elem) <= kMostStaged;
      if (staged_) stage_ = b_.shared("x", x_.elem, tokens_ * row_size_);
    }
    warp_ = b_.let(b_.thread() / 32);
    lane_ = b_.let(b_.thread() % 32);
    slot_ = b_.let(warp_ / warps_);                       // the thread's group in the block
    group_ = b_.let(b_.task() * groups_ + slot_);
    Status status = ok();
    if (single) {
      status = tile(Ex(0), Ex(1));
    } else {
      b_.grid_wait();
      const Ex m = b_.let(r_.dim(rows));
      b_.for_(constant({Elem::I32, 1}, 0), m, kTokens, [&](Ex t0) { status = tile(t0, b_.let(min(m - t0, Ex(kTokens)))); });
    }
    PRISM_CHECK(status);
    return r_.finish(ir::Dim((s_.n + columns - 1) / columns));
  }

 private:
  using Raw = std::vector<Ex>;

  /// Tokens t0.. of which `count` are there.
  Status tile(Ex t0, Ex count) {
    t0_ = t0;
    last_token_ = b_.let(t0 + count - Ex(1));
    if (s_.quantized()) quantized();
    else dense();
    PRISM_CHECK(made_);
    b_.barrier();
    const int64_t columns = groups_ * rows_;
    b_.for_(b_.thread(), tokens_ * columns, b_.block_threads(), [&](Ex i) {
      const Ex t = b_.let(i / columns), c = b_.let(i % columns), at = b_.let((c / rows_ * (sums_ * tokens_) + t) * rows_ + c % rows_);
      Ex sum = b_.load(partial_, at);
      for (int64_t p = 1; p < sums_; ++p) sum = sum + b_.load(partial_, at + Ex(p * tokens_ * rows_));
      b_.store(y_, i, sum);
    });
    b_.barrier();
    return epilogue_.emit(y_, columns, t0, count, b_.let(b_.task() * columns), columns);
  }

  /// Calls use(i, stage, later) for i in [0, count); fetch(i, stage) was called `stages` calls before, and of `later` others after that. Those of a
  /// single row begin before the kernels before have ended; of several that has been waited for.
  void stream(int64_t count, int64_t stages, const std::function<void(Ex, int64_t)>& fetch, const std::function<void(Ex, int64_t, int64_t)>& use) {
    const int64_t loops = count / stages - 1;
    for (int64_t a = 0; a < stages; ++a) fetch(Ex(a), a);
    if (tokens_ == 1) b_.grid_wait();
    prepare();
    if (s_.quantized()) {
      mine_ = x_row(min(word_, Ex(tokens_ - 1)));
      their_words_ = b_.let(x_row(min(lane_ / 8, Ex(tokens_ - 1))) + word_ * 4);
    }
    if (loops > 0)
      b_.for_(constant({Elem::I32, 1}, 0), Ex(loops * stages), stages, [&](Ex i) {
        for (int64_t a = 0; a < stages; ++a) {
          use(b_.let(i + Ex(a)), a, stages - 1);
          fetch(b_.let(i + Ex(a + stages)), a);
        }
      }, 1);
    for (int64_t i = loops * stages; i < count; ++i) {
      use(Ex(i), i % stages, std::min(stages, count - i) - 1);
      if (i + stages < count) fetch(Ex(i + stages), i % stages);
    }
  }

  /// The last iteration, where columns may be past the end, is written out.
  static bool is_last(const Ex& i, int64_t count) { return i.constant() && *i.constant() == count - 1; }

  /// A stage is registers, which never change places, as moving one would wait for its load.
  void stream_registers(int64_t count, int64_t stages, const std::function<Raw(Ex)>& raw, const std::function<void(Ex, const Raw&)>& use) {
    std::vector<Raw> loaded(size_t(std::min(stages, count)));
    stream(count, std::min(stages, count),
           [&](Ex i, int64_t stage) {
             Raw& mine = loaded[size_t(stage)];
             const Raw next = raw(i);
             if (mine.empty())
               for (const Ex& e : next) mine.push_back(b_.var(e));
             else
               for (size_t v = 0; v < next.size(); ++v) b_.assign(mine[v], next[v]);
           },
           [&](Ex i, int64_t stage, int64_t) { use(i, loaded[size_t(stage)]); });
  }

  /// Brings the tokens' rows of x to shared memory, or computes the one there is; after grid_wait.
  void prepare() {
    if (tokens_ == 1) epilogue_.load_early(b_.let(b_.task() * (groups_ * rows_)), groups_ * rows_);
    if (made_here_) {
      auto made = row_in_memory(r_, s_.linear->operand(0));
      if (made) stage_ = *made;
      else made_ = made.err();
      staged_ = true;
      return;
    }
    if (!staged_) return;
    b_.for_(b_.thread(), tokens_ * (row_size_ / piece_), b_.block_threads(), [&](Ex i) {
      const Ex from = tokens_ == 1 ? i * piece_ : min(t0_ + i / (row_size_ / piece_), last_token_) * row_size_ + i % (row_size_ / piece_) * piece_;
      b_.store(stage_, i * piece_, b_.load(x_, from, int(piece_)));
    }, 4);
    b_.barrier();
  }

  const Buffer& x() const { return staged_ ? stage_ : x_; }
  /// Where the row of token t0 + t begins in x(); past the last that one's or, in shared memory, a copy of it.
  Ex x_row(Ex t) { return b_.let((staged_ ? t : min(t0_ + t, last_token_)) * row_size_); }

  // --- quantized -----------------------------------------------------------------------------------------------------

  void quantized() {
    acc_.clear();
    for (int i = 0; i < 4; ++i) acc_.push_back(b_.var(constant({Elem::F32, 1}, 0)));
    word_ = b_.let(lane_ % 4);
    half_ = b_.let(lane_ / 16);
    column_half_ = b_.let(lane_ / 4 % 2);
    const Ex quad = b_.let(lane_ / 4 % 4), share = b_.let(warp_ % warps_);
    const Rows16Lane rows(b_, s_.format, w_, quad, word_);
    const Ex base = b_.let(cast(Elem::I64, group_) * rows16_group_bytes(s_.format, s_.k));
    if (rows.has_supers()) by_supers(rows, base, share);
    else by_pairs(rows, base, share);
    // A lane has four rows of token lane % 4, of one half of the blocks.
    for (Ex& a : acc_) a = b_.let(a + b_.shuffle_xor(a, 16));
    b_.if_(lane_ < Ex(16), [&] {
      b_.if_(word_ < Ex(tokens_), [&] { b_.store(partial_, ((slot_ * sums_ + share) * tokens_ + word_) * rows_ + quad * 4, pack({acc_.begin(), acc_.end()})); });
    });
  }

  /// Pairs of blocks, a lane's half of the warp having one.
  void by_pairs(const Rows16Lane& rows, Ex base, Ex share) {
    const int64_t blocks = s_.k / 32, count = (blocks + 2 * warps_ - 1) / (2 * warps_);
    const bool ragged = count * 2 * warps_ != blocks;
    const auto block = [&](Ex i, Ex half) { return b_.let((share + i * warps_) * 2 + half); };
    const auto there = [&](Ex k) { return ragged ? b_.let(min(k, Ex(blocks - 1))) : k; };
    stream_registers(count, tokens_ == 1 && beside_ <= 2 ? 6 : 4, [&](Ex i) { return rows.load(base, there(block(i, half_))); }, [&](Ex i, const Raw& raw) {
      const bool may_end = ragged && is_last(i, count);
      const Ex k = block(i, half_);
      const Bytes x = load_x(there(block(i, column_half_)), may_end ? there(k) : k, rows.parts(), may_end ? k < Ex(blocks) : Ex());
      for (int r = 0; r < 4; r += 2) {
        const LaneWeights w[2] = {rows.weights(raw, r), rows.weights(raw, r + 1)};
        add_products(w, rows.parts(), x, [&](int i, int p, Ex dot) {
          const Ex acc = acc_[size_t(r + i)];
          b_.assign(acc, fma(dot, w[i].scale[p] * x.scale, acc));
          b_.assign(acc, fma(w[i].minimum[p], x.sum[p], acc));
        });
      }
    });
  }

  /// All blocks that share a d and an m at once: those multiply sums of them.
  void by_supers(const Rows16Lane& rows, Ex base, Ex share) {
    const int64_t pairs = rows.blocks() / 2, supers = s_.k / 32 / rows.blocks(), count = (supers + warps_ - 1) / warps_;
    const bool ragged = count * warps_ != supers;
    const auto there = [&](Ex i) {
      const Ex super = b_.let(share + i * warps_);
      return ragged ? b_.let(min(super, Ex(supers - 1))) : super;
    };
    size_t of_block = 0;
    stream_registers(count, tokens_ == 1 && beside_ <= 2 ? 3 : 2, [&](Ex i) {
      const Ex super = there(i);
      Raw raw = rows.load_super(base, super);
      for (int64_t p = 0; p < pairs; ++p) {
        const Raw block = rows.load_block(base, super, Ex(2 * p) + half_);
        of_block = block.size();
        raw.insert(raw.end(), block.begin(), block.end());
      }
      return raw;
    }, [&](Ex i, const Raw& raw) {
      const bool may_end = ragged && is_last(i, count);
      const Ex super = there(i), counted = may_end ? b_.let(share + i * warps_ < Ex(supers)) : Ex();
      std::vector<Ex> scaled, least;
      for (int r = 0; r < 4; ++r) {
        scaled.push_back(b_.var(constant({Elem::F32, 1}, 0)));
        least.push_back(b_.var(constant({Elem::F32, 1}, 0)));
      }
      for (int64_t p = 0; p < pairs; ++p) {
        const auto begin = raw.begin() + 2 + p * int64_t(of_block);
        const Raw block(begin, begin + int64_t(of_block));
        const auto number = [&](Ex half) { return super * rows.blocks() + Ex(2 * p) + half; };
        const Bytes x = load_x(number(column_half_), number(half_), 1, counted);
        for (int r = 0; r < 4; r += 2) {
          const LaneWeights w[2] = {rows.block_weights(block, r), rows.block_weights(block, r + 1)};
          add_products(w, 1, x, [&](int i, int, Ex dot) {
            b_.assign(scaled[size_t(r + i)], fma(dot, w[i].scale[0] * x.scale, scaled[size_t(r + i)]));
            b_.assign(least[size_t(r + i)], fma(w[i].minimum[0], x.sum[0], least[size_t(r + i)]));
          });
        }
      }
      for (int r = 0; r < 4; ++r) {
        const Ex d = b_.let(cast(Elem::F32, lane(raw[0], r))), m = b_.let(cast(Elem::F32, lane(raw[1], r)) * Ex(-1.0)), acc = acc_[size_t(r)];
        b_.assign(acc, fma(d, scaled[size_t(r)], acc));
        b_.assign(acc, fma(m, least[size_t(r)], acc));
      }
    });
  }

  /// Of x: the lane's words of operand b; the scale of the lane's token and half, and its parts' sums times that.
  struct Bytes {
    Ex low, high, scale, sum[2];
  };

  /// `theirs`: the block of the lane's column, `mine`: that of its half; `counted`: whether this is there, if that is not certain.
  Bytes load_x(Ex theirs, Ex mine, int parts, Ex counted) {
    const auto load = [&](Elem e, Ex at) { return b_.let(b_.load({e, 1}, x(), at)); };
    Bytes v;
    v.low = load(Elem::U32, their_words_ + theirs * 32);
    v.high = load(Elem::U32, their_words_ + theirs * 32 + Ex(16));
    v.scale = load(Elem::F32, mine_ + mine * 4 + Ex(s_.k));
    if (counted.node) v.scale = b_.let(select(counted, v.scale, constant({Elem::F32, 1}, 0)));
    for (int p = 0; p < parts; ++p) {   // sums are stored negative
      const Ex at = parts == 1 ? mine_ + mine * 4 + Ex(s_.k + s_.k / 8) : mine_ + mine * 8 + Ex(s_.k + s_.k / 4 + 4 * p);
      v.sum[p] = b_.let((Ex(0.0) - v.scale) * cast(Elem::F32, load(Elem::I32, at)));
    }
    return v;
  }

  /// add(row of the two, part, dot product of the lane's token with it)
  void add_products(const LaneWeights (&w)[2], int parts, const Bytes& x, const std::function<void(int, int, Ex)>& add) {
    const Ex none = constant({Elem::U32, 1}, 0);
    for (int p = 0; p < parts; ++p) {
      const Ex dots = b_.var(constant({Elem::I32, 4}, 0));
      if (parts == 1) b_.mma(Fn::MmaU8, dots, b_.let(pack({w[0].word[0], w[1].word[0], w[0].word[1], w[1].word[1]})), b_.let(pack({x.low, x.high})));
      else b_.mma(Fn::MmaU8, dots, b_.let(pack({w[0].word[p], w[1].word[p], none, none})), b_.let(pack({p ? x.high : x.low, none})));
      for (int i = 0; i < 2; ++i) add(i, p, b_.let(cast(Elem::F32, select(half_ == Ex(0), lane(dots, 2 * i), lane(dots, 2 * i + 1)))));
    }
  }

  using Address = std::function<Ex(Ex c, int64_t i)>;   ///< of chunk c of row `first` + i of the group

  /// Past the last row that row again.
  Address rows_of_w(Ex first, int64_t chunk) {
    std::vector<Ex> begin;
    for (int64_t i = 0; i < lane_rows_; ++i) begin.push_back(b_.let(cast(Elem::I64, min(group_ * rows_ + first + Ex(i), Ex(s_.n - 1))) * s_.k));
    return [=](Ex c, int64_t i) { return begin[size_t(i)] + cast(Elem::I64, c * chunk); };
  }

  /// The rows are of one tile after the other, and a lane's chunks all in one place of these. There are rows past the last to fill tiles.
  Address swizzled_rows(Ex first) {
    const Ex row = b_.let(group_ * rows_ + first), last_tile = Ex((s_.n - 1) / kTileSide);
    const Ex begin = b_.let(cast(Elem::I64, min(row / kTileSide, last_tile)) * (swizzled_group_bytes(s_.k) / 2));
    std::vector<Ex> place;
    for (int64_t i = 0; i < lane_rows_; ++i) place.push_back(b_.let(swizzled(row % kTileSide + Ex(i), lane_ % kRowChunks)));
    return [=](Ex c, int64_t i) { return begin + cast(Elem::I64, c / kRowChunks * (kTileSide * kTileSide) + place[size_t(i)]); };
  }

  // --- dense ---------------------------------------------------------------------------------------------------------

  void dense() {
    acc_.clear();
    for (int64_t i = 0; i < tokens_ * lane_rows_; ++i) acc_.push_back(b_.var(constant({Elem::F32, 1}, 0)));
    const int64_t widest = 16 / elem_bytes(w_.elem), chunk = s_.k % widest == 0 ? widest : 1, piece = std::min<int64_t>(chunk, 4);
    const int64_t chunks = s_.k / chunk, count = (chunks + 31) / 32;
    const bool ragged = chunks % 32 != 0;
    const Ex first = b_.let(warp_ % warps_ * lane_rows_);
    const auto address = s_.swizzled ? swizzled_rows(first) : rows_of_w(first, chunk);
    const auto place = [&](Ex i) {
      const Ex c = b_.let(lane_ + i * 32);
      return ragged ? b_.let(min(c, Ex(chunks - 1))) : c;
    };
    const auto add = [&](Ex i, const Raw& raw) {
      const Ex c = b_.let(lane_ + i * 32);
      if (ragged && is_last(i, count)) b_.if_(c < Ex(chunks), [&] { add_chunk(c, raw, chunk, piece); });
      else add_chunk(c, raw, chunk, piece);
    };
    if (chunk != widest) {
      stream_registers(count, 2, [&](Ex i) {
        Raw raw;
        const Ex c = place(i);
        for (int64_t r = 0; r < lane_rows_; ++r) raw.push_back(b_.load({w_.elem, int(chunk)}, w_, address(c, r)));
        return raw;
      }, add);
    } else {
      // A thread copies what it uses itself, so there is nothing to wait for but its own copies.
      const int64_t bytes = lane_rows_ * b_.block_threads() * 16, x_bytes = made_here_ || staged_ ? tokens_ * row_size_ * 4 : 0;
      const int64_t room = (std::min(kMostShared, kMultiprocessorShared / beside_) - x_bytes) / bytes, most = tokens_ > 1 ? 4 : 10;  // each is written out
      const int64_t stages = std::min(count, std::clamp<int64_t>(room, 2, most));
      const Buffer ring = b_.shared("w", w_.elem, stages * bytes / elem_bytes(w_.elem));
      const auto slot = [&](int64_t stage, int64_t r) { return b_.thread() * chunk + Ex((stage * lane_rows_ + r) * b_.block_threads() * chunk); };
      stream(count, stages,
             [&](Ex i, int64_t stage) {
               const Ex c = place(i);
               for (int64_t r = 0; r < lane_rows_; ++r) b_.async_copy(ring, slot(stage, r), w_, address(c, r));
               b_.async_commit();
             },
             [&](Ex i, int64_t stage, int64_t later) {
               b_.async_wait(int(later));
               Raw raw;
               for (int64_t r = 0; r < lane_rows_; ++r) raw.push_back(b_.let(b_.load({w_.elem, int(chunk)}, ring, slot(stage, r))));
               add(i, raw);
             });
    }
    for (Ex& a : acc_) a = warp_reduce(b_, Fn::ReduceAdd, a);
    b_.if_(lane_ == Ex(0), [&] {
      for (int64_t t = 0; t < tokens_; ++t)
        for (int64_t i = 0, some = std::min<int64_t>(lane_rows_, 4); i < lane_rows_; i += some) {
          const auto from = acc_.begin() + t * lane_rows_ + i;
          b_.store(partial_, (slot_ * tokens_ + Ex(t)) * rows_ + first + Ex(i), some == 1 ? *from : pack({from, from + some}));
        }
    });
  }

  void add_chunk(Ex c, const Raw& raw, int64_t chunk, int64_t piece) {
    std::vector<Ex> rows;
    for (int t = 0; t < tokens_; ++t) rows.push_back(x_row(Ex(t)));
    for (int64_t e = 0; e < chunk; e += piece) {
      std::vector<Ex> values;
      for (const Ex& row : rows) values.push_back(b_.let(b_.load({Elem::F32, int(piece)}, x(), row + c * chunk + Ex(e))));
      for (int64_t i = 0; i < lane_rows_; ++i)
        for (int64_t p = 0; p < piece; ++p) {
          const Ex w = b_.let(cast(Elem::F32, chunk == 1 ? raw[size_t(i)] : lane(raw[size_t(i)], int(e + p))));
          for (int64_t t = 0; t < tokens_; ++t) {
            const Ex acc = acc_[size_t(t * lane_rows_ + i)];
            b_.assign(acc, fma(w, piece == 1 ? values[size_t(t)] : lane(values[size_t(t)], int(p)), acc));
          }
        }
    }
  }

  const Shape s_;
  Region r_;
  Builder& b_;
  Epilogue epilogue_;
  const int64_t multiprocessors_;
  const int64_t rows_;             ///< outputs of a group
  const int64_t groups_, warps_;   ///< in a block; of a group
  const bool made_here_;           ///< x is computed by the block: a norm of one row
  Status made_ = ok();
  Buffer x_;                       ///< if it is not
  const Buffer& w_;
  int64_t tokens_ = 1, sums_ = 1;  ///< sums_: of a group's output, from different warps
  int64_t beside_ = 1;             ///< blocks on a multiprocessor, about
  int64_t lane_rows_ = 4;          ///< of a group, that a lane has columns of
  Buffer partial_;                 ///< [group of the block][sum][token][16]
  Buffer y_;                       ///< [token][output of the block]
  int64_t row_size_ = 0, piece_ = 1;   ///< of x: elements of a row, and of 16 bytes
  bool staged_ = false;
  Buffer stage_;                   ///< [token][row_size_]: x, if staged_
  Ex warp_, lane_, slot_, group_, last_token_, t0_;
  // Quantized: the lane's word of a block, which of the warp's two blocks it has, that of its column of operand b; where in x() its
  // token begins, and the words of its column's token.
  Ex word_, half_, column_half_, mine_, their_words_;
  std::vector<Ex> acc_;            ///< quantized: by the lane's row; dense: by token and the lane's row
};

}  // namespace

Result<LoweredKernel> lower_gpu_gemv(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, const GpuTarget& target) {
  PRISM_TRY(const Shape s, shape_of(op, name));
  return Gemv(op, s, name, dims, target.multiprocessors).run();
}

}  // namespace prism::codegen
