// Factors of keys' channels: what they do to scores of keys that are rounded, and their text.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "ir/hadamard.h"
#include "ir/key_balance.h"
#include "ir/kv_pages.h"

namespace prism::ir {
namespace {

constexpr int64_t kSize = 64, kTokens = rt::kKvPage;

/// Normal values with a deviation for each channel, [tokens][channels].
std::vector<float> values(const std::vector<double>& deviations, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> all;
  for (int64_t t = 0; t < kTokens; ++t)
    for (double d : deviations) all.push_back(float(d) * normal(rng));
  return all;
}

/// Mean square of what rounding keys that are multiplied by factors and rotated does to scores.
double score_error(std::vector<float> keys, const std::vector<float>& queries, const std::vector<double>& factors) {
  std::vector<float> rounded = keys;
  for (int64_t t = 0; t < kTokens; ++t) {
    float* row = &rounded[size_t(t * kSize)];
    for (int64_t i = 0; i < kSize; ++i) row[i] *= float(factors[size_t(i)]);
    hadamard_row(row, row, kSize);
  }
  demote_page(rounded.data(), kSize, kSize, 4, true);
  double error = 0;
  for (int64_t t = 0; t < kTokens; ++t) {
    float* row = &rounded[size_t(t * kSize)];
    hadamard_row(row, row, kSize);
    for (int64_t q = 0; q < kTokens; ++q) {
      double score = 0;
      for (int64_t i = 0; i < kSize; ++i) score += queries[size_t(q * kSize + i)] * (double(row[i]) / factors[size_t(i)] - keys[size_t(t * kSize + i)]);
      error += score * score / double(kTokens * kTokens);
    }
  }
  return error;
}

TEST(KeyBalance, ScoresMoveLessThanWithOtherFactors) {
  std::mt19937 rng(3);
  std::uniform_real_distribution<double> octaves(-2, 2);
  std::vector<double> key_deviations, query_deviations, key_squares, query_squares;
  for (int64_t i = 0; i < kSize; ++i) {
    key_deviations.push_back(std::exp2(octaves(rng)));
    query_deviations.push_back(std::exp2(octaves(rng)));
    key_squares.push_back(key_deviations.back() * key_deviations.back());
    query_squares.push_back(query_deviations.back() * query_deviations.back());
  }
  const std::vector<float> keys = values(key_deviations, 1), queries = values(query_deviations, 2);
  const std::vector<double> best = key_balance(key_squares, query_squares);
  double logs = 0;
  for (double f : best) logs += std::log(f);
  EXPECT_NEAR(logs, 0, 1e-9);
  // Cauchy and Schwarz say by how much: the square of the sum of |k||q| over the product of the sums of squares.
  double products = 0, of_keys = 0, of_queries = 0;
  for (int64_t i = 0; i < kSize; ++i) {
    products += key_deviations[size_t(i)] * query_deviations[size_t(i)];
    of_keys += key_squares[size_t(i)];
    of_queries += query_squares[size_t(i)];
  }
  const double alone = score_error(keys, queries, std::vector<double>(kSize, 1.0)), balanced = score_error(keys, queries, best);
  EXPECT_NEAR(balanced / alone, products * products / (of_keys * of_queries), 0.15 * balanced / alone);
  EXPECT_LT(balanced, 0.6 * alone);
  // Neither more nor less of it is better.
  for (double power : {0.5, 1.5}) {
    std::vector<double> other;
    for (double f : best) other.push_back(std::pow(f, power));
    EXPECT_GT(score_error(keys, queries, other), 1.05 * balanced) << power;
  }
  const auto read = parse_key_balance(key_balance_text(best));
  ASSERT_TRUE(read) << read.message();
  EXPECT_LT(score_error(keys, queries, *read), 1.1 * balanced);
}

TEST(KeyBalance, ChannelsThatAreZeroAreLeftAlone) {
  EXPECT_EQ(key_balance(std::vector<double>{4, 0, 1}, std::vector<double>{4, 9, 0}), (std::vector<double>{1, 1, 1}));
  EXPECT_EQ(key_balance({}, {}), std::vector<double>());
}

TEST(KeyBalance, TextHasQuartersOfOctavesAndEnds) {
  EXPECT_EQ(key_balance_text(std::vector<double>{1, std::exp2(0.25), 0.5, 1e9, 1e-9}), "ghc_A");
  const auto read = parse_key_balance("ghc_A");
  ASSERT_TRUE(read) << read.message();
  EXPECT_EQ(*read, (std::vector<double>{1, std::exp2(0.25), 0.5, std::exp2(7.75), std::exp2(-8.0)}));
  EXPECT_EQ(parse_key_balance("gh c").message(), "found ' ', expected letters, digits, - and _");
}

}  // namespace
}  // namespace prism::ir
