// What running kernels on a GPU needs, one level above the driver's own interface: memory, code, launches in one stream,
// graphs of launches. Two implementations: libcuda (cuda_driver.cpp) and the emulated device (emu_driver.cpp).
//
// Everything happens in the order of the calls, on one stream. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace prism::rt::gpu {

/// A byte in device memory; 0 is none.
using Address = uint64_t;

struct DeviceInfo {
  std::string name;                  ///< "NVIDIA H200"
  std::string arch;                  ///< "sm_90a": what kernels are compiled for; "emu"
  int multiprocessors = 0;
  uint64_t memory_bytes = 0;
  int64_t shared_bytes = 0;          ///< most that one block can have
};

/// A kernel of loaded code.
struct Function {
  void* handle = nullptr;
};

/// What is launched: `void symbol(struct of addresses)`, one block of `threads` threads for each of `blocks`.
struct Launch {
  Function function;
  int64_t blocks = 0;
  int threads = 0;
  int64_t shared_bytes = 0;
  std::span<const Address> args;     ///< read before launch() returns
  bool early = false;                ///< may begin before the launch before it has ended (programmatic dependent launch): the kernel waits itself
  bool together = false;             ///< its blocks wait for each other: all of them must run at the same time
};

/// Code loaded on the device; unloaded when it goes out of scope, before its driver.
class Module {
 public:
  virtual ~Module() = default;
  /// `shared_bytes`: the most the kernel will be launched with.
  virtual Result<Function> function(const std::string& symbol, int64_t shared_bytes) = 0;
};

/// Launches and copies recorded once and replayed as one.
class Graph {
 public:
  virtual ~Graph() = default;
};

class Driver {
 public:
  virtual ~Driver() = default;
  virtual const DeviceInfo& info() const = 0;

  /// Device memory of `bytes` bytes (0 is allowed), aligned to 256. `what` names it in the error: "llama: weights".
  virtual Result<Address> allocate(uint64_t bytes, const std::string& what) = 0;
  virtual void free(Address memory) = 0;
  virtual Status zero(Address to, uint64_t bytes) = 0;
  /// From memory of the host, which may be reused after the call.
  virtual Status upload(Address to, const void* from, uint64_t bytes) = 0;
  /// To memory of the host; waits for everything before it.
  virtual Status download(void* to, Address from, uint64_t bytes) = 0;
  /// Memory of the host that the device copies from and to without a detour; freed by free_host.
  virtual Result<void*> allocate_host(uint64_t bytes) = 0;
  virtual void free_host(void* memory) = 0;
  /// Copies that may be recorded: `from` and `to` are memory of allocate_host and must stay as they are until a synchronize().
  virtual Status upload_later(Address to, const void* from, uint64_t bytes) = 0;
  virtual Status download_later(void* to, Address from, uint64_t bytes) = 0;

  /// `name` begins error messages.
  virtual Result<std::unique_ptr<Module>> load(std::span<const uint8_t> code, const std::string& name) = 0;
  /// Blocks of this function that a multiprocessor runs at the same time.
  virtual Result<int> blocks_per_multiprocessor(Function f, int threads, int64_t shared_bytes) = 0;
  virtual Status launch(const Launch& l) = 0;
  /// The struct that kernels find in memory in place of arguments of a launch: for tables of launches (runtime/gpu/persistent.h).
  virtual Result<std::vector<uint8_t>> argument_bytes(std::span<const Address> args) const = 0;
  /// What is launched and copied later until end_recording() is not done but recorded. An error in between ends the recording.
  virtual Status begin_recording() = 0;
  virtual Result<std::unique_ptr<Graph>> end_recording() = 0;
  virtual Status replay(const Graph& g) = 0;
  /// Waits until everything is done; errors of earlier calls show here.
  virtual Status synchronize() = 0;
  /// The CUstream, for libraries that launch into it; its device becomes the calling thread's. What they launch may be recorded.
  virtual Result<void*> stream() { return error(info().name, ": found no CUDA stream, expected an NVIDIA GPU"); }
};

/// libcuda, opened now. One line of error where there is no driver, no device, or the driver is too old.
Result<std::unique_ptr<Driver>> open_cuda(int device = 0);
/// The emulated device: launches are done when launch() returns, the first mistake of a kernel is the error.
Result<std::unique_ptr<Driver>> open_emulated(uint64_t seed = 1);

}  // namespace prism::rt::gpu
