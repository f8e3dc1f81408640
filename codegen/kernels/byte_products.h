// Attention's products in bytes: queries and weights become int8 by row, keys and values of a tile are codes of up to 8 bits with a scale
// for some channels of a position (runtime/base/kv_pages.h); sums are i32. A row's result depends on that row alone.
// As in SageAttention (Zhang et al. 2024), which takes the mean from keys too.
#pragma once

#include "codegen/kernels/kv_store.h"

namespace prism::codegen {

/// 64 keys or their values.
struct ByteTile {
  std::function<std::vector<kir::Ex>(kir::Ex)> words;    ///< of a block, as KvStore::words
  std::function<kir::Ex(int64_t, kir::Ex)> scale;        ///< f32, of a channel group and 16 positions
  std::function<kir::Ex(kir::Ex)> mean;                  ///< keys: f32, what was taken from 16 channels
  double middle;                                         ///< the code whose value is 0
};

class ByteProducts {
 public:
  /// `at_once`: rows whose sums are in registers, a divisor of `rows`; `vectors` of 16 keys or channels at once, 1 or 2.
  ByteProducts(kir::Builder& b, int64_t size, int rows, int at_once, int vectors);

  /// Before scores: queries [row][size] in f32 or bf16, which it keeps.
  void set_queries(const kir::Buffer& queries);
  /// scores[row][64] = queries times keys.
  void scores(const ByteTile& keys, const kir::Buffer& scores);
  /// sums[row][size] = sums * decay[row] + weights[row][64] times values.
  void add_values(const ByteTile& values, const kir::Buffer& weights, const kir::Buffer& decay, const kir::Buffer& sums);

 private:
  /// Rows in int8 with a scale and the sum of the codes of each part of a row.
  struct Narrow {
    kir::Buffer codes, scale, sum;
  };
  Narrow allocate(const std::string& name, int64_t n, int64_t parts);
  void narrow(const Narrow& to, kir::Ex part, kir::Ex at, const std::vector<kir::Ex>& values);
  std::vector<kir::Ex> zeros() const;   ///< sums of at_once_ rows, vector by vector
  /// sums += the words of `blocks` (of each vector) times codes, from at(row) on.
  void multiply(const ByteTile& tile, const std::vector<kir::Ex>& blocks, const Narrow& by, const std::vector<kir::Ex>& at, const std::vector<kir::Ex>& sums);

  kir::Builder& b_;
  int64_t size_;
  int rows_, at_once_, vectors_;
  kir::Buffer queries_, means_;
  Narrow q_, w_;
};

}  // namespace prism::codegen
