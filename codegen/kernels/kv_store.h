// A layer's compressed KV cache as kernels address it (runtime/base/kv_pages.h), K or V.
//
// Few tokens go straight to the ring of exact groups. Of many, the groups that they and their queries need lie in the workspace for as
// long as the layer is computed: kv_append brings those before from the ring, kv_demote puts the last back.
#pragma once

#include "codegen/kernels/region.h"
#include "runtime/base/kv_pages.h"

namespace prism::codegen {

class KvStore {
 public:
  /// `stage`: the workspace if most_tokens are many, which holds K and then V; else nothing. See open_kv_stores.
  KvStore(Region& r, const ir::Value* kv, bool keys, const std::optional<kir::Buffer>& stage, int64_t most_tokens);

  bool staged() const { return stage_.has_value(); }
  const rt::KvPlane& shape() const { return shape_; }
  const kir::Buffer& plane() const { return plane_; }    ///< in bytes
  const kir::Buffer& exact() const { return stage_ ? *stage_ : plane_; }   ///< where exact groups are now, in bytes
  kir::Elem element() const { return element_; }         ///< of exact values

  /// Where group `group` (positions / 16) of a head begins in exact().
  kir::Ex group(kir::Ex head, kir::Ex group) const;
  /// Where it begins in the plane.
  kir::Ex ring(kir::Ex head, kir::Ex group) const;
  kir::Ex sinks(kir::Ex head) const { return ring_at(head, kir::Ex(0)); }
  kir::Ex first_staged() const;                          ///< group

  kir::Ex codes(kir::Ex page, kir::Ex head) const;       ///< in the plane
  kir::Ex scales(kir::Ex page, kir::Ex head) const;      ///< by channel group and position
  int64_t means_at() const { return rt::kKvPage * rt::kv_scales(shape_.size); }   ///< after scales

  /// The eight words (codegen/kernels/planes.h) of block `block` of a page's codes. K: a lane is one of 16 positions, the bytes are 4
  /// channels, blocks by 16 positions, then by 32 channels. V: a lane is one of 16 channels, the bytes are 4 positions, blocks by 16
  /// channels, then by 32 positions.
  /// `ahead`: those of the next page are fetched, too.
  std::vector<kir::Ex> words(kir::Ex codes, kir::Ex block, bool ahead) const;
  void prefetch_next_scales(kir::Ex scales) const;
  /// Words of `lane` and, if they are vectors, the lanes after it.
  void store_words(kir::Ex codes, kir::Ex block, kir::Ex lane, const std::vector<kir::Ex>& words) const;
  int64_t block_bytes() const { return 64 * shape_.bits; }
  double middle() const { return double((1 << shape_.bits) - 1) / 2; }
  kir::Ex scale_base_at(kir::Ex scales) const { return scales + kir::Ex(bases_at()); }
  kir::Ex mean_base_at(kir::Ex scales) const { return scales + kir::Ex(bases_at() + 4); }
  kir::Ex scale_base(kir::Ex scales) const { return f32(scale_base_at(scales)); }
  kir::Ex mean_base(kir::Ex scales) const { return f32(mean_base_at(scales)); }
  /// Means of 16 channels from `i` on, f32.
  kir::Ex mean(kir::Ex scales, kir::Ex base, kir::Ex i) const;
  /// Scales of channel group `g` and the 16 positions of group `p` in the page, f32.
  kir::Ex scale(kir::Ex scales, kir::Ex base, int64_t g, kir::Ex p) const;

 private:
  int64_t bases_at() const { return means_at() + (shape_.keys ? shape_.size : 0); }
  kir::Ex f32(kir::Ex at) const { return b_.let(b_.load({kir::Elem::F32, 1}, plane_, at)); }
  int64_t page_code_bytes() const { return shape_.heads * rt::kv_code_bytes(shape_.size, shape_.bits); }          ///< of all heads
  int64_t page_scale_bytes() const { return shape_.heads * rt::kv_scale_bytes(shape_.size, shape_.keys); }
  kir::Ex page_slot(kir::Ex page) const { return Region::in_ring(page, type_.ring / rt::kKvPage, type_.sinks / rt::kKvPage); }
  kir::Ex ring_at(kir::Ex head, kir::Ex slot) const { return (wide(head) * rt::kKvExactGroups + slot) * shape_.group_bytes(); }
  static kir::Ex wide(kir::Ex x) { return cast(kir::Elem::I64, x); }   ///< bytes may be more than a GPU's i32 counts

  Region& r_;
  kir::Builder& b_;
  ir::Type type_;
  kir::Buffer plane_;
  std::optional<kir::Buffer> stage_;
  rt::KvPlane shape_;
  kir::Elem element_;
  int64_t stage_groups_ = 0;
};

struct KvStores {
  KvStore keys, values;
};
/// K and V of a cache that a kernel for at most `most_tokens` tokens uses.
KvStores open_kv_stores(Region& r, const ir::Value* kv, int64_t most_tokens);

}  // namespace prism::codegen
