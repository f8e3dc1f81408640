// y = x w^T and what follows it: one generator for a single row, a few and many, with the same bits for each row.
//
// A task is a few groups of 16 output rows of w; for each tile of tokens it accumulates 16 outputs per vector over the
// columns (int8 dot products per block of 32, scaled into f32), then applies the epilogue to the finished outputs.
// Activations in bf16 tiles go to matrix registers, 32 tokens by 32 outputs at a time; in rows, to dot products of pairs.
#include <bit>

#include "codegen/kernels/weights.h"
#include "codegen/pack.h"
#include "runtime/base/checked.h"

namespace prism::codegen {

using namespace kir;
using ir::DType;
using ir::Op;

namespace {

constexpr int kTileTokens = 12;       // tokens at once, at most
/// What registers have room for.
struct Shape {
  struct Panel { int groups, tokens; };   ///< groups whose sums are made together, and tokens at once
  std::vector<int> dense;                 ///< tokens at once of dense weights
  Panel one, two, bytes;                  ///< blocks of one part, of two, and of one part whose bytes do not fit sums of 16 bits
};
const Shape& shape_of(rt::Isa isa) {
  static const Shape avx2{{6, 4, 2, 1}, {1, 2}, {1, 1}, {2, 6}}, other{{kTileTokens, 8, 4, 2, 1}, {2, 6}, {2, 4}, {2, 6}};
  return isa == rt::Isa::Avx2 ? avx2 : other;
}
constexpr int kInTurn = 4;         // tokens whose products alternate
constexpr int64_t kWideOutputs = 2048; // from so many on, a task of dense weights is 4 groups: fewer would be too few tasks
constexpr int64_t kPanelTokens = 24;  // from so many on, compact weights are unpacked once for all
constexpr int64_t kPrefetchBytes = 8192;  // ahead of the weights of few tokens, which come from memory
constexpr int kMatrixTokens = 32;     // tokens at once with matrix registers

class Linear {
 public:
  Linear(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa)
      : r_(op, name, dims), b_(r_.b), isa_(isa), shape_(shape_of(isa)) {}

  Result<LoweredKernel> run() {
    for (const ir::Operation& o : r_.body.ops)
      if (o.op == Op::Linear) {
        if (linear_) return r_.unsupported(o, "two linears in one kernel");
        linear_ = &o;
      }
    const ir::Type& wt = linear_->operand(1)->type;
    x_ = linear_->operand(0);
    n_ = *wt.dim(0).constant();
    k_ = *wt.dim(1).constant();
    format_ = wt.dtype;
    if (!r_.is_argument(x_)) return r_.unsupported(*linear_, "its input is computed in the same kernel");
    if (wt.layout != ir::Layout::Rows16) return r_.unsupported(*linear_, "weight " + wt.str() + " is not packed, expected layout rows16");
    const bool quantized = ir::info(format_).quantized;
    const bool matrix = x_->type.layout == ir::Layout::Tiles;
    pairs_ = !matrix && x_->type.dtype == DType::BF16 && isa_ >= rt::Isa::Avx512;
    if (matrix ? isa_ < rt::Isa::Amx : !pairs_ && quantized != (x_->type.dtype == DType::Q8A))
      return r_.unsupported(*linear_, "input " + x_->type.str() + " does not go with weight " + wt.str() + " on " + std::string(rt::isa_name(isa_)));
    const ir::Dim rows = Region::rows_of(x_->type);
    for (const ir::Operation& o : r_.body.ops) {
      if (o.op == Op::Glu) {
        if (o.attr<int64_t>("group") != kLanes || n_ % 32) return r_.unsupported(o, "needs group 16 and a multiple of 32 outputs");
        groups_ *= 2;
      }
      if (o.op == Op::Quantize) groups_ *= 2;
    }
    if ((rows != ir::Dim(1) || !quantized) && groups_ == 1 && n_ % (2 * kLanes) == 0) groups_ = 2;
    if (!quantized && groups_ == 2 && n_ % (4 * kLanes) == 0 && n_ >= kWideOutputs) groups_ = 4;
    if (groups_ > 1 && n_ % (kLanes * groups_)) return r_.unsupported(*linear_, "output size is not a multiple of " + std::to_string(kLanes * groups_));

    slot_tokens_ = matrix ? kMatrixTokens : kTileTokens;
    y_ = b_.scratch("y", Elem::F32, int64_t(groups_) * slot_tokens_ * kLanes);
    for (const ir::Value* result : r_.body.returns)
      if (result->type.dtype == DType::Q8A) {
        if (q8a_) return r_.unsupported(*linear_, "two q8a results");
        q8a_ = result;
      }
    if (q8a_) quantized_ = b_.scratch("quantized", Elem::F32, int64_t(groups_) * slot_tokens_ * kLanes);
    first_group_ = b_.let(b_.task() * int64_t(groups_));
    if (matrix || pairs_) {
      bf16_ = b_.scratch("weights", Elem::U32, groups_ * group_words());
      for (int g = 0; g < groups_; ++g) unpack_bf16(b_.let(first_group_ + Ex(g)), bf16_, g * group_words());
    }
    Ex done = b_.var(Ex(0));
    if (matrix) {
      PRISM_CHECK(matrix_tiles(b_.let(r_.dim(rows))));
    } else if (rows == ir::Dim(1)) {
      PRISM_CHECK(tile(Ex(0), 1));
    } else {
      const Ex m = b_.let(r_.dim(rows));
      if (groups_ % 2 == 0 && quantized) PRISM_CHECK(panel_tiles(m, done));
      last_token_ = b_.let(m - Ex(1));
      const std::vector<int> sizes = quantized ? std::vector{8, 6, 4, 2, 1} : shape_.dense;
      for (size_t i = 0; i < sizes.size(); ++i)
        PRISM_CHECK(tiles(m, done, sizes[i], i + 1 < sizes.size() ? sizes[i + 1] + 1 : 1, [&](Ex t0) { return tile(t0, sizes[i]); }));
    }
    return r_.finish(ir::Dim(ceil_div(n_, kLanes * groups_)));
  }

