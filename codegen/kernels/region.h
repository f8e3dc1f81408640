// A kernel operation being lowered: its body's values bound to KIR buffers, and what generators share.
#pragma once

#include <functional>
#include <map>

#include "codegen/kir/kir.h"
#include "ir/op_info.h"
#include "runtime/cpu.h"
#include "runtime/program.h"

namespace prism::codegen {

constexpr int kLanes = 16;  ///< logical vector width of CPU kernels: the row interleave of packed weights

/// Which operand or result of the kernel op an argument of the generated function is.
struct ArgSource {
  enum class From : uint8_t { Operand, Result, KeyPlane, ValuePlane } from;
  unsigned index;
};

struct LoweredKernel {
  kir::Kernel kernel;
  std::vector<ArgSource> args;
  ir::Dim tasks;
};

class Region {
 public:
  Region(const ir::Operation& op, std::string name, std::vector<std::string> dims);

  const ir::Graph& body;
  kir::Builder b;
  std::vector<ArgSource> args;

  /// Buffer of a body argument, or of a returned value.
  const kir::Buffer& buffer(const ir::Value* v) const { return buffers_.at(v); }
  bool has_buffer(const ir::Value* v) const { return buffers_.count(v); }
  bool is_argument(const ir::Value* v) const { return v->kind == ir::Value::Kind::Argument; }
  bool is_returned(const ir::Value* v) const { return body.returned(v); }
  const kir::Buffer& keys(const ir::Value* kv) const { return keys_.at(kv); }
  const kir::Buffer& values(const ir::Value* kv) const { return values_.at(kv); }

  kir::Ex dim(ir::Dim d);                            ///< value of a size
  static kir::Elem elem_of(const ir::Type& t);       ///< unit of indices of a buffer of that type
  static ir::Dim rows_of(const ir::Type& t);         ///< product of all axes but the last
  Error unsupported(const ir::Operation& op, const std::string& why) const;
  LoweredKernel finish(ir::Dim tasks);

 private:
  std::string name_;
  std::map<const ir::Value*, kir::Buffer> buffers_, keys_, values_;
};

/// f32 expression of an elementwise op given its operands' expressions (scalars or vectors); nullopt if it is not one.
std::optional<kir::Ex> elementwise(const ir::Operation& op, const std::vector<kir::Ex>& in);
kir::Ex activation(const std::string& act, kir::Ex x);  ///< "silu", "relu", "gelu", "gelu_tanh", "gelu_quick"

/// Index of an element in a layout of activations, row-major or tiles; `width`: columns of a row, heads side by side.
kir::Ex element_index(ir::Layout layout, int64_t width, kir::Ex row, kir::Ex column);

/// Two f32 vectors rounded to bf16 and paired lane by lane, `low` in the low half: a row of a matrix product's operand b.
kir::Ex bf16_pairs(kir::Builder& b, kir::Ex low, kir::Ex high);

/// Quantizes 32 values (two vectors) into block `block` of the q8a row of `n` elements that starts at byte `row`.
void store_q8a(kir::Builder& b, const kir::Buffer& out, kir::Ex row, int64_t n, kir::Ex block, kir::Ex lo, kir::Ex hi);

Result<LoweredKernel> lower_linear(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa);
Result<LoweredKernel> lower_rowwise(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims);
Result<LoweredKernel> lower_append(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims);
Result<LoweredKernel> lower_flash(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa);
/// Picks the generator by the region's anchor op.
Result<LoweredKernel> lower_kernel(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa);

}  // namespace prism::codegen
