#include "codegen/kernels/gpu/gemm_products.h"

namespace prism::codegen {

using namespace kir;

namespace {

/// By mma.m16n8k16: fragments as PTX lays them out.
class WarpProducts final : public Products {
 public:
  WarpProducts(Builder& b, const Tile& t, const Buffer& x, const Buffer& w) : b_(b), x_(x), w_(w) {
    const Ex warp = b.let(b.thread() / 32), across = Ex(t.columns / t.warp_columns);
    lane_ = b.let(b.thread() % 32);
    row_ = b.let(warp / across * t.warp_rows);
    column_ = b.let(warp % across * t.warp_columns);
    x_row_ = b.let((row_ + lane_ % 16) * kStepColumns);
    w_row_ = b.let((column_ + lane_ / 16 * 8 + lane_ % 8) * kStepColumns);
    for (int k = 0; k < kStepColumns / 16; ++k) {
      x_chunk_.push_back(b.let(((lane_ / 16 + Ex(2 * k)) ^ (lane_ % 8)) * kChunk));
      w_chunk_.push_back(b.let(((lane_ / 8 % 2 + Ex(2 * k)) ^ (lane_ % 8)) * kChunk));
    }
    for (int i = 0; i < t.warp_rows / 16; ++i) {
      sums_.emplace_back();
      for (int j = 0; j < t.warp_columns / 8; ++j) sums_.back().push_back(b.var(constant({Elem::F32, 4}, 0)));
    }
  }

  void multiply(Ex x_at, Ex w_at, const std::function<void(int, int)>& between) override {
    const int parts = kStepColumns / 16;
    Fragments now = load(x_at, w_at, 0);
    for (int k = 0; k < parts; ++k) {
      const Fragments next = k + 1 < parts ? load(x_at, w_at, k + 1) : Fragments();
      for (size_t i = 0; i < sums_.size(); ++i)
        for (size_t j = 0; j < sums_[i].size(); ++j) {
          const Ex& w = now.w[j / 2];
          b_.mma(Fn::MmaBf16, sums_[i][j], now.x[i], pack({lane(w, int(j % 2 * 2)), lane(w, int(j % 2 * 2 + 1))}));
        }
      between(k, parts);
      now = next;
    }
  }

  void store(const Buffer& y, int64_t stride) override {
    const Ex at = b_.let((row_ + lane_ / 4) * stride + column_ + lane_ % 4 * 2);
    for (size_t i = 0; i < sums_.size(); ++i)
      for (size_t j = 0; j < sums_[i].size(); ++j)
        for (int half = 0; half < 2; ++half)
          b_.store(y, at + Ex(int64_t(i * 16 + size_t(half) * 8) * stride + int64_t(j) * 8), pack({lane(sums_[i][j], 2 * half), lane(sums_[i][j], 2 * half + 1)}));
  }

 private:
  struct Fragments {
    std::vector<Ex> x, w;   ///< of 16 rows each
  };

  Fragments load(Ex x_at, Ex w_at, int k) {
    Fragments f;
    for (size_t i = 0; i < sums_.size(); ++i) f.x.push_back(b_.ld_matrix(x_, x_at + x_row_ + x_chunk_[size_t(k)] + Ex(int64_t(i) * 16 * kStepColumns)));
    for (size_t j = 0; j < sums_[0].size() / 2; ++j) f.w.push_back(b_.ld_matrix(w_, w_at + w_row_ + w_chunk_[size_t(k)] + Ex(int64_t(j) * 16 * kStepColumns)));
    return f;
  }

  Builder& b_;
  const Buffer &x_, &w_;
  Ex lane_, row_, column_, x_row_, w_row_;
  std::vector<Ex> x_chunk_, w_chunk_;     ///< by 16 columns of the step
  std::vector<std::vector<Ex>> sums_;     ///< by 16 rows, 8 columns
};

/// By wgmma: a warpgroup has 64 rows and all columns. A step's products go on while the next step begins.
class WarpgroupProducts final : public Products {
 public:
  WarpgroupProducts(Builder& b, const Tile& t, const Buffer& x, const Buffer& w)
      : b_(b), x_(x), w_(w), columns_(t.columns), row_(b.let(b.thread() / 128 * 64)), x_row_(b.let(row_ * kStepColumns)),
        sum_(b.var(constant({Elem::F32, t.columns / 2}, 0))) {}

  int lag() const override { return 1; }
  void publish() override { b_.async_fence(); }

  void multiply(Ex x_at, Ex w_at, const std::function<void(int, int)>& between) override {
    b_.wgmma_fence();
    for (int k = 0; k < kStepColumns; k += 16) b_.wgmma(sum_, x_, x_at + x_row_ + Ex(k), w_, w_at + Ex(k));
    b_.wgmma_commit();
    between(0, 1);
    b_.wgmma_wait(1);
  }

  void finish() override { b_.wgmma_wait(0); }

  void store(const Buffer& y, int64_t stride) override {
    const Ex lane_in_warp = b_.let(b_.thread() % 32);
    const Ex at = b_.let((row_ + b_.thread() / 32 % 4 * 16 + lane_in_warp / 4) * stride + lane_in_warp % 4 * 2);
    for (int column = 0; column < columns_; column += 8)
      for (int half = 0; half < 2; ++half) {
        const int i = column / 2 + 2 * half;
        b_.store(y, at + Ex(half * 8 * stride + column), pack({lane(sum_, i), lane(sum_, i + 1)}));
      }
  }

 private:
  Builder& b_;
  const Buffer &x_, &w_;
  const int columns_;
  const Ex row_, x_row_, sum_;   ///< row_: the warpgroup's first
};

}  // namespace

std::unique_ptr<Products> tile_products(Builder& b, const Tile& t, const Buffer& x, const Buffer& w) {
  if (t.warpgroups()) return std::make_unique<WarpgroupProducts>(b, t, x, w);
  return std::make_unique<WarpProducts>(b, t, x, w);
}

}  // namespace prism::codegen
