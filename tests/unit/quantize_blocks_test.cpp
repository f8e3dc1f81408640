// The search for scales against naive quantizers, exhaustive searches and what dequantizing says.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "runtime/base/half.h"
#include "tools/quantize/blocks.h"

namespace prism::quantize {
namespace {

using ir::DType;
using Floats = std::vector<float>;

struct Format {
  int bits, group;   ///< of weights that share a scale
  bool has_min;
};
Format format_of(DType t) {
  switch (t) {
    case DType::Q4_0: return {4, 32, false};
    case DType::Q4_1: case DType::Q4_K: return {4, 32, true};
    case DType::Q5_0: return {5, 32, false};
    case DType::Q5_1: case DType::Q5_K: return {5, 32, true};
    case DType::Q6_K: return {6, 16, false};
    default: return {8, 32, false};
  }
}

struct Outcome {
  Floats values;
  double reported;
};
Outcome round_trip(DType t, const Floats& x, const float* importance = nullptr) {
  std::vector<uint8_t> bytes(x.size() / ir::info(t).block * ir::info(t).bytes);
  Outcome o{Floats(x.size()), quantize_blocks(t, x.data(), importance, bytes.data(), x.size())};
  ir::dequantize_row(t, bytes.data(), o.values.data(), x.size());
  return o;
}

double squared_error(const Floats& x, const Floats& y, const float* importance = nullptr) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += double(importance ? importance[i] : 1) * (double(x[i]) - y[i]) * (double(x[i]) - y[i]);
  return sum;
}

/// Each group with the step that its extremes ask for, exact as no file could hold it.
Floats naive(DType t, const Floats& x) {
  const Format f = format_of(t);
  Floats y(x.size());
  for (size_t at = 0; at < x.size(); at += size_t(f.group)) {
    const auto [low, high] = std::minmax_element(x.begin() + long(at), x.begin() + long(at) + f.group);
    const float min = f.has_min ? std::min(*low, 0.0f) : 0;
    const float step = f.has_min ? (*high - min) / float((1 << f.bits) - 1) : std::max(*high, -*low) / float((1 << (f.bits - 1)) - 1);
    for (size_t i = at; i < at + size_t(f.group); ++i) y[i] = step > 0 ? std::round((x[i] - min) / step) * step + min : min;
  }
  return y;
}

Floats random_weights(size_t n, unsigned seed, bool heavy) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, 0.05f);
  std::student_t_distribution<float> tails(3);
  Floats x(n);
  for (float& v : x) v = heavy ? 0.03f * tails(rng) : normal(rng);
  return x;
}
Floats random_importance(size_t n, unsigned seed) {
  std::mt19937 rng(seed);
  std::lognormal_distribution<float> values(0, 1.5f);
  Floats w(n);
  for (float& v : w) v = values(rng);
  return w;
}

TEST(QuantizeBlocks, WhatIsReportedIsWhatDequantizingFinds) {
  const Floats x = random_weights(1024, 1, true), w = random_importance(1024, 2);
  for (DType t : block_types())
    for (const float* importance : {static_cast<const float*>(nullptr), w.data()}) {
      const Outcome o = round_trip(t, x, importance);
      EXPECT_NEAR(o.reported / squared_error(x, o.values, importance), 1, 1e-3) << ir::info(t).name;
    }
}

TEST(QuantizeBlocks, BetterThanTheRangeOfTheValues) {
  for (DType t : block_types())
    for (bool heavy : {false, true}) {
      SCOPED_TRACE(std::string(ir::info(t).name) + (heavy ? " heavy tails" : ""));
      const Floats x = random_weights(16384, 3, heavy);
      const double found = squared_error(x, round_trip(t, x).values), plain = squared_error(x, naive(t, x));
      // From six bits on there is hardly anything to gain, and the naive scales are not rounded to what a file holds.
      EXPECT_LT(found, plain * (format_of(t).bits <= 4 ? 0.95 : format_of(t).bits == 5 ? 1.0 : 1.02));
    }
}

TEST(QuantizeBlocks, NoGroupIsWorseThanHalfAStepOfItsRange) {
  for (DType t : block_types()) {
    const Format f = format_of(t);
    const Floats x = random_weights(4096, 4, true), y = round_trip(t, x).values;
    for (size_t at = 0; at < x.size(); at += size_t(f.group)) {
      const auto [low, high] = std::minmax_element(x.begin() + long(at), x.begin() + long(at) + f.group);
      const double range = f.has_min ? double(*high) - std::min(*low, 0.0f) : 2.0 * std::max(*high, -*low);
      const double half = range / ((1 << f.bits) - 2) / 2;
      double sum = 0;
      for (size_t i = at; i < at + size_t(f.group); ++i) sum += std::pow(double(x[i]) - y[i], 2);
      // Scales of 6 bits may be off by a 126th of the largest in the block.
      const bool shared = ir::info(t).block == 256;
      const auto block = at / 256 * 256;
      const auto [block_low, block_high] = std::minmax_element(x.begin() + long(block), x.begin() + long(block) + 256);
      const double slack = shared ? double(*block_high - *block_low) / 126 : 0;
      EXPECT_LE(std::sqrt(sum / f.group), half + slack) << ir::info(t).name << " group at " << at;
    }
  }
}

