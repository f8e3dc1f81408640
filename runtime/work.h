// What launches move and compute, from the formulas a program has of its kernels (program.h: Work).
#pragma once

#include <cstdint>
#include <span>

#include "runtime/program.h"

namespace prism::rt {

struct Amounts {
  int64_t weights = 0, kv = 0, activations = 0;  ///< bytes
  int64_t operations = 0;
  int64_t bytes() const { return weights + kv + activations; }
  Amounts& operator+=(const Amounts& a);
};

/// Of one launch of a kernel; zeros if its program does not say.
Result<Amounts> amounts_of(const Kernel& k, std::span<const int64_t> dims);
/// Of all launches.
Result<Amounts> amounts_of(const Program& p, const EntryPoint& entry, std::span<const int64_t> dims);

}  // namespace prism::rt
