// What both attention kernels share: what the region asks for, K and V in shared memory as matrix operands, masks.
//
// Scores are in powers of two: the factor of the queries (query_unit) contains log2(e), so a weight is one exp2.
#pragma once

#include "codegen/kernels/region.h"

namespace prism::codegen {

class GpuAttention {
 protected:
  GpuAttention(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, int block_threads)
      : r_(op, name, dims, block_threads), b_(r_.b) {}

  /// Finds the region's attention and its sizes; the run-time ones become values.
  Status read();

  double query_unit() const;
  /// A score of scaled queries with its cap, in powers of two.
  kir::Ex capped(kir::Ex score) const;
  /// The last key that the query at this position sees.
  kir::Ex last_key(kir::Ex position) const { return causal_ ? position : total_ - kir::Ex(1); }
  /// -inf for a key that the query does not see: it is `distance` before last_key.
  kir::Ex masked(kir::Ex score, kir::Ex distance);
  kir::Ex weight(kir::Ex score) { return b_.let(call(kir::Fn::Exp2Coarse, {score})); }
  /// Maximum or sum over the four lanes that hold a row of an accumulator.
  kir::Ex row_reduce(kir::Fn fn, kir::Ex value) { return warp_reduce(b_, fn, value, 4); }

  // A tile of keys in shared memory (f16): K [keys/16][size][16], then V [keys][value_stride]. The eight rows of a matrix that
  // ldmatrix takes at once are in different banks: of K, halves of 8 keys change places where dimension / 4 is odd; V is padded.
  int64_t value_stride() const { return d_ + 8; }
  int64_t tile_elements(int64_t keys) const { return keys * (d_ + value_stride()); }
  /// Copies `keys` keys that begin at element `source` of both planes to element `at` of `tiles`, by `workers` threads.
  void copy_tile(const kir::Buffer& tiles, kir::Ex at, kir::Ex source, int64_t keys, kir::Ex worker, int workers);
  /// Where a row of 16 values, in halves as those of K, has its half.
  static kir::Ex half_at(kir::Ex row, kir::Ex half) { return row * 16 + (half ^ (row / 4 % 2)) * 8; }
  /// What this lane adds to the element where a matrix of 16 rows begins, for ldmatrix: in halves, or of V.
  kir::Ex halves_lane() { return b_.let(half_at(lane_ % 16, lane_ / 16)); }
  kir::Ex values_lane() { return b_.let(lane_ % 16 * value_stride() + lane_ / 16 * 8); }

  Region r_;
  kir::Builder& b_;
  const ir::Type& cache_type() const { return op_->operand(1)->type; }
  const ir::Operation* op_ = nullptr;
  kir::Buffer q_, keys_, values_;
  int64_t heads_ = 0, kv_heads_ = 0, d_ = 0, window_ = 0;
  bool causal_ = false;
  double cap_ = 0;
  kir::Ex tokens_, total_, past_;   ///< queries; keys; keys before the first query
  kir::Ex warp_, lane_;
};

}  // namespace prism::codegen