 private:
  /// Tiles of t tokens from `done` on, as long as there are `least`.
  Status tiles(Ex m, Ex done, int t, int least, const std::function<Status(Ex)>& tile) {
    Status status = ok();
    b_.for_(done, b_.let(m - Ex(least - 1)), t, [&](Ex t0) {
      if (Status s = tile(t0); !s) status = s;
    });
    b_.assign(done, min(m, done + (m - done + Ex(t - least)) / int64_t(t) * int64_t(t)));
    return status;
  }

  /// Most of many tokens: the task's weights as bytes, unpacked once. Where registers allow it, activations are loaded for two groups.
  Status panel_tiles(Ex m, Ex done) {
    panel_ = b_.scratch("panel", Elem::U32, groups_ * k_ / 4 * kLanes);
    scales_ = b_.scratch("scales", Elem::F32, groups_ * k_ / 32 * kPanelScales);
    Status status = ok();
    b_.if_(Ex(kPanelTokens) <= m, [&] {
      for (int g = 0; g < groups_; ++g)
        for_each_block(b_, format_, r_.buffer(linear_->operand(1)), b_.let(first_group_ + Ex(g)), k_, {}, 0, [&](Ex k, const WeightBlock& w) {
          block_ = w;
          for (int j = 0; j < 8; ++j) b_.store(panel_, panel_at(g, k, j), w.words[size_t(j)]);
          for (int p = 0; p < w.parts; ++p) {
            b_.store(scales_, scales_at(g, k, p), w.scale[p]);
            if (!w.zero) b_.store(scales_, scales_at(g, k, w.parts + p), Ex(0.0) - w.minimum[p]);
          }
        });
      const Shape::Panel& panel = block_.parts == 2 ? shape_.two : block_.most > 63 ? shape_.bytes : shape_.one;
      status = tiles(m, done, panel.tokens, panel.tokens, [&](Ex t0) {
        for (int g = 0; g < groups_; g += panel.groups) dot_panel(g, panel.groups, t0, panel.tokens);
        return epilogues(t0, Ex(panel.tokens));
      });
    });
    return status;
  }

  static constexpr int64_t kPanelScales = 4 * kLanes;  ///< per block: scales of the parts, minus their minima
  Ex panel_at(int g, Ex k, int j) const { return Ex(g * (k_ / 4) * kLanes + j * kLanes) + k * (8 * kLanes); }
  Ex scales_at(int g, Ex k, int i) const { return Ex(g * (k_ / 32) * kPanelScales + i * kLanes) + k * kPanelScales; }

