// The generators of GPU kernels. What is only rows is shared with CPUs (codegen/kernels/rowwise.cpp, append.cpp).
#pragma once

#include "codegen/kernels/region.h"

namespace prism::codegen {

constexpr int kDecodeThreads = 128;   ///< of a block, in kernels of one or few rows

/// What the GPUs have that a kernel is made for.
struct GpuTarget {
  bool wgmma = false;              ///< warpgroups' products from shared memory
  int64_t multiprocessors = 132;   ///< that blocks are to be shared evenly by
};
/// What all these architectures have; none: every GPU.
GpuTarget gpu_target(const std::vector<std::string>& archs);

/// y = x w^T for few rows: x in f32 or q8a. Weights of quantized types are in Rows16, others row-major or swizzled.
Result<LoweredKernel> lower_gpu_gemv(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, const GpuTarget& target);
/// The same for many rows, in matrix products: x in bf16, row-major.
Result<LoweredKernel> lower_gpu_gemm(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, const GpuTarget& target);
/// Attention of few tokens, at most kFewTokens: the keys are split over blocks, whose results the last one merges.
Result<LoweredKernel> lower_gpu_flash_decode(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, const GpuTarget& target);
/// Attention of many tokens, in matrix products.
Result<LoweredKernel> lower_gpu_flash_prefill(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims);

/// A thread for each element of the results: all regions of ops that Elements computes.
Result<LoweredKernel> lower_gpu_elements(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims);
/// An op and what follows it of those that Elements computes.
Result<LoweredKernel> lower_gpu_conv(const ir::Operation& op, const ir::Operation& conv, const std::string& name, const std::vector<std::string>& dims);
Result<LoweredKernel> lower_gpu_matmul(const ir::Operation& op, const ir::Operation& matmul, const std::string& name, const std::vector<std::string>& dims);
Result<LoweredKernel> lower_gpu_reduce(const ir::Operation& op, const ir::Operation& reduce, const std::string& name, const std::vector<std::string>& dims);

/// For the sampler, of the first row: arguments temperature, logits; the rt::kMostLargest largest logits in order, their ids, the sum
/// over all of e^((logit - largest) / temperature); workspace, counter. See rt::LargestLogits.
LoweredKernel gpu_largest_logits(const std::string& name, const std::vector<std::string>& dims, int64_t vocab);

/// Picks the generator by the region's anchor op.
Result<LoweredKernel> lower_gpu_kernel(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, const GpuTarget& target = {});

}  // namespace prism::codegen
