#include "codegen/pack.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/checked.h"

namespace prism::codegen {

using ir::DType;

namespace {

using Scales = Rows16Format::Scales;
constexpr Rows16Format kFormats[] = {
    // type, blocks, minimum, scales, parts, low, high, zero
    {DType::Q4_0, 1, false, Scales::None, 1, 4, 0, 8},
    {DType::Q4_1, 1, true, Scales::None, 1, 4, 0, 0},
    {DType::Q5_0, 1, false, Scales::None, 1, 4, 1, 16},
    {DType::Q5_1, 1, true, Scales::None, 1, 4, 1, 0},
    {DType::Q8_0, 1, false, Scales::None, 1, 8, 0, 128},   // stored with 128 added
    {DType::Q2_K, 8, true, Scales::Nibbles, 2, 2, 0, 0},
    {DType::Q3_K, 8, false, Scales::Signed, 2, 2, 1, 4},
    {DType::Q4_K, 8, true, Scales::Bytes, 1, 4, 0, 0},     // scales widened to bytes, as those of q3_k, q5_k and iq4_xs
    {DType::Q5_K, 8, true, Scales::Bytes, 1, 4, 1, 0},
    {DType::Q6_K, 8, false, Scales::Signed, 2, 4, 2, 32},
    {DType::IQ4_NL, 1, false, Scales::None, 1, 4, 0, 128, true},
    {DType::IQ4_XS, 8, false, Scales::Signed, 1, 4, 0, 128, true},
};

constexpr const Rows16Format* find(DType t) {
  for (const Rows16Format& f : kFormats)
    if (f.type == t) return &f;
  return nullptr;
}

}  // namespace

const Rows16Format& rows16_format(DType t) { return *find(t); }

bool rows16_supports(DType t) { return t == DType::F32 || t == DType::F16 || t == DType::BF16 || find(t); }

int64_t rows16_block_bytes(DType t) {
  const Rows16Format* f = find(t);
  return f ? f->bytes() : 16 * int64_t(ir::info(t).bytes);
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

/// The bits of 32 weights, a byte each.
struct Bits {
  uint64_t eight[4];
};

/// `bits` bits of each of 32 bytes, from bit `shift` on.
Bits bits_of(const uint8_t* src, int shift, int bits) {
  Bits out;
  for (int i = 0; i < 4; ++i) out.eight[i] = (load<uint64_t>(src + 8 * i) >> shift) & ((1u << bits) - 1) * 0x0101010101010101u;
  return out;
}

template <int bits>
void store_planes(Out& o, int64_t at, const Bits& b) {
  const uint64_t even[] = {b.eight[0] | b.eight[2] << 4, b.eight[1] | b.eight[3] << 4};   // words 0, 1 (4, 5) and 2, 3 (6, 7)
  const auto word = [&](int j) { return uint32_t(even[j / 2] >> 32 * (j % 2)) << shift_of(bits, j); };
  if constexpr (bits == 4) {
    for (int j = 0; j < 4; ++j) o.word(at + 64 * j, word(j));
  } else if constexpr (bits == 2) {
    for (int p = 0; p < 2; ++p) o.word(at + 64 * p, word(2 * p) | word(2 * p + 1));
  } else {
    o.word(at, word(0) | word(1) | word(2) | word(3));
  }
}

/// 16 bytes whose low nibbles are weights 0..15, the high ones 16..31: just the planes.
void copy_nibbles(Out& o, int64_t at, const uint8_t* src) {
  for (int j = 0; j < 4; ++j) o.word(at + 64 * j, load<uint32_t>(src + 4 * j));
}

template <DType T>
void pack_block32(const uint8_t* s, Out o) {
  constexpr Rows16Format f = *find(T);
  const int64_t at = f.header();
  const uint8_t* from = s + (f.minimum ? 4 : 2);
  o.half(0, s);
  if constexpr (f.minimum) o.half(32, s + 2);
  if constexpr (f.low == 8) {
    for (int j = 0; j < 8; ++j) o.word(at + 64 * j, load<uint32_t>(from + 4 * j) ^ 0x80808080u);
  } else {
    if constexpr (f.high == 1) o.word(at, spread_bits(load<uint32_t>(from)));
    copy_nibbles(o, at + f.low_at(), from + 4 * f.high);
  }
}

template <DType T>
void pack_q45k(const uint8_t* s, Out o) {
  constexpr Rows16Format f = *find(T);
  o.half(0, s);
  o.half(32, s + 2);
  const uint8_t *scales = s + 4, *high = s + 16, *quants = s + 16 + 32 * f.high;
  for (int sub = 0; sub < 8; ++sub) {
    const int64_t at = f.header() + sub * f.block_bytes();
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
    if constexpr (f.high) store_planes<1>(o, at + f.high_at(), bits_of(high, sub, 1));
    store_planes<4>(o, at + f.low_at(), bits_of(quants + 32 * (sub / 2), 4 * (sub % 2), 4));
  }
}

void pack_q2k(const uint8_t* s, Out o) {
  constexpr Rows16Format f = *find(DType::Q2_K);
  const uint8_t *scales = s, *quants = s + 16;
  o.half(0, s + 80);
  o.half(32, s + 82);
  for (int sub = 0; sub < 8; ++sub) {
    const int64_t at = f.header() + sub * f.block_bytes();
    for (int i = 0; i < 2; ++i) o.byte(at + 16 * i, scales[2 * sub + i]);
    store_planes<2>(o, at + f.low_at(), bits_of(quants + 32 * (sub / 4), 2 * (sub % 4), 2));
  }
}

void pack_q3k(const uint8_t* s, Out o) {
  constexpr Rows16Format f = *find(DType::Q3_K);
  const uint8_t *high = s, *quants = s + 32, *scales = s + 96;
  o.half(0, s + 108);
  for (int sub = 0; sub < 8; ++sub) {
    const int64_t at = f.header() + sub * f.block_bytes();
    for (int i = 0; i < 2; ++i) {
      const int j = 2 * sub + i, low = scales[j % 8] >> j / 8 * 4 & 15, upper = scales[8 + j % 4] >> j / 4 * 2 & 3;
      o.byte(at + 16 * i, uint8_t((low | upper << 4) - 32));
    }
    store_planes<1>(o, at + f.high_at(), bits_of(high, sub, 1));
    store_planes<2>(o, at + f.low_at(), bits_of(quants + 32 * (sub / 4), 2 * (sub % 4), 2));
  }
}

void pack_q6k(const uint8_t* s, Out o) {
  constexpr Rows16Format f = *find(DType::Q6_K);
  const uint8_t *low = s, *high = s + 128, *scales = s + 192;
  o.half(0, s + 208);
  for (int sub = 0; sub < 8; ++sub) {  // 32 weights: half sub/4, quarter sub%4
    const int half = sub / 4, quarter = sub % 4;
    const int64_t at = f.header() + sub * f.block_bytes();
    for (int i = 0; i < 2; ++i) o.byte(at + 16 * i, scales[2 * sub + i]);
    store_planes<2>(o, at + f.high_at(), bits_of(high + 32 * half, 2 * quarter, 2));
    store_planes<4>(o, at + f.low_at(), bits_of(low + 64 * half + 32 * (quarter % 2), quarter < 2 ? 0 : 4, 4));
  }
}

void pack_iq4xs(const uint8_t* s, Out o) {
  constexpr Rows16Format f = *find(DType::IQ4_XS);
  const uint16_t high = load<uint16_t>(s + 2);
  o.half(0, s);
  for (int sub = 0; sub < 8; ++sub) {
    const int64_t at = f.header() + sub * f.block_bytes();
    const int low = s[4 + sub / 2] >> sub % 2 * 4 & 15, upper = high >> 2 * sub & 3;
    o.byte(at, uint8_t((low | upper << 4) - 32));
    copy_nibbles(o, at + f.low_at(), s + 8 + 16 * sub);
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
    case DType::Q2_K: return groups(pack_q2k);
    case DType::Q3_K: return groups(pack_q3k);
    case DType::Q4_K: return groups(pack_q45k<DType::Q4_K>);
    case DType::Q5_K: return groups(pack_q45k<DType::Q5_K>);
    case DType::Q6_K: return groups(pack_q6k);
    case DType::IQ4_NL: return groups(pack_block32<DType::IQ4_NL>);
    case DType::IQ4_XS: return groups(pack_iq4xs);
    default: return;  // rows16_supports says no
  }
}

int64_t swizzled_group_bytes(int64_t columns) { return ceil_div(columns, kTileSide) * kTileSide * kTileSide * 2; }

void pack_swizzled(int64_t rows, int64_t columns, const std::function<const uint8_t*(int64_t)>& row, int64_t begin, int64_t end, uint8_t* dst) {
  constexpr int64_t chunk = 8, row_bytes = kTileSide * 2;
  memset(dst, 0, size_t((end - begin) * swizzled_group_bytes(columns)));
  for (int64_t r = begin * kTileSide; r < std::min(rows, end * kTileSide); ++r) {
    const uint8_t* from = row(r);
    uint8_t* to = dst + (r / kTileSide - begin) * swizzled_group_bytes(columns) + r % kTileSide * row_bytes;
    for (int64_t c = 0; c < columns; c += chunk)
      memcpy(to + c / kTileSide * kTileSide * row_bytes + (c % kTileSide / chunk ^ r % 8) * chunk * 2, from + c * 2, size_t(std::min(chunk, columns - c)) * 2);
  }
}

}  // namespace prism::codegen
