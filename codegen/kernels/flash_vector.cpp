// Attention in f32 vectors, K and V read where they lie in the cache: of few tokens on every machine, of many where bf16 has no
// instructions. A task is a few tokens times query heads that share one KV head.
//
// Of few tokens the keys are split too: pieces of them go to `splits_` parts in turn, by the pieces' absolute numbers, and the last
// task of a job to end merges what all parts found. What a token does not see adds exact zeros, so its bits depend neither
// on the tokens beside it nor on who is last.
#include <algorithm>

#include "codegen/kernels/attention.h"
#include "runtime/base/checked.h"

namespace prism::codegen {

using namespace kir;

namespace {

constexpr int kRows = 12;           // query rows at once, at most
constexpr int64_t kSplits = 16, kPieceKeys = 256;
constexpr int kLine = 64;           // bytes that come from memory together

class FlashVector : CpuAttention {
 public:
  FlashVector(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa) : CpuAttention(op, name, dims, isa) {}

  Result<LoweredKernel> run() {
    PRISM_CHECK(read(kLanes));
    const int64_t most_tokens = op_->attr<int64_t>("most_tokens");
    group_ = heads_together(heads_ / kv_heads_, most_rows_);
    tile_q_ = int(std::clamp<int64_t>(most_rows_ / group_, 1, most_tokens));
    rows_ = group_ * tile_q_;
    splits_ = most_tokens <= kFewTokens ? kSplits : 1;
    piece_ = std::max<int64_t>(kPieceKeys / tile_k_, 1) * tile_k_;
    const int64_t groups = heads_ / group_;
    const ir::Dim jobs = ir::Dim::floor_div(query_type().dim(0) + ir::Dim(tile_q_ - 1), tile_q_) * ir::Dim(groups);
    if (splits_ == 1) {
      begin_job(b_.task(), groups);
      const Ex end = b_.let(last_key());
      sink_tiles(end);
      tiles(first_tile(), end);
      finish();
      return r_.finish(jobs);
    }

    const int64_t most_jobs = ceil_div(most_tokens, tile_q_) * groups;
    parts_of_job_ = splits_ + (sinks_ > 0);
    partial_ = r_.workspace(Elem::F32, most_jobs * parts_of_job_ * rows_ * row_floats());
    counters_ = r_.counters(most_jobs);
    // As many parts as the keys that are there, or those in the window, have pieces; the first takes the first piece.
    ir::Dim pieces = ir::Dim::floor_div(op_->operand(1)->type.dim(0) + ir::Dim(piece_ - 1), piece_);
    most_parts_ = splits_;
    if (window_ > 0) most_parts_ = std::min(splits_, (window_ + tile_q_ - 2) / piece_ + 2);
    const Ex parts = b_.let(min(r_.dim(pieces), Ex(most_parts_))), job = b_.let(b_.task() / parts);
    begin_job(job, groups);
    const Ex end = b_.let(last_key()), first = b_.let(first_key() / piece_), count = b_.let(min((end + Ex(piece_ - 1)) / piece_ - first, parts));
    const Ex mine = b_.let(first + b_.task() % parts);
    b_.if_(mine * piece_ < end, [&] {
      // The sinks are a part of their own: which piece is the first depends on the tokens beside one.
      if (sinks_) b_.if_(mine <= first, [&] {
        sink_tiles(end);
        store_part(b_.let(job * parts_of_job_ + Ex(splits_)));
        clear_rows();
      });
      b_.for_(b_.let(mine * piece_), end, splits_ * piece_, [&](Ex key) {
        const Ex stop = b_.let(min(key + Ex(piece_), end));
        tiles(b_.let(max(key, first_tile())), stop);
      });
      b_.if_(count <= Ex(int64_t(sinks_ == 0)), [&] { finish(); }, [&] {
        store_part(b_.let(job * parts_of_job_ + mine % splits_));
        const Ex before = b_.atomic_add(counters_, job, constant({Elem::U32, 1}, 1));
        b_.if_(b_.let(cast(Elem::I64, before)) == count - Ex(1), [&] {
          b_.store(counters_, job, constant({Elem::U32, 1}, 0));
          merge(job, first, count);
        });
      });
    });
    LoweredKernel k = r_.finish(jobs);
    k.pieces = pieces;
    k.most_pieces = most_parts_;
    return k;
  }

