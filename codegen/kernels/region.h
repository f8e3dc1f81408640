// A kernel operation being lowered: its body's values bound to KIR buffers, and what generators share.
#pragma once

#include <functional>
#include <map>

#include "codegen/kernels/worker.h"
#include "codegen/kir/kir.h"
#include "ir/op_info.h"
#include "runtime/cpu.h"
#include "runtime/program.h"

namespace prism::codegen {

/// Query heads that share a KV head are computed together, the most that divide them and are no more than `most`.
constexpr int heads_together(int64_t share, int64_t most) {
  int64_t g = share < most ? share : most;
  while (share % g) --g;
  return int(g);
}

constexpr int64_t kFewTokens = 16;  ///< attention of so many tokens at most splits its keys

/// Vectors of 16 that a CPU's registers hold as sums, beside what those are made of; without AVX nothing fits, and more was measured to be faster.
constexpr int sum_vectors(rt::Isa isa) { return isa == rt::Isa::Avx2 ? 6 : 24; }

/// Which operand or result of the kernel op an argument of the generated function is.
struct ArgSource {
  enum class From : uint8_t { Operand, Result, KeyPlane, ValuePlane, Workspace, Counters } from;
  unsigned index;
};

struct LoweredKernel {
  kir::Kernel kernel;
  std::vector<ArgSource> args;
  ir::Dim tasks;
  int64_t workspace_bytes = 0;   ///< between a kernel's own tasks, or those of a layer's cache; one place for all kernels
  int64_t counters = 0;          ///< of u32, zero when the kernel begins and again when it ends
  ir::Dim pieces = ir::Dim(1);   ///< there are tasks * min(pieces, most_pieces)
  int64_t most_pieces = 1;
};

class Region {
 public:
  Region(const ir::Operation& op, std::string name, std::vector<std::string> dims, int block_threads = 0);

  const ir::Graph& body;
  kir::Builder b;
  Worker work;
  std::vector<ArgSource> args;

  /// Buffer of a body argument, or of a returned value.
  const kir::Buffer& buffer(const ir::Value* v) const { return buffers_.at(v); }
  bool has_buffer(const ir::Value* v) const { return buffers_.count(v); }
  bool is_argument(const ir::Value* v) const { return v->kind == ir::Value::Kind::Argument; }
  bool is_returned(const ir::Value* v) const { return body.returned(v); }
  const kir::Buffer& keys(const ir::Value* kv) const { return keys_.at(kv); }
  const kir::Buffer& values(const ir::Value* kv) const { return values_.at(kv); }
  /// Positions that a cache's planes have room for, and where one of them is.
  kir::Ex kv_room(const ir::Type& kv) { return kv.ring ? min(b.dim("ctx"), kir::Ex(kv.ring)) : b.dim("ctx"); }
  static kir::Ex kv_slot(const ir::Type& kv, kir::Ex position) { return in_ring(position, kv.ring, kv.sinks); }
  /// Of `kept` slots, 0 = as many as there are positions; the first `sinks` keep theirs.
  static kir::Ex in_ring(kir::Ex position, int64_t kept, int64_t sinks) {
    if (!kept) return position;
    if (!sinks) return position % kept;
    return select(position < kir::Ex(sinks), position, kir::Ex(sinks) + (position - kir::Ex(sinks)) % (kept - sinks));
  }

  kir::Ex dim(ir::Dim d);                            ///< value of a size
  Result<kir::Ex> position(const ir::Operation& positions, kir::Ex i);   ///< the op's result for row i
  static kir::Elem elem_of(const ir::Type& t);       ///< unit of indices of a buffer of that type
  static ir::Dim rows_of(const ir::Type& t);         ///< product of all axes but the last
  kir::Buffer workspace(kir::Elem elem, int64_t elements);   ///< see LoweredKernel
  kir::Buffer counters(int64_t n);
  Error unsupported(const ir::Operation& op, const std::string& why) const;
  /// On GPUs a kernel that says nothing else waits for those before it at its beginning.
  LoweredKernel finish(ir::Dim tasks);

 private:
  std::string name_;
  int64_t workspace_bytes_ = 0, counters_ = 0;
  std::map<const ir::Value*, kir::Buffer> buffers_, keys_, values_;
};

/// f32 expression of an elementwise op, or of quantize to integers or dequantize of them, given its operands' expressions (scalars or vectors, integers
/// also as what they are); nullopt if it is not one.
std::optional<kir::Ex> elementwise(const ir::Operation& op, const std::vector<kir::Ex>& in);
kir::Ex activation(const std::string& act, kir::Ex x);  ///< "silu", "relu", "gelu", "gelu_tanh", "gelu_quick"

/// Of a value made by quantize {format=q8a}: see store_q8a.
inline double q8a_scale(const ir::Value* v) { return v->def->attr<double>("scale"); }

/// Index of an element in a layout of activations, row-major or tiles; `width`: columns of a row, heads side by side.
kir::Ex element_index(ir::Layout layout, int64_t width, kir::Ex row, kir::Ex column);

/// 1 / x, 0 where x is not positive.
kir::Ex inverse_or_zero(kir::Ex x);

/// Two f32 vectors rounded to bf16 and paired lane by lane, `low` in the low half: a row of a matrix product's operand b.
kir::Ex bf16_pairs(kir::Builder& b, kir::Ex low, kir::Ex high);

/// CPUs (see Worker): the d values from `at` on times the matrix of the op hadamard, in place.
void hadamard(kir::Builder& b, const kir::Buffer& x, kir::Ex at, int64_t d);

/// block_threads 0: for CPUs
Result<LoweredKernel> lower_rowwise(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, int block_threads = 0);
/// GPUs: computes v, a single row made by row-wise ops of the region, in the block's shared memory. All threads of the block call it, and see it.
Result<kir::Buffer> row_in_memory(Region& r, const ir::Value* v);
Result<LoweredKernel> lower_append(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, int block_threads = 0);
Result<LoweredKernel> lower_demote(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, int block_threads = 0);

// CPUs
Result<LoweredKernel> lower_linear(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa);
Result<LoweredKernel> lower_flash_matrix(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa);  ///< queries in bf16
Result<LoweredKernel> lower_flash_vector(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa);
/// Picks the generator by the region's anchor op.
Result<LoweredKernel> lower_kernel(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, rt::Isa isa);

}  // namespace prism::codegen
