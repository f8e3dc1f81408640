// The emulated GPU: runs kernels compiled for this machine with a fiber per thread, in random order, a few blocks at once,
// and checks what a GPU lets pass: bounds and alignment, reads of shared memory that nobody wrote, unordered accesses of
// threads to the same byte, copies that were not waited for, and barriers that not all threads reach.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/code_object.h"

namespace prism::rt::emu {

struct Kernel {
  struct Shared {
    std::string name;
    int64_t begin;                 ///< byte in the block's shared memory
  };
  std::string name;
  int block_threads = 0;           ///< a multiple of 32
  std::vector<std::string> args;   ///< buffers, in order, for messages; what is missing is called by its number
  std::vector<Shared> shared;      ///< by rising `begin`
  int64_t shared_bytes = 0;
};

struct Memory {
  void* data = nullptr;
  size_t bytes = 0;
};

struct Options {
  uint64_t seed = 1;               ///< decides every order
  int blocks_at_once = 0;          ///< 0: 2 to 4, by the seed
  bool early = false;              ///< the kernel must wait for those before it
};

/// Runs `blocks` blocks to their end, or to the first error: "kernel 'k', line 7: block 0, thread 5: ...", the line counted
/// in the kernels' text. The last of `args` is where the dims are. One launch of a code object at a time.
Status launch(const CodeObject& code, const Kernel& kernel, int64_t blocks, std::span<const Memory> args,
              const Options& options = {});

}  // namespace prism::rt::emu
