// How the work on one row is spread: over the lanes of vectors on CPUs, over the threads of a block, or of a warp, on GPUs. Kernels
// that compute rows are written once with it.
#pragma once

#include <functional>

#include "codegen/kir/kir.h"

namespace prism::codegen {

constexpr int kLanes = 16;  ///< logical vector width of CPU kernels: the row interleave of packed weights

class Worker {
 public:
  explicit Worker(kir::Builder& b) : b_(b) {}

  /// GPUs: each warp has a row of its own from here on, which suits short ones.
  void by_warps() { warps_ = gpu() ? b_.block_threads() / 32 : 1; }
  int rows_at_once() const { return warps_; }   ///< of a block or task
  /// Memory for a row's intermediate values: a thread's on CPUs, a block's on GPUs; where this row's begin.
  kir::Buffer memory(const std::string& name, kir::Elem elem, int64_t n);
  kir::Ex begin(int64_t n);
  /// body(i, lanes) for all i of [0, n): vectors and then single elements; afterwards everybody sees what was stored.
  void over(int64_t n, const std::function<void(kir::Ex, int)>& body);
  /// The same with single elements only.
  void over_each(int64_t n, const std::function<void(kir::Ex)>& body);
  /// f, whose values, where a thread has the same few elements in every pass, are computed here and kept in registers.
  std::function<kir::Ex(kir::Ex, int)> remember(int64_t n, std::function<kir::Ex(kir::Ex, int)> f);
  /// Sum (ReduceAdd) or maximum (ReduceMax) of the f32 values f(i, lanes) over [0, n), in a fixed order; known to everybody.
  kir::Ex reduce(int64_t n, kir::Fn fn, const std::function<kir::Ex(kir::Ex, int)>& f);
  /// What one of a row's threads does for all.
  void once(const std::function<void()>& body);
  /// Multiplies the n values from `at` on by the matrix of the op hadamard, in place.
  void hadamard(const kir::Buffer& x, kir::Ex at, int64_t n);
  /// Quantizes values(i, lanes), lanes being 16, or 4 on GPUs, i of [32 * first, 32 * (first + blocks)), into the q8a row of `n` elements that starts at byte `row`.
  /// `scale`: as for store_q8a.
  void quantize(const kir::Buffer& out, kir::Ex row, int64_t n, kir::Ex first, int64_t blocks, const std::function<kir::Ex(kir::Ex, int)>& values, double scale);

 private:
  bool gpu() const { return b_.block_threads() > 0; }
  /// GPUs: whether passes over n elements are so short that they are written out, turn by turn of the row's threads.
  bool written_out(int64_t n) const { return gpu() && n % threads() == 0 && n / threads() <= 32; }
  int threads() const { return b_.block_threads() / warps_; }   ///< of a row
  kir::Ex thread() { return warps_ > 1 ? b_.let(b_.thread() % 32) : b_.thread(); }
  void meet() { warps_ > 1 ? b_.warp_sync() : b_.barrier(); }
  void each_of_thread(int64_t n, const std::function<void(kir::Ex)>& body);
  kir::Ex join(kir::Fn fn, kir::Ex a, kir::Ex v) const { return fn == kir::Fn::ReduceAdd ? a + v : max(a, v); }

  kir::Builder& b_;
  int warps_ = 1;
  int partials_ = 0;
  size_t turn_ = 0;   ///< of a pass that is written out
};

/// GPUs: the sum or maximum of the warp's values (`lanes` of them at a time, 2 to 32), in every lane.
kir::Ex warp_reduce(kir::Builder& b, kir::Fn fn, kir::Ex value, int lanes = 32);

/// Quantizes 32 values into block `block` of the q8a row of `n` elements that starts at byte `row`: two vectors on CPUs; on GPUs a
/// value of each lane of a warp, or of four lanes word i (columns 4i..4i+3) and word i+4 of lane i, stored where `stored`, or, if that is empty, by all.
/// `scale`: the block's; 0: by its largest value.
void store_q8a(kir::Builder& b, const kir::Buffer& out, kir::Ex row, int64_t n, kir::Ex block, kir::Ex lo, kir::Ex hi, double scale);
void store_q8a_warp(kir::Builder& b, const kir::Buffer& out, kir::Ex row, int64_t n, kir::Ex block, kir::Ex value, double scale);
void store_q8a_words(kir::Builder& b, const kir::Buffer& out, kir::Ex row, int64_t n, kir::Ex block, kir::Ex low, kir::Ex high, kir::Ex stored, double scale);
/// GPUs: the same of 32 values in four neighbouring lanes as a matrix product leaves them: value 2i+e of a lane's eight is number
/// 8i + 2 (lane % 4) + e. The whole warp calls it; stored where `stored`.
void store_q8a_quad(kir::Builder& b, const kir::Buffer& out, kir::Ex row, int64_t n, kir::Ex block, std::vector<kir::Ex> values, kir::Ex stored, double scale);

}  // namespace prism::codegen
