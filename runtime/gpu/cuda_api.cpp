#include "runtime/gpu/cuda_api.h"

#include <dlfcn.h>

#include <cstdlib>

namespace prism::rt::gpu::cuda {
namespace {

constexpr int kOldest = 12000;  // NVRTC 12 and 13 make cubins that no older driver loads

const char* advice(int code) {
  switch (code) {
    case kStubLibrary: return "this is the toolkit's stub: take its folder out of LD_LIBRARY_PATH, so that the driver's libcuda is found";
    case kNoDevice: return "is there an NVIDIA GPU, and does CUDA_VISIBLE_DEVICES show it? nvidia-smi lists those the driver sees";
    case kSystemNotReady: return "wait for the NVIDIA fabric manager, or start it";
    case kDriverMismatch: return "the kernel's NVIDIA module and libcuda differ: restart the machine or install the driver again";
    case kCompatNotSupported: return "take the CUDA compatibility package out of LD_LIBRARY_PATH, or update the NVIDIA driver";
    default: return "nvidia-smi shows whether the driver works";
  }
}

}  // namespace

std::string version_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

std::string Api::describe(int code) const {
  const char *name = nullptr, *text = nullptr;
  if (error_name(code, &name) != 0 || !name) return "error " + std::to_string(code);
  if (error_string(code, &text) != 0 || !text) return name;
  return std::string(name) + " (" + text + ")";
}

Result<Api> open_api() {
  const char* chosen = std::getenv("PRISM_LIBCUDA");
  const std::string library = chosen && *chosen ? chosen : "libcuda.so.1";
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) return error("no NVIDIA driver: ", dlerror(), "; install the driver, or run on the CPU");

  Api api;
  // First, so that an old driver is called old and not incomplete. The stub has no version; cuInit says what it is.
  const auto get_version = reinterpret_cast<int (*)(int*)>(dlsym(handle, "cuDriverGetVersion"));
  if (!get_version) return error(library, ": found no cuDriverGetVersion, expected the NVIDIA driver's libcuda");
  const int version_code = get_version(&api.version);
  if (version_code == 0 && api.version < kOldest)
    return error("NVIDIA driver: found one for CUDA ", version_text(api.version), ", expected CUDA ", version_text(kOldest),
                 " or newer: update the driver, or run on the CPU");
  std::string missing;
  auto bind = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(handle, name));
    if (!function && missing.empty()) missing = name;
  };
#define PRISM_CUDA(member, name, suffix, parameters) bind(api.member, #name #suffix);
#include "runtime/gpu/cuda_api.def"
  if (!missing.empty())
    return error(library, ": found no ", missing, ", expected that of CUDA ", version_text(kOldest), ": update the NVIDIA driver");
  if (const int code = api.init(0)) return error("NVIDIA driver: cuInit failed: ", api.describe(code), "; ", advice(code));
  if (version_code) return error("NVIDIA driver: cuDriverGetVersion failed: ", api.describe(version_code), "; ", advice(version_code));
  return api;
}

}  // namespace prism::rt::gpu::cuda
