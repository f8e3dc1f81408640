// libcublasLt's interface, as far as it is used, declared here so that building needs no toolkit.
// tests/unit/cublaslt_abi_test.cpp compares it with the toolkit's cublasLt.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/base/result.h"

namespace prism::rt::gpu::cublaslt {

using Handle = struct OpaqueHandle*;
using Operation = struct OpaqueOperation*;
using Layout = struct OpaqueLayout*;
using Preference = struct OpaquePreference*;
using Stream = struct OpaqueStream*;

struct Algorithm {
  uint64_t data[8] = {};
};

struct Choice {
  Algorithm algorithm;
  size_t workspace_bytes = 0;
  int status = 0;
  float waves = 0;
  int reserved[4] = {};
};

constexpr int kNotSupported = 15;                    // status
constexpr int kF32 = 0, kF16 = 2, kBf16 = 14;        // types
constexpr int kComputeF32 = 68;                      // compute type
constexpr int kTransposeA = 3;                       // attribute of an operation
constexpr int kTranspose = 1;                        // its value
constexpr int kMaxWorkspace = 1, kAlignmentOfA = 5;  // attributes of a preference; B, C and D follow A

struct Api {
#define PRISM_CUBLASLT(member, name, result, parameters) result(*member) parameters = nullptr;
#include "runtime/gpu/cublaslt_api.def"
};

/// The library that PRISM_LIBCUBLASLT names, or that of CUDA 13 or 12. It stays loaded.
Result<Api> open_api();

}  // namespace prism::rt::gpu::cublaslt
