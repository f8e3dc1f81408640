// Rows of heads between the linears and the cache or attention: slices, norms, rope, rotation, of one head of one token at a time.
#pragma once

#include "codegen/kernels/region.h"

namespace prism::codegen {

/// What happens to one tensor [tokens, heads, size].
struct HeadChain {
  const ir::Value* source = nullptr;          ///< body argument [tokens, width]
  int64_t offset = 0;                         ///< first column in it
  std::vector<const ir::Operation*> steps;    ///< rms_norm, rope, elementwise, in order
  int64_t heads = 0, size = 0;
};

/// On GPUs each warp has a head of its own.
class HeadRows {
 public:
  explicit HeadRows(Region& r) : r_(r), b_(r.b), work_(r.work) { work_.by_warps(); }

  /// Back from v to an argument of the region.
  Result<HeadChain> trace(const ir::Value* v) const;
  /// Computes a head of a token as x[at, at + size).
  Status make(const HeadChain& c, kir::Ex token, kir::Ex head, const kir::Buffer& x, kir::Ex at);
  /// Stores that many values as key or value of a cache (a body argument) that is not compressed.
  void store_key(const ir::Value* kv, kir::Ex position, kir::Ex head, int64_t size, const kir::Buffer& x, kir::Ex at);
  void store_value(const ir::Value* kv, kir::Ex position, kir::Ex head, int64_t size, const kir::Buffer& x, kir::Ex at);

 private:
  Status rope(const ir::Operation& o, kir::Ex token, int64_t size, const kir::Buffer& x, kir::Ex at);

  Region& r_;
  kir::Builder& b_;
  Worker& work_;
  int tables_ = 0;
};

}  // namespace prism::codegen