  /// Adds the products of words [from, to) of weights(group, word) and activations(token, word) to `sums`, [group][token].
  void multiply(std::vector<Ex>& sums, size_t groups, int from, int to, const std::function<Ex(size_t, int)>& weights,
                const std::function<Ex(size_t, int)>& activations) {
    // With AVX2 the cheap product is that of two bytes at a time, and so many words' are summed in its 16 bits.
    const int fit = isa_ == rt::Isa::Avx2 ? INT16_MAX / (2 * 128 * block_.most) : 0, step = fit ? fit : to - from;
    const size_t tokens = sums.size() / groups;
    for (int first = from; first < to; first += step) {
      std::vector<Ex> pairs(sums.size(), constant({Elem::U32, kLanes}, 0));
      for (int j = first; j < std::min(first + step, to); ++j) {
        std::vector<Ex> w;
        for (size_t h = 0; h < groups; ++h) w.push_back(weights(h, j));
        for (size_t i = 0; i < tokens; ++i) {
          const Ex x = b_.let(splat(activations(i, j), kLanes));
          for (size_t h = 0, at = i; h < groups; ++h, at += tokens)
            fit ? pairs[at] = b_.let(call(Fn::DotPairs, {pairs[at], w[h], x})) : sums[at] = b_.let(call(Fn::Dot4, {sums[at], w[h], x}));
        }
      }
      for (size_t i = 0; fit && i < sums.size(); ++i) sums[i] = b_.let(call(Fn::SumPairs, {sums[i], pairs[i]}));
    }
  }

  /// A block's weights by group: word j, the scale of part p and minus its minimum.
  struct BlockOf {
    std::function<Ex(size_t, int)> word, scale, minus_minimum;
  };

  /// Adds block k's products with the q8a rows that begin at `row` to `acc`, [group][token].
  void add_block(const std::vector<Ex>& acc, const std::vector<Ex>& row, Ex k, const BlockOf& weights) {
    const Buffer& x = r_.buffer(x_);
    const int parts = block_.parts, words = 8 / parts;
    const size_t n = row.size(), groups = acc.size() / n;
    std::vector<Ex> total(acc.size());
    for (int p = 0; p < parts; ++p) {
      std::vector<Ex> sums(acc.size(), constant({Elem::I32, kLanes}, 0));
      for (size_t i = 0; i < n && block_.zero; ++i) {
        const Ex from = start(row[i], k, p);
        for (size_t h = 0; h < groups; ++h) sums[h * n + i] = from;
      }
      multiply(sums, groups, p * words, (p + 1) * words, weights.word, [&](size_t i, int j) { return b_.load({Elem::I32, 1}, x, row[i] + k * 32 + Ex(4 * j)); });
      for (size_t h = 0; h < groups; ++h) {
        const Ex s = weights.scale(h, p);
        for (size_t i = h * n; i < (h + 1) * n; ++i) total[i] = b_.let(p == 0 ? cast(Elem::F32, sums[i]) * s : fma(cast(Elem::F32, sums[i]), s, total[i]));
      }
    }
    std::vector<std::vector<Ex>> minima(groups);
    for (size_t h = 0; h < groups; ++h)
      for (int p = 0; p < parts && !block_.zero; ++p) minima[h].push_back(weights.minus_minimum(h, p));
    for (size_t i = 0; i < n; ++i) {
      const Ex d = b_.let(splat(b_.load({Elem::F32, 1}, x, row[i] + Ex(k_) + k * 4), kLanes));
      for (size_t p = 0; p < minima[0].size(); ++p) {
        const Ex minus = b_.let(cast(Elem::F32, minus_sum(row[i], k, int(p))));
        for (size_t h = 0; h < groups; ++h) total[h * n + i] = b_.let(fma(minus, minima[h][p], total[h * n + i]));
      }
      for (size_t h = 0; h < groups; ++h) b_.assign(acc[h * n + i], fma(total[h * n + i], d, acc[h * n + i]));
    }
  }

