// C source -> ELF shared object through libprism_cpu_jit.so (found beside the program or its ../lib), with a cache on
// disk keyed by source, flags and compiler version.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/cpu.h"

namespace prism::codegen {

/// Compiles `units` (independent translation units, in parallel over the cores) and links them into one shared object.
Result<std::vector<uint8_t>> compile_c(const std::vector<std::string>& units, rt::Isa isa);

/// $PRISM_CACHE, else $XDG_CACHE_HOME/prism, else ~/.cache/prism; created on first use.
std::string cache_directory();

}  // namespace prism::codegen