TEST(QuantizeBlocks, ImportanceIsHeeded) {
  const Floats x = random_weights(8192, 5, false), w = random_importance(8192, 6);
  for (DType t : block_types()) {
    const double with = squared_error(x, round_trip(t, x, w.data()).values, w.data()), without = squared_error(x, round_trip(t, x).values, w.data());
    EXPECT_LT(with, without * (t == DType::Q8_0 ? 0.99 : 0.9)) << ir::info(t).name;
  }
}

TEST(QuantizeBlocks, ConstantFactorsOfImportanceDoNotMatter) {
  const Floats x = random_weights(512, 7, true), w = random_importance(512, 8);
  Floats large = w, small = w;
  for (float& v : large) v *= 0x1p60f;
  for (float& v : small) v *= 0x1p-60f;
  for (DType t : block_types()) {
    const Floats y = round_trip(t, x, w.data()).values;
    EXPECT_EQ(y, round_trip(t, x, large.data()).values) << ir::info(t).name;
    EXPECT_EQ(y, round_trip(t, x, small.data()).values) << ir::info(t).name;
  }
}

/// The least error of a block of 32 over every f16 scale.
double exhaustive(const Floats& x, const Floats& w, int at, float lo, float hi) {
  double best = std::numeric_limits<double>::infinity();
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const float d = f16_to_f32(uint16_t(h));
    if (!std::isfinite(d) || std::fabs(d) > 1) continue;
    double sum = 0;
    for (int i = at; i < at + 32; ++i) {
      const float q = d != 0 ? std::clamp(std::round(x[size_t(i)] / d), lo, hi) : 0;
      sum += double(w[size_t(i)]) * std::pow(double(x[size_t(i)]) - double(d) * q, 2);
    }
    best = std::min(best, sum);
  }
  return best;
}

TEST(QuantizeBlocks, ScalesAreNearTheBestThereIs) {
  const Floats x = random_weights(640, 9, false), w = random_importance(640, 10);
  for (const auto& [t, lo, hi, most] : {std::tuple{DType::Q4_0, -8.0f, 7.0f, 1.03}, {DType::Q5_0, -16.0f, 15.0f, 1.06}, {DType::Q8_0, -127.0f, 127.0f, 1.25}}) {
    double best = 0;
    for (int at = 0; at < 640; at += 32) best += exhaustive(x, w, at, lo, hi);
    const double found = squared_error(x, round_trip(t, x, w.data()).values, w.data());
    EXPECT_GE(found, best * (1 - 1e-6)) << ir::info(t).name;
    EXPECT_LE(found, best * most) << ir::info(t).name;
  }
}

TEST(QuantizeBlocks, MinimaAreNearTheBestOfAGrid) {
  const Floats x = random_weights(320, 11, false), w = random_importance(320, 12);
  double best_of_all = 0;
  for (size_t at = 0; at < x.size(); at += 32) {
    const auto [low, high] = std::minmax_element(x.begin() + long(at), x.begin() + long(at) + 32);
    double best = std::numeric_limits<double>::infinity();
    for (int a = 0; a < 60; ++a)
      for (int b = 0; b < 60; ++b) {
        const float range = *high - *low, from = *low + range * 0.006f * float(a - 5), to = *high - range * 0.006f * float(b - 5), d = (to - from) / 15;
        double sum = 0;
        for (size_t i = at; i < at + 32; ++i) {
          const float q = std::clamp(std::round((x[i] - from) / d), 0.0f, 15.0f);
          sum += double(w[i]) * std::pow(double(x[i]) - from - double(d) * q, 2);
        }
        best = std::min(best, sum);
      }
    best_of_all += best;
  }
  EXPECT_LE(squared_error(x, round_trip(DType::Q4_1, x, w.data()).values, w.data()), 1.03 * best_of_all);
}

TEST(QuantizeBlocks, IntegerScalesCostLittle) {
  // The same groups with scales and minima of their own, each a half.
  const Floats x = random_weights(65536, 19, false), w = random_importance(65536, 20);
  const auto error = [&](DType t) { return squared_error(x, round_trip(t, x, w.data()).values, w.data()); };
  EXPECT_LE(error(DType::Q4_K), 1.03 * error(DType::Q4_1));
  EXPECT_LE(error(DType::Q5_K), 1.1 * error(DType::Q5_1));
  // Groups of 16 with a scale of 8 bits: as for q8_0 what counts is how many scales there are to choose from.
  const Floats part(x.begin(), x.begin() + 1024);
  double plain = 0;
  for (size_t at = 0; at < part.size(); at += 16) {
    const auto [low, high] = std::minmax_element(part.begin() + long(at), part.begin() + long(at) + 16);
    double best = std::numeric_limits<double>::infinity();
    for (int step = 0; step < 200; ++step) {
      const float d = std::max(*high, -*low) / 31.5f * (0.85f + 0.0015f * float(step));
      double sum = 0;
      for (size_t i = at; i < at + 16; ++i) sum += double(w[i]) * std::pow(double(x[i]) - double(d) * std::clamp(std::round(x[i] / d), -32.0f, 31.0f), 2);
      best = std::min(best, sum);
    }
    plain += best;
  }
  EXPECT_LE(squared_error(part, round_trip(DType::Q6_K, part, w.data()).values, w.data()), 1.35 * plain);
}

