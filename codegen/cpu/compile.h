// C source -> ELF shared object through libprism_cpu_jit.so (found beside the program or its ../lib), cached on
// disk by source, flags and compiler version.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/cpu.h"

namespace prism::codegen {

/// Compiles `units` (independent translation units, in parallel over the cores) and links them into one shared object.
Result<std::vector<uint8_t>> compile_c(const std::vector<std::string>& units, rt::Isa isa);

/// One unit of freestanding C++17 into one shared object: GPU kernels for the emulated device.
Result<std::vector<uint8_t>> compile_cxx(const std::string& unit, rt::Isa isa);

}  // namespace prism::codegen
