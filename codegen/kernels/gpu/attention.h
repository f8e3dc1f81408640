// What both attention kernels share: what the region asks for, K and V in shared memory as matrix operands, masks.
//
// Scores are in powers of two: the factor of the queries (query_unit) contains log2(e), so a weight is one exp2.
#pragma once

#include "codegen/kernels/gpu/page_tile.h"

namespace prism::codegen {

class GpuAttention {
 protected:
  GpuAttention(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, int block_threads)
      : r_(op, name, dims, block_threads), b_(r_.b) {}

  /// Finds the region's attention, what it appends first, and its sizes; the run-time ones become values.
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

  // A tile of keys in shared memory, see PageTile::Shape: the eight rows of a matrix that ldmatrix takes at once are in different banks.
  int64_t value_stride() const { return d_ + 8; }
  int64_t tile_elements(int64_t keys) const { return keys * (d_ + value_stride()); }
  /// Sets the KV head whose tiles are read.
  void set_kv_head(kir::Ex kv_head);
  /// Copies `keys` keys from key0 on, as they were appended, to element `at` of `tiles`, by `workers` threads. Of a compressed cache
  /// where few tokens are appended these are 16 keys.
  void copy_tile(const kir::Buffer& tiles, kir::Ex at, kir::Ex key0, int64_t keys, kir::Ex worker, int workers);
  PageTile::Shape tile_shape(int64_t keys) const { return {keys, d_, value_stride()}; }
  static kir::Ex half_at(kir::Ex row, kir::Ex half) { return PageTile::Shape::half_at(row, half); }   ///< of queries, too
  /// What this lane adds to the element where a matrix of 16 rows begins, for ldmatrix: in halves, or of V.
  kir::Ex halves_lane() { return b_.let(half_at(lane_ % 16, lane_ / 16)); }
  kir::Ex values_lane() { return b_.let(lane_ % 16 * value_stride() + lane_ / 16 * 8); }

  Region r_;
  kir::Builder& b_;
  bool compressed() const { return stores_.has_value(); }
  /// Of a compressed cache: pages that the query at `position` reads demoted; which keys of a tile a query sees follows from its part.
  kir::Ex demoted_pages(kir::Ex position) { return b_.let(max((position + kir::Ex(1)) / rt::kKvPage - kir::Ex(rt::kKvRecentPages), constant(position.ty(), 0))); }
  /// What a tile of keys is: any, or of a compressed cache those demoted, those not.
  enum class Part { All, Demoted, Exact };
  /// `distance` as masked() takes it, for a row that reads `demoted` pages demoted; less than nothing where the tile's page is of the other part.
  kir::Ex seen(kir::Ex distance, Part part, kir::Ex page, kir::Ex demoted);
  /// Rotates a row, value i of a lane being that of channel 32 i + lane, or, in rows of accumulators, those of a lane's columns.
  void rotate_lanes(std::vector<kir::Ex>& values);
  void rotate_columns(std::vector<kir::Ex>& values);

  const ir::Type& cache_type() const { return op_->operand(1)->type; }
  const ir::Operation* op_ = nullptr;
  const ir::Operation* append_ = nullptr;   ///< of the region: then queries, too, are computed in it, and q_ is nothing
  kir::Buffer q_, sink_q_, keys_, values_;
  int64_t heads_ = 0, kv_heads_ = 0, d_ = 0, window_ = 0;
  int64_t sinks_ = 0;               ///< first keys that all queries see, whole tiles
  bool in_sinks_ = false;           ///< what is generated now is for their tiles
  bool causal_ = false;
  double cap_ = 0;
  std::optional<KvStores> stores_;  ///< of a compressed cache
  bool rotated_ = false;            ///< the region rotates the results
  kir::Ex kv_head_, plane_;         ///< plane_: the element where the head's keys and values begin, if they are not compressed
  kir::Ex tokens_, total_, past_;   ///< queries; keys; keys before the first query
  kir::Ex warp_, lane_;
};

}  // namespace prism::codegen
