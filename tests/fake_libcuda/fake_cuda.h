// A libcuda without a GPU, for the tests of the driver: it holds "device" memory in memory of the host, does what is queued in
// a stream as late as it may, so that a missing wait shows as wrong data, counts what is alive, and fails where it is told to.
//
// Its code objects are ELF files whose string table names the kernels, as in a cubin. A kernel's name ends in _<how many
// addresses it takes>: increment_1 adds 1 to blocks*threads bytes at its address, crash_0 uses memory it does not have; every
// other does nothing.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace prism::fake {

struct Launched {
  std::string kernel;
  int64_t blocks = 0, threads = 0, shared_bytes = 0;
  bool early = false, together = false;
  std::vector<uint64_t> args;
};

struct Fault {
  std::string function;     ///< "" for any
  int nth = 0;              ///< which of its calls fails, from 1; 0 for none
  int code = 1;
  bool lasting = false;     ///< and every call after it
  int seen = 0;             ///< how many there were
};

/// What the test sets, and what it finds.
struct Cuda {
  int version = 12040;
  int devices = 1;
  int capability_major = 9, capability_minor = 0;
  uint64_t memory_bytes = uint64_t(1) << 30;
  int shared_bytes = 227 << 10;
  Fault fault;

  std::string failed;                    ///< the function that the fault hit, or ""
  std::map<std::string, int> live;       ///< "stream": how many there are
  std::vector<std::string> mistakes;     ///< uses that are undefined with the real one
  std::vector<Launched> launched;        ///< those that were done, in order
  int64_t calls = 0;
};

}  // namespace prism::fake

extern "C" {
prism::fake::Cuda* fake_cuda();
/// Forgets everything, what is alive too.
void fake_cuda_reset();
}