  /// Sums of `wide` groups of the panel.
  void dot_panel(int g, int wide, Ex t0, int t) {
    const size_t n = size_t(t);
    std::vector<Ex> row, acc;  // [group][token]
    for (int i = 0; i < t; ++i) row.push_back(b_.let((t0 + Ex(i)) * row_bytes()));
    for (size_t i = 0; i < size_t(wide) * n; ++i) acc.push_back(b_.var(constant({Elem::F32, kLanes}, 0)));
    b_.for_(0, k_ / 32, 1, [&](Ex k) {
      const auto scale = [&](size_t h, int i) { return b_.let(b_.load(scales_, scales_at(g + int(h), k, i), kLanes)); };
      add_block(acc, row, k, {[&](size_t h, int j) { return b_.let(b_.load(panel_, panel_at(g + int(h), k, j), kLanes)); }, scale,
                              [&](size_t h, int p) { return scale(h, block_.parts + p); }});
    });
    for (int h = 0; h < wide; ++h) store_sums(g + h, {acc.begin() + long(size_t(h) * n), acc.begin() + long(size_t(h + 1) * n)});
  }

  /// Computes and stores all outputs of this task for tokens t0 .. t0+t-1, as far as there are so many.
  Status tile(Ex t0, int t) {
    const bool quantized = ir::info(format_).quantized && !pairs_;
    const int together = quantized ? 1 : pairs_ ? 2 : std::clamp(int(std::bit_floor(unsigned(sum_vectors(isa_) / t))), 1, 4);
    for (int g = 0; g < groups_; g += together) {
      const int wide = std::min(together, groups_ - g);
      if (quantized) dot_quantized(g, t0, t);
      else if (pairs_) dot_pairs(g, wide, t0, t);
      else dot_dense(g, wide, t0, t);
    }
    return epilogues(t0, t == 1 ? Ex(1) : b_.let(min(Ex(t), last_token_ + Ex(1) - t0)));
  }

  void store_sums(int g, const std::vector<Ex>& acc) {
    for (size_t i = 0; i < acc.size(); ++i) b_.store(y_, Ex((int64_t(g) * slot_tokens_ + int64_t(i)) * kLanes), acc[i]);
  }

  Status epilogues(Ex t0, Ex t) {
    Status status = ok();
    b_.for_(0, t, 1, [&](Ex i) { status = epilogue(b_.let(t0 + i), i); });
    // Apart, so that the chains of operations that wait for each other are short and overlap with other tokens'.
    if (q8a_) b_.for_(0, t, 1, [&](Ex i) { quantize(b_.let(t0 + i), i); });
    return status;
  }

  /// Token i of a tile; past the last one that again, whose result is dropped.
  Ex token(Ex t0, int i) const { return i == 0 ? t0 : min(t0 + Ex(i), last_token_); }

  int64_t group_words() const { return k_ / 2 * kLanes; }

  /// Every 32 tokens are multiplied by pairs of groups. The last block may have fewer tokens; its other rows are computed
  /// from whatever is there and dropped.
  Status matrix_tiles(Ex m) {
    b_.use_tiles(std::vector<kir::TileShape>(8, {kLanes, 64}));
    const Buffer& x = r_.buffer(x_);
    Status status = ok();
    b_.for_(0, m, kMatrixTokens, [&](Ex t0) {
      for (int g = 0; g < groups_; g += 2) {
        const int wide = std::min(2, groups_ - g);
        for (int i = 0; i < 2 * wide; ++i) b_.tile_zero(i);
        auto load_x = [&](int i, Ex k) { b_.tile_load(4 + i, x, t0 * k_ + Ex(i * kLanes * k_) + k * (kLanes * 32), 64); };
        auto load_w = [&](int j, Ex k) { b_.tile_load(6 + j, bf16_, Ex((g + j) * group_words()) + k * (16 * kLanes), 64); };
        // A register is loaded for the next step as soon as this one's last product has read it.
        auto step = [&](Ex k, bool more) {
          for (int i = 0; i < 2; ++i) {
            for (int j = 0; j < wide; ++j) {
              b_.tile_dot(i * wide + j, 4 + i, 6 + j);
              if (more && i == 1) load_w(j, k + Ex(1));
            }
            if (more) load_x(i, k + Ex(1));
          }
        };
        for (int i = 0; i < 2; ++i) load_x(i, 0);
        for (int j = 0; j < wide; ++j) load_w(j, 0);
        b_.for_(0, k_ / 32 - 1, 1, [&](Ex k) { step(k, true); });
        step(k_ / 32 - 1, false);
        for (int i = 0; i < 2; ++i)
          for (int j = 0; j < wide; ++j) b_.tile_store(i * wide + j, y_, Ex(((g + j) * kMatrixTokens + i * kLanes) * kLanes), 64);
      }
      status = epilogues(t0, b_.let(min(Ex(kMatrixTokens), m - t0)));
    });
    return status;
  }

