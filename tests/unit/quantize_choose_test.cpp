// The choice of formats against all there are.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tools/quantize/choose.h"

namespace prism::quantize {
namespace {

using ir::DType;
using Tensors = std::vector<std::vector<Option>>;

struct Total {
  uint64_t bytes = 0;
  double cost = 0;
};
Total total(const Tensors& tensors, const std::vector<size_t>& chosen) {
  Total t;
  for (size_t i = 0; i < tensors.size(); ++i) {
    t.bytes += tensors[i][chosen[i]].bytes;
    t.cost += tensors[i][chosen[i]].cost;
  }
  return t;
}

/// The least cost within the budget, by trying everything.
double best_cost(const Tensors& tensors, uint64_t budget, size_t from = 0) {
  if (from == tensors.size()) return 0;
  double best = INFINITY;
  for (const Option& o : tensors[from])
    if (o.bytes <= budget) best = std::min(best, o.cost + best_cost(tensors, budget - o.bytes, from + 1));
  return best;
}

Tensors random_tensors(std::mt19937& rng, size_t count) {
  Tensors tensors(count);
  for (auto& options : tensors) {
    const double sensitivity = std::exp(std::normal_distribution<double>(0, 1.5)(rng));
    const uint64_t weights = 64 + rng() % 512;
    for (double bits : {4.5, 5.5, 6.5, 8.5}) options.push_back({DType::Q4_0, uint64_t(bits / 8 * double(weights)), sensitivity * double(weights) * std::pow(4, -bits)});
    std::shuffle(options.begin(), options.end(), rng);
  }
  return tensors;
}

TEST(QuantizeChoose, NearTheBestThereIsAndWithinTheBudget) {
  std::mt19937 rng(1);
  double ratios = 0;
  for (int i = 0; i < 40; ++i) {
    const Tensors tensors = random_tensors(rng, 7);
    uint64_t least = 0, most = 0;
    for (const auto& o : tensors) {
      least += std::ranges::min_element(o, {}, &Option::bytes)->bytes;
      most += std::ranges::max_element(o, {}, &Option::bytes)->bytes;
    }
    for (int step = 0; step <= 10; ++step) {
      const uint64_t budget = least + (most - least) * uint64_t(step) / 10;
      const auto chosen = choose(tensors, budget);
      ASSERT_TRUE(chosen) << chosen.message();
      const Total t = total(tensors, *chosen);
      EXPECT_LE(t.bytes, budget);
      const double ratio = t.cost / best_cost(tensors, budget);
      EXPECT_LE(ratio, 2) << "case " << i << ", step " << step;   // of seven tensors one that does not fit counts
      ratios += ratio / 440;
      EXPECT_TRUE(step != 0 || t.bytes == least);
      EXPECT_TRUE(step != 10 || t.bytes == most);
    }
  }
  EXPECT_LE(ratios, 1.08);
}

TEST(QuantizeChoose, SpendsBytesWhereTheySaveMost) {
  const Tensors tensors = {{{DType::Q4_0, 100, 1.0}, {DType::Q8_0, 200, 0.5}}, {{DType::Q4_0, 100, 3.0}, {DType::Q8_0, 200, 0.1}}};
  EXPECT_EQ(*choose(tensors, 299), (std::vector<size_t>{0, 0}));
  EXPECT_EQ(*choose(tensors, 300), (std::vector<size_t>{0, 1}));
  EXPECT_EQ(*choose(tensors, 399), (std::vector<size_t>{0, 1}));
  EXPECT_EQ(*choose(tensors, 400), (std::vector<size_t>{1, 1}));
}

TEST(QuantizeChoose, PassesOverFormatsThatAreWorseForMore) {
  // The second costs more bytes and more divergence than the first, the third saves less for a byte than the step past it.
  const Tensors tensors = {{{DType::Q4_K, 100, 1.0}, {DType::Q4_0, 110, 2.0}, {DType::Q4_1, 120, 0.95}, {DType::Q5_0, 140, 0.1}}};
  EXPECT_EQ((*choose(tensors, 119))[0], 0u);
  EXPECT_EQ((*choose(tensors, 130))[0], 2u);
  EXPECT_EQ((*choose(tensors, 140))[0], 3u);
}

TEST(QuantizeChoose, ALargeStepIsNotCutOffByCheaperOnes) {
  // Bytes for the small ones save most at first; then the large one's step no longer fits, though it would save more than they did together.
  Tensors tensors = {{{DType::Q5_1, 600, 10.0}, {DType::Q8_0, 850, 1.0}}};
  for (int i = 0; i < 10; ++i) tensors.push_back({{DType::Q4_0, 45, 1.5}, {DType::Q8_0, 55, 1.1}});
  const auto chosen = choose(tensors, 600 + 450 + 260);
  EXPECT_EQ((*chosen)[0], 1u);
  EXPECT_EQ(total(tensors, *chosen).bytes, 600u + 450 + 260);
  EXPECT_EQ((*choose(tensors, 600 + 450 + 240))[0], 0u);
}

TEST(QuantizeChoose, ABudgetBelowTheSmallestIsRefused) {
  const Tensors tensors = {{{DType::Q4_0, 100, 1.0}, {DType::Q8_0, 200, 0.5}}, {{DType::Q4_0, 50, 3.0}}};
  const auto chosen = choose(tensors, 149);
  ASSERT_FALSE(chosen);
  EXPECT_NE(chosen.message().find("found room for 149 bytes, expected at least the 150"), std::string::npos) << chosen.message();
  EXPECT_TRUE(choose(tensors, 150));
  EXPECT_TRUE(choose({}, 0)->empty());
}

}  // namespace
}  // namespace prism::quantize
