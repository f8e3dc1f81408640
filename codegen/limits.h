// What this machine can do at most with the instructions that kernels use: what a measured speed is a fraction of.
#pragma once

#include "runtime/base/result.h"
#include "runtime/cpu.h"

namespace prism::codegen {

/// Per second, of all threads together.
struct Limits {
  double read = 0;  ///< bytes from memory, one after the other
  double int8 = 0;  ///< operations of 8-bit dot products (a product and its sum are two)
  double bf16 = 0;  ///< of bf16 dot products or matrix registers; 0: the instruction set has neither
  double f32 = 0;
};

Result<Limits> measure_limits(rt::Isa isa, unsigned threads);

}  // namespace prism::codegen
