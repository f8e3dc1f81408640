#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace prism::rt {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

using Logits = std::vector<float>;

Sampler make(const SamplerOptions& o) {
  auto s = Sampler::create(o);
  EXPECT_TRUE(s) << s.message();
  return *std::move(s);
}

/// The distribution the options describe, computed step by step on sorted probabilities.
std::vector<double> reference(const Logits& logits, const SamplerOptions& o, const std::vector<int32_t>& recent = {}) {
  struct Candidate {
    double logit, p;
    size_t id;
  };
  std::vector<Candidate> all;
  for (size_t i = 0; i < logits.size(); ++i) {
    double logit = logits[i];
    if (std::find(recent.begin(), recent.end(), int32_t(i)) != recent.end())
      logit = logit > 0 ? logit / o.repeat_penalty : logit * o.repeat_penalty;
    all.push_back({logit / o.temperature, 0, i});
  }
  std::stable_sort(all.begin(), all.end(), [](auto& a, auto& b) { return a.logit > b.logit; });
  if (o.top_k > 0 && size_t(o.top_k) < all.size()) all.resize(size_t(o.top_k));
  const auto normalise = [&] {
    double sum = 0;
    for (auto& c : all) sum += c.p;
    for (auto& c : all) c.p /= sum;
  };
  for (auto& c : all) c.p = std::exp(c.logit - all[0].logit);
  normalise();
  double sum = 0;
  size_t kept = 0;
  while (kept < all.size() && (sum < o.top_p || o.top_p == 1)) sum += all[kept++].p;
  all.resize(kept);
  const double least = o.min_p * all[0].p;
  std::erase_if(all, [&](auto& c) { return c.p < least; });
  normalise();
  std::vector<double> p(logits.size());
  for (const auto& c : all) p[c.id] = c.p;
  return p;
}

/// Draws many tokens: what cannot come never comes, the rest as often as it should within 6 standard deviations.
void check_distribution(const Logits& logits, SamplerOptions o, const std::vector<int32_t>& recent = {}) {
  constexpr int kDraws = 20000;
  const auto p = reference(logits, o, recent);
  o.seed = 1234;
  Sampler s = make(o);
  for (int32_t t : recent) s.accept(t);
  std::vector<int> count(logits.size());
  for (int i = 0; i < kDraws; ++i) ++count[size_t(s.sample(logits))];
  for (size_t i = 0; i < p.size(); ++i) {
    const double slack = 6 * std::sqrt(kDraws * p[i] * (1 - p[i])) + 1e-9;
    EXPECT_NEAR(count[i], kDraws * p[i], slack) << "token " << i << ", top-k " << o.top_k << ", top-p " << o.top_p;
  }
}

const Logits kLogits = {1.0f, 2.5f, -0.5f, 2.5f, 0.0f, -3.0f, 1.7f};

TEST(Sampler, GreedyTakesTheLargestAndOfTiesTheFirst) {
  Sampler s = make({});
  EXPECT_EQ(s.sample(kLogits), 1);
  EXPECT_EQ(s.sample(Logits(9, 0.5f)), 0);
  EXPECT_EQ(s.sample(Logits{-5, -4, -4.5}), 1);
  EXPECT_EQ(s.sample(Logits{3}), 0);
}

TEST(Sampler, Distribution) {
  for (float t : {0.3f, 1.0f, 2.0f}) check_distribution(kLogits, {.temperature = t});
  for (int k : {1, 2, 3, 6, 7, 100}) check_distribution(kLogits, {.temperature = 1, .top_k = k});
  for (float p : {0.01f, 0.3f, 0.5f, 0.9f, 0.999f}) check_distribution(kLogits, {.temperature = 1, .top_p = p});
  for (float m : {0.0f, 0.01f, 0.2f, 0.5f, 1.0f}) check_distribution(kLogits, {.temperature = 1, .min_p = m});
  check_distribution(kLogits, {.temperature = 0.7f, .top_k = 5, .top_p = 0.8f, .min_p = 0.1f});
  check_distribution(kLogits, {.temperature = 1.5f, .top_k = 4, .top_p = 0.6f, .min_p = 0.4f});
  check_distribution(kLogits, {.temperature = 1, .repeat_penalty = 1.8f}, {1, 5, 1, 1, 6});
  check_distribution(kLogits, {.temperature = 1, .top_k = 3, .repeat_penalty = 0.5f}, {0, 2});
}

/// On large vocabularies exactly the tokens that the filters leave are drawn.
TEST(Sampler, FiltersAgreeWithTheReferenceOnManyTokens) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0, 2);
  for (int round = 0; round < 12; ++round) {
    Logits logits(2000);
    for (float& x : logits) x = normal(random);
    SamplerOptions o{.temperature = 0.8f + 0.1f * float(round % 5), .seed = uint64_t(round)};
    if (round % 2) o.top_k = 5 + round * 13;
    if (round % 3) o.top_p = 0.5f + 0.02f * float(round);
    if (round % 5 == 1) o.min_p = 0.05f;
    const auto p = reference(logits, o);
    Sampler s = make(o);
    std::vector<double> share(logits.size());
    constexpr int kDraws = 2000;
    for (int i = 0; i < kDraws; ++i) {
      const auto id = size_t(s.sample(logits));
      ASSERT_GT(p[id], 0) << "round " << round << " token " << id;
      share[id] += 1.0 / kDraws;
    }
    // The mean distance of a fair sample is at most sqrt(kept / (2 pi draws)), and it hardly varies.
    const double kept = double(std::count_if(p.begin(), p.end(), [](double x) { return x > 0; }));
    double distance = 0;
    for (size_t i = 0; i < p.size(); ++i) distance += std::abs(share[i] - p[i]) / 2;
    EXPECT_LT(distance, 0.5 * std::sqrt(kept / kDraws)) << "round " << round;
  }
}

