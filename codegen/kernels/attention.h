// What both attention kernels of CPUs share: attention by online softmax over tiles of keys (FlashAttention, Dao et al. 2022), the
// score matrix is never stored. Rows are a few tokens times query heads that share one KV head.
//
// Tiles of keys start at multiples of their size whatever the chunking, so a token's result has the same bits however the
// prompt was split.
#pragma once

#include "codegen/kernels/region.h"

namespace prism::codegen {

class CpuAttention {
 protected:
  CpuAttention(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa)
      : r_(op, name, dims), b_(r_.b), isa_(isa) {}

  /// Finds the region's attention and its sizes; the run-time ones become values. Sizes must be multiples of `unit`.
  Status read(int64_t unit);
  const ir::Type& query_type() const { return op_->operand(0)->type; }

  /// Memory of rows_ rows; `weights` may be the scores' own.
  void allocate(kir::Elem queries, kir::Elem weights);
  /// Queries into q_, no sums so far.
  void start_rows();
  /// Token of a row, the last one again past the end.
  kir::Ex token(kir::Ex row) const { return min(t0_ + row / int64_t(group_), tokens_ - kir::Ex(1)); }
  kir::Ex plane();                  ///< where this KV head's keys (and values) begin
  kir::Ex last_key() const { return causal_ ? min(past_ + t0_ + kir::Ex(tile_q_), total_) : total_; }   ///< first that no row sees
  kir::Ex first_key() const { return window_ > 0 ? max(past_ + t0_ - kir::Ex(window_ - 1), kir::Ex(0)) : kir::Ex(0); }
  kir::Ex first_tile() { return b_.let(first_key() / int64_t(tile_k_) * int64_t(tile_k_)); }   ///< where the tile of it begins

  /// One step of the online softmax: scores become weights relative to the largest score so far. Tiles that all rows see
  /// whole, most of them, need no mask.
  void softmax(kir::Ex key0);
  kir::Ex exponential(kir::Ex x) { return call(coarse_ ? kir::Fn::Exp2Coarse : kir::Fn::Exp, {x}); }

  /// Stores the region's results of a row: value(i) of 16 dimensions over the sum of weights.
  void finish_row(kir::Ex row, kir::Ex sum, const std::function<kir::Ex(kir::Ex)>& value);

  Region r_;
  kir::Builder& b_;
  rt::Isa isa_;
  const ir::Operation* op_ = nullptr;
  kir::Buffer queries_, keys_, values_;
  int64_t heads_ = 0, kv_heads_ = 0, d_ = 0, window_ = 0;
  bool causal_ = false;
  double cap_ = 0, scale_ = 1;
  int group_ = 1, tile_q_ = 1, tile_k_ = 64, rows_ = 1;   ///< heads and tokens of a task; keys of a tile; group_ * tile_q_
  bool coarse_ = false;                                   ///< weights are rounded to bf16
  kir::Ex tokens_, total_, past_;                         ///< queries; keys; keys before the first query
  kir::Ex t0_, head0_;                                    ///< the task's first token and head
  kir::Buffer q_, o_, scores_, weights_;                  ///< [row][...]
  kir::Buffer top_, decay_;                               ///< per row: largest score, factor of the sums so far
  kir::Buffer sum_;                                       ///< [row][16]: sums of weights by lane

 private:
  /// Each row's largest score of this tile into decay_. Scores get their cap, and -inf where `masked` hides keys.
  void highest(kir::Ex key0, bool masked);

  kir::Ex lanes_;                                         ///< 0 to 15
};

}  // namespace prism::codegen
