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

template <class Word>
Word load(const uint8_t* p) {
  Word v;
  memcpy(&v, p, sizeof v);
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
  constexpr uint64_t kLow = 0x0f0f0f0f0f0f0f0fu;
  for (int j = 0; j < 2; ++j) {  // two words at a time
    const uint64_t both = ((load<uint64_t>(src + 8 * j) >> shift) & kLow) | ((load<uint64_t>(src + 16 + 8 * j) >> shift) & kLow) << 4;
    o.word(at + 128 * j, uint32_t(both));
    o.word(at + 128 * j + 64, uint32_t(both >> 32));
  }
}

template <DType T>
void pack_block32(const uint8_t* s, Out o) {
  o.half(0, s);
  int64_t at = 32, from = 2;
  if constexpr (T == DType::Q4_1 || T == DType::Q5_1) {
    o.half(32, s + 2);
    at = 64;
    from = 4;
  }
  if constexpr (T == DType::Q8_0) {
    for (int j = 0; j < 8; ++j) o.word(at + 64 * j, load<uint32_t>(s + from + 4 * j) ^ 0x80808080u);
    return;
  }
  if constexpr (T == DType::Q5_0 || T == DType::Q5_1) {
    o.word(at, spread_bits(load<uint32_t>(s + from)));
    at += 64;
    from += 4;
  }
  for (int j = 0; j < 4; ++j) o.word(at + 64 * j, load<uint32_t>(s + from + 4 * j));
}

template <DType T>
void pack_q45k(const uint8_t* s, Out o) {
  constexpr bool q5 = T == DType::Q5_K;
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
    if constexpr (q5) {
      uint32_t bits = 0;  // bit `sub` of byte i -> bit 8*(i%4) + i/4
      for (int j = 0; j < 8; ++j) bits |= ((load<uint32_t>(high + 4 * j) >> sub) & 0x01010101u) << j;
      o.word(at + 32, bits);
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
      uint64_t w = 0;  // words 0 and 1, then 2 and 3
      for (int j = 0; j < 2; ++j) w |= ((load<uint64_t>(h + 16 * plane + 8 * j) >> (2 * quarter)) & 0x0303030303030303u) << (4 * j);
      o.word(at + 288 + 64 * plane, uint32_t(w | w >> 30));
    }
  }
}

/// Block by block, the 16 rows of each: what is written stays in the first-level cache.
template <class PackBlock>
void pack_groups(DType t, int64_t rows, int64_t columns, const std::function<const uint8_t*(int64_t)>& row, int64_t begin,
                 int64_t end, uint8_t* dst, PackBlock pack_block) {
  static const uint8_t zeros[256] = {};
  const int64_t block_bytes = int64_t(ir::info(t).bytes), out_block = rows16_block_bytes(t);
  const int64_t blocks = columns / int64_t(ir::info(t).block);
  for (int64_t g = begin; g < end; ++g) {
    const uint8_t* source[16];
    int64_t step[16];
    for (int lane = 0; lane < 16; ++lane) {
      const int64_t r = g * 16 + lane;
      source[lane] = r < rows ? row(r) : zeros;
      step[lane] = r < rows ? block_bytes : 0;
    }
    for (int64_t k = 0; k < blocks; ++k, dst += out_block)
      for (int lane = 0; lane < 16; ++lane) pack_block(source[lane] + k * step[lane], Out{dst, lane});
  }
}

}  // namespace

void pack_rows16(DType t, int64_t rows, int64_t columns, const std::function<const uint8_t*(int64_t)>& row, int64_t begin,
                 int64_t end, uint8_t* dst) {
  const auto groups = [&](auto pack_block) { pack_groups(t, rows, columns, row, begin, end, dst, pack_block); };
  switch (t) {
    case DType::F32: return groups([](const uint8_t* s, Out o) { o.word(0, load<uint32_t>(s)); });
    case DType::F16:
    case DType::BF16: return groups([](const uint8_t* s, Out o) { o.half(0, s); });
    case DType::Q8_0: return groups(pack_block32<DType::Q8_0>);
    case DType::Q4_0: return groups(pack_block32<DType::Q4_0>);
    case DType::Q4_1: return groups(pack_block32<DType::Q4_1>);
    case DType::Q5_0: return groups(pack_block32<DType::Q5_0>);
    case DType::Q5_1: return groups(pack_block32<DType::Q5_1>);
    case DType::Q4_K: return groups(pack_q45k<DType::Q4_K>);
    case DType::Q5_K: return groups(pack_q45k<DType::Q5_K>);
    case DType::Q6_K: return groups(pack_q6k);
    default: return;  // rows16_supports says no
  }
}

}  // namespace prism::codegen
