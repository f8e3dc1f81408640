// All launches of an entry point within one: a kernel whose blocks stay, take the blocks of one launch after the other and wait at
// counters where launches would have ended. What a kernel reads of its weights before it waits overlaps with the launch before it.
#pragma once

#include <vector>

#include "runtime/gpu/driver.h"

namespace prism::rt::gpu {

/// The table that such a kernel reads: i64 launches, then for each {i64 kernel, i64 blocks, i64 offset of its arguments in the
/// table}, then the arguments as argument_bytes() makes them.
struct TableEntry {
  int64_t kernel;                   ///< in Program::kernels
  int64_t blocks;
  std::span<const Address> args;
};
Result<std::vector<uint8_t>> persistent_table(const Driver& driver, const std::vector<TableEntry>& launches);

}  // namespace prism::rt::gpu
