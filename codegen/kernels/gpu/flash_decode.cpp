// Attention of few tokens (flash decoding). A block has some tokens, the query heads that share a KV head, and every n-th pair of tiles of
// 64 keys; the last block to end merges what all of them found, which takes as long as several tiles. Tiles belong to blocks by their absolute number, and a tile
// that a token does not see adds exact zeros, so that a token's bits depend neither on the tokens beside it nor on who is last.
//
// The region may begin with what a single token appends: each block computes its queries, and the one that has the token's tile its key and value.
//
// Products are matrix products with the accuracy of f32: of 16 rows of queries (and of weights) eight are values rounded to
// f16, the other eight what rounding lost.
#include <algorithm>
#include <bit>

#include "codegen/kernels/gpu/attention.h"
#include "codegen/kernels/gpu/gpu.h"
#include "codegen/kernels/head_rows.h"

namespace prism::codegen {

using namespace kir;
using ir::DType;

namespace {

constexpr int kWarps = 4, kStepKeys = 16;        // a warp's keys of a tile: it walks over tiles on its own
constexpr int kTileKeys = kWarps * kStepKeys;
constexpr int64_t kTogether = 2;                 // tiles in a row that a block has
constexpr int64_t kRows = 8;                     // query rows of a block: tokens times heads
constexpr int64_t kMostSplits = 64;              // two for each lane of the warp that merges them
constexpr int64_t kSharedBytes = 99 << 10;       // for tiles under way, of smaller GPUs; but two tiles at least
constexpr double kNothing = -1e30;               // the largest score before there is one
constexpr int64_t kPagesAhead = 128;             // head size up to which registers hold a page's words beside the sums
constexpr int64_t kMergeLoads = 64;              // of a lane that are under way together when parts are merged

class FlashDecode : GpuAttention {
 public:
  FlashDecode(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, const GpuTarget& target)
      : GpuAttention(op, name, dims, kWarps * 32), target_(target) {}

  Result<LoweredKernel> run() {
    PRISM_CHECK(read());
    const int64_t most_tokens = op_->attr<int64_t>("most_tokens");
    group_ = heads_together(heads_ / kv_heads_, kRows);
    tile_tokens_ = std::min(kRows / group_, most_tokens);
    rows_ = group_ * tile_tokens_;
    const int64_t groups = heads_ / group_, row_tiles = (most_tokens + tile_tokens_ - 1) / tile_tokens_;
    splits_ = std::clamp<int64_t>(target_.multiprocessors / groups, 1, kMostSplits);
    const int64_t tile_bytes = kWarps * tile_elements(kStepKeys) * 2;
    stages_ = std::clamp<int64_t>(kSharedBytes / tile_bytes, 2, 4);
    shared_ = b_.shared("tiles", Elem::F16, stages_ * tile_bytes / 2);
    if (append_) PRISM_CHECK(read_append());
    if (splits_ > 1) {
      partial_ = r_.workspace(Elem::F32, row_tiles * groups * splits_ * partial_floats());
      counters_ = r_.counters(row_tiles * groups);
    }

    const Ex split = b_.let(b_.task() % splits_), job = b_.let(b_.task() / splits_), slot = b_.let(job % groups);
    t0_ = b_.let(job / groups * tile_tokens_);
    head0_ = b_.let(slot * group_);
    column_ = b_.let(lane_ % 4 * 2);
    const Ex last = b_.let(min(past_ + t0_ + Ex(tile_tokens_), total_));
    const Ex end = b_.let(((causal_ ? last : total_) + Ex(kTileKeys - 1)) / kTileKeys);  // in tiles
    const Ex used = b_.let(min(Ex(splits_), (end + Ex(kTogether - 1)) / kTogether));
    b_.if_(split < used, [&] {
      set_kv_head(slot / (heads_ / kv_heads_ / group_));
      if (append_) append(split);
      walk(split, end);
      b_.barrier();  // the tiles' memory is used for sums now
      store_sums();
      b_.barrier();
      merge_warps(used);
      if (splits_ > 1) b_.if_(Ex(1) < used, [&] { merge_splits(job, used); });
    });
    PRISM_CHECK(outcome_);
    return r_.finish(ir::Dim::floor_div(op_->operand(0)->type.dim(0) + ir::Dim(tile_tokens_ - 1), tile_tokens_) * ir::Dim(groups * splits_));
  }

