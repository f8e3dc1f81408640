// CUDA C++ -> cubin through libnvrtc, opened when something is compiled (no GPU and no driver needed), cached on disk by
// source, options, NVRTC's version and architecture.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace prism::codegen {

/// What the assembler says about one kernel.
struct KernelUsage {
  std::string name;
  int registers = 0;      ///< per thread
  int spill_bytes = 0;    ///< stored and loaded, per thread
};

struct Cubin {
  std::vector<uint8_t> bytes;
  std::vector<KernelUsage> kernels;   ///< in no particular order
};

/// `arch`: "sm_80", "sm_90a", ...
Result<Cubin> compile_cuda(const std::string& source, const std::string& arch);

/// What this NVRTC can compile for: {"sm_75", "sm_80", ...}; it also takes their "a" variants where the hardware has them.
Result<std::vector<std::string>> cuda_architectures();

}  // namespace prism::codegen
