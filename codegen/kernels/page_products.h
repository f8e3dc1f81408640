// Products of a few f32 rows with a demoted page of a KV cache, in integers: codes are multiplied as they lie, by queries and by
// attention's weights in int8. Each row's result depends on that row alone.
#pragma once

#include "codegen/kernels/kv_store.h"

namespace prism::codegen {

class PageProducts {
 public:
  PageProducts(kir::Builder& b, const KvStore& keys, const KvStore& values, int rows);

  /// Before scores: queries [row][size], which it keeps.
  void set_queries(const kir::Buffer& queries);
  /// scores[row][64] = queries times the page's keys.
  void scores(kir::Ex head, kir::Ex page, const kir::Buffer& scores);
  /// sums[row][size] = sums * decay[row] + weights[row][64] times the page's values.
  void add_values(kir::Ex head, kir::Ex page, const kir::Buffer& weights, const kir::Buffer& decay, const kir::Buffer& sums);

 private:
  /// `n` values of each row from x on in int8: codes, a scale by row and the product of middle and the sum of the codes.
  struct Narrow {
    kir::Buffer codes, scale, middle;
  };
  Narrow allocate(const char* name, int64_t n, int64_t parts);
  void narrow(const Narrow& to, kir::Ex part, kir::Ex at, const std::vector<kir::Ex>& values, double middle);
  /// sum[row] += words of `block` times codes.
  void multiply(const KvStore& store, kir::Ex codes, kir::Ex block, const Narrow& by, const std::function<kir::Ex(int)>& at, const std::vector<kir::Ex>& sums);
  std::vector<kir::Ex> zeros() const;   ///< sums of the rows

  kir::Builder& b_;
  const KvStore &keys_, &values_;
  int rows_;
  int64_t size_;
  kir::Buffer queries_, means_;
  Narrow q_, w_;
};

}  // namespace prism::codegen
