// libcuda's interface, as far as it is used: declared here so that building needs no toolkit, opened when it is needed so
// that the same program runs where there is no GPU. tests/unit/cuda_abi_test.cpp compares it with the toolkit's cuda.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "runtime/base/result.h"

namespace prism::rt::gpu::cuda {

using Address = uint64_t;
using Device = int;
using Context = struct OpaqueContext*;
using Stream = struct OpaqueStream*;
using Event = struct OpaqueEvent*;
using Code = struct OpaqueModule*;
using Kernel = struct OpaqueFunction*;
using Recording = struct OpaqueGraph*;
using Playable = struct OpaqueGraphExec*;

/// cuda.h's codes and constants under shorter names.
enum : int {
  kOutOfMemory = 2,
  kStubLibrary = 34,
  kNoDevice = 100,
  kInvalidImage = 200,
  kNoBinaryForGpu = 209,
  kEccUncorrectable = 214,
  kInvalidPtx = 218,
  kNvlinkUncorrectable = 220,
  kUnsupportedPtx = 222,
  kContained = 226,
  kNotFound = 500,
  kIllegalAddress = 700,
  kLaunchTimeout = 702,
  kAssert = 710,
  kHardwareStackError = 714,
  kLaunchFailed = 719,
  kSystemNotReady = 802,
  kDriverMismatch = 803,
  kCompatNotSupported = 804,
};
constexpr int kMultiprocessors = 16, kCapabilityMajor = 75, kCapabilityMinor = 76, kSharedBytesPerBlock = 97;  // device attributes
constexpr int kDynamicSharedBytes = 8;                                                                         // function attribute
constexpr unsigned kNonBlocking = 1, kNoTiming = 2;                                                            // stream, event
constexpr int kThreadLocal = 1;                                                                                // capture mode
constexpr int kCooperative = 2, kEarlyStart = 6;  // launch attributes; the second: programmatic stream serialization

struct LaunchAttribute {
  int id = 0;
  int padding = 0;
  alignas(8) int value = 0;
  int more[15] = {};
};

struct LaunchConfig {
  unsigned blocks_x = 1, blocks_y = 1, blocks_z = 1;
  unsigned threads_x = 1, threads_y = 1, threads_z = 1;
  unsigned shared_bytes = 0;
  Stream stream = nullptr;
  LaunchAttribute* attributes = nullptr;
  unsigned attribute_count = 0;
};

struct Api {
#define PRISM_CUDA(member, name, suffix, parameters) int(*member) parameters = nullptr;
#include "runtime/gpu/cuda_api.def"
  int version = 0;   ///< 12040: the newest CUDA that the driver knows is 12.4

  /// "CUDA_ERROR_OUT_OF_MEMORY (out of memory)"
  std::string describe(int code) const;
};

/// "12.4"
std::string version_text(int version);

/// The library that PRISM_LIBCUDA names, or the driver's, initialised. It stays loaded: drivers are not made to be unloaded.
Result<Api> open_api();

}  // namespace prism::rt::gpu::cuda