 private:
  void begin_job(Ex job, int64_t groups) {
    t0_ = b_.let(job / groups * int64_t(tile_q_));
    set_head(job % groups * int64_t(group_));
    allocate(Elem::F32, Elem::F32);
    start_rows();
    start_pages(rows_, 1);
  }

  std::function<void(Ex, Part)> tile_before(Ex end) {
    return [=, this](Ex key0, Part part) {
      if (part == Part::Demoted) demoted_tile(key0, [&](const KvStore& store, Ex page) { return page_tile(store, page, splits_ > 1); });
      else tile(key0, part == Part::Sinks ? Ex(rt::kKvSinks) : end, part);
    };
  }
  void tiles(Ex begin, Ex end) { each_tile(begin, end, tile_before(end)); }
  void sink_tiles(Ex end) { CpuAttention::sink_tiles(end, tile_before(b_.let(min(end, Ex(sinks_))))); }

  /// Keys that are in the cache as they were appended.
  void tile(Ex key0, Ex end, Part part) {
    scores(key0, part);
    softmax(key0, part);
    add_values(key0, b_.let(min(Ex(tile_k_), end - key0)), part);
  }

  Ex load_exact(bool keys, Part part, Ex at) { return b_.let(cast(Elem::F32, b_.load({element(), kLanes}, exact(keys, part), at))); }

  /// What the next tile reads; of few tokens that comes from memory. Two tiles are more than the first cache holds.
  void ahead(bool keys, Part part, Ex at) {
    if (splits_ > 1 && part == Part::All) b_.prefetch(exact(keys, part), at + Ex(tile_k_ * d_), 2);
  }

  /// A vector is 16 keys. K is in groups of 16 keys, [size][16].
  void scores(Ex key0, Part part) {
    const int vectors = this->vectors(part), at_once = std::max(1, std::min(vectors, sums_ / rows_));
    for (int v0 = 0; v0 < vectors; v0 += at_once) {
      const int n = std::min(at_once, vectors - v0);
      std::vector<Ex> acc, from;
      for (int i = 0; i < rows_ * n; ++i) acc.push_back(b_.var(constant({Elem::F32, kLanes}, 0)));
      for (int v = 0; v < n; ++v) from.push_back(group_at(true, key0, Ex(v0 + v), part));
      b_.for_(0, d_, 1, [&](Ex i) {
        std::vector<Ex> k;
        for (int v = 0; v < n; ++v) ahead(true, part, from[size_t(v)] + i * kLanes);
        for (int v = 0; v < n; ++v) k.push_back(load_exact(true, part, from[size_t(v)] + i * (kLanes * unit())));
        for (int row = 0; row < rows_; ++row)
          for (int v = 0; v < n; ++v)
            b_.assign(acc[size_t(row * n + v)], fma(k[size_t(v)], b_.load(q_, i + Ex(row * d_)), acc[size_t(row * n + v)]));
      });
      for (int row = 0; row < rows_; ++row)
        for (int v = 0; v < n; ++v) b_.store(scores_, Ex(row * tile_k_ + (v0 + v) * kLanes), acc[size_t(row * n + v)]);
    }
  }

  /// body(key of the tile, where its value begins)
  void each_value(Ex key0, Ex keys, Part part, const std::function<void(Ex, Ex)>& body) {
    if (!compressed()) {
      const Ex at = group_at(false, key0, Ex(int64_t(0)), part);
      return b_.for_(0, keys, 1, [&](Ex key) { body(key, at + key * d_); });
    }
    b_.for_(0, keys, kLanes, [&](Ex first) {
      const Ex at = group_at(false, key0, b_.let(first / kLanes), part);
      b_.for_(0, b_.let(min(keys - first, Ex(kLanes))), 1, [&](Ex key) { body(b_.let(first + key), b_.let(at + key * (d_ * unit()))); });
    });
  }

