// Pages of a compressed KV cache that become old: their values in few bits (ir/kv_pages.cpp says which; on CPUs scales are found for 16 positions at
// once). On GPUs few tokens' demotion may be further blocks of the kernel that appends: no new position lies in a page that is demoted.
#pragma once

#include "codegen/kernels/kv_store.h"

namespace prism::codegen {

class Demote {
 public:
  /// `op`: kv_demote, in the region; `kv`: its cache, an argument of the region.
  Demote(Region& r, const ir::Operation& op, const ir::Value* kv);

  /// A task is a page of one head's K or V. Where groups are staged, further tasks bring the last of them to the ring and the first to the sinks.
  ir::Dim tasks() const;
  void run(kir::Ex task);

 private:
  int64_t scales() const { return rt::kv_scales(size_) * rt::kKvPage; }   ///< by channel group and position
  void load(const KvStore& store, kir::Ex head, kir::Ex page);
  kir::Ex values(kir::Ex channel, kir::Ex p, int lanes) { return b_.load(x_, channel * stride_ + p, lanes); }   ///< positions of a channel from p on
  void each_position(const std::function<void(kir::Ex, int)>& body);
  void take_means(const KvStore& store, kir::Ex scales);
  void each_channel(kir::Ex i, const std::function<void(kir::Ex)>& body);
  kir::Ex best_scale(kir::Ex i, int lanes, int most);
  void demote(const KvStore& store, kir::Ex head, kir::Ex page);
  void pack(const KvStore& store, kir::Ex codes);

  Region& r_;
  kir::Builder& b_;
  Worker work_;
  const ir::Value* kv_;
  const bool gpu_;
  const int64_t heads_, size_, stride_;   ///< stride_: floats between channels of x_, which on GPUs lie in different banks
  KvStores stores_;
  kir::Buffer x_, means_, scales_, codes_, words_;
};

}  // namespace prism::codegen
