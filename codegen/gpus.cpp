#include "codegen/gpus.h"

namespace prism::codegen {
namespace {

const Gpu kGpus[] = {
#define PRISM_GPU(...) {__VA_ARGS__},
#include "codegen/gpus.def"
#undef PRISM_GPU
};

}  // namespace

Result<Gpu> gpu_of(const std::string& arch) {
  std::string known;
  for (const Gpu& g : kGpus) {
    if (g.arch == arch) return g;
    known += (known.empty() ? "" : ", ") + g.arch;
  }
  return error("limits of GPUs: found ", arch, ", expected one of ", known);
}

}  // namespace prism::codegen