  /// One group's weights, two columns of 16 rows in every 64 bytes.
  void unpack_bf16(Ex group, const Buffer& out, int64_t at) {
    const Buffer& w = r_.buffer(linear_->operand(1));
    if (!ir::info(format_).quantized) {
      const Ex base = b_.let(group * (k_ * kLanes));
      b_.for_(0, k_ / 2, 1, [&](Ex k) {
        auto column = [&](int i) { return b_.let(cast(Elem::F32, b_.load(w, base + k * (2 * kLanes) + Ex(i * kLanes), kLanes))); };
        b_.store(out, Ex(at) + k * kLanes, bf16_pairs(b_, column(0), column(1)));
      });
      return;
    }
    for_each_block(b_, format_, w, group, k_, {}, 0, [&](Ex k, const WeightBlock& block) {
      for (int i = 0; i < 32; i += 2) {
        const Ex low = b_.let(block.value(i)), high = b_.let(block.value(i + 1));
        b_.store(out, Ex(at) + k * (16 * kLanes) + Ex(i / 2 * kLanes), bf16_pairs(b_, low, high));
      }
    });
  }

  int64_t row_bytes() const { return k_ / 32 * ir::info(DType::Q8A).bytes; }

  /// Minus the sum of the int8 of block k (or of its half p) in the q8a row at `row`: planes s and h.
  Ex minus_sum(Ex row, Ex k, int p) {
    const Ex at = block_.parts == 1 ? row + Ex(k_ + k_ / 8) + k * 4 : row + Ex(k_ + k_ / 4) + k * 8 + 4 * p;
    return splat(b_.load({Elem::I32, 1}, r_.buffer(x_), at), kLanes);
  }
  /// What integer sums of weights without minima begin with: they are of bytes that have `zero` added.
  Ex start(Ex row, Ex k, int p) { return b_.let(minus_sum(row, k, p) << std::countr_zero(unsigned(block_.zero))); }

  void dot_quantized(int g, Ex t0, int t) {
    std::vector<Ex> row, acc;
    for (int i = 0; i < t; ++i) {
      row.push_back(b_.let(token(t0, i) * row_bytes()));
      acc.push_back(b_.var(constant({Elem::F32, kLanes}, 0)));
    }
    for_each_block(b_, format_, r_.buffer(linear_->operand(1)), b_.let(first_group_ + Ex(g)), k_, {}, kPrefetchBytes, [&](Ex k, const WeightBlock& w) {
      block_ = w;
      std::vector<Ex> minus_minimum;
      for (int p = 0; p < w.parts && !w.zero; ++p) minus_minimum.push_back(b_.let(Ex(0.0) - w.minimum[p]));
      // A few tokens in turn, so that products that wait for each other do not fill the processor's queues.
      for (long first = 0; first < t; first += kInTurn) {
        const long end = std::min<long>(first + kInTurn, t);
        add_block({acc.begin() + first, acc.begin() + end}, {row.begin() + first, row.begin() + end}, k,
                  {[&](size_t, int j) { return w.words[size_t(j)]; }, [&](size_t, int p) { return w.scale[p]; }, [&](size_t, int p) { return minus_minimum[size_t(p)]; }});
      }
    });
    store_sums(g, acc);
  }

  /// Sums of `wide` groups: for each of `steps`, what step(sum, weights, activations) makes of weights(group, step) and
  /// activations(row, step), rows being those of x.
  void dot_wide(int g, int wide, Ex t0, int t, int64_t steps, const std::function<Ex(int, Ex)>& weights, const std::function<Ex(Ex, Ex)>& activations,
                const std::function<Ex(Ex, Ex, Ex)>& step) {
    std::vector<std::vector<Ex>> acc(static_cast<size_t>(wide));
    std::vector<Ex> row;
    for (int i = 0; i < t; ++i) {
      row.push_back(b_.let(token(t0, i) * k_));
      for (auto& a : acc) a.push_back(b_.var(constant({Elem::F32, kLanes}, 0)));
    }
    b_.for_(0, steps, 1, [&](Ex k) {
      std::vector<Ex> w;
      for (int j = 0; j < wide; ++j) w.push_back(b_.let(weights(g + j, k)));
      for (size_t i = 0; i < row.size(); ++i) {
        const Ex v = b_.let(splat(activations(row[i], k), kLanes));
        for (size_t j = 0; j < acc.size(); ++j) b_.assign(acc[j][i], step(acc[j][i], w[j], v));
      }
    });
    for (int j = 0; j < wide; ++j) store_sums(g + j, acc[size_t(j)]);
  }

