// The type of a value: tensor or KV cache, element type, shape and layout.
//   f32[?seq,576]   q4_1[960,576]{rows16}   kv<f16>[?past+?seq,3,64]   kv<f16,k4v3>[?past+?seq,3,64]   kv<f16,ring=1024>[?past+?seq,1,256]
//   kv<f16,ring=1088,sinks=64>[?past+?seq,1,256]
#pragma once

#include <string>

#include "ir/dim.h"
#include "ir/quants.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/SmallVector.h"

namespace prism::ir {

using Shape = llvm::SmallVector<Dim, 4>;

enum class Layout : uint8_t {
  RowMajor,  ///< as GGUF stores it: rows of blocks
  Rows16,    ///< 16 rows interleaved, for the CPU's matrix kernels: codegen/pack.h
  Tiles,     ///< bf16 in tiles of 16 rows by 32 columns, [rows/16][columns/32][16][32]: what a matrix register holds
  Swizzled,  ///< bf16 weights in tiles as matrix products of GPUs read them from shared memory: codegen/pack.h
};

enum class TypeKind : uint8_t { Tensor, Kv };

struct Type {
  TypeKind kind = TypeKind::Tensor;
  DType dtype = DType::F32;
  Layout layout = Layout::RowMajor;
  Shape shape;  ///< outermost first. Kv: [positions, kv heads, head size]; it holds one K and one V of that shape
  /// Kv: bits of an element of K and V once its page is demoted (ir/kv_pages.h); 0: it never is, every position stays in `dtype`.
  uint8_t key_bits = 0, value_bits = 0;
  /// Kv: positions that are kept; 0: all are. The first `sinks` always, others until one so many, less the sinks, after them comes.
  int64_t ring = 0, sinks = 0;

  static Type tensor(DType t, llvm::ArrayRef<Dim> shape, Layout layout = Layout::RowMajor);
  static Type kv(DType t, Dim positions, Dim heads, Dim head_size);

  bool is_kv() const { return kind == TypeKind::Kv; }
  bool is_compressed() const { return key_bits > 0; }
  size_t rank() const { return shape.size(); }
  Dim dim(int i) const { return shape[i < 0 ? shape.size() + i : i]; }
  friend bool operator==(const Type&, const Type&) = default;

  std::string str() const;
  static Result<Type> parse(std::string_view text);

  /// Number of elements / bytes when every dim is constant; nullopt when symbolic or overflowing.
  std::optional<int64_t> elements() const;
  std::optional<int64_t> bytes() const;
};

std::string_view layout_name(Layout l);
std::optional<Layout> layout_from_name(std::string_view name);
inline constexpr size_t kMaxRank = 8;

/// "?seq,9,64", the text of a shape attribute; empty for rank 0.
std::string shape_str(llvm::ArrayRef<Dim> shape);
Result<Shape> parse_shape(std::string_view text);

}  // namespace prism::ir
