// What NVRTC makes is taken as a whole cubin and not in part, and its kernels are found in it.
#include "runtime/gpu/cubin.h"

#include "codegen/cuda/nvrtc.h"
#include "tests/unit/fake_gpu.h"

namespace prism::rt::gpu {
namespace {

constexpr const char* kSource = R"(
struct Args { unsigned char* bytes; };
extern "C" __global__ void increment_1(Args a) {
  extern __shared__ int shared[];
  __shared__ int few[100];
  few[threadIdx.x % 100] = shared[threadIdx.x];
  a.bytes[blockIdx.x * blockDim.x + threadIdx.x] += few[0];
}
)";

TEST(Cubin, OfEveryArchitectureIsTakenWholeAndNotInPart) {
  auto archs = codegen::cuda_architectures();
  ASSERT_TRUE(archs) << archs.message();
  for (const std::string& arch : *archs) {
    auto cubin = codegen::compile_cuda(kSource, arch);
    ASSERT_TRUE(cubin) << cubin.message();
    const std::span<const uint8_t> code = cubin->bytes;
    auto whole = check_cubin(code, arch);
    EXPECT_TRUE(whole) << whole.message();
    for (size_t bytes = 0; bytes < code.size(); ++bytes) EXPECT_FALSE(check_cubin(code.first(bytes), arch)) << bytes << " of " << code.size();
  }
}

TEST(Cubin, OfTheCompilerIsLoadedByTheDriver) {
  gpu_test::FakeGpu fake;
  auto cubin = codegen::compile_cuda(kSource, "sm_90a");
  ASSERT_TRUE(cubin) << cubin.message();
  auto driver = open_cuda();
  ASSERT_TRUE(driver) << driver.message();
  auto module = (*driver)->load(cubin->bytes, "model");
  ASSERT_TRUE(module) << module.message();
  EXPECT_TRUE((*module)->function("increment_1", 0));
  EXPECT_FALSE((*module)->function("decrement_1", 0));
}

}  // namespace
}  // namespace prism::rt::gpu
