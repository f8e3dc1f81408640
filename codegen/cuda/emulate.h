// GPU kernels for the emulated device: the text that NVRTC gets, compiled for this machine.
#pragma once

#include "codegen/kir/kir.h"
#include "runtime/emu/device.h"

namespace prism::codegen {

struct EmulatedKernels {
  std::vector<uint8_t> code;                 ///< a shared object
  rt::Isa isa;                               ///< it needs
  std::vector<rt::emu::Kernel> kernels;
};

/// `more`: text that follows theirs.
Result<EmulatedKernels> compile_emulated(const std::vector<const kir::Kernel*>& kernels, const std::string& more = {});

}  // namespace prism::codegen
