#include "codegen/kernels/page_products.h"

#include "codegen/kernels/planes.h"

namespace prism::codegen {

using namespace kir;

namespace {

constexpr int64_t kVectors = rt::kKvPage / kLanes;   // of positions in a page
constexpr int64_t kBlockRows = 4 * kPlaneWords;      // channels, or positions, of a block of words
constexpr int64_t kChunkBlocks = rt::kKvPage / kBlockRows;   // of V for 16 channels

}  // namespace

PageProducts::PageProducts(Builder& b, const KvStore& keys, const KvStore& values, int rows)
    : b_(b), keys_(keys), values_(values), rows_(rows), size_(keys.shape().size) {
  means_ = b_.scratch("mean_products", Elem::F32, rows_);
  q_ = allocate("q", size_, rt::kv_scales(size_));
  w_ = allocate("w", rt::kKvPage, 1);
}

PageProducts::Narrow PageProducts::allocate(const char* name, int64_t n, int64_t parts) {
  const std::string prefix = name;
  return {b_.scratch(prefix + "_codes", Elem::I8, rows_ * n), b_.scratch(prefix + "_scale", Elem::F32, rows_ * parts),
          b_.scratch(prefix + "_middle", Elem::F32, rows_ * parts)};
}

void PageProducts::narrow(const Narrow& to, Ex part, Ex at, const std::vector<Ex>& values, double middle) {
  Ex most = call(Fn::Abs, {values[0]});
  for (size_t i = 1; i < values.size(); ++i) most = max(most, call(Fn::Abs, {values[i]}));
  const Ex scale = b_.let(call(Fn::ReduceMax, {most}) * Ex(1.0 / 127)), inverse = b_.let(select(Ex(0.0) < scale, Ex(1.0) / scale, Ex(0.0)));
  Ex sum;
  for (size_t i = 0; i < values.size(); ++i) {
    const Ex code = b_.let(call(Fn::RoundEven, {values[i] * inverse}));
    b_.store(to.codes, at + Ex(int64_t(i) * kLanes), cast(Elem::I8, cast(Elem::I32, code)));
    sum = i ? b_.let(sum + code) : code;
  }
  b_.store(to.scale, part, scale);
  b_.store(to.middle, part, call(Fn::ReduceAdd, {sum}) * Ex(middle));
}

std::vector<Ex> PageProducts::zeros() const {
  std::vector<Ex> sums;
  for (int row = 0; row < rows_; ++row) sums.push_back(b_.var(constant({Elem::I32, kLanes}, 0)));
  return sums;
}

void PageProducts::multiply(const KvStore& store, Ex codes, Ex block, const Narrow& by, const std::function<Ex(int)>& at, const std::vector<Ex>& sums) {
  const std::vector<Ex> words = store.words(codes, block);
  std::vector<Ex> from;
  for (int row = 0; row < rows_; ++row) from.push_back(b_.let(at(row)));
  for (int j = 0; j < kPlaneWords; ++j)
    for (int row = 0; row < rows_; ++row) {
      const Ex x = splat(b_.load({Elem::I32, 1}, by.codes, from[size_t(row)] + Ex(4 * j)), kLanes);
      b_.assign(sums[size_t(row)], call(Fn::Dot4, {sums[size_t(row)], words[size_t(j)], x}));
    }
}

void PageProducts::set_queries(const Buffer& queries) {
  queries_ = queries;
  const int64_t group = rt::kv_scale_group(size_), groups = rt::kv_scales(size_);
  b_.for_(0, rows_ * groups, 1, [&](Ex part) {
    std::vector<Ex> values;
    for (int64_t i = 0; i < group; i += kLanes) values.push_back(b_.let(b_.load(queries_, part * group + Ex(i), kLanes)));
    narrow(q_, part, b_.let(part * group), values, keys_.middle());
  });
}

void PageProducts::scores(Ex head, Ex page, const Buffer& scores) {
  const int64_t group = rt::kv_scale_group(size_), groups = rt::kv_scales(size_);
  const Ex codes = keys_.codes(page, head), scales = keys_.scales(page, head);
  const Ex base = b_.let(b_.load({Elem::F32, 1}, keys_.plane(), scales + Ex(keys_.bases_at())));
  const Ex mean_base = b_.let(b_.load({Elem::F32, 1}, keys_.plane(), scales + Ex(keys_.bases_at() + 4)));
  for (int row = 0; row < rows_; ++row) {
    const Ex sum = b_.var(constant({Elem::F32, kLanes}, 0));
    b_.for_(0, size_, kLanes, [&](Ex i) {
      const Ex mean = cast(Elem::F32, cast(Elem::I32, b_.load({Elem::I8, kLanes}, keys_.plane(), scales + Ex(keys_.means_at()) + i)));
      b_.assign(sum, fma(mean, b_.load(queries_, Ex(row * size_) + i, kLanes), sum));
    });
    b_.store(means_, Ex(row), call(Fn::ReduceAdd, {sum}) * mean_base);
  }
  b_.for_(0, kVectors, 1, [&](Ex v) {
    std::vector<Ex> totals;
    for (int row = 0; row < rows_; ++row) totals.push_back(b_.var(splat(b_.load(means_, Ex(row)), kLanes)));
    for (int64_t g = 0; g < groups; ++g) {
      const std::vector<Ex> sums = zeros();
      b_.for_(g * (group / kBlockRows), (g + 1) * (group / kBlockRows), 1, [&](Ex block) {
        multiply(keys_, codes, b_.let(v * (size_ / kBlockRows) + block), q_, [&](int row) { return Ex(row * size_) + block * kBlockRows; }, sums);
      });
      const Ex scale = keys_.scale(scales, base, g, v);
      for (int row = 0; row < rows_; ++row) {
        const Ex part = Ex(row * groups + g);
        const Ex product = b_.let(cast(Elem::F32, sums[size_t(row)]) - splat(b_.load(q_.middle, part), kLanes));
        b_.assign(totals[size_t(row)], fma(product, b_.let(scale * splat(b_.load(q_.scale, part), kLanes)), totals[size_t(row)]));
      }
    }
    for (int row = 0; row < rows_; ++row) b_.store(scores, Ex(row * rt::kKvPage) + v * kLanes, totals[size_t(row)]);
  });
}

void PageProducts::add_values(Ex head, Ex page, const Buffer& weights, const Buffer& decay, const Buffer& sums) {
  const int64_t group = rt::kv_scale_group(size_), groups = rt::kv_scales(size_);
  const Ex codes = values_.codes(page, head), scales = values_.scales(page, head);
  const Ex base = b_.let(b_.load({Elem::F32, 1}, values_.plane(), scales + Ex(values_.bases_at())));
  for (int64_t g = 0; g < groups; ++g) {
    std::vector<Ex> scale;
    for (int64_t v = 0; v < kVectors; ++v) scale.push_back(values_.scale(scales, base, g, Ex(v)));
    b_.for_(0, rows_, 1, [&](Ex row) {
      const Ex line = b_.let(row * rt::kKvPage);
      std::vector<Ex> scaled;
      for (int64_t v = 0; v < kVectors; ++v) scaled.push_back(b_.let(b_.load(weights, line + Ex(v * kLanes), kLanes) * scale[size_t(v)]));
      narrow(w_, row, line, scaled, values_.middle());
    });
    b_.for_(g * (group / kLanes), (g + 1) * (group / kLanes), 1, [&](Ex chunk) {
      const std::vector<Ex> products = zeros();
      for (int64_t block = 0; block < kChunkBlocks; ++block)
        multiply(values_, codes, b_.let(chunk * kChunkBlocks + Ex(block)), w_, [&](int row) { return Ex(row * rt::kKvPage + block * kBlockRows); }, products);
      for (int row = 0; row < rows_; ++row) {
        const Ex at = b_.let(Ex(row * size_) + chunk * kLanes), product = b_.let(cast(Elem::F32, products[size_t(row)]) - splat(b_.load(w_.middle, Ex(row)), kLanes));
        const Ex old = b_.let(b_.load(sums, at, kLanes) * splat(b_.load(decay, Ex(row)), kLanes));
        b_.store(sums, at, fma(product, splat(b_.load(w_.scale, Ex(row)), kLanes), old));
      }
    });
  }
}

}  // namespace prism::codegen
