// What NVRTC makes of a fixture's kernels.
#pragma once

#include <gtest/gtest.h>

#include "codegen/cuda/nvrtc.h"
#include "gpu_kernel_fixture.h"

namespace prism {

/// NVRTC takes all kernels for the architectures; those whose name begins with one of `hot` do not spill.
inline void expect_compiles(const GpuKernelFixture& f, const std::vector<std::string>& hot = {""}, std::vector<std::string> archs = {"sm_80", "sm_90a"}) {
  if (GpuKernelFixture::target() == "cuda") archs = {f.program().codes[0].isa};   // made for it alone
  for (const std::string& arch : archs) {
    auto cubin = codegen::compile_cuda(f.text("kernels.cu"), arch);
    ASSERT_TRUE(cubin) << cubin.message();
    EXPECT_EQ(cubin->kernels.size(), f.program().kernels.size());
    for (const auto& k : cubin->kernels)
      for (const std::string& prefix : hot)
        if (k.name.starts_with(prefix)) {
          EXPECT_EQ(k.spill_bytes, 0) << k.name << " on " << arch;
        }
  }
}

}  // namespace prism