TEST(QuantizeBlocks, AGridIsFoundAgain) {
  std::mt19937 rng(13);
  for (DType t : {DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0}) {
    const Format f = format_of(t);
    const int codes = 1 << f.bits, lo = f.has_min ? 0 : t == DType::Q8_0 ? -127 : -codes / 2, hi = f.has_min ? codes - 1 : codes / 2 - 1;
    Floats x(320);
    for (size_t at = 0; at < x.size(); at += 32) {
      const float d = f16_to_f32(f32_to_f16(0.01f + 0.001f * float(rng() % 100))), m = f.has_min ? f16_to_f32(f32_to_f16(-0.3f)) : 0;
      for (size_t i = at; i < at + 32; ++i) x[i] = float(lo + int(rng() % unsigned(hi - lo + 1))) * d + m;
      x[at] = float(lo) * d + m;
      x[at + 1] = float(hi) * d + m;
    }
    const Floats y = round_trip(t, x).values;
    for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], x[i]) << ir::info(t).name << " " << i;
  }
}

TEST(QuantizeBlocks, OddBlocks) {
  std::mt19937 rng(14);
  for (DType t : block_types()) {
    SCOPED_TRACE(ir::info(t).name);
    const int codes = 1 << format_of(t).bits;
    EXPECT_EQ(round_trip(t, Floats(256, 0)).values, Floats(256, 0));
    for (float constant : {3.7f, -3.7f, 0.2f, 60000.0f}) {
      const Floats y = round_trip(t, Floats(256, constant)).values;
      for (float v : y) ASSERT_NEAR(v / constant, 1, 0x1p-10) << constant;
    }
    // One value far above the others: it is kept, and they do not become infinite.
    Floats x = random_weights(256, 15, false);
    x[77] = kLargestWeight;
    Floats y = round_trip(t, x).values;
    EXPECT_NEAR(y[77] / x[77], 1, 0.02);
    for (size_t i = 0; i < 256; ++i) ASSERT_LE(std::fabs(y[i] - x[i]), kLargestWeight / float(codes)) << i;
    // Smaller than any scale, among them denormals, and small ones that only the smallest scales can hold.
    for (float tiny : {1e-45f, 1e-39f, 1e-20f, 1e-8f, 2e-7f}) {
      for (float& v : x) v = tiny * float(int(rng() % 201) - 100) / 100;
      const Outcome o = round_trip(t, x);
      for (size_t i = 0; i < 256; ++i) ASSERT_LE(std::fabs(o.values[i]), 2 * tiny) << tiny;
      ASSERT_TRUE(std::isfinite(o.reported));
      double total = 0;
      for (float v : x) total += double(v) * v;
      ASSERT_LE(squared_error(x, o.values), total * (1 + 1e-6)) << tiny;   // no worse than zeros
    }
    // Columns that do not matter, all or some.
    x = random_weights(256, 16, true);
    const Floats none(256, 0);
    y = round_trip(t, x, none.data()).values;
    EXPECT_LE(squared_error(x, y), 1.5 * squared_error(x, round_trip(t, x).values));
    Floats some(256, 0);
    for (size_t i = 0; i < 256; i += 3) some[i] = 1;
    y = round_trip(t, x, some.data()).values;
    for (float v : y) ASSERT_TRUE(std::isfinite(v));
    for (int sign : {1, -1}) {
      for (size_t i = 0; i < 256; ++i) x[i] = float(sign) * (0.5f + float(rng() % 1000) / 1000);
      y = round_trip(t, x).values;
      for (size_t i = 0; i < 256; ++i) ASSERT_NEAR(y[i], x[i], 1.5f * 2 / float(codes)) << sign;
    }
  }
}

TEST(QuantizeBlocks, BlocksDoNotDependOnTheirNeighbours) {
  const Floats x = random_weights(2048, 17, true), w = random_importance(2048, 18);
  for (DType t : block_types()) {
    const Floats all = round_trip(t, x, w.data()).values;
    for (size_t at = 0; at < x.size(); at += 256) {
      const Floats part(x.begin() + long(at), x.begin() + long(at) + 256);
      EXPECT_TRUE(std::equal(part.size() ? all.begin() + long(at) : all.end(), all.begin() + long(at) + 256, round_trip(t, part, w.data() + at).values.begin()))
          << ir::info(t).name;
    }
  }
}

}  // namespace
}  // namespace prism::quantize
