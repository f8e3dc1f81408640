// A block's sums of products, in its warps' registers.
#pragma once

#include "codegen/kernels/gpu/gemm_weights.h"

namespace prism::codegen {

class Products {
 public:
  virtual ~Products() = default;
  /// Steps before the current one whose tiles are still being read.
  virtual int lag() const { return 0; }
  /// What this thread put into the tiles may be multiplied after the next barrier.
  virtual void publish() {}
  /// Adds the products of a step whose tiles begin at these elements. Between its parts, for the other units: between(part, of parts).
  virtual void multiply(kir::Ex x_at, kir::Ex w_at, const std::function<void(int, int)>& between) = 0;
  virtual void finish() {}         ///< the last step was multiplied
  virtual void store(const kir::Buffer& y, int64_t stride) = 0;
};

std::unique_ptr<Products> tile_products(kir::Builder& b, const Tile& t, const kir::Buffer& x, const kir::Buffer& w);

}  // namespace prism::codegen
