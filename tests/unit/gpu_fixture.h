// GPU kernels built by hand, run on the emulated device and compiled by NVRTC.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <random>
#include <vector>

#include "codegen/cuda/emulate.h"
#include "codegen/cuda/nvrtc.h"
#include "codegen/render/c.h"
#include "runtime/base/half.h"
#include "gpu_kernel_fixture.h"
#include "runtime/emu/device.h"
#include "runtime/gpu/driver.h"

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

/// A kernel on the device that PRISM_GPU_TARGET names: emulated, or this machine's GPU.
class OnTarget {
 public:
  explicit OnTarget(const Kernel& kernel, bool verified = true) {
    if (GpuKernelFixture::target() == "emu") {
      emulated_.emplace(kernel, verified);
    } else {
      const Status status = compile_for_gpu(kernel);
      EXPECT_TRUE(status) << status.message();
    }
  }

  /// "" or the error.
  std::string run(int64_t blocks, std::vector<rt::emu::Memory> args, const std::vector<int64_t>& dims = {}, uint64_t seed = 1) {
    if (emulated_) return emulated_->run(blocks, args, dims, seed);
    if (!launch_.threads) return "not compiled";
    std::vector<int64_t> values = dims;
    args.push_back(memory(values));
    std::vector<rt::gpu::Address> places;
    const Status status = run_on_gpu(blocks, args, places);
    for (rt::gpu::Address place : places) driver_->free(place);
    return status ? "" : status.message();
  }

 private:
  Status compile_for_gpu(const Kernel& kernel) {
    PRISM_TRY(driver_, rt::gpu::open_cuda());
    PRISM_TRY(const auto cubin, codegen::compile_cuda(codegen::render_cuda({&kernel}, codegen::CudaTarget::Device), driver_->info().arch));
    PRISM_TRY(module_, driver_->load(cubin.bytes, kernel.name));
    PRISM_TRY(const auto function, module_->function(kernel.name, kernel.shared_bytes));
    launch_ = {function, 0, kernel.block_threads, kernel.shared_bytes, {}, false};
    return ok();
  }

  Status run_on_gpu(int64_t blocks, const std::vector<rt::emu::Memory>& args, std::vector<rt::gpu::Address>& places) {
    for (const rt::emu::Memory& m : args) {
      PRISM_TRY(const auto place, driver_->allocate(m.bytes, "test"));
      places.push_back(place);
      PRISM_CHECK(driver_->upload(place, m.data, m.bytes));
    }
    rt::gpu::Launch launch = launch_;
    launch.blocks = blocks;
    launch.args = places;
    PRISM_CHECK(driver_->launch(launch));
    for (size_t i = 0; i + 1 < args.size(); ++i) PRISM_CHECK(driver_->download(args[i].data, places[i], args[i].bytes));
    return driver_->synchronize();
  }

  std::optional<Emulated> emulated_;
  std::unique_ptr<rt::gpu::Driver> driver_;
  std::unique_ptr<rt::gpu::Module> module_;
  rt::gpu::Launch launch_;
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