TEST(Sampler, TopPLongerThanOneSortedPiece) {
  check_distribution(Logits(300, 1.0f), {.temperature = 1, .top_p = 0.9f});
}

TEST(Sampler, SameSeedSameTokensOnEveryMachine) {
  Logits logits(100);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = float((i * 37) % 100) / 25;
  const auto draw = [&](uint64_t seed) {
    Sampler s = make({.temperature = 1, .top_k = 50, .top_p = 0.95f, .seed = seed});
    std::vector<int32_t> out;
    for (int i = 0; i < 12; ++i) out.push_back(s.sample(logits));
    return out;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
  EXPECT_EQ(draw(42), (std::vector<int32_t>{54, 70, 67, 99, 88, 2, 21, 37, 75, 59, 67, 89}));
}

TEST(Sampler, RepetitionPenalty) {
  const Logits logits = {2.0f, 1.9f, -1.0f};
  Sampler s = make({.repeat_penalty = 1.2f, .repeat_window = 2});
  EXPECT_EQ(s.sample(logits), 0);
  s.accept(0);
  s.accept(0);  // twice, penalised once: 2/1.2 = 1.67 < 1.9, and 2/1.44 too
  EXPECT_EQ(s.sample(logits), 1);
  s.accept(1);
  EXPECT_EQ(s.sample(logits), 0);  // 1.67 against 1.58
  s.accept(1);                     // 0 leaves the window
  EXPECT_EQ(s.sample(logits), 0);
  s.accept(-1);
  s.accept(99);  // not in the vocabulary: no effect, no harm
  EXPECT_EQ(s.sample(logits), 0);
  Sampler once = make({.repeat_penalty = 1.3f});
  for (int i = 0; i < 50; ++i) once.accept(0);
  EXPECT_EQ(once.sample(Logits{2.0f, 1.5f}), 0);  // 1.538; penalised again and again it would lose
  Sampler negative = make({.repeat_penalty = 2});
  negative.accept(0);
  EXPECT_EQ(negative.sample(Logits{-1.0f, -1.5f}), 1);  // -2
}

TEST(Sampler, NotANumberAndInfinities) {
  for (float temperature : {0.0f, 1.0f}) {
    for (int k : {0, 2}) {
      Sampler s = make({.temperature = temperature, .top_k = k, .top_p = 0.99f, .repeat_penalty = 1.1f, .seed = 3});
      s.accept(0);
      for (int i = 0; i < 50; ++i) {
        EXPECT_EQ(s.sample(Logits{kNan, kNan, -4, kNan}), 2);
        EXPECT_EQ(s.sample(Logits{-kInf, -kInf, -1e30f, -kInf}), 2);
        EXPECT_EQ(s.sample(Logits{kNan, kInf, 1, 2}), 1);
        EXPECT_EQ(s.sample(Logits{kNan, -kInf, kNan}), 1);
        EXPECT_EQ(s.sample(Logits{kNan, kNan}), 0);
        EXPECT_EQ(s.sample(Logits{-kInf, -kInf}), 0);
        EXPECT_NE(s.sample(Logits{5, kNan, 5, kNan}), 1);
      }
    }
  }
  Sampler s = make({.temperature = 1});
  std::vector<int> count(3);
  for (int i = 0; i < 200; ++i) ++count[size_t(s.sample(Logits{kInf, 0, kInf}))];
  EXPECT_GT(count[0], 50);
  EXPECT_EQ(count[1], 0);
  EXPECT_GT(count[2], 50);
}

TEST(Sampler, ExtremeTemperaturesAndValues) {
  EXPECT_EQ(kLogits[size_t(make({.temperature = 1e-38f}).sample(kLogits))], 2.5f);
  const Logits wide = {std::numeric_limits<float>::max(), -std::numeric_limits<float>::max()};
  EXPECT_EQ(make({.temperature = 1}).sample(wide), 0);
  check_distribution(kLogits, {.temperature = 1e30f});
}

TEST(Sampler, OptionsAreChecked) {
  const std::pair<SamplerOptions, const char*> cases[] = {
      {{.temperature = -1}, "temperature: found -1"},   {{.temperature = kNan}, "temperature"},
      {{.temperature = kInf}, "temperature"},           {{.top_k = -1}, "top-k: found -1"},
      {{.top_p = 0}, "top-p: found 0"},                 {{.top_p = 1.5f}, "top-p: found 1.5"},
      {{.top_p = kNan}, "top-p"},                       {{.min_p = -0.1f}, "min-p: found -0.1"},
      {{.min_p = 1.1f}, "min-p: found 1.1"},            {{.repeat_penalty = 0}, "repetition penalty: found 0"},
      {{.repeat_penalty = kNan}, "repetition penalty"}, {{.repeat_window = -1}, "repetition window: found -1"}};
  for (const auto& [options, text] : cases) {
    const auto s = Sampler::create(options);
    ASSERT_FALSE(s) << text;
    EXPECT_NE(s.message().find(text), std::string::npos) << s.message();
  }
}

}  // namespace
}  // namespace prism::rt
