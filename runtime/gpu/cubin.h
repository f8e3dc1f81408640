// Cubins as the driver takes them: by address, without a size.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "runtime/base/result.h"

namespace prism::rt::gpu {

/// An error unless `code` is a whole ELF file for CUDA: the driver would read behind the end of one that is cut off.
Status check_cubin(std::span<const uint8_t> code, const std::string& name);

}  // namespace prism::rt::gpu
