// What runtime/gpu/cublaslt_api.* declares of cuBLASLt is what the toolkit's cublasLt.h says, checked by the compiler.
#include <cublasLt.h>

#include <cstddef>

#include "runtime/gpu/cublaslt_api.h"
#include "tests/unit/abi.h"

namespace {

namespace cublaslt = prism::rt::gpu::cublaslt;

#define PRISM_CUBLASLT(member, name, result, parameters) \
  static_assert(prism::abi::same_call<decltype(cublaslt::Api::member), decltype(&name)>, #name);
#include "runtime/gpu/cublaslt_api.def"

static_assert(sizeof(cublaslt::Algorithm) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(cublaslt::Choice) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(cublaslt::Choice, algorithm) == offsetof(cublasLtMatmulHeuristicResult_t, algo));
static_assert(offsetof(cublaslt::Choice, workspace_bytes) == offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(cublaslt::Choice, status) == offsetof(cublasLtMatmulHeuristicResult_t, state));
static_assert(offsetof(cublaslt::Choice, waves) == offsetof(cublasLtMatmulHeuristicResult_t, wavesCount));

static_assert(cublaslt::kNotSupported == int(CUBLAS_STATUS_NOT_SUPPORTED) && cublaslt::kComputeF32 == int(CUBLAS_COMPUTE_32F));
static_assert(cublaslt::kF32 == int(CUDA_R_32F) && cublaslt::kF16 == int(CUDA_R_16F) && cublaslt::kBf16 == int(CUDA_R_16BF));
static_assert(cublaslt::kTransposeA == int(CUBLASLT_MATMUL_DESC_TRANSA) && cublaslt::kTranspose == int(CUBLAS_OP_T));
static_assert(cublaslt::kMaxWorkspace == int(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES));
static_assert(cublaslt::kAlignmentOfA == int(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES));
static_assert(cublaslt::kAlignmentOfA + 1 == int(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES));
static_assert(cublaslt::kAlignmentOfA + 2 == int(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES));
static_assert(cublaslt::kAlignmentOfA + 3 == int(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES));

}  // namespace