 private:
  struct Pair {
    Ex high, low;
  };

  /// Two values as f16, and what that lost.
  Pair parts(Ex a, Ex b) {
    a = b_.let(a);
    b = b_.let(b);
    const Ex high = b_.let(pack_f16(a, b)), halves = b_.let(bitcast({Elem::F16, 2}, high));
    return {high, b_.let(pack_f16(a - cast(Elem::F32, lane(halves, 0)), b - cast(Elem::F32, lane(halves, 1))))};
  }

  Ex token(Ex row) const { return t0_ + row / group_; }

  /// Queries as operand a: rows 0 to 7 rounded, rows 8 to 15 what that lost.
  std::vector<Ex> load_queries(const Buffer& queries) {
    const Ex row = b_.let(min(lane_ / 4, Ex(rows_ - 1)));
    const Ex at = append_ ? b_.let(made_at(row) + column_) : b_.let((min(token(row), tokens_ - Ex(1)) * heads_ + head0_ + row % group_) * d_ + column_);
    std::vector<Ex> fragments;
    for (int64_t k = 0; k < d_; k += 16) {
      Pair p[2];
      for (int i = 0; i < 2; ++i) {
        const Ex pair = b_.let(b_.load(queries, at + Ex(k + 8 * i), 2));
        auto value = [&](int e) { return cast(Elem::F32, lane(pair, e)) * Ex(query_unit()); };
        p[i] = parts(value(0), value(1));
      }
      fragments.push_back(b_.let(pack({p[0].high, p[0].low, p[1].high, p[1].low})));
    }
    return fragments;
  }

  // --- appending. What is computed lies where the last stage of tiles will be, as f32: the queries [row][size], then key and value.

  Status read_append() {
    if (op_->operand(0)->type.dtype != DType::F32) return r_.unsupported(*append_, "queries of another type than f32");
    head_rows_.emplace(r_);
    PRISM_TRY(query_chain_, head_rows_->trace(op_->operand(0)));
    PRISM_TRY(key_chain_, head_rows_->trace(append_->operand(1)));
    PRISM_TRY(value_chain_, head_rows_->trace(append_->operand(2)));
    made_ = b_.overlay("made", Elem::F32, stages_ * kWarps * tile_elements(kStepKeys) / 2, shared_);
    return ok();
  }

  Ex made_at(Ex row) const { return row * d_ + Ex((stages_ - 1) * kWarps * tile_elements(kStepKeys) / 2); }

  void make(const HeadChain& chain, Ex head, Ex row) {
    if (Status s = head_rows_->make(chain, Ex(0), head, made_, b_.let(made_at(row))); !s) outcome_ = s;
  }

  /// The key and the value of the block that has their tile, before tiles are copied. All other blocks begin with the queries.
  void append(Ex split) {
    const Ex owner = b_.let(past_ / (kTileKeys * kTogether) % splits_);
    b_.if_(owner == split, [&] {
      b_.if_(warp_ == Ex(0), [&] {
        make(key_chain_, kv_head_, Ex(rows_));
        head_rows_->store_key(append_->operand(0), past_, kv_head_, d_, made_, b_.let(made_at(Ex(rows_))));
      });
      b_.if_(warp_ == Ex(1), [&] {
        make(value_chain_, kv_head_, Ex(rows_ + 1));
        head_rows_->store_value(append_->operand(0), past_, kv_head_, d_, made_, b_.let(made_at(Ex(rows_ + 1))));
      });
      b_.barrier();
    });
  }

