#include "ir/quants.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>

#include "runtime/base/half.h"

namespace prism::ir {

namespace {

constexpr DTypeInfo kTable[] = {
#define SCALAR(e, name, gguf, bytes) {name, gguf, false, 1, bytes},
#define QUANT(e, name, gguf, weights, bytes) {name, gguf, true, weights, bytes},
#include "ir/dtypes.def"
};

using Bytes = const uint8_t*;

template <class T>
T load(Bytes p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
void store(uint8_t* p, T v) {
  std::memcpy(p, &v, sizeof v);
}

float half_at(Bytes p) { return f16_to_f32(load<uint16_t>(p)); }

// One block each; layouts in ir/dtypes.def.

void q4_0(Bytes b, float* y) {
  const float d = half_at(b);
  for (int j = 0; j < 16; ++j) {
    y[j] = float((b[2 + j] & 15) - 8) * d;
    y[j + 16] = float((b[2 + j] >> 4) - 8) * d;
  }
}

void q4_1(Bytes b, float* y) {
  const float d = half_at(b), m = half_at(b + 2);
  for (int j = 0; j < 16; ++j) {
    y[j] = float(b[4 + j] & 15) * d + m;
    y[j + 16] = float(b[4 + j] >> 4) * d + m;
  }
}

void q5_0(Bytes b, float* y) {
  const float d = half_at(b);
  const uint32_t high = load<uint32_t>(b + 2);
  for (int j = 0; j < 16; ++j) {
    y[j] = float(int((b[6 + j] & 15) | (high >> j & 1) << 4) - 16) * d;
    y[j + 16] = float(int((b[6 + j] >> 4) | (high >> (j + 16) & 1) << 4) - 16) * d;
  }
}

void q5_1(Bytes b, float* y) {
  const float d = half_at(b), m = half_at(b + 2);
  const uint32_t high = load<uint32_t>(b + 4);
  for (int j = 0; j < 16; ++j) {
    y[j] = float((b[8 + j] & 15) | (high >> j & 1) << 4) * d + m;
    y[j + 16] = float((b[8 + j] >> 4) | (high >> (j + 16) & 1) << 4) * d + m;
  }
}

void q8_0(Bytes b, float* y) {
  const float d = half_at(b);
  for (int j = 0; j < 32; ++j) y[j] = float(int8_t(b[2 + j])) * d;
}

struct ScaleMin {
  int scale, min;
};

/// Scale and minimum `j` of 8, 6 bits each, packed into 12 bytes: 0..3 in the low 6 bits of bytes 0..7, the low
/// nibbles of 4..7 in bytes 8..11, their upper two bits above the first eight.
ScaleMin k_scale(Bytes s, int j) {
  if (j < 4) return {s[j] & 63, s[j + 4] & 63};
  return {(s[j + 4] & 15) | (s[j - 4] >> 6) << 4, (s[j + 4] >> 4) | (s[j] >> 6) << 4};
}

/// Scale `j` of 16, 6 bits each with 32 added, packed into 12 bytes: the lower four bits in the low nibbles of bytes 0..7, then
/// their high ones; the upper two, 4 scales to a byte's bits 0 and 1, then 2 and 3, ..., in bytes 8..11.
int q3_k_scale(Bytes s, int j) { return ((s[j % 8] >> j / 8 * 4 & 15) | (s[8 + j % 4] >> j / 4 * 2 & 3) << 4) - 32; }

/// q4_k and q5_k: eight groups of 32; two groups share 32 bytes of qs (low, high nibbles), group g's fifth bit is bit g
/// of qh.
void k_block(Bytes b, Bytes qh, Bytes qs, float* y) {
  const float d = half_at(b), dmin = half_at(b + 2);
  for (int g = 0; g < 8; ++g) {
    const ScaleMin s = k_scale(b + 4, g);
    const float scale = d * float(s.scale), min = dmin * float(s.min);
    for (int j = 0; j < 32; ++j) {
      const int low = g % 2 ? qs[g / 2 * 32 + j] >> 4 : qs[g / 2 * 32 + j] & 15;
      const int high = qh ? qh[j] >> g & 1 : 0;
      y[g * 32 + j] = scale * float(low | high << 4) - min;
    }
  }
}

/// q2_k and q3_k: group g of 32 has bits 2(g%4) of the 32 bytes of qs that four groups share.
void q2_k(Bytes b, float* y) {
  const float d = half_at(b + 80), dmin = half_at(b + 82);
  for (int i = 0; i < 256; ++i) {
    const int group = i / 32, q = b[16 + group / 4 * 32 + i % 32] >> 2 * (group % 4) & 3;
    const int scales = b[i / 16];
    y[i] = d * float(scales & 15) * float(q) - dmin * float(scales >> 4);
  }
}

void q3_k(Bytes b, float* y) {
  const float d = half_at(b + 108);
  for (int i = 0; i < 256; ++i) {
    const int group = i / 32, low = b[32 + group / 4 * 32 + i % 32] >> 2 * (group % 4) & 3;
    const int q = (low | (b[i % 32] >> group & 1) << 2) - 4;
    y[i] = d * float(q3_k_scale(b + 96, i / 16)) * float(q);
  }
}

void q4_k(Bytes b, float* y) { k_block(b, nullptr, b + 16, y); }
void q5_k(Bytes b, float* y) { k_block(b, b + 16, b + 48, y); }

void q6_k(Bytes b, float* y) {
  const float d = half_at(b + 208);
  for (int half = 0; half < 2; ++half) {
    Bytes ql = b + half * 64, qh = b + 128 + half * 32, scales = b + 192 + half * 8;
    for (int quarter = 0; quarter < 4; ++quarter)
      for (int j = 0; j < 32; ++j) {
        const int byte = ql[quarter % 2 * 32 + j];
        const int low = quarter < 2 ? byte & 15 : byte >> 4;
        const int q = (low | (qh[j] >> 2 * quarter & 3) << 4) - 32;
        *y++ = d * float(int8_t(scales[quarter * 2 + j / 16])) * float(q);
      }
  }
}

void iq4_nl(Bytes b, float* y) {
  const float d = half_at(b);
  for (int j = 0; j < 16; ++j) {
    y[j] = d * float(kIq4Values[b[2 + j] & 15]);
    y[j + 16] = d * float(kIq4Values[b[2 + j] >> 4]);
  }
}

void iq4_xs(Bytes b, float* y) {
  const float d = half_at(b);
  for (int g = 0; g < 8; ++g) {
    const int scale = ((b[4 + g / 2] >> g % 2 * 4 & 15) | (load<uint16_t>(b + 2) >> 2 * g & 3) << 4) - 32;
    for (int j = 0; j < 32; ++j) {
      const int byte = b[8 + 16 * g + j % 16];
      *y++ = d * float(scale) * float(kIq4Values[j < 16 ? byte & 15 : byte >> 4]);
    }
  }
}

using BlockFn = void (*)(Bytes, float*);

BlockFn block_fn(DType t) {
  switch (t) {
    case DType::Q4_0: return q4_0;
    case DType::Q4_1: return q4_1;
    case DType::Q5_0: return q5_0;
    case DType::Q5_1: return q5_1;
    case DType::Q8_0: return q8_0;
    case DType::Q2_K: return q2_k;
    case DType::Q3_K: return q3_k;
    case DType::Q4_K: return q4_k;
    case DType::Q5_K: return q5_k;
    case DType::Q6_K: return q6_k;
    case DType::IQ4_NL: return iq4_nl;
    case DType::IQ4_XS: return iq4_xs;
    default: return nullptr;
  }
}

template <class T>
void widen(Bytes src, float* dst, size_t n) {
  for (size_t i = 0; i < n; ++i) dst[i] = float(load<T>(src + i * sizeof(T)));
}

/// Rounds to nearest even and saturates; NaN becomes 0.
template <class T>
void narrow(const float* src, uint8_t* dst, size_t n) {
  constexpr double lo = double(std::numeric_limits<T>::min()), hi = double(std::numeric_limits<T>::max());
  for (size_t i = 0; i < n; ++i) {
    const double r = std::nearbyint(double(src[i]));
    const T v = std::isnan(r) ? T(0)
                : r <= lo     ? std::numeric_limits<T>::min()
                : r >= hi     ? std::numeric_limits<T>::max()
                              : T(r);
    store(dst + i * sizeof(T), v);
  }
}

float abs_max(const float* x, size_t n) {
  float m = 0;
  for (size_t i = 0; i < n; ++i) m = std::max(m, std::fabs(x[i]));
  return m;
}

int8_t to_q8(float v) { return std::isnan(v) ? int8_t(0) : int8_t(std::clamp(v, -127.0f, 127.0f)); }

void quantize_q8_0(const float* x, uint8_t* out, size_t n, float most) {
  for (size_t i = 0; i < n; i += 32, out += 34) {
    const float d = (most > 0 ? most : abs_max(x + i, 32)) / 127.0f;
    const float inverse = d > 0 ? 1.0f / d : 0.0f;
    store(out, f32_to_f16(d));
    for (int j = 0; j < 32; ++j) out[2 + j] = uint8_t(to_q8(std::round(x[i + j] * inverse)));
  }
}

void quantize_q8a(const float* x, uint8_t* q, size_t n) {
  uint8_t* scales = q + n;
  uint8_t *sums = scales + n / 32 * 4, *halves = sums + n / 32 * 4;
  for (size_t b = 0; b < n / 32; ++b) {
    const float amax = abs_max(x + b * 32, 32);
    const float inverse = amax > 0 ? 127.0f / amax : 0.0f;
    int32_t minus_sum[2] = {};
    for (size_t i = 0; i < 32; ++i) {
      const int8_t v = to_q8(std::nearbyint(x[b * 32 + i] * inverse));
      q[b * 32 + i] = uint8_t(v);
      minus_sum[i / 16] -= v;
    }
    store(scales + b * 4, amax / 127.0f);
    store(sums + b * 4, minus_sum[0] + minus_sum[1]);
    for (size_t i = 0; i < 2; ++i) store(halves + b * 8 + i * 4, minus_sum[i]);
  }
}

}  // namespace

const DTypeInfo& info(DType t) { return kTable[size_t(t)]; }

constexpr std::string_view kScales[] = {"block", "row", "tensor"};

std::string_view scales_name(Scales s) { return kScales[size_t(s)]; }

std::optional<Scales> scales_from_name(std::string_view name) {
  for (size_t i = 0; i < std::size(kScales); ++i)
    if (kScales[i] == name) return Scales(i);
  return std::nullopt;
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (size_t i = 0; i < std::size(kTable); ++i)
    if (kTable[i].name == name) return DType(i);
  return std::nullopt;
}

std::optional<DType> dtype_from_gguf(uint32_t type_id) {
  for (size_t i = 0; i < std::size(kTable); ++i)
    if (kTable[i].gguf_type >= 0 && uint32_t(kTable[i].gguf_type) == type_id) return DType(i);
  return std::nullopt;
}

DType fitting_type(DType t, int64_t row) {
  using enum DType;
  if (row % int64_t(info(t).block) == 0) return t;
  switch (t) {
    case Q2_K: case Q3_K: return fitting_type(Q4_0, row);
    case Q4_K: return fitting_type(Q5_0, row);
    case Q5_K: return fitting_type(Q5_1, row);
    case Q6_K: return fitting_type(Q8_0, row);
    case IQ4_XS: return fitting_type(IQ4_NL, row);
    default: return F16;
  }
}

void dequantize_row(DType t, const void* source, float* dst, size_t n) {
  Bytes src = static_cast<Bytes>(source);
  if (BlockFn fn = block_fn(t)) {
    for (size_t i = 0; i < n; i += info(t).block, src += info(t).bytes) fn(src, dst + i);
    return;
  }
  switch (t) {
    case DType::F32: widen<float>(src, dst, n); break;
    case DType::F64: widen<double>(src, dst, n); break;
    case DType::I8: widen<int8_t>(src, dst, n); break;
    case DType::U8: widen<uint8_t>(src, dst, n); break;
    case DType::I16: widen<int16_t>(src, dst, n); break;
    case DType::I32: widen<int32_t>(src, dst, n); break;
    case DType::I64: widen<int64_t>(src, dst, n); break;
    case DType::F16:
      for (size_t i = 0; i < n; ++i) dst[i] = half_at(src + 2 * i);
      break;
    case DType::BF16:
      for (size_t i = 0; i < n; ++i) dst[i] = bf16_to_f32(load<uint16_t>(src + 2 * i));
      break;
    case DType::Q8A:
      for (size_t i = 0; i < n; ++i) dst[i] = float(int8_t(src[i])) * load<float>(src + n + i / 32 * 4);
      break;
    default: break;  // block formats are done above
  }
}

bool quantize_row(DType t, const float* src, void* destination, size_t n, float most) {
  auto* dst = static_cast<uint8_t*>(destination);
  switch (t) {
    case DType::F32: std::memcpy(dst, src, n * sizeof(float)); return true;
    case DType::F64:
      for (size_t i = 0; i < n; ++i) store(dst + 8 * i, double(src[i]));
      return true;
    case DType::F16:
      for (size_t i = 0; i < n; ++i) store(dst + 2 * i, f32_to_f16(src[i]));
      return true;
    case DType::BF16:
      for (size_t i = 0; i < n; ++i) store(dst + 2 * i, f32_to_bf16(src[i]));
      return true;
    case DType::I8: narrow<int8_t>(src, dst, n); return true;
    case DType::U8: narrow<uint8_t>(src, dst, n); return true;
    case DType::I16: narrow<int16_t>(src, dst, n); return true;
    case DType::I32: narrow<int32_t>(src, dst, n); return true;
    case DType::I64: narrow<int64_t>(src, dst, n); return true;
    case DType::Q8_0: quantize_q8_0(src, dst, n, most); return true;
    case DType::Q8A: quantize_q8a(src, dst, n); return true;
    default: return false;
  }
}

float largest_magnitude(const float* x, size_t n) { return abs_max(x, n); }

}  // namespace prism::ir
