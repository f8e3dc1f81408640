// Element types and quantized block formats (ir/dtypes.def) and how to turn their bytes into float.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace prism::ir {

enum class DType : uint8_t {
#define SCALAR(e, name, gguf, bytes) e,
#define QUANT(e, name, gguf, weights, bytes) e,
#include "ir/dtypes.def"
};

struct DTypeInfo {
  std::string_view name;
  int gguf_type;       ///< GGUF tensor type id, -1 if GGUF has none
  bool quantized;
  uint32_t block;      ///< elements per block (1 for scalars)
  uint32_t bytes;      ///< bytes per block
};

const DTypeInfo& info(DType t);
std::optional<DType> dtype_from_name(std::string_view name);
std::optional<DType> dtype_from_gguf(uint32_t type_id);
/// What the elements have in common that share a scale: a block of the format, a row or all of the tensor.
enum class Scales : uint8_t { Block, Row, Tensor };
std::string_view scales_name(Scales s);
std::optional<Scales> scales_from_name(std::string_view name);

inline bool is_float(DType t) { return t == DType::F32 || t == DType::F16 || t == DType::BF16 || t == DType::F64; }

/// `t`, or where a row of `row` elements is no whole number of its blocks the format of smaller blocks that llama.cpp takes.
DType fitting_type(DType t, int64_t row);

/// What the 4-bit codes of iq4_nl and iq4_xs stand for.
inline constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/// Activation block of 32 made by `quantize {format=q8a}`: x ~ d * q, d = amax/127, q = x/d rounded to nearest even.
/// In memory a row of n elements (n % 32 == 0) is planar, n/32*48 bytes: int8 q[n]; float d[n/32];
/// int32 s[n/32]: minus the sum of the block's q; int32 h[n/16]: minus the sum of each half block's.

/// Dequantizes one row of `n` elements (n a multiple of the block) from `src` to `dst`.
void dequantize_row(DType t, const void* src, float* dst, size_t n);
/// Inverse for the formats the evaluator makes itself: f32, f16, bf16, i8..., q8_0, q8a. False if it cannot. `most` > 0: the magnitude
/// that every block's scale of q8_0 is made for, that of what shares it; 0: of the block.
bool quantize_row(DType t, const float* src, void* dst, size_t n, float most = 0);
/// The largest magnitude; 0 of none, NaN is passed over.
float largest_magnitude(const float* x, size_t n);

}  // namespace prism::ir