  void dot_pairs(int g, int wide, Ex t0, int t) {
    dot_wide(g, wide, t0, t, k_ / 2, [&](int group, Ex k) { return b_.load(bf16_, Ex(group * group_words()) + k * kLanes, kLanes); },
             [&](Ex row, Ex k) { return b_.load({Elem::U32, 1}, r_.buffer(x_), row + k * 2); },
             [](Ex sum, Ex w, Ex v) { return call(Fn::DotBf16, {sum, w, v}); });
  }

  void dot_dense(int g, int wide, Ex t0, int t) {
    const Buffer& w = r_.buffer(linear_->operand(1));
    std::vector<Ex> base;
    for (int i = 0; i < groups_; ++i) base.push_back(b_.let((first_group_ + Ex(i)) * (k_ * kLanes)));
    dot_wide(g, wide, t0, t, k_,
             [&](int group, Ex k) {
               const Ex at = base[size_t(group)] + k * kLanes;
               b_.prefetch(w, at + Ex(kPrefetchBytes / 2 / elem_bytes(w.elem)));
               return cast(Elem::F32, b_.load(w, at, kLanes));
             },
             [&](Ex row, Ex k) { return b_.load(r_.buffer(x_), row + k); }, [](Ex sum, Ex w, Ex v) { return fma(w, v, sum); });
  }

  /// f32 value of `v` at token t, output columns [n, n+lanes) of v, which are those of group slot `slot`.
  Result<Ex> value(const ir::Value* v, Ex t, Ex i, int slot, Ex n, int lanes) {
    const Ty ty{Elem::F32, lanes};
    if (r_.is_argument(v)) {
      const Buffer& buf = r_.buffer(v);
      if (buf.elem != Elem::F32) return error("linear epilogue: operand %", v->name, " is ", v->type.str(), ", expected f32");
      if (v->type.elements() == 1) return splat(b_.load(buf, Ex(0)), lanes);
      const int64_t width = *v->type.dim(-1).constant();
      const bool vector = Region::rows_of(v->type) == ir::Dim(1) && Region::rows_of(x_->type) != ir::Dim(1);
      return b_.load(ty, buf, vector || v->type.rank() == 1 ? n : t * flat_width(v, width) + n);
    }
    const ir::Operation& o = *v->def;
    if (o.op == Op::Linear) {
      Ex y = b_.load(ty, y_, (Ex(int64_t(slot) * slot_tokens_) + i) * kLanes + (lanes == 1 ? n % kLanes : Ex(0)));
      if (o.operands().size() > 2) y = y + b_.load(ty, r_.buffer(o.operand(2)), n);
      return y;
    }
    if (o.op == Op::Reshape || o.op == Op::Cast) return value(o.operand(0), t, i, slot, n, lanes);  // a cast is rounded by the store
    if (o.op == Op::Glu) {
      // Output group g takes input groups 2g (gate) and 2g+1 (up).
      const Ex gate_at = b_.let(n * 2);
      PRISM_TRY(Ex gate, value(o.operand(0), t, i, 2 * slot, gate_at, lanes));
      PRISM_TRY(Ex up, value(o.operand(0), t, i, 2 * slot + 1, gate_at + kLanes, lanes));
      return b_.let(activation(o.attr<std::string>("act"), b_.let(gate)) * up);
    }
    std::vector<Ex> in;
    for (const ir::Value* operand : o.operands()) {
      PRISM_TRY(Ex e, value(operand, t, i, slot, n, lanes));
      in.push_back(b_.let(e));
    }
    if (auto e = elementwise(o, in)) return b_.let(*e);
    return r_.unsupported(o, "cannot follow a linear in its kernel");
  }

