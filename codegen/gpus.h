// What GPUs have: a line each in gpus.def.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/base/result.h"

namespace prism::codegen {

/// What does a kernel's products.
enum class MathUnit { Cores, Mma, Wgmma };

struct Gpu {
  std::string arch, name;
  int multiprocessors = 0;
  int64_t shared_kib = 0;                 ///< of a multiprocessor
  double memory = 0;                      ///< bytes per second
  double wgmma = 0, mma = 0, cores = 0;   ///< operations per second (a product and its sum are two): bf16, bf16, f32

  double operations(MathUnit unit) const { return unit == MathUnit::Wgmma ? wgmma : unit == MathUnit::Mma ? mma : cores; }
};

/// "sm_90a", "sm_80"
Result<Gpu> gpu_of(const std::string& arch);

}  // namespace prism::codegen
