// What both attention kernels of CPUs share: attention by online softmax over tiles of keys (FlashAttention, Dao et al. 2022), the
// score matrix is never stored. Rows are a few tokens times query heads that share one KV head.
//
// Tiles of keys start at multiples of their size whatever the chunking, so a token's result has the same bits however the
// prompt was split.
#pragma once

#include "codegen/kernels/byte_products.h"

namespace prism::codegen {

class CpuAttention {
 protected:
  CpuAttention(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa)
      : r_(op, name, dims), b_(r_.b), isa_(isa) {}

  /// Finds the region's attention and its sizes; the run-time ones become values. Sizes must be multiples of `unit`.
  Status read(int64_t unit);
  const ir::Type& query_type() const { return op_->operand(0)->type; }
  const ir::Type& cache_type() const { return op_->operand(1)->type; }

  /// What a tile of keys is: any that the queries see, or of a compressed cache those not demoted, those demoted, the first.
  enum class Part { All, Exact, Demoted, Sinks };

  int vectors(Part part) const { return part == Part::Sinks ? sink_vectors_ : tile_k_ / kLanes; }
  bool compressed() const { return stores_.has_value(); }
  /// The first key after the sinks that a query at `position` reads as it was appended.
  kir::Ex first_exact(kir::Ex position) { return b_.let(max((position + kir::Ex(1)) / rt::kKvPage - kir::Ex(rt::kKvRecentPages), kir::Ex(int64_t(0))) * rt::kKvPage); }
  /// Where 16 keys of a tile begin in K or V, in the buffer's units, and the buffer.
  kir::Ex group_at(bool keys, kir::Ex key0, kir::Ex g, Part part);
  const kir::Buffer& exact(bool keys, Part part) const;
  kir::Elem element() const { return compressed() ? stores_->keys.element() : keys_.elem; }      ///< of exact keys and values
  int64_t unit() const { return compressed() ? kir::elem_bytes(element()) : 1; }                 ///< that an element takes

  /// body(first key, part) for all tiles of keys [begin, end), begin at a tile's beginning.
  void each_tile(kir::Ex begin, kir::Ex end, const std::function<void(kir::Ex, Part)>& body);

  /// A demoted page of the task's KV head as it lies in the cache; `ahead`: reading it fetches the next.
  ByteTile page_tile(const KvStore& store, kir::Ex page, bool ahead);
  /// Of a compressed cache, after start_rows and before demoted tiles: see ByteProducts.
  void start_pages(int at_once, int vectors);
  /// A demoted tile of keys and values; `tile`: what page_tile says, or made of it.
  void demoted_tile(kir::Ex key0, const std::function<ByteTile(const KvStore&, kir::Ex)>& tile);

  /// Kernels of many tokens: the task's tokens and heads. Cheap (early) and dear (late) tiles of tokens alternate, so that a static split
  /// over threads is even.
  void begin_tiles();
  LoweredKernel finish_tiles();

  /// Memory of rows_ rows; `weights` may be the scores' own.
  void allocate(kir::Elem queries, kir::Elem weights);
  /// Queries into q_, no sums so far.
  void start_rows();
  void clear_rows();                ///< no sums so far
  /// Tiles of the sinks, by queries of their own; afterwards q_ has the others again.
  void sink_tiles(kir::Ex end, const std::function<void(kir::Ex, Part)>& body);
  /// Token of a row, the last one again past the end.
  kir::Ex token(kir::Ex row) const { return min(t0_ + row / int64_t(group_), tokens_ - kir::Ex(1)); }
  void set_head(kir::Ex head);      ///< the task's first: head0_, and where its KV head's keys (and values) begin
  kir::Ex last_key() const { return causal_ ? min(past_ + t0_ + kir::Ex(tile_q_), total_) : total_; }   ///< first that no row sees
  kir::Ex first_key() const { return window_ > 0 ? max(past_ + t0_ - kir::Ex(window_ - 1), kir::Ex(0)) : kir::Ex(0); }
  /// Where the tile of it begins, after the sinks.
  kir::Ex first_tile() { return b_.let(max(first_key() / int64_t(tile_k_) * int64_t(tile_k_), kir::Ex(sinks_))); }

  /// One step of the online softmax: scores become weights relative to the largest score so far. Tiles that all rows see
  /// whole, most of them, need no mask.
  void softmax(kir::Ex key0, Part part = Part::All);
  kir::Ex exponential(kir::Ex x) { return call(coarse_ ? kir::Fn::Exp2Coarse : kir::Fn::Exp, {x}); }
  /// Of 16 scores of a row; top: what top_ has for the row.
  kir::Ex weight(kir::Ex score, kir::Ex top);
  /// The first and the last key that a row sees of a part of the cache.
  kir::Ex first_seen(kir::Ex position, Part part);
  kir::Ex last_seen(kir::Ex position, Part part);
  kir::Ex sum_at(kir::Ex row) const { return row * int64_t(kLanes) + sums_; }   ///< in sum_
  kir::Ex sum_of(kir::Ex row) { return call(kir::Fn::ReduceAdd, {b_.load(sum_, sum_at(row), kLanes)}); }   ///< of its weights

  /// Stores the region's results of a row: o_ over the sum of weights.
  void finish_row(kir::Ex row, kir::Ex sum);

  Region r_;
  kir::Builder& b_;
  rt::Isa isa_;
  const ir::Operation* op_ = nullptr;
  kir::Buffer queries_, sink_queries_, keys_, values_;
  std::optional<KvStores> stores_;                        ///< of a compressed cache
  int64_t heads_ = 0, kv_heads_ = 0, d_ = 0, window_ = 0;
  int64_t sinks_ = 0;                                     ///< first keys that all queries see, whole tiles
  bool causal_ = false;
  double cap_ = 0, scale_ = 1;
  int group_ = 1, tile_q_ = 1, tile_k_ = 64, rows_ = 1;   ///< heads and tokens of a task; keys of a tile; group_ * tile_q_
  int sink_vectors_ = 1;                                  ///< of 16 keys that a tile of the sinks has
  bool coarse_ = false;                                   ///< weights are rounded to bf16, and powers of 2 of scores less whole numbers
  kir::Ex tokens_, total_, past_;                         ///< queries; keys; keys before the first query
  kir::Ex t0_, head0_, kv_head_;                          ///< the task's first token and head, and the KV head
  kir::Buffer q_, o_, scores_, weights_;                  ///< [row][...]
  kir::Buffer top_, decay_;                               ///< per row: what scores are less (the largest, or near it), factor of the sums so far
  kir::Buffer sum_;                                       ///< [row][16]: sums of weights by lane, in one of its halves
  kir::Ex sums_ = kir::Ex(int64_t(0));                    ///< where that half begins

 private:
  /// Each row's largest score of this tile into decay_. Scores get their cap, and -inf where `masked` hides keys.
  void highest(kir::Ex key0, Part part, bool masked);
  void take_queries(const kir::Buffer& queries);          ///< into q_
  bool hides_first(Part part) const { return (window_ > 0 && !in_sinks_) || part != Part::All; }   ///< may a row not see a tile's first key?
  double score_unit() const;                              ///< of scores_, for exponential()

  kir::Ex lanes_;                                         ///< 0 to 15
  std::optional<ByteProducts> products_;                  ///< of a compressed cache
  kir::Ex plane_;                                         ///< where the head's keys and values begin, if they are not compressed
  bool rotated_ = false;                                  ///< the region rotates the sums
  bool in_sinks_ = false;                                 ///< what is generated now is for their tiles
};

}  // namespace prism::codegen