  /// While the first tiles are on their way.
  std::vector<Ex> make_queries() {
    b_.for_(warp_, rows_, kWarps, [&](Ex row) { make(query_chain_, b_.let(head0_ + row), row); });
    b_.barrier();
    std::vector<Ex> queries = load_queries(made_);
    b_.barrier();   // a tile comes there
    return queries;
  }

  /// Online softmax over this warp's keys of the tiles split, split + splits, ...
  void walk(Ex split, Ex end) {
    const int64_t round = kTogether * splits_;   // tiles, of which this block has kTogether
    const auto tiles_before = [&](Ex tile) {     // of this block
      return b_.let(tile / round * kTogether + min(max(tile % round - split * kTogether, Ex(0)), Ex(kTogether)));
    };
    tile_of_ = [=, this](Ex n) { return b_.let((n / kTogether * splits_ + split) * kTogether + n % kTogether); };
    const Ex first = window_ > 0 ? tiles_before(b_.let(max(past_ + t0_ - Ex(window_ - 1), Ex(0)) / kTileKeys)) : constant({Elem::I32, 1}, 0);
    mine_ = b_.let(warp_ * tile_elements(kStepKeys));
    if (!compressed() && !sinks_) return tiles(first, tiles_before(end), Part::All);
    begin_rows(sinks_ ? sink_q_ : q_);
    if (compressed()) demoted_ = demoted_pages(past_ + token(lane_ / 4));
    const auto keys = [&](Ex begin, Ex count) {
      if (!compressed()) return tiles(begin, count, Part::All);
      pages(begin, b_.let(min(count, tiles_before(demoted_pages(min(past_ + t0_ + Ex(tile_tokens_), total_) - Ex(1))))));
      tiles(b_.let(max(begin, tiles_before(demoted_pages(past_ + t0_)))), count, Part::Exact);
    };
    if (!sinks_) return keys(first, tiles_before(end));
    const Ex sinks_end = tiles_before(b_.let(min(end, Ex(sinks_ / kTileKeys))));
    in_sinks_ = true;
    keys(constant({Elem::I32, 1}, 0), sinks_end);
    in_sinks_ = false;
    b_.warp_sync();
    queries_ = load_queries(q_);
    keys(b_.let(max(first, sinks_end)), tiles_before(end));
  }

  void begin_rows(const Buffer& queries) {
    queries_ = append_ ? make_queries() : load_queries(queries);
    last_ = b_.let(last_key(past_ + token(lane_ / 4)) - warp_ * kStepKeys - column_);
    keys_lane_ = b_.let(mine_ + halves_lane());
    values_lane_ = b_.let(mine_ + this->values_lane() + Ex(kStepKeys * d_));
    top_ = b_.var(Ex(kNothing));
    sum_ = b_.var(Ex(0.0));
    for (int64_t n = 0; n < d_; n += 8) out_.push_back(b_.var(constant({Elem::F32, 4}, 0)));
  }

  /// The weights of a tile whose keys are there.
  Ex weigh(Ex n, Ex from, Part part) {
    const Ex tile = tile_of_(n), distance = b_.let(last_ - tile * kTileKeys);
    return softmax(scores(queries_, keys_lane_ + from), seen(distance, part, tile, demoted_));
  }

