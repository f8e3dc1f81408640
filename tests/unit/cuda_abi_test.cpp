// What runtime/gpu/cuda_api.* declares of libcuda is what the toolkit's cuda.h says, checked by the compiler.
#include <cuda.h>

#include <cstddef>
#include <string_view>

#include "runtime/gpu/cuda_api.h"
#include "tests/unit/abi.h"

namespace {

namespace cuda = prism::rt::gpu::cuda;

// cuda.h's macros map cuMemAlloc to the version that is meant, cuMemAlloc_v2: `header` arrives here with that done.
#define TEXT(x) #x
#define EXPANDED_TEXT(x) TEXT(x)
#define PRISM_CUDA(member, name, suffix, parameters)                              \
  static_assert(std::string_view(EXPANDED_TEXT(name)) == #name #suffix, #name);   \
  static_assert(prism::abi::same_call<decltype(cuda::Api::member), decltype(&name)>, #name);
#include "runtime/gpu/cuda_api.def"

static_assert(sizeof(cuda::Address) == sizeof(CUdeviceptr) && sizeof(cuda::Device) == sizeof(CUdevice));

static_assert(sizeof(cuda::LaunchAttribute) == sizeof(CUlaunchAttribute) && alignof(cuda::LaunchAttribute) == alignof(CUlaunchAttribute));
static_assert(offsetof(cuda::LaunchAttribute, id) == offsetof(CUlaunchAttribute, id));
static_assert(offsetof(cuda::LaunchAttribute, value) ==
              offsetof(CUlaunchAttribute, value) + offsetof(CUlaunchAttributeValue, programmaticStreamSerializationAllowed));
static_assert(sizeof(cuda::LaunchAttribute::value) == sizeof(CUlaunchAttributeValue::programmaticStreamSerializationAllowed));

static_assert(sizeof(cuda::LaunchConfig) == sizeof(CUlaunchConfig));
static_assert(offsetof(cuda::LaunchConfig, blocks_x) == offsetof(CUlaunchConfig, gridDimX));
static_assert(offsetof(cuda::LaunchConfig, blocks_z) == offsetof(CUlaunchConfig, gridDimZ));
static_assert(offsetof(cuda::LaunchConfig, threads_x) == offsetof(CUlaunchConfig, blockDimX));
static_assert(offsetof(cuda::LaunchConfig, threads_z) == offsetof(CUlaunchConfig, blockDimZ));
static_assert(offsetof(cuda::LaunchConfig, shared_bytes) == offsetof(CUlaunchConfig, sharedMemBytes));
static_assert(offsetof(cuda::LaunchConfig, stream) == offsetof(CUlaunchConfig, hStream));
static_assert(offsetof(cuda::LaunchConfig, attributes) == offsetof(CUlaunchConfig, attrs));
static_assert(offsetof(cuda::LaunchConfig, attribute_count) == offsetof(CUlaunchConfig, numAttrs));

static_assert(cuda::kOutOfMemory == int(CUDA_ERROR_OUT_OF_MEMORY) && cuda::kStubLibrary == int(CUDA_ERROR_STUB_LIBRARY));
static_assert(cuda::kNoDevice == int(CUDA_ERROR_NO_DEVICE) && cuda::kInvalidImage == int(CUDA_ERROR_INVALID_IMAGE));
static_assert(cuda::kNoBinaryForGpu == int(CUDA_ERROR_NO_BINARY_FOR_GPU) && cuda::kEccUncorrectable == int(CUDA_ERROR_ECC_UNCORRECTABLE));
static_assert(cuda::kInvalidPtx == int(CUDA_ERROR_INVALID_PTX) && cuda::kNvlinkUncorrectable == int(CUDA_ERROR_NVLINK_UNCORRECTABLE));
static_assert(cuda::kUnsupportedPtx == int(CUDA_ERROR_UNSUPPORTED_PTX_VERSION) && cuda::kContained == 226);  // CUDA_ERROR_CONTAINED, which older headers lack
static_assert(cuda::kNotFound == int(CUDA_ERROR_NOT_FOUND) && cuda::kIllegalAddress == int(CUDA_ERROR_ILLEGAL_ADDRESS));
static_assert(cuda::kLaunchTimeout == int(CUDA_ERROR_LAUNCH_TIMEOUT) && cuda::kAssert == int(CUDA_ERROR_ASSERT));
static_assert(cuda::kHardwareStackError == int(CUDA_ERROR_HARDWARE_STACK_ERROR) && cuda::kLaunchFailed == int(CUDA_ERROR_LAUNCH_FAILED));
static_assert(cuda::kSystemNotReady == int(CUDA_ERROR_SYSTEM_NOT_READY) && cuda::kDriverMismatch == int(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH));
static_assert(cuda::kCompatNotSupported == int(CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE));

static_assert(cuda::kMultiprocessors == int(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT));
static_assert(cuda::kCapabilityMajor == int(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR));
static_assert(cuda::kCapabilityMinor == int(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR));
static_assert(cuda::kSharedBytesPerBlock == int(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN));
static_assert(cuda::kDynamicSharedBytes == int(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES));
static_assert(cuda::kNonBlocking == unsigned(CU_STREAM_NON_BLOCKING) && cuda::kNoTiming == unsigned(CU_EVENT_DISABLE_TIMING));
static_assert(cuda::kThreadLocal == int(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
static_assert(cuda::kCooperative == int(CU_LAUNCH_ATTRIBUTE_COOPERATIVE));
static_assert(cuda::kEarlyStart == int(CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION));

}  // namespace
