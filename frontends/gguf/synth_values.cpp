#include "frontends/gguf/synth_values.h"

#include <array>
#include <cmath>
#include <cstring>

#include "runtime/base/half.h"

namespace prism::gguf {
namespace {

constexpr uint64_t kStep = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio

/// The finalizer of splitmix64.
uint64_t scramble(uint64_t z) {
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

/// A sequence of random words that can be entered anywhere.
struct Words {
  uint64_t at;
  uint64_t next() { return scramble(at += kStep); }
  template <int count>
  void bytes(uint8_t* out) {
    for (int i = 0; i < count; ++i) {
      const uint64_t w = next();
      std::memcpy(out + 8 * i, &w, 8);
    }
  }
};

template <class T>
void store(uint8_t* p, T v) {
  std::memcpy(p, &v, sizeof v);
}

// ---- scalars: a random byte picks one of 256 quantiles of the normal distribution

std::array<double, 256> normal_quantiles() {
  std::array<double, 256> q;
  double squares = 0;
  for (int i = 0; i < 256; ++i) {
    double lo = -8, hi = 8;
    while (hi - lo > 1e-12) {
      const double mid = 0.5 * (lo + hi);
      (0.5 * std::erfc(-mid / std::sqrt(2.0)) < (i + 0.5) / 256 ? lo : hi) = mid;
    }
    q[size_t(i)] = lo;
    squares += lo * lo;
  }
  for (double& x : q) x /= std::sqrt(squares / 256);
  return q;
}

template <class T>
void fill_scalars(T (*convert)(float), Words w, const Distribution& d, std::span<uint8_t> out) {
  static const std::array<double, 256> quantiles = normal_quantiles();
  std::array<T, 256> table;
  for (size_t i = 0; i < 256; ++i) table[i] = convert(float(d.mean + d.deviation * quantiles[i]));
  const size_t n = out.size() / sizeof(T);
  T eight[8];
  for (size_t i = 0; i < n; i += 8) {
    const uint64_t word = w.next();
    for (int j = 0; j < 8; ++j) eight[j] = table[word >> 8 * j & 255];
    std::memcpy(out.data() + i * sizeof(T), eight, std::min<size_t>(8, n - i) * sizeof(T));
  }
}

// ---- blocks: random codes under one of 16 scales

/// A block's `d` and its offset per d: m, or dmin.
struct Scale {
  uint16_t d, offset;
};
using Scales = std::array<Scale, 16>;

constexpr uint16_t kSign = 0x8000;

// Codes with one value more below zero than above get a scale of either sign, and are 0 on average again.

void q4_0(Words& w, const Scales& s, uint8_t* b) {
  const uint64_t r = w.next();
  store(b, uint16_t(s[r & 15].d ^ (r & kSign)));
  w.bytes<2>(b + 2);
}

void q4_1(Words& w, const Scales& s, uint8_t* b) {
  store(b, s[w.next() & 15]);
  w.bytes<2>(b + 4);
}

void q5_0(Words& w, const Scales& s, uint8_t* b) {
  const uint64_t r = w.next();
  store(b, uint16_t(s[r & 15].d ^ (r & kSign)));
  store(b + 2, uint32_t(r >> 32));
  w.bytes<2>(b + 6);
}

void q5_1(Words& w, const Scales& s, uint8_t* b) {
  const uint64_t r = w.next();
  store(b, s[r & 15]);
  store(b + 4, uint32_t(r >> 32));
  w.bytes<2>(b + 8);
}

void q8_0(Words& w, const Scales& s, uint8_t* b) {
  store(b, s[w.next() & 15].d);
  w.bytes<4>(b + 2);
  for (int j = 2; j < 34; ++j) b[j] = b[j] == 0x80 ? 0 : b[j];  // a quantizer never makes -128
}

/// d, dmin and eight scales of 32 to 63, whose minimums are the same numbers.
void k_scales(Words& w, const Scales& s, uint8_t* b) {
  store(b, s[w.next() & 15]);
  const uint64_t r = w.next();
  const uint32_t first = uint32_t(r) | 0xa0a0a0a0;  // bit 5 of numbers 0 to 3 and, as bit 7, of 4 to 7
  const uint32_t low = uint32_t(r >> 32) & 0x0f0f0f0f;
  store(b + 4, first);
  store(b + 8, first);
  store(b + 12, low | low << 4);
}

void q4_k(Words& w, const Scales& s, uint8_t* b) {
  k_scales(w, s, b);
  w.bytes<16>(b + 16);
}

void q2_k(Words& w, const Scales& s, uint8_t* b) {
  w.bytes<10>(b);
  for (int j = 0; j < 16; ++j) {  // 8 to 15, whose minimums are the same numbers
    const int scale = (b[j] & 7) | 8;
    b[j] = uint8_t(scale | scale << 4);
  }
  store(b + 80, s[w.next() & 15]);
}

/// A scale of 16 to 31 of either sign in 6 bits, 32 added, from 5.
int signed_scale(uint64_t r) { return 32 + int(r & 16 ? -(r & 15) - 16 : (r & 15) + 16); }

/// Codes of -3 to 3: what would be -4, and correlate weights of one scale, becomes 0.
void q3_k(Words& w, const Scales& s, uint8_t* b) {
  w.bytes<12>(b);
  for (int i = 0; i < 8; ++i) {
    uint64_t high, low;
    std::memcpy(&high, b + i % 4 * 8, 8);
    std::memcpy(&low, b + 32 + i * 8, 8);
    const uint64_t zero = ~(low | low >> 1);  // bits 0, 2, 4, 6 of each byte
    for (int j = 0; j < 4; ++j) high |= (zero >> 2 * j & 0x0101010101010101) << (i / 4 * 4 + j);
    store(b + i % 4 * 8, high);
  }
  const uint64_t r = w.next(), signs = w.next();
  uint8_t packed[12] = {};
  for (int j = 0; j < 16; ++j) {
    const int scale = signed_scale((r >> 4 * j & 15) | (signs >> (j + 4) & 1) << 4);
    packed[j % 8] |= uint8_t((scale & 15) << j / 8 * 4);
    packed[8 + j % 4] |= uint8_t(scale >> 4 << j / 4 * 2);
  }
  std::memcpy(b + 96, packed, sizeof packed);
  store(b + 108, s[signs & 15].d);
}

void q5_k(Words& w, const Scales& s, uint8_t* b) {
  k_scales(w, s, b);
  w.bytes<20>(b + 16);
}

void q6_k(Words& w, const Scales& s, uint8_t* b) {
  w.bytes<26>(b);
  for (int j = 0; j < 16; ++j) {  // 64 to 127 of either sign
    const int r = int8_t(b[192 + j]), magnitude = (r & 63) | 64;
    b[192 + j] = uint8_t(r < 0 ? -magnitude : magnitude);
  }
  store(b + 208, s[w.next() & 15].d);
}

void iq4_xs(Words& w, const Scales& s, uint8_t* b) {
  const uint64_t r = w.next();
  uint32_t low = 0;
  uint16_t high = 0;
  for (int j = 0; j < 8; ++j) {
    const int scale = signed_scale(r >> (5 * j + 4));
    low |= uint32_t(scale & 15) << 4 * j;
    high |= uint16_t(scale >> 4 << 2 * j);
  }
  store(b, s[r & 15].d);
  store(b + 2, high);
  store(b + 4, low);
  w.bytes<16>(b + 8);
}

struct Format {
  ir::DType type;
  void (*block)(Words&, const Scales&, uint8_t*);
  uint64_t words;    ///< that a block takes from the sequence
  double variance;   ///< of a weight over d
  double offset;     ///< over d, so that the codes are 0 on average
};

/// Mean square of the integers lo to hi.
constexpr double mean_square(int lo, int hi, double centre = 0) {
  double sum = 0;
  for (int i = lo; i <= hi; ++i) sum += (i - centre) * (i - centre);
  return sum / (hi - lo + 1);
}

constexpr double iq4_mean_square() {
  double sum = 0;
  for (int v : ir::kIq4Values) sum += v * v;
  return sum / 16;
}

constexpr Format kFormats[] = {
    {ir::DType::Q4_0, q4_0, 3, mean_square(-8, 7), 0},
    {ir::DType::Q4_1, q4_1, 3, mean_square(0, 15, 7.5), -7.5},
    {ir::DType::Q5_0, q5_0, 3, mean_square(-16, 15), 0},
    {ir::DType::Q5_1, q5_1, 3, mean_square(0, 31, 15.5), -15.5},
    {ir::DType::Q8_0, q8_0, 5, mean_square(-127, 127) * 255 / 256, 0},
    {ir::DType::Q2_K, q2_k, 11, mean_square(8, 15) * mean_square(0, 3, 1.5), 1.5},
    {ir::DType::Q3_K, q3_k, 14, mean_square(16, 31) * mean_square(-3, 3) * 7 / 8, 0},
    {ir::DType::Q4_K, q4_k, 18, mean_square(32, 63) * mean_square(0, 15, 7.5), 7.5},
    {ir::DType::Q5_K, q5_k, 22, mean_square(32, 63) * mean_square(0, 31, 15.5), 15.5},
    {ir::DType::Q6_K, q6_k, 27, mean_square(64, 127) * mean_square(-32, 31), 0},
    {ir::DType::IQ4_NL, q4_0, 3, iq4_mean_square(), 0},
    {ir::DType::IQ4_XS, iq4_xs, 17, mean_square(16, 31) * iq4_mean_square(), 0},
};

Scales scales_for(const Format& f, double deviation) {
  Scales scales;
  const double unit = deviation / std::sqrt(f.variance * mean_square(18, 33));
  for (int i = 0; i < 16; ++i) {
    const uint16_t d = f32_to_f16(float(unit * (18 + i)));
    scales[size_t(i)] = {d, f32_to_f16(float(f.offset * double(f16_to_f32(d))))};
  }
  return scales;
}

const Format* format_of(ir::DType type) {
  for (const Format& f : kFormats)
    if (f.type == type) return &f;
  return nullptr;
}

}  // namespace

uint64_t sequence_key(uint64_t seed, std::string_view tensor) {
  uint64_t key = scramble(seed + kStep);
  for (unsigned char c : tensor) key = scramble(key ^ c) + kStep;
  return key;
}

bool random_type(ir::DType type) {
  return type == ir::DType::F32 || type == ir::DType::F16 || type == ir::DType::BF16 || format_of(type);
}

void make_values(ir::DType type, uint64_t key, const Distribution& d, uint64_t first, std::span<uint8_t> out) {
  if (const Format* f = format_of(type)) {
    const ir::DTypeInfo& info = ir::info(type);
    const Scales scales = scales_for(*f, d.deviation);
    Words words{key + first / info.block * f->words * kStep};
    for (size_t at = 0; at < out.size(); at += info.bytes) f->block(words, scales, out.data() + at);
    return;
  }
  const Words words{key + first / 8 * kStep};
  if (type == ir::DType::F32) fill_scalars<float>([](float v) { return v; }, words, d, out);
  if (type == ir::DType::F16) fill_scalars<uint16_t>(f32_to_f16, words, d, out);
  if (type == ir::DType::BF16) fill_scalars<uint16_t>(f32_to_bf16, words, d, out);
}

}  // namespace prism::gguf