  /// Tiles first to count of this block, from where they were appended.
  void tiles(Ex first, Ex count, Part part) {
    const int64_t stage = kWarps * tile_elements(kStepKeys);
    auto copy = [&](Ex n, Ex to) {
      b_.if_(n < count, [&] { copy_tile(shared_, b_.let(mine_ + to), b_.let(tile_of_(n) * kTileKeys + warp_ * kStepKeys), kStepKeys, lane_, 32); });
      b_.async_commit();
    };
    for (int64_t s = 0; s + 1 < stages_; ++s) copy(b_.let(first + Ex(s)), Ex(s * stage));
    if (out_.empty()) begin_rows(q_);
    const Ex from = b_.var(constant({Elem::I32, 1}, 0)), to = b_.var(constant({Elem::I32, 1}, double((stages_ - 1) * stage)));
    auto advance = [&](Ex at) { b_.assign(at, select(at == Ex((stages_ - 1) * stage), constant({Elem::I32, 1}, 0), at + Ex(stage))); };
    b_.for_(first, count, 1, [&](Ex n) {
      b_.async_wait(int(stages_ - 2));
      b_.warp_sync();
      copy(b_.let(n + Ex(stages_ - 1)), to);
      add_values(values_lane_ + from, weigh(n, from, part));
      advance(from);
      advance(to);
    });
  }

  /// The same of demoted pages. Where registers suffice, words of values are under way while keys are multiplied, and the next
  /// page's of keys while values are.
  void pages(Ex first, Ex count) {
    const PageTile tile(b_, *stores_, kv_head_, tile_shape(kStepKeys), lane_, 32);
    const auto place = [&](Ex n) { return tile.place(tile_of_(n), warp_); };
    const auto begin = [&](const PageTile::Loaded& loads) {
      PageTile::Loaded words;
      for (const Ex& load : loads) words.push_back(b_.var(load));
      return words;
    };
    const auto exact_sinks = [&](Ex n, bool keys) {
      b_.if_(tile_of_(n) + warp_ == Ex(0), [&] {
        b_.warp_sync();
        tile.copy_sinks(shared_, mine_, keys);
      });
      b_.warp_sync();
    };
    const bool ahead = d_ <= kPagesAhead;
    b_.if_(first < count, [&] {
      const PageTile::Loaded keys = ahead ? begin(tile.load_keys(place(first))) : PageTile::Loaded();
      b_.for_(first, count, 1, [&](Ex n) {
        const PageTile::Place here = place(n);
        b_.warp_sync();   // the tile before has been multiplied
        if (ahead) tile.store_keys(shared_, mine_, keys);
        else tile.copy_keys(shared_, mine_, here);
        const PageTile::Loaded values = ahead ? begin(tile.load_values(here)) : PageTile::Loaded();
        exact_sinks(n, true);
        const Ex weights = weigh(n, Ex(0), Part::Demoted);
        if (ahead) {
          tile.store_values(shared_, mine_, here, values);
          const PageTile::Loaded next = tile.load_keys(place(b_.let(min(n + Ex(1), count - Ex(1)))));
          for (size_t i = 0; i < next.size(); ++i) b_.assign(keys[i], next[i]);
        } else {
          tile.copy_values(shared_, mine_, here);
        }
        exact_sinks(n, false);
        add_values(values_lane_, weights);
      });
      b_.warp_sync();
    });
  }

  /// Of this lane's row and its columns of both blocks of 8 keys.
  std::vector<Ex> scores(const std::vector<Ex>& queries, Ex keys) {
    keys = b_.let(keys);
    std::vector<Ex> sums;  // two of each block, so that products wait less for each other
    for (int i = 0; i < 4; ++i) sums.push_back(b_.var(constant({Elem::F32, 4}, 0)));
    for (size_t k = 0; k < queries.size(); ++k) {
      const Ex f = b_.ld_matrix(shared_, keys + Ex(int64_t(k) * 256), true);
      for (int block = 0; block < 2; ++block)
        b_.mma(Fn::MmaF16, sums[size_t(block) * 2 + k % 2], queries[k], b_.let(pack({lane(f, 2 * block), lane(f, 2 * block + 1)})));
    }
    std::vector<Ex> s;
    for (int i = 0; i < 4; ++i) {
      const Ex &x = sums[size_t(i / 2 * 2)], &y = sums[size_t(i / 2 * 2 + 1)];
      s.push_back(b_.let(capped(b_.let((lane(x, i % 2) + lane(y, i % 2)) + (lane(x, i % 2 + 2) + lane(y, i % 2 + 2))))));
    }
    return s;
  }

