// GPU kernels built by hand, run on the emulated device and compiled by NVRTC.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "codegen/cuda/emulate.h"
#include "codegen/cuda/nvrtc.h"
#include "codegen/render/c.h"
#include "runtime/base/half.h"
#include "runtime/emu/device.h"

namespace prism::gpu_test {

using namespace kir;

template <class T>
rt::emu::Memory memory(std::vector<T>& v) {
  return {v.data(), v.size() * sizeof(T)};
}

/// A kernel that went through the verifier (unless it is to be wrong), compiled for the emulated device.
class Emulated {
 public:
  explicit Emulated(const Kernel& kernel, bool verified = true) {
    if (verified) {
      const Status status = verify(kernel);
      EXPECT_TRUE(status) << status.message();
    }
    auto compiled = codegen::compile_emulated({&kernel});
    EXPECT_TRUE(compiled) << compiled.message() << "\n" << print(kernel);
    if (!compiled) return;
    info_ = compiled->kernels[0];
    auto code = rt::CodeObject::load(compiled->code, kernel.name);
    EXPECT_TRUE(code) << code.message();
    if (code) code_ = std::move(*code);
  }

  /// "" or the error.
  std::string run(int64_t blocks, const std::vector<rt::emu::Memory>& args, const std::vector<int64_t>& dims = {}, uint64_t seed = 1) {
    std::vector<int64_t> values = dims;
    std::vector<rt::emu::Memory> all = args;
    all.push_back(memory(values));
    const Status status = rt::emu::launch(code_, info_, blocks, all, {.seed = seed});
    return status ? "" : status.message();
  }

 private:
  rt::CodeObject code_;
  rt::emu::Kernel info_;
};

/// What NVRTC makes of it: for these architectures, without spills.
inline void expect_compiles(const Kernel& kernel, const std::vector<std::string>& archs = {"sm_80", "sm_90a"}) {
  const std::string source = codegen::render_cuda({&kernel}, codegen::CudaTarget::Device);
  for (const std::string& arch : archs) {
    auto cubin = codegen::compile_cuda(source, arch);
    ASSERT_TRUE(cubin) << cubin.message() << "\n" << source;
    ASSERT_EQ(cubin->kernels.size(), 1u);
    EXPECT_EQ(cubin->kernels[0].name, kernel.name);
    EXPECT_GT(cubin->kernels[0].registers, 0);
    EXPECT_EQ(cubin->kernels[0].spill_bytes, 0);
    EXPECT_EQ(std::string(cubin->bytes.begin(), cubin->bytes.begin() + 4), "\x7f" "ELF");
  }
}

inline std::vector<float> random_floats(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> in(-1, 1);
  std::vector<float> v(n);
  for (float& x : v) x = in(random);
  return v;
}

}  // namespace prism::gpu_test
