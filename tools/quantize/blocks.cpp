#include "tools/quantize/blocks.h"

#include <cstring>

#include "runtime/base/half.h"
#include "tools/quantize/search.h"

namespace prism::quantize {

using ir::DType;

namespace {

constexpr DType kTypes[] = {DType::Q4_0, DType::Q4_K, DType::Q4_1, DType::Q5_0, DType::Q5_K, DType::Q5_1, DType::Q6_K, DType::Q8_0};
constexpr int kMost = 256;  ///< elements of a block
constexpr int kRounds = 5;

/// A block's elements divided by their largest magnitude, so that no square leaves the range of floats.
struct Block {
  alignas(64) float x[kMost], w[kMost];
  float unit;    ///< x * unit are the elements
  double cost;   ///< w * cost is their importance
};

PRISM_INLINE bool load(Block& b, const float* x, const float* importance, int n) {
  float largest = 0, heaviest = 0;
  for (int j = 0; j < n; ++j) largest = std::max(largest, std::fabs(x[j]));
  b.unit = largest;
  if (largest < 0x1p-26f) return false;  // no scale is as small: all are 0
  for (int j = 0; j < n; ++j) b.x[j] = x[j] / largest;
  if (importance)
    for (int j = 0; j < n; ++j) heaviest = std::max(heaviest, importance[j]);
  b.cost = heaviest > 0 ? heaviest : 1;
  for (int j = 0; j < n; ++j) b.w[j] = heaviest > 0x1p-100f ? std::max(importance[j] / heaviest, 0x1p-20f) : 1.0f;
  return true;
}

PRISM_INLINE void store_half(uint8_t* out, uint16_t h) { std::memcpy(out, &h, 2); }

/// The f16 that lies `steps` from the one nearest to v, towards larger magnitudes.
PRISM_INLINE uint16_t half_near(float v, int steps) {
  const uint16_t h = f32_to_f16(v);
  const int magnitude = std::clamp((h & 0x7fff) + steps, 0, 0x7bff);
  return uint16_t((h & 0x8000) | magnitude);
}

/// Blocks of 32 with a scale and maybe a minimum, both f16.
struct Simple {
  uint16_t d = 0, m = 0;
  float q[32];
  double error = std::numeric_limits<double>::infinity();
};

/// Takes the candidate of the least error: `d` and `m` are what its scale and minimum are in the file.
PRISM_INLINE void take_best(const Group& g, const Block& b, const uint16_t (&d)[kLanes], const uint16_t (&m)[kLanes], Simple& out) {
  Candidates c;
  for (int i = 0; i < kLanes; ++i) {
    c.scale[i] = f16_to_f32(d[i]) / b.unit;
    c.min[i] = f16_to_f32(m[i]) / b.unit;
  }
  Sums s;
  evaluate(g, c, s);
  const int best = least(s.error);
  const double error = double(s.error[best]) * b.cost * b.unit * b.unit;
  if (error >= out.error) return;
  out.d = d[best];
  out.m = m[best];
  out.error = error;
  const float by = c.scale[best] != 0 ? 1 / c.scale[best] : 0;
  for (int j = 0; j < 32; ++j) out.q[j] = nearest((b.x[j] - c.min[best]) * by, g.lo, g.hi);
}

template <bool kMin>
PRISM_INLINE void quantize_simple(const Block& b, float lo, float hi, float step, Simple& out) {
  const Group g{b.x, b.w, 32, lo, hi};
  const Fit fit = kMin ? search_scale_and_min<Minimum::Any>(g, step, kRounds) : search_scale(g, step, kRounds);
  uint16_t d[kLanes], m[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    d[i] = half_near(fit.scale * b.unit, kMin ? i % 4 - 1 : i - 8);
    m[i] = kMin ? half_near(fit.min * b.unit, i / 4 - 1) : 0;
  }
  take_best(g, b, d, m, out);
}

/// q4_0, q4_1, q5_0 and q5_1: [d, m] [high bits] low bits.
template <int kBits, bool kMin>
PRISM_INLINE double simple_block(const Block& b, uint8_t* out) {
  constexpr float kStep = kMin ? (kBits == 4 ? 0.05f : 0.025f) : (kBits == 4 ? 0.03f : 0.02f);
  constexpr int kCodes = 1 << kBits, kOffset = kMin ? 0 : kCodes / 2;
  Simple s;
  quantize_simple<kMin>(b, float(-kOffset), float(kCodes - 1 - kOffset), kStep, s);
  store_half(out, s.d);
  if (kMin) store_half(out + 2, s.m);
  out += kMin ? 4 : 2;
  int q[32];
  uint32_t high = 0;
  for (int j = 0; j < 32; ++j) {
    q[j] = int(s.q[j]) + kOffset;
    high |= uint32_t(q[j] >> 4 & 1) << j;
  }
  if (kBits == 5) {
    std::memcpy(out, &high, 4);
    out += 4;
  }
  for (int j = 0; j < 16; ++j) out[j] = uint8_t((q[j] & 15) | (q[j + 16] & 15) << 4);
  return s.error;
}

/// With as many codes what counts is which values happen to lie near them: every half near the scale that just reaches the largest is tried.
PRISM_INLINE double q8_0_block(const Block& b, uint8_t* out) {
  const Group g{b.x, b.w, 32, -127, 127};
  Simple s;
  for (int from = -16; from < 80; from += kLanes) {
    uint16_t d[kLanes];
    for (int i = 0; i < kLanes; ++i) d[i] = half_near(b.unit / 127, from + i);
    take_best(g, b, d, {}, s);
  }
  store_half(out, s.d);
  for (int j = 0; j < 32; ++j) out[2 + j] = uint8_t(int8_t(s.q[j]));
  return s.error;
}

/// 256 elements in groups with integer scales (and minima) in units of d (and dmin).
template <int kGroups>
struct Super {
  uint16_t d = 0, dmin = 0;
  int scale[kGroups] = {}, min[kGroups] = {};
  float q[kMost];
  double error = std::numeric_limits<double>::infinity();
};

template <int kGroups, bool kMin>
PRISM_INLINE void quantize_super(const Block& b, float lo, float hi, int scale_lo, int scale_hi, float step, Super<kGroups>& best) {
  constexpr int kSize = kMost / kGroups;
  Group groups[kGroups];
  Fit fits[kGroups];
  float largest = 0, lowest = 0;  // signed
  for (int i = 0; i < kGroups; ++i) {
    groups[i] = {b.x + i * kSize, b.w + i * kSize, kSize, lo, hi};
    fits[i] = kMin ? search_scale_and_min<Minimum::NotPositive>(groups[i], step, kRounds) : search_scale(groups[i], step, kRounds);
    if (std::fabs(fits[i].scale) > std::fabs(largest)) largest = fits[i].scale;
    lowest = std::min(lowest, fits[i].min);
  }
  Super<kGroups> now;
  now.d = half_near(largest / float(kMin ? scale_hi : scale_lo) * b.unit, 0);
  now.dmin = half_near(-lowest / float(scale_hi) * b.unit, 0);
  for (int round = 0;; ++round) {
    const float d = f16_to_f32(now.d) / b.unit, dmin = f16_to_f32(now.dmin) / b.unit;
    const float by = d != 0 ? 1 / d : 0, by_min = dmin != 0 ? 1 / dmin : 0;
    now.error = 0;
    float ss = 0, sm = 0, mm = 0, sx = 0, mx = 0;  // of the least squares for d and dmin
    for (int i = 0; i < kGroups; ++i) {
      const Group& g = groups[i];
      const int s0 = round ? now.scale[i] : int(nearest(fits[i].scale * by, float(scale_lo), float(scale_hi)));
      const int m0 = round ? now.min[i] : int(nearest(-fits[i].min * by_min, 0, float(scale_hi)));
      int scale[kLanes], min[kLanes];
      alignas(64) float scales[kLanes], minima[kLanes];
      for (int l = 0; l < kLanes; ++l) {
        scale[l] = std::clamp(kMin ? s0 - 1 + l % 4 : s0 - 8 + l, scale_lo, scale_hi);
        min[l] = kMin ? std::clamp(m0 - 1 + l / 4, 0, scale_hi) : 0;
        scales[l] = d * float(scale[l]);
        minima[l] = -dmin * float(min[l]);
      }
      Candidates c;
      std::memcpy(&c.scale, scales, sizeof scales);
      std::memcpy(&c.min, minima, sizeof minima);
      Sums s;
      evaluate(g, c, s);
      const int l = least(s.error);
      now.scale[i] = scale[l];
      now.min[i] = min[l];
      now.error += s.error[l];
      float sum_w = 0, sum_x = 0;
      for (int j = 0; j < kSize; ++j) {
        sum_w += g.w[j];
        sum_x += g.w[j] * g.x[j];
      }
      const float fs = float(scale[l]), fm = float(min[l]);
      ss += fs * fs * s.qq[l];
      sm += fs * fm * s.q[l];
      mm += fm * fm * sum_w;
      sx += fs * s.qx[l];
      mx += fm * sum_x;
    }
    if (now.error < best.error) best = now;
    if (round == kRounds) break;
    // x is about d * scale*q - dmin * min
    const float spread = ss * mm - sm * sm;
    if (kMin && spread > 1e-5f * ss * mm) {
      now.d = half_near((sx * mm - mx * sm) / spread * b.unit, 0);
      now.dmin = half_near((sx * sm - mx * ss) / spread * b.unit, 0);
    } else if (ss > 0) {
      now.d = half_near((sx + dmin * sm) / ss * b.unit, 0);
    }
  }
  best.error *= b.cost * double(b.unit) * b.unit;
  const float d = f16_to_f32(best.d) / b.unit, dmin = f16_to_f32(best.dmin) / b.unit;
  for (int i = 0; i < kGroups; ++i) {
    const float scale = d * float(best.scale[i]), by = scale != 0 ? 1 / scale : 0;
    for (int j = i * kSize; j < (i + 1) * kSize; ++j) best.q[j] = nearest((b.x[j] + dmin * float(best.min[i])) * by, lo, hi);
  }
}

/// q4_k and q5_k; scales and minima of 6 bits as k_scale of ir/quants.cpp reads them.
template <int kBits>
PRISM_INLINE double k_block(const Block& b, uint8_t* out) {
  Super<8> s;
  quantize_super<8, true>(b, 0, float((1 << kBits) - 1), 0, 63, kBits == 4 ? 0.05f : 0.025f, s);
  store_half(out, s.d);
  store_half(out + 2, s.dmin);
  uint8_t* scales = out + 4;
  for (int j = 0; j < 4; ++j) {
    scales[j] = uint8_t(s.scale[j] | s.scale[j + 4] >> 4 << 6);
    scales[j + 4] = uint8_t(s.min[j] | s.min[j + 4] >> 4 << 6);
    scales[j + 8] = uint8_t((s.scale[j + 4] & 15) | (s.min[j + 4] & 15) << 4);
  }
  uint8_t *high = out + 16, *low = kBits == 5 ? out + 48 : out + 16;
  if (kBits == 5) std::memset(high, 0, 32);
  for (int pair = 0; pair < 4; ++pair)
    for (int j = 0; j < 32; ++j) {
      const int a = int(s.q[pair * 64 + j]), c = int(s.q[pair * 64 + 32 + j]);
      low[pair * 32 + j] = uint8_t((a & 15) | (c & 15) << 4);
      if (kBits == 5) high[j] |= uint8_t((a >> 4) << 2 * pair | (c >> 4) << (2 * pair + 1));
    }
  return s.error;
}

PRISM_INLINE double q6_k_block(const Block& b, uint8_t* out) {
  Super<16> s;
  quantize_super<16, false>(b, -32, 31, -128, 127, 0.02f, s);
  uint8_t *ql = out, *qh = out + 128, *scales = out + 192;
  std::memset(qh, 0, 64);
  for (int i = 0; i < 16; ++i) scales[i] = uint8_t(int8_t(s.scale[i]));
  store_half(out + 208, s.d);
  for (int half = 0; half < 2; ++half)
    for (int j = 0; j < 32; ++j) {
      int q[4];
      for (int quarter = 0; quarter < 4; ++quarter) {
        q[quarter] = int(s.q[half * 128 + quarter * 32 + j]) + 32;
        qh[half * 32 + j] |= uint8_t((q[quarter] >> 4) << 2 * quarter);
      }
      ql[half * 64 + j] = uint8_t((q[0] & 15) | (q[2] & 15) << 4);
      ql[half * 64 + 32 + j] = uint8_t((q[1] & 15) | (q[3] & 15) << 4);
    }
  return s.error;
}

template <class Encode>
PRISM_INLINE double each_block(DType t, const float* x, const float* importance, uint8_t* out, size_t n, Encode&& encode) {
  const ir::DTypeInfo& format = ir::info(t);
  double error = 0;
  Block b;
  for (size_t at = 0; at < n; at += format.block, out += format.bytes) {
    const float* w = importance ? importance + at : nullptr;
    if (load(b, x + at, w, int(format.block))) {
      error += encode(b, out);
      continue;
    }
    std::memset(out, 0, format.bytes);
    for (size_t j = 0; j < format.block; ++j) error += double(w ? w[j] : 1) * double(x[at + j]) * x[at + j];
  }
  return error;
}

/// The same arithmetic in vectors of any width.
__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
double quantize(DType t, const float* x, const float* importance, uint8_t* out, size_t n) {
#define BLOCKS(encode) return each_block(t, x, importance, out, n, [](const Block& b, uint8_t* o) __attribute__((always_inline)) { return encode(b, o); })
  switch (t) {
    case DType::Q4_0: BLOCKS((simple_block<4, false>));
    case DType::Q4_1: BLOCKS((simple_block<4, true>));
    case DType::Q5_0: BLOCKS((simple_block<5, false>));
    case DType::Q5_1: BLOCKS((simple_block<5, true>));
    case DType::Q8_0: BLOCKS(q8_0_block);
    case DType::Q4_K: BLOCKS(k_block<4>);
    case DType::Q5_K: BLOCKS(k_block<5>);
    case DType::Q6_K: BLOCKS(q6_k_block);
    default: return 0;
  }
#undef BLOCKS
}

}  // namespace

std::span<const DType> block_types() { return kTypes; }
bool is_block_type(DType t) { return std::find(std::begin(kTypes), std::end(kTypes), t) != std::end(kTypes); }

double quantize_blocks(DType t, const float* x, const float* importance, uint8_t* out, size_t n) {
  return quantize(t, x, importance, out, n);
}

}  // namespace prism::quantize
