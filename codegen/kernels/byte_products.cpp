#include "codegen/kernels/byte_products.h"

#include "codegen/kernels/planes.h"

namespace prism::codegen {

using namespace kir;

namespace {

constexpr int64_t kVectors = rt::kKvPage / kLanes;   // of positions in a tile
constexpr int64_t kBlockRows = 4 * kPlaneWords;      // channels, or positions, of a block of words
constexpr int64_t kChunkBlocks = rt::kKvPage / kBlockRows;   // of V for 16 channels

}  // namespace

ByteProducts::ByteProducts(Builder& b, int64_t size, int rows, int at_once, int vectors) : b_(b), size_(size), rows_(rows), at_once_(at_once), vectors_(vectors) {
  means_ = b_.scratch("mean_products", Elem::F32, rows_);
  q_ = allocate("q", size_, rt::kv_scales(size_));
  w_ = allocate("w", rt::kKvPage, 1);
}

ByteProducts::Narrow ByteProducts::allocate(const std::string& name, int64_t n, int64_t parts) {
  return {b_.scratch(name + "_codes", Elem::I8, rows_ * n), b_.scratch(name + "_scale", Elem::F32, rows_ * parts), b_.scratch(name + "_sum", Elem::F32, rows_ * parts)};
}

void ByteProducts::narrow(const Narrow& to, Ex part, Ex at, const std::vector<Ex>& values) {
  Ex most = call(Fn::Abs, {values[0]});
  for (size_t i = 1; i < values.size(); ++i) most = max(most, call(Fn::Abs, {values[i]}));
  const Ex scale = b_.let(call(Fn::ReduceMax, {most}) * Ex(1.0 / 127)), inverse = b_.let(inverse_or_zero(scale));
  Ex sum;
  for (size_t i = 0; i < values.size(); ++i) {
    const Ex code = b_.let(call(Fn::RoundEven, {values[i] * inverse}));
    b_.store(to.codes, at + Ex(int64_t(i) * kLanes), cast(Elem::I8, cast(Elem::I32, code)));
    sum = i ? b_.let(sum + code) : code;
  }
  b_.store(to.scale, part, scale);
  b_.store(to.sum, part, call(Fn::ReduceAdd, {sum}));
}

std::vector<Ex> ByteProducts::zeros() const {
  std::vector<Ex> sums;
  for (int i = 0; i < at_once_ * vectors_; ++i) sums.push_back(b_.var(constant({Elem::I32, kLanes}, 0)));
  return sums;
}

void ByteProducts::multiply(const ByteTile& tile, const std::vector<Ex>& blocks, const Narrow& by, const std::vector<Ex>& at, const std::vector<Ex>& sums) {
  std::vector<std::vector<Ex>> words;
  for (const Ex& block : blocks) words.push_back(tile.words(block));
  for (int j = 0; j < kPlaneWords; ++j) {
    for (auto& of_block : words) of_block[size_t(j)] = b_.let(of_block[size_t(j)]);   // not before: sums need the registers
    for (int row = 0; row < at_once_; ++row) {
      Ex x = splat(b_.load({Elem::I32, 1}, by.codes, at[size_t(row)] + Ex(4 * j)), kLanes);
      if (vectors_ > 1) x = b_.let(x);
      for (int v = 0; v < vectors_; ++v) {
        const Ex& sum = sums[size_t(row * vectors_ + v)];
        b_.assign(sum, call(Fn::Dot4, {sum, words[size_t(v)][size_t(j)], x}));
      }
    }
  }
}

void ByteProducts::set_queries(const Buffer& queries) {
  queries_ = queries;
  const int64_t group = rt::kv_scale_group(size_), groups = rt::kv_scales(size_);
  b_.for_(0, rows_ * groups, 1, [&](Ex part) {
    std::vector<Ex> values;
    for (int64_t i = 0; i < group; i += kLanes) values.push_back(b_.let(cast(Elem::F32, b_.load(queries_, part * group + Ex(i), kLanes))));
    narrow(q_, part, b_.let(part * group), values);
  });
}

void ByteProducts::scores(const ByteTile& keys, const Buffer& scores) {
  const int64_t group = rt::kv_scale_group(size_), groups = rt::kv_scales(size_), blocks = group / kBlockRows;
  b_.for_(0, rows_, at_once_, [&](Ex first) {
    std::vector<Ex> sums;
    for (int row = 0; row < at_once_; ++row) sums.push_back(b_.var(constant({Elem::F32, kLanes}, 0)));
    b_.for_(0, size_, kLanes, [&](Ex i) {
      const Ex mean = keys.mean(i);
      for (int row = 0; row < at_once_; ++row) b_.assign(sums[size_t(row)], fma(mean, cast(Elem::F32, b_.load(queries_, (first + Ex(row)) * size_ + i, kLanes)), sums[size_t(row)]));
    });
    for (int row = 0; row < at_once_; ++row) b_.store(means_, first + Ex(row), call(Fn::ReduceAdd, {sums[size_t(row)]}));
  });
  b_.for_(0, rows_, at_once_, [&](Ex first) {
    b_.for_(0, kVectors, vectors_, [&](Ex v) {
      for (int64_t g = 0; g < groups; ++g) {
        const std::vector<Ex> sums = zeros();
        b_.for_(g * blocks, (g + 1) * blocks, 1, [&](Ex block) {
          std::vector<Ex> at, of;
          for (int row = 0; row < at_once_; ++row) at.push_back(b_.let((first + Ex(row)) * size_ + block * kBlockRows));
          for (int n = 0; n < vectors_; ++n) of.push_back(b_.let((v + Ex(n)) * (size_ / kBlockRows) + block));
          multiply(keys, of, q_, at, sums);
        });
        std::vector<Ex> scale;
        for (int n = 0; n < vectors_; ++n) scale.push_back(keys.scale(g, b_.let(v + Ex(n))));
        for (int row = 0; row < at_once_; ++row) {
          const Ex part = b_.let((first + Ex(row)) * groups + Ex(g));
          const Ex middle = splat(b_.let(b_.load(q_.sum, part) * Ex(keys.middle)), kLanes), by = splat(b_.load(q_.scale, part), kLanes);
          for (int n = 0; n < vectors_; ++n) {
            const Ex to = b_.let((first + Ex(row)) * rt::kKvPage + (v + Ex(n)) * kLanes);
            const Ex product = b_.let(cast(Elem::F32, sums[size_t(row * vectors_ + n)]) - middle);
            const Ex before = g == 0 ? splat(b_.load(means_, first + Ex(row)), kLanes) : b_.load(scores, to, kLanes);
            b_.store(scores, to, fma(product, b_.let(scale[size_t(n)] * by), before));
          }
        }
      }
    });
  });
}

void ByteProducts::add_values(const ByteTile& values, const Buffer& weights, const Buffer& decay, const Buffer& sums) {
  const int64_t group = rt::kv_scale_group(size_), groups = rt::kv_scales(size_);
  for (int64_t g = 0; g < groups; ++g) {
    std::vector<Ex> scale;
    for (int64_t v = 0; v < kVectors; ++v) scale.push_back(values.scale(g, Ex(v)));
    b_.for_(0, rows_, 1, [&](Ex row) {
      const Ex line = b_.let(row * rt::kKvPage);
      std::vector<Ex> scaled;
      for (int64_t v = 0; v < kVectors; ++v) scaled.push_back(b_.let(cast(Elem::F32, b_.load(weights, line + Ex(v * kLanes), kLanes)) * scale[size_t(v)]));
      narrow(w_, row, line, scaled);
    });
    b_.for_(0, rows_, at_once_, [&](Ex first) {
      b_.for_(g * (group / kLanes), (g + 1) * (group / kLanes), vectors_, [&](Ex chunk) {
        const std::vector<Ex> products = zeros();
        for (int64_t block = 0; block < kChunkBlocks; ++block) {
          std::vector<Ex> at, of;
          for (int row = 0; row < at_once_; ++row) at.push_back(b_.let((first + Ex(row)) * rt::kKvPage + Ex(block * kBlockRows)));
          for (int n = 0; n < vectors_; ++n) of.push_back(b_.let((chunk + Ex(n)) * kChunkBlocks + Ex(block)));
          multiply(values, of, w_, at, products);
        }
        for (int row = 0; row < at_once_; ++row) {
          const Ex r = b_.let(first + Ex(row));
          const Ex middle = splat(b_.let(b_.load(w_.sum, r) * Ex(values.middle)), kLanes), by = splat(b_.load(w_.scale, r), kLanes), less = splat(b_.load(decay, r), kLanes);
          for (int n = 0; n < vectors_; ++n) {
            const Ex at = b_.let(r * size_ + (chunk + Ex(n)) * kLanes), product = b_.let(cast(Elem::F32, products[size_t(row * vectors_ + n)]) - middle);
            b_.store(sums, at, fma(product, by, b_.let(b_.load(sums, at, kLanes) * less)));
          }
        }
      });
    });
  }
}

}  // namespace prism::codegen
