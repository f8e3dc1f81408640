#include "ir/quants.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "runtime/base/half.h"

namespace prism::ir {
namespace {

using Bytes = std::vector<uint8_t>;

void put_half(Bytes& b, float v) {
  const uint16_t h = f32_to_f16(v);
  b.push_back(uint8_t(h));
  b.push_back(uint8_t(h >> 8));
}

/// A block is written from fields as ir/dtypes.def describes them and read back.
struct Block {
  std::mt19937 rng{1};
  Bytes bytes;
  std::vector<int> q;
  float d = 0.25f, m = -1.5f;  // exact in f16

  void random_q(int n, int bits) {
    for (int i = 0; i < n; ++i) q.push_back(int(rng() & ((1u << bits) - 1)));
  }
  std::vector<float> read(DType t) {
    EXPECT_EQ(bytes.size(), info(t).bytes);
    std::vector<float> y(info(t).block);
    dequantize_row(t, bytes.data(), y.data(), y.size());
    return y;
  }
};

/// q4_0, q4_1, q5_0, q5_1
void check_32(DType t, int bits, bool has_min, int offset) {
  Block b;
  b.random_q(32, bits);
  put_half(b.bytes, b.d);
  if (has_min) put_half(b.bytes, b.m);
  if (bits == 5)
    for (int byte = 0; byte < 4; ++byte) {
      int v = 0;
      for (int i = 0; i < 8; ++i) v |= (b.q[byte * 8 + i] >> 4) << i;
      b.bytes.push_back(uint8_t(v));
    }
  for (int j = 0; j < 16; ++j) b.bytes.push_back(uint8_t((b.q[j] & 15) | (b.q[j + 16] & 15) << 4));
  const auto y = b.read(t);
  for (int j = 0; j < 32; ++j) EXPECT_EQ(y[j], b.d * float(b.q[j] - offset) + (has_min ? b.m : 0)) << j;
}

TEST(Quants, Blocks32) {
  check_32(DType::Q4_0, 4, false, 8);
  check_32(DType::Q4_1, 4, true, 0);
  check_32(DType::Q5_0, 5, false, 16);
  check_32(DType::Q5_1, 5, true, 0);
}

/// q4_k, q5_k
void check_k(DType t, int bits) {
  Block b;
  b.random_q(256, bits);
  int sc[8], mn[8];
  for (int i = 0; i < 8; ++i) sc[i] = int(b.rng() & 63), mn[i] = int(b.rng() & 63);
  put_half(b.bytes, b.d);
  put_half(b.bytes, 0.5f);
  uint8_t scales[12] = {};
  for (int i = 0; i < 4; ++i) {
    scales[i] = uint8_t(sc[i] | (sc[i + 4] >> 4) << 6);
    scales[i + 4] = uint8_t(mn[i] | (mn[i + 4] >> 4) << 6);
    scales[i + 8] = uint8_t((sc[i + 4] & 15) | (mn[i + 4] & 15) << 4);
  }
  b.bytes.insert(b.bytes.end(), scales, scales + 12);
  if (bits == 5)
    for (int j = 0; j < 32; ++j) {
      int v = 0;
      for (int g = 0; g < 8; ++g) v |= (b.q[g * 32 + j] >> 4) << g;
      b.bytes.push_back(uint8_t(v));
    }
  for (int pair = 0; pair < 4; ++pair)
    for (int j = 0; j < 32; ++j)
      b.bytes.push_back(uint8_t((b.q[pair * 64 + j] & 15) | (b.q[pair * 64 + 32 + j] & 15) << 4));
  const auto y = b.read(t);
  for (int i = 0; i < 256; ++i)
    EXPECT_EQ(y[i], b.d * float(sc[i / 32]) * float(b.q[i]) - 0.5f * float(mn[i / 32])) << i;
}

TEST(Quants, BlocksK) {
  check_k(DType::Q4_K, 4);
  check_k(DType::Q5_K, 5);
}

/// q2_k and q3_k: bits 0 and 1 of weight i.
Bytes low_pairs(const std::vector<int>& q) {
  Bytes qs(64);
  for (int i = 0; i < 256; ++i) qs[size_t(i / 128 * 32 + i % 32)] |= uint8_t((q[size_t(i)] & 3) << i % 128 / 32 * 2);
  return qs;
}

TEST(Quants, Q2K) {
  Block b;
  b.random_q(256, 2);
  Bytes scales;
  for (int i = 0; i < 16; ++i) scales.push_back(uint8_t(b.rng()));
  for (const Bytes& part : {scales, low_pairs(b.q)}) b.bytes.insert(b.bytes.end(), part.begin(), part.end());
  put_half(b.bytes, b.d);
  put_half(b.bytes, 0.5f);
  const auto y = b.read(DType::Q2_K);
  for (int i = 0; i < 256; ++i) EXPECT_EQ(y[i], b.d * float(scales[i / 16] & 15) * float(b.q[i]) - 0.5f * float(scales[i / 16] >> 4)) << i;
}

TEST(Quants, Q3K) {
  Block b;
  b.random_q(256, 3);
  Bytes high(32), scales(12);
  int sc[16];
  for (int i = 0; i < 256; ++i) high[i % 32] |= uint8_t((b.q[i] >> 2) << i / 32);
  for (int i = 0; i < 16; ++i) {
    sc[i] = int(b.rng() & 63);
    scales[i % 8] |= uint8_t((sc[i] & 15) << (i < 8 ? 0 : 4));
    scales[8 + i % 4] |= uint8_t((sc[i] >> 4) << i / 4 * 2);
  }
  for (const Bytes& part : {high, low_pairs(b.q), scales}) b.bytes.insert(b.bytes.end(), part.begin(), part.end());
  put_half(b.bytes, b.d);
  const auto y = b.read(DType::Q3_K);
  for (int i = 0; i < 256; ++i) EXPECT_EQ(y[i], b.d * float(sc[i / 16] - 32) * float(b.q[i] - 4)) << i;
}

TEST(Quants, Q6K) {
  Block b;
  b.random_q(256, 6);
  Bytes ql(128), qh(64), scales;
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, quarter = i % 128 / 32, j = i % 32;
    ql[half * 64 + quarter % 2 * 32 + j] |= uint8_t((b.q[i] & 15) << (quarter / 2 * 4));
    qh[half * 32 + j] |= uint8_t((b.q[i] >> 4) << (quarter * 2));
  }
  for (int i = 0; i < 16; ++i) scales.push_back(uint8_t(b.rng()));
  for (const Bytes& part : {ql, qh, scales}) b.bytes.insert(b.bytes.end(), part.begin(), part.end());
  put_half(b.bytes, b.d);
  const auto y = b.read(DType::Q6_K);
  for (int i = 0; i < 256; ++i) EXPECT_EQ(y[i], b.d * float(int8_t(scales[i / 16])) * float(b.q[i] - 32)) << i;
}

/// 16 bytes for each 32 weights: the first 16 in low nibbles.
void put_nibbles(Bytes& b, const std::vector<int>& q) {
  for (size_t at = 0; at < q.size(); at += 32)
    for (size_t j = at; j < at + 16; ++j) b.push_back(uint8_t(q[j] | q[j + 16] << 4));
}

TEST(Quants, IQ4) {
  const int values[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  Block nl;
  nl.random_q(32, 4);
  put_half(nl.bytes, nl.d);
  put_nibbles(nl.bytes, nl.q);
  const auto y = nl.read(DType::IQ4_NL);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(y[i], nl.d * float(values[nl.q[i]])) << i;

  Block xs;
  xs.random_q(256, 4);
  int sc[8];
  uint8_t scales[6] = {};
  for (int i = 0; i < 8; ++i) {
    sc[i] = int(xs.rng() & 63);
    scales[i / 4] |= uint8_t((sc[i] >> 4) << i % 4 * 2);
    scales[2 + i / 2] |= uint8_t((sc[i] & 15) << i % 2 * 4);
  }
  put_half(xs.bytes, xs.d);
  xs.bytes.insert(xs.bytes.end(), scales, scales + 6);
  put_nibbles(xs.bytes, xs.q);
  const auto z = xs.read(DType::IQ4_XS);
  for (int i = 0; i < 256; ++i) EXPECT_EQ(z[i], xs.d * float(sc[i / 32] - 32) * float(values[xs.q[i]])) << i;
}

std::vector<float> random_row(size_t n, float scale) {
  std::mt19937 rng(3);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> x(n);
  for (float& v : x) v = normal(rng);
  return x;
}

TEST(Quants, Q80RoundTripsWithinHalfAStep) {
  auto x = random_row(64, 2);
  for (int i = 32; i < 64; ++i) x[i] = 0;  // a block of zeros stays zero
  Bytes b(2 * 34);
  ASSERT_TRUE(quantize_row(DType::Q8_0, x.data(), b.data(), 64));
  std::vector<float> y(64);
  dequantize_row(DType::Q8_0, b.data(), y.data(), 64);
  float amax = 0;
  for (float v : x) amax = std::max(amax, std::fabs(v));
  for (int i = 0; i < 64; ++i) EXPECT_NEAR(y[i], x[i], amax / 127 * 0.5f + amax * 0x1p-11f);
  EXPECT_EQ(y[40], 0.0f);
}

TEST(Quants, Q8AIsPlanarWithSums) {
  const auto x = random_row(96, 3);
  Bytes b(96 / 32 * 40);
  ASSERT_TRUE(quantize_row(DType::Q8A, x.data(), b.data(), 96));
  std::vector<float> y(96);
  dequantize_row(DType::Q8A, b.data(), y.data(), 96);
  for (int block = 0; block < 3; ++block) {
    float d, amax = 0;
    int32_t sum, expected = 0;
    std::memcpy(&d, b.data() + 96 + block * 4, 4);
    std::memcpy(&sum, b.data() + 96 + 12 + block * 4, 4);
    for (int i = block * 32; i < block * 32 + 32; ++i) {
      amax = std::max(amax, std::fabs(x[i]));
      expected += int8_t(b[i]);
      EXPECT_EQ(y[i], d * float(int8_t(b[i])));
      EXPECT_NEAR(y[i], x[i], d * 0.5001f);
    }
    EXPECT_EQ(d, amax / 127.0f);
    EXPECT_EQ(sum, expected);
  }
}

TEST(Quants, Q8ARoundsToEvenAndSurvivesOddInput) {
  float x[32] = {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f};  // d = 1
  uint8_t b[40];
  quantize_row(DType::Q8A, x, b, 32);
  const int expected[] = {127, 0, 2, 2, 0, -2};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(int8_t(b[i]), expected[i]) << i;
  for (float odd : {NAN, INFINITY, 1e-45f, 3e38f}) {
    std::fill_n(x, 32, odd);
    ASSERT_TRUE(quantize_row(DType::Q8A, x, b, 32));
    ASSERT_TRUE(quantize_row(DType::Q8_0, x, b, 32));
  }
}

TEST(Quants, ScalarsRoundTripAndSaturate) {
  const float x[] = {0, 1, -2, 0.5f, 1.5f, 1e9f, -1e9f, NAN};
  for (DType t : {DType::F32, DType::F64}) {
    uint8_t b[64];
    float y[8];
    ASSERT_TRUE(quantize_row(t, x, b, 8));
    dequantize_row(t, b, y, 8);
    for (int i = 0; i < 7; ++i) EXPECT_EQ(y[i], x[i]);
  }
  uint8_t b[64];
  float y[8];
  quantize_row(DType::I8, x, b, 8);
  dequantize_row(DType::I8, b, y, 8);
  EXPECT_EQ(std::vector<float>(y, y + 8), (std::vector<float>{0, 1, -2, 0, 2, 127, -128, 0}));
  quantize_row(DType::U8, x, b, 8);
  dequantize_row(DType::U8, b, y, 8);
  EXPECT_EQ(std::vector<float>(y, y + 8), (std::vector<float>{0, 1, 0, 0, 2, 255, 0, 0}));
  quantize_row(DType::BF16, x, b, 5);
  dequantize_row(DType::BF16, b, y, 5);
  EXPECT_EQ(y[4], 1.5f);
  quantize_row(DType::F16, x, b, 6);
  dequantize_row(DType::F16, b, y, 6);
  EXPECT_EQ(y[3], 0.5f);
  EXPECT_TRUE(std::isinf(y[5]));
  EXPECT_FALSE(quantize_row(DType::Q4_K, x, b, 8));
}

TEST(Quants, TableLookups) {
  for (int i = 0; i <= int(DType::Q8A); ++i) {
    const DType t = DType(i);
    EXPECT_EQ(dtype_from_name(info(t).name), t);
    if (info(t).gguf_type >= 0) {
      EXPECT_EQ(dtype_from_gguf(uint32_t(info(t).gguf_type)), t);
    }
  }
  EXPECT_FALSE(dtype_from_name("q3_j"));
  EXPECT_FALSE(dtype_from_gguf(UINT32_MAX));  // -1 in the table means none
  EXPECT_EQ(info(DType::Q4_1).block, 32u);
}

}  // namespace
}  // namespace prism::ir
