// KIR -> C-like source. `CRenderer` prints what all targets share; a target overrides types, calls and the frame of a
// kernel. The CPU's renderer is render/cpu.cpp, the GPU's render/cuda.cpp.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "codegen/kir/kir.h"

namespace prism::codegen {

class CRenderer {
 public:
  virtual ~CRenderer() = default;
  /// One translation unit: prelude and kernels.
  std::string render(const std::vector<const kir::Kernel*>& kernels);

 protected:
  virtual std::string prelude() = 0;
  virtual std::string open(const kir::Kernel& k) = 0;    ///< signature, bindings, loop over tasks
  virtual std::string close(const kir::Kernel& k) = 0;
  virtual std::string type(kir::Ty t);
  virtual std::string load(kir::Ty t, const std::string& address) = 0;
  virtual std::string store(kir::Ty t, const std::string& address, const std::string& value) = 0;
  virtual std::string store_n(kir::Ty t, const std::string& address, const std::string& value, const std::string& count) = 0;
  virtual std::string convert(kir::Ty to, kir::Ty from, const std::string& value) = 0;
  virtual std::string statement(const kir::Stmt& s) = 0;   ///< those that not every target has
  virtual std::string call(kir::Fn fn, kir::Ty t, const std::vector<std::string>& args) = 0;

  virtual std::string expr(const kir::Ref& r);
  void block(const kir::Block& b, int depth);
  virtual std::string address(int buffer, const kir::Ref& index);

  const kir::Kernel* kernel_ = nullptr;
  std::string out_;
};

/// C with clang vector extensions; the instruction-set variants differ only in the compiler's flags.
std::string render_cpu(const std::vector<const kir::Kernel*>& kernels);

/// CUDA C++ without headers: the target's primitives, then the kernels, whose text is the same for both targets.
enum class CudaTarget { Device, Emulated };
std::string render_cuda(const std::vector<const kir::Kernel*>& kernels, CudaTarget target);

/// One more kernel for the same unit, `name`: runs any sequence of launches of `kernels` (by number; all with blocks of one size)
/// within one launch whose blocks wait for each other, by the table that runtime/gpu/persistent.h describes.
std::string render_persistent(const std::string& name, const std::map<size_t, const kir::Kernel*>& kernels);

/// The primitives alone (render/cuda_primitives.cpp).
std::string cuda_primitives(CudaTarget target);

}  // namespace prism::codegen