  /// The weights of 16 keys as operand a, relative to the largest score so far.
  Ex softmax(std::vector<Ex> s, Ex distance) {
    for (int i = 0; i < 4; ++i) s[size_t(i)] = masked(s[size_t(i)], distance - Ex(i / 2 * 8 + i % 2));
    const Ex most = row_reduce(Fn::ReduceMax, b_.let(max(b_.let(max(s[0], s[1])), b_.let(max(s[2], s[3])))));
    const Ex top = b_.let(max(top_, most)), decay = weight(top_ - top);
    b_.assign(top_, top);
    for (Ex& x : s) x = weight(x - top);
    b_.assign(sum_, fma(sum_, decay, (s[0] + s[1]) + (s[2] + s[3])));
    for (Ex o : out_) b_.assign(o, pack({lane(o, 0) * decay, lane(o, 1) * decay, lane(o, 2) * decay, lane(o, 3) * decay}));
    const Pair first = parts(s[0], s[1]), second = parts(s[2], s[3]);
    return b_.let(pack({first.high, first.low, second.high, second.low}));
  }

  void add_values(Ex values, Ex weights) {
    values = b_.let(values);
    for (size_t n = 0; n < out_.size(); n += 2) {
      const Ex f = b_.ld_matrix(shared_, values + Ex(int64_t(n) * 8), true);
      for (int i = 0; i < 2; ++i) b_.mma(Fn::MmaF16, out_[n + size_t(i)], weights, b_.let(pack({lane(f, 2 * i), lane(f, 2 * i + 1)})));
    }
  }

  // --- merging. In shared memory, as f32: sums [warp][row][sum_stride], then largest score and sum of weights [warp][row][2],
  // then the factors of splits [warp][split], then whether this block is the last.

  int64_t sum_stride() const { return d_ + 8; }
  Ex float_at(Ex i) const { return i * 2; }
  Ex sum_at(Ex warp, Ex row) const { return (warp * kRows + row) * sum_stride(); }
  Ex softmax_at(Ex warp, Ex row) const { return (warp * kRows + row) * 2 + Ex(kWarps * kRows * sum_stride()); }
  Ex factor_at(Ex split) const { return warp_ * kMostSplits + split + Ex(kWarps * kRows * (sum_stride() + 2)); }
  Ex last_at() const { return Ex(kWarps * (kRows * (sum_stride() + 2) + kMostSplits)); }
  Ex load_float(Ex i) { return b_.let(b_.load({Elem::F32, 1}, shared_, float_at(i))); }

  void store_sums() {
    const Ex row = b_.let(lane_ / 4), at = b_.let(sum_at(warp_, row) + column_);
    for (size_t n = 0; n < out_.size(); ++n)
      b_.store(shared_, float_at(at + Ex(int64_t(n) * 8)), pack({lane(out_[n], 0) + lane(out_[n], 2), lane(out_[n], 1) + lane(out_[n], 3)}));
    const Ex sum = row_reduce(Fn::ReduceAdd, sum_);
    b_.if_(lane_ % 4 == Ex(0), [&] { b_.store(shared_, float_at(softmax_at(warp_, row)), pack({top_, sum})); });
  }

  // In the workspace, of each block: sums [row][size], then largest score and sum of weights [row][2].
  int64_t partial_floats() const { return rows_ * (d_ + 2); }
  Ex partial_sum_at(Ex task, Ex row) const { return task * partial_floats() + row * d_; }
  Ex partial_softmax_at(Ex task, Ex row) const { return task * partial_floats() + Ex(rows_ * d_) + row * 2; }

  /// body(dimension, which): this lane's dimensions; past the end some other.
  int64_t lane_dimensions() const { return (d_ + 31) / 32; }
  Ex dimension(int64_t i) const { return min(lane_ + Ex(i * 32), Ex(d_ - 1)); }