  /// Elements per token of a value whose trailing axes may be split into heads.
  int64_t flat_width(const ir::Value* v, int64_t last) const {
    const int64_t columns = n_ / (has_glu() ? 2 : 1);
    return v->type.rank() > 2 ? columns : last;
  }
  bool has_glu() const {
    for (const ir::Operation& o : r_.body.ops)
      if (o.op == Op::Glu) return true;
    return false;
  }
  /// Whether v comes after the glu (and so has half the columns).
  static bool after_glu(const ir::Value* v) {
    if (!v->def) return false;
    if (v->def->op == Op::Glu) return true;
    for (const ir::Value* o : v->def->operands())
      if (after_glu(o)) return true;
    return false;
  }

  int64_t columns_of(const ir::Value* result) const { return after_glu(result) ? n_ / 2 : n_; }
  /// Groups of its columns in a task.
  int slots_of(const ir::Value* result) const { return after_glu(result) ? groups_ / 2 : groups_; }

  Status epilogue(Ex t, Ex i) {
    for (const ir::Value* result : r_.body.returns) {
      const Buffer& out = r_.buffer(result);
      const int64_t columns = columns_of(result);
      const int slots = slots_of(result);
      const Ex first = b_.let(b_.task() * int64_t(slots) * kLanes);
      if (result == q8a_) {
        const ir::Value* source = result->def->operand(0);
        for (int slot = 0; slot < slots; slot += 2) {
          PRISM_TRY(Ex lo, value(source, t, i, slot, b_.let(first + Ex(slot * kLanes)), kLanes));
          PRISM_TRY(Ex hi, value(source, t, i, slot + 1, b_.let(first + Ex((slot + 1) * kLanes)), kLanes));
          b_.store(quantized_, quantized_at(i, slot), lo);
          b_.store(quantized_, quantized_at(i, slot + 1), hi);
        }
        continue;
      }
      for (int slot = 0; slot < slots; ++slot) {
        const Ex n = b_.let(first + Ex(slot * kLanes));
        if (columns % kLanes == 0) {
          PRISM_TRY(Ex y, value(result, t, i, slot, n, kLanes));
          b_.store(out, element_index(result->type.layout, columns, t, n), cast(out.elem, y));
          continue;
        }
        // The last group is partly padding: element by element.
        Status status = ok();
        b_.for_(n, min(n + kLanes, Ex(columns)), 1, [&](Ex at) {
          auto y = value(result, t, i, slot, at, 1);
          if (y) b_.store(out, element_index(result->type.layout, columns, t, at), cast(out.elem, *y));
          else status = y.err();
        });
        PRISM_CHECK(status);
      }
    }
    return ok();
  }

  Ex quantized_at(Ex i, int slot) const { return i * int64_t(groups_ * kLanes) + Ex(slot * kLanes); }

  void quantize(Ex t, Ex i) {
    const int64_t columns = columns_of(q8a_);
    const Ex row = b_.let(t * (columns / 32 * ir::info(DType::Q8A).bytes)), first = b_.let(b_.task() * int64_t(slots_of(q8a_) / 2));
    for (int slot = 0; slot < slots_of(q8a_); slot += 2)
      store_q8a(b_, r_.buffer(q8a_), row, columns, first + Ex(slot / 2), b_.load(quantized_, quantized_at(i, slot), kLanes),
                b_.load(quantized_, quantized_at(i, slot + 1), kLanes), q8a_scale(q8a_));
  }

  Region r_;
  Builder& b_;
  rt::Isa isa_;
  const Shape& shape_;
  int slot_tokens_ = 0;      ///< tokens per group in y_
  const ir::Operation* linear_ = nullptr;
  const ir::Value* x_ = nullptr;
  int64_t n_ = 0, k_ = 0;
  int groups_ = 1;           ///< groups of 16 rows per task
  DType format_ = DType::F32;
  bool pairs_ = false;       ///< activations are bf16 in rows
  Buffer bf16_;              ///< the task's weights as pairs of bf16 [group][pair of columns][16]
  WeightBlock block_;        ///< the block last unpacked: what all have alike
  Buffer panel_;             ///< weights as bytes [group][block][word][16]
  Buffer scales_;            ///< [group][block][4][16]
  const ir::Value* q8a_ = nullptr;   ///< the result that is quantized
  Buffer quantized_;         ///< values of the result that is q8a [token of the tile][slot][16]
  Buffer y_;                 ///< finished sums [group][token of the tile][16]
  Ex first_group_, last_token_;
};

}  // namespace

Result<LoweredKernel> lower_linear(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa) {
  return Linear(op, name, dims, isa).run();
}

}  // namespace prism::codegen
