#include "runtime/gpu/driver.h"
namespace prism::rt::gpu { Result<std::unique_ptr<Driver>> open_cuda(int) { return error("no NVIDIA driver"); } }
