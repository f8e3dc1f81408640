// Products of large dense matrices by NVIDIA's cuBLASLt, opened at run time.
#pragma once

#include <map>
#include <memory>
#include <tuple>

#include "runtime/gpu/cublaslt_api.h"
#include "runtime/gpu/driver.h"

namespace prism::rt::gpu {

enum class Float { F16, Bf16, F32 };

/// y[m,n] = x[m,k] * w[n,k]^T + beta * c[m,n]; every matrix by rows without gaps, sums in f32.
struct Matmul {
  Float in = Float::Bf16;        ///< of x and w: F16 or Bf16
  Float out = Float::F32;        ///< of y: F32, or the same as `in`
  int64_t m = 0, n = 0, k = 0;
  Address x = 0, w = 0, y = 0;
  Address c = 0;                 ///< f32, only with an f32 y, which it may be; 0: none
  float beta = 1;                ///< without meaning where there is no c
  Address workspace = 0;         ///< 32 MiB let it choose freely; the next product in this stream may use it too
  uint64_t workspace_bytes = 0;
  void* stream = nullptr;        ///< Driver::stream()
};

/// Belongs to the device that is the calling thread's in open(), that of the last Driver::stream(). Not thread-safe.
class Blas {
 public:
  static Result<std::unique_ptr<Blas>> open();
  ~Blas();
  /// Queues the product in the stream, or has it recorded.
  Status matmul(const Matmul& p);

 private:
  struct Plan;
  /// What the choice of an algorithm depends on: types, sizes m, n, k, alignments of w, x, c, y, workspace.
  using Key = std::tuple<Float, Float, int64_t, int64_t, int64_t, uint32_t, uint32_t, uint32_t, uint32_t, uint64_t>;

  explicit Blas(const cublaslt::Api& api);
  Result<std::unique_ptr<Plan>> choose(const Matmul& p, const Key& key) const;
  Status check(int code, const Matmul& p, const char* call) const;

  const cublaslt::Api lt_;
  cublaslt::Handle handle_ = nullptr;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace prism::rt::gpu