  /// A warp has a row: what the four warps found becomes the result, or this block's part of it.
  void merge_warps(Ex used) {
    b_.for_(warp_, rows_, kWarps, [&](Ex row) {
      std::vector<Ex> tops, factors, values;
      for (int w = 0; w < kWarps; ++w) tops.push_back(load_float(softmax_at(w, row)));
      const Ex top = b_.let(max(b_.let(max(tops[0], tops[1])), b_.let(max(tops[2], tops[3]))));
      Ex sum(0.0);
      for (int w = 0; w < kWarps; ++w) {
        factors.push_back(weight(tops[size_t(w)] - top));
        sum = b_.let(fma(load_float(softmax_at(w, row) + Ex(1)), factors.back(), sum));
      }
      for (int64_t i = 0; i < lane_dimensions(); ++i) {
        Ex value(0.0);
        for (int w = 0; w < kWarps; ++w) value = b_.let(fma(load_float(sum_at(w, row) + dimension(i)), factors[size_t(w)], value));
        values.push_back(value);
      }
      if (splits_ == 1) return finish_row(row, values, sum);
      b_.if_(used == Ex(1), [&] { finish_row(row, values, sum); }, [&] {
        for (int64_t i = 0; i < lane_dimensions(); ++i) store_lane(i, [&] { b_.store(partial_, partial_sum_at(b_.task(), row) + lane_ + Ex(i * 32), values[size_t(i)]); });
        b_.if_(lane_ == Ex(0), [&] {
          b_.store(partial_, partial_softmax_at(b_.task(), row), top);
          b_.store(partial_, partial_softmax_at(b_.task(), row) + Ex(1), sum);
        });
      });
    });
  }

  /// The last block of a job to come here merges the parts of all. Its lanes are the splits.
  void merge_splits(Ex job, Ex used) {
    b_.barrier();
    b_.if_(b_.thread() == Ex(0), [&] {
      const Ex before = b_.atomic_add(counters_, job, constant({Elem::U32, 1}, 1));
      b_.store(shared_, float_at(last_at()), before);
    });
    b_.barrier();
    const Ex arrived = b_.let(cast(Elem::I32, b_.load({Elem::U32, 1}, shared_, float_at(last_at()))));
    b_.if_(arrived == used - Ex(1), [&] {
      b_.if_(b_.thread() == Ex(0), [&] { b_.store(counters_, job, constant({Elem::U32, 1}, 0)); });
      const Ex first = b_.let(job * splits_);  // the task of split 0
      b_.for_(warp_, rows_, kWarps, [&](Ex row) {
        std::vector<Ex> tops, tasks;
        for (int64_t i = 0; i < splits_; i += 32) {
          const Ex split = b_.let(lane_ + Ex(i));
          tasks.push_back(b_.let(first + min(split, used - Ex(1))));
          tops.push_back(b_.let(select(split < used, b_.load(partial_, partial_softmax_at(tasks.back(), row)), Ex(kNothing))));
        }
        Ex top = tops[0], sum;
        for (size_t i = 1; i < tops.size(); ++i) top = b_.let(max(top, tops[i]));
        top = warp_reduce(b_, Fn::ReduceMax, top);
        b_.warp_sync();
        for (size_t i = 0; i < tops.size(); ++i) {
          const Ex split = b_.let(lane_ + Ex(int64_t(32 * i)));
          const Ex factor = b_.let(select(split < used, weight(tops[i] - top), constant({Elem::F32, 1}, 0)));
          const Ex part = b_.let(b_.load(partial_, partial_softmax_at(tasks[i], row) + Ex(1)) * factor);
          sum = i ? b_.let(sum + part) : part;
          b_.store(shared_, float_at(factor_at(split)), factor);
        }
        sum = warp_reduce(b_, Fn::ReduceAdd, sum);
        b_.warp_sync();
        std::vector<Ex> values;
        for (int64_t i = 0; i < lane_dimensions(); ++i) values.push_back(b_.var(Ex(0.0)));
        const int64_t at_once = std::min<int64_t>(16, int64_t(std::bit_floor(uint64_t(kMergeLoads / lane_dimensions()))));   // divides 32: there are factors for all
        b_.for_(Ex(0), used, at_once, [&](Ex split) {
          std::vector<std::vector<Ex>> parts{size_t(at_once)};
          for (int64_t s = 0; s < at_once; ++s) {  // past the last split its part again, times 0
            const Ex at = b_.let(partial_sum_at(first + min(split + Ex(s), used - Ex(1)), row));
            for (int64_t i = 0; i < lane_dimensions(); ++i) parts[size_t(s)].push_back(b_.let(b_.load(partial_, at + dimension(i))));
          }
          for (int64_t s = 0; s < at_once; ++s) {
            const Ex f = load_float(factor_at(split + Ex(s)));
            for (size_t i = 0; i < values.size(); ++i) b_.assign(values[i], fma(parts[size_t(s)][i], f, values[i]));
          }
        });
        finish_row(row, values, sum);
      });
    });
  }

