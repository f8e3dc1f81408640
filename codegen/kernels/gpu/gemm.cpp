#include "codegen/kernels/gpu/gpu.h"

namespace prism::codegen {

Result<LoweredKernel> lower_gpu_gemm(const ir::Operation&, const std::string& name, const std::vector<std::string>&) {
  return error("kernel ", name, ": gemm has no GPU lowering yet");
}

}  // namespace prism::codegen
