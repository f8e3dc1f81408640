#include "codegen/pack.h"

#include <cstring>

#include "runtime/base/checked.h"

namespace prism::codegen {

using ir::DType;

bool rows16_supports(DType t) {
  return t == DType::F32 || t == DType::F16 || t == DType::BF16 || (ir::info(t).quantized && t != DType::Q8A);
}

int64_t rows16_block_bytes(DType t) {
  switch (t) {
    case DType::Q4_K: return 64 + 8 * (32 + 256);       // 6-bit scales widened to bytes
    case DType::Q5_K: return 64 + 8 * (32 + 64 + 256);
    default: return 16 * int64_t(ir::info(t).bytes);
  }
}

int64_t rows16_group_bytes(DType t, int64_t columns) { return columns / int64_t(ir::info(t).block) * rows16_block_bytes(t); }

int64_t rows16_bytes(DType t, int64_t rows, int64_t columns) { return ceil_div(rows, 16) * rows16_group_bytes(t, columns); }

namespace {

/// Where the 16 rows' current blocks are, and the lane being written.
struct Out {
  uint8_t* base;
  int lane;
  void half(int64_t at, const uint8_t* src) { memcpy(base + at + 2 * lane, src, 2); }
  void byte(int64_t at, uint8_t v) { base[at + lane] = v; }
  void word(int64_t at, uint32_t v) { memcpy(base + at + 4 * lane, &v, 4); }
};

uint32_t load32(const uint8_t* p) {
  uint32_t v;
  memcpy(&v, p, 4);
  return v;
}

/// Bit i of `bits` (weight i of 32) -> bit 8*(i%4) + i/4.
uint32_t spread_bits(uint32_t bits) {
  uint32_t out = 0;
  for (int j = 0; j < 8; ++j)
    out |= ((((bits >> (4 * j)) & 0xfu) * 0x00204081u) & 0x01010101u) << j;
  return out;
}

/// The low (shift 0) or high (shift 4) nibbles of 32 bytes as 16 bytes: byte j = weight j | weight j+16 << 4.
void store_nibbles(Out& o, int64_t at, const uint8_t* src, int shift) {
  for (int j = 0; j < 4; ++j) {
    const uint32_t lo = (load32(src + 4 * j) >> shift) & 0x0f0f0f0fu, hi = (load32(src + 16 + 4 * j) >> shift) & 0x0f0f0f0fu;
    o.word(at + 64 * j, lo | hi << 4);
  }
}

void pack_block32(DType t, const uint8_t* s, Out o) {
  o.half(0, s);
  int64_t at = 32, from = 2;
  if (t == DType::Q4_1 || t == DType::Q5_1) {
    o.half(32, s + 2);
    at = 64;
    from = 4;
  }
  if (t == DType::Q8_0) {
    for (int j = 0; j < 8; ++j) o.word(at + 64 * j, load32(s + from + 4 * j) ^ 0x80808080u);
    return;
  }
  if (t == DType::Q5_0 || t == DType::Q5_1) {
    o.word(at, spread_bits(load32(s + from)));
    at += 64;
    from += 4;
  }
  for (int j = 0; j < 4; ++j) o.word(at + 64 * j, load32(s + from + 4 * j));
}

void pack_q45k(DType t, const uint8_t* s, Out o) {
  const bool q5 = t == DType::Q5_K;
  o.half(0, s);
  o.half(32, s + 2);
  const uint8_t *scales = s + 4, *high = s + 16, *quants = s + (q5 ? 48 : 16);
  const int64_t part = q5 ? 352 : 288;
  for (int sub = 0; sub < 8; ++sub) {
    const int64_t at = 64 + sub * part;
    uint8_t sc, mn;
    if (sub < 4) {
      sc = scales[sub] & 63;
      mn = scales[sub + 4] & 63;
    } else {
      sc = uint8_t((scales[sub + 4] & 15) | (scales[sub - 4] >> 6) << 4);
      mn = uint8_t(scales[sub + 4] >> 4 | (scales[sub] >> 6) << 4);
    }
    o.byte(at, sc);
    o.byte(at + 16, mn);
    if (q5) {
      uint32_t bits = 0;
      for (int i = 0; i < 32; ++i) bits |= uint32_t((high[i] >> sub) & 1) << i;
      o.word(at + 32, spread_bits(bits));
    }
    store_nibbles(o, at + (q5 ? 96 : 32), quants + 32 * (sub / 2), 4 * (sub % 2));
  }
}

void pack_q6k(const uint8_t* s, Out o) {
  const uint8_t *low = s, *high = s + 128, *scales = s + 192;
  o.half(0, s + 208);
  for (int sub = 0; sub < 8; ++sub) {  // 32 weights: half sub/4, quarter sub%4
    const int half = sub / 4, quarter = sub % 4;
    const int64_t at = 32 + sub * 416;
    o.byte(at, scales[2 * sub]);
    o.byte(at + 16, scales[2 * sub + 1]);
    const uint8_t* l = low + 64 * half + 32 * (quarter % 2);
    const uint8_t* h = high + 32 * half;
    store_nibbles(o, at + 32, l, quarter < 2 ? 0 : 4);
    for (int plane = 0; plane < 2; ++plane) {
      uint32_t w = 0;
      for (int j = 0; j < 4; ++j) w |= ((load32(h + 16 * plane + 4 * j) >> (2 * quarter)) & 0x03030303u) << (2 * j);
      o.word(at + 288 + 64 * plane, w);
    }
  }
}

}  // namespace

void pack_rows16(DType t, int64_t rows, int64_t columns, const std::function<const uint8_t*(int64_t)>& row, int64_t begin,
                 int64_t end, uint8_t* dst) {
  const ir::DTypeInfo& f = ir::info(t);
  const int64_t blocks = columns / int64_t(f.block), out_block = rows16_block_bytes(t);
  static const uint8_t zeros[256] = {};
  for (int64_t g = begin; g < end; ++g) {
    for (int lane = 0; lane < 16; ++lane) {
      const int64_t r = g * 16 + lane;
      const uint8_t* src = r < rows ? row(r) : nullptr;
      for (int64_t k = 0; k < blocks; ++k) {
        const uint8_t* s = src ? src + k * f.bytes : zeros;
        uint8_t* d = dst + k * out_block;
        if (!f.quantized) memcpy(d + lane * int64_t(f.bytes), s, f.bytes);
        else if (f.block == 32) pack_block32(t, s, {d, lane});
        else if (t == DType::Q6_K) pack_q6k(s, {d, lane});
        else pack_q45k(t, s, {d, lane});
      }
    }
    dst += blocks * out_block;
  }
}

}  // namespace prism::codegen