  /// A vector is 16 of the head's dimensions.
  void add_values(Ex key0, Ex keys, Part part) {
    const int chunks = int(d_ / kLanes), together = std::max(1, std::min(chunks, sums_ / rows_));
    for (int c0 = 0; c0 < chunks; c0 += together) {
      const int n = std::min(together, chunks - c0);
      std::vector<Ex> acc;
      for (int row = 0; row < rows_; ++row)
        for (int c = 0; c < n; ++c)
          acc.push_back(b_.var(b_.load(o_, Ex(row * d_ + (c0 + c) * kLanes), kLanes) * b_.load(decay_, Ex(row))));
      each_value(key0, keys, part, [&](Ex key, Ex at) {
        std::vector<Ex> v;
        for (int c = 0; c < n; c += kLine / kLanes / elem_bytes(element())) ahead(false, part, at + Ex((c0 + c) * kLanes));
        for (int c = 0; c < n; ++c) v.push_back(load_exact(false, part, at + Ex((c0 + c) * kLanes * unit())));
        for (int row = 0; row < rows_; ++row) {
          const Ex w = splat(b_.load(weights_, key + Ex(row * tile_k_)), kLanes);
          for (int c = 0; c < n; ++c) b_.assign(acc[size_t(row * n + c)], fma(v[size_t(c)], w, acc[size_t(row * n + c)]));
        }
      });
      for (int row = 0; row < rows_; ++row)
        for (int c = 0; c < n; ++c) b_.store(o_, Ex(row * d_ + (c0 + c) * kLanes), acc[size_t(row * n + c)]);
    }
  }

  void finish() {
    b_.for_(0, rows_, 1, [&](Ex row) { finish_row(row, sum_of(row)); });
  }

  // In the workspace, by job and part, of each row: sums [size], largest score, sum of weights, and what fills a vector.
  int64_t row_floats() const { return d_ + kLanes; }
  Ex part_at(Ex part, Ex row) const { return (part * rows_ + row) * row_floats(); }

  void store_part(Ex part) {
    b_.for_(0, rows_, 1, [&](Ex row) {
      const Ex to = b_.let(part_at(part, row)), line = b_.let(row * d_);
      b_.for_(0, d_, kLanes, [&](Ex i) { b_.store(partial_, to + i, b_.load(o_, line + i, kLanes)); });
      b_.store(partial_, to + Ex(d_), b_.load(top_, row));
      b_.store(partial_, to + Ex(d_ + 1), sum_of(row));
    });
  }

  /// Parts in their order, whichever piece came first.
  void merge(Ex job, Ex first, Ex count) {
    auto each_part = [&](Ex row, const std::function<void(Ex)>& body) {
      if (sinks_) body(b_.let(part_at(job * parts_of_job_ + Ex(splits_), row)));
      b_.for_(0, splits_, 1, [&](Ex s) {
        b_.if_((s + Ex(splits_) - first % splits_) % splits_ < count, [&] { body(b_.let(part_at(job * parts_of_job_ + s, row))); });
      });
    };
    b_.for_(0, rows_, 1, [&](Ex row) {
      const Ex line = b_.let(row * d_), top = b_.var(Ex(-1e30)), sum = b_.var(Ex(0.0));
      each_part(row, [&](Ex at) { b_.assign(top, max(top, b_.load(partial_, at + Ex(d_)))); });
      b_.for_(0, d_, kLanes, [&](Ex i) { b_.store(o_, line + i, constant({Elem::F32, kLanes}, 0)); });
      each_part(row, [&](Ex at) {
        const Ex factor = b_.let(exponential(b_.load(partial_, at + Ex(d_)) - top));
        b_.assign(sum, fma(b_.load(partial_, at + Ex(d_ + 1)), factor, sum));
        b_.for_(0, d_, kLanes, [&](Ex i) { b_.store(o_, line + i, fma(b_.load(partial_, at + i, kLanes), factor, b_.load(o_, line + i, kLanes))); });
      });
      finish_row(row, sum);
    });
  }

  const int sums_ = sum_vectors(isa_), most_rows_ = std::min(kRows, sums_);
  int64_t splits_ = 1, piece_ = 0, most_parts_ = 1, parts_of_job_ = 1;
  Buffer partial_, counters_;
};

}  // namespace

Result<LoweredKernel> lower_flash_vector(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa) {
  return FlashVector(op, name, dims, isa).run();
}

}  // namespace prism::codegen
