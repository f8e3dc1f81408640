#include "codegen/cuda/emulate.h"

#include "codegen/cpu/compile.h"
#include "codegen/render/c.h"

namespace prism::codegen {

Result<EmulatedKernels> compile_emulated(const std::vector<const kir::Kernel*>& kernels, const std::string& more) {
  EmulatedKernels result;
  result.isa = std::min(rt::best_isa(), rt::Isa::Avx2);
  PRISM_TRY(result.code, compile_cxx(render_cuda(kernels, CudaTarget::Emulated) + more, result.isa));
  for (const kir::Kernel* k : kernels) {
    rt::emu::Kernel& info = result.kernels.emplace_back();
    info.name = k->name;
    info.block_threads = k->block_threads;
    info.shared_bytes = k->shared_bytes;
    for (const kir::Buffer& b : k->buffers) {
      if (b.space == kir::Buffer::Space::Arg) info.args.push_back(b.name);
      if (b.space == kir::Buffer::Space::Shared) info.shared.push_back({b.name, b.offset});
    }
    info.args.push_back("dims");
  }
  return result;
}

}  // namespace prism::codegen