  void store_lane(int64_t i, const std::function<void()>& store) {
    if ((i + 1) * 32 <= d_) store();
    else b_.if_(lane_ < Ex(d_ - i * 32), store);
  }

  /// Stores the region's results of a row: `values` of this warp's lanes over the sum of weights.
  void finish_row(Ex row, std::vector<Ex> values, Ex sum) {
    if (rotated_) rotate_lanes(values);
    const Ex t = b_.let(token(row)), head = b_.let(head0_ + row % group_);
    const Ex inverse = b_.let(constant({Elem::F32, 1}, 1.0) / sum);
    b_.if_(t < tokens_, [&] {
      for (const ir::Value* result : r_.body.returns) {
        if (result->type.is_kv()) continue;
        const Buffer& out = r_.buffer(result);
        const int64_t width = heads_ * d_;
        for (int64_t i = 0; i < lane_dimensions(); ++i) {
          const Ex value = b_.let(values[size_t(i)] * inverse);
          if (result->type.dtype == DType::Q8A) {
            store_q8a_warp(b_, out, b_.let(t * (width / 32 * ir::info(DType::Q8A).bytes)), width, b_.let(head * (d_ / 32) + Ex(i)), value, q8a_scale(result));
          } else {
            store_lane(i, [&] { b_.store(out, element_index(result->type.layout, width, t, b_.let(head * d_ + lane_ + Ex(i * 32))), cast(out.elem, value)); });
          }
        }
      }
    });
  }

  const GpuTarget target_;
  int64_t group_ = 1, tile_tokens_ = 1, rows_ = 1;   ///< a block's heads, tokens, and their product
  int64_t splits_ = 1, stages_ = 2;
  Buffer shared_, partial_, counters_;
  std::optional<HeadRows> head_rows_;                ///< if the region appends
  HeadChain query_chain_, key_chain_, value_chain_;
  Buffer made_;
  Status outcome_ = ok();
  Ex t0_, head0_, column_;                           ///< first token and head; the first of this lane's columns of an accumulator
  std::function<Ex(Ex)> tile_of_;                    ///< the n-th tile of this block
  std::vector<Ex> queries_;                          ///< operands
  Ex mine_, keys_lane_, values_lane_;                ///< where the warp's memory begins; elements of the lane's rows of matrices there
  Ex last_, demoted_;                                ///< of the lane's row: its last key less what the lane's columns are from a tile's first; pages it reads demoted
  Ex top_, sum_;                                     ///< of the lane's row: largest score, sum of weights in the lane
  std::vector<Ex> out_;                              ///< weighted values, accumulators of 8 dimensions
};

}  // namespace

Result<LoweredKernel> lower_gpu_flash_decode(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, const GpuTarget& target) {
  return FlashDecode(op, name, dims, target).run();
}

}  // namespace prism::codegen
