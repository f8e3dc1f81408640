// What comparing models says, against sums in long double, distributions worked out by hand, and sessions that do as they are told.
#include "analysis/quality.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "analysis/divergence.h"
#include "analysis/lockstep.h"

namespace prism::analysis {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();

using Row = std::vector<float>;

Comparison must_compare(const Row& base, const Row& variant, int32_t next = -1) {
  const auto c = compare(base, variant, next);
  EXPECT_TRUE(c) << c.message();
  return c ? *c : Comparison{.kl = -1};
}

void expect_refused(const Result<Comparison>& c, const std::vector<std::string>& words) {
  ASSERT_FALSE(c);
  for (const std::string& w : words) EXPECT_NE(c.message().find(w), std::string::npos) << c.message();
}

Row random_row(size_t n, float scale, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, scale);
  Row row(n);
  for (float& x : row) x = normal(generator);
  return row;
}

Row plus(Row row, const Row& other) {
  for (size_t i = 0; i < row.size(); ++i) row[i] += other[i];
  return row;
}

std::vector<long double> log_probabilities(const Row& row) {
  const float top = *std::max_element(row.begin(), row.end());
  long double sum = 0;
  for (float x : row) sum += std::exp((long double)x - top);
  std::vector<long double> logs;
  for (float x : row) logs.push_back((long double)x - top - std::log(sum));
  return logs;
}

long double divergence(const Row& base, const Row& variant) {
  const auto p = log_probabilities(base), q = log_probabilities(variant);
  long double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += std::exp(p[i]) * (p[i] - q[i]);
  return sum;
}

TEST(Divergence, IsThatOfLongDoubles) {
  for (const size_t n : {1u, 2u, 7u, 8u, 9u, 31u, 257u, 4099u})
    for (const auto& [scale, change] : {std::pair(3.0f, 1.0f), {3.0f, 1e-2f}, {10.0f, 1e-3f}, {0.1f, 5.0f}, {40.0f, 40.0f}, {300.0f, 100.0f}}) {
      SCOPED_TRACE(testing::Message() << n << " logits of " << scale << ", changed by " << change);
      const Row base = random_row(n, scale, uint32_t(n)), variant = plus(base, random_row(n, change, uint32_t(n) + 1));
      const auto next = int32_t(n / 2);
      const Comparison c = must_compare(base, variant, next);
      const double expected = double(divergence(base, variant));
      EXPECT_NEAR(c.kl, expected, 1e-13 * (scale + change) + 1e-12 * expected);
      EXPECT_NEAR(c.base_loss, double(-log_probabilities(base)[n / 2]), 1e-12 * scale * 10);
      EXPECT_NEAR(c.variant_loss, double(-log_probabilities(variant)[n / 2]), 1e-12 * (scale + change) * 10);
      const auto top = [](const Row& r) { return std::max_element(r.begin(), r.end()) - r.begin(); };
      EXPECT_EQ(c.same_top, top(base) == top(variant));
    }
}

// p = e^x / (1 + e^x) against q = 1/2.
TEST(Divergence, OfCoinsByHand) {
  for (const float x : {0.0f, 0.5f, -2.0f, 30.0f}) {
    const double p = 1 / (1 + std::exp(-double(x))), other = 1 / (1 + std::exp(double(x)));
    const double expected = p * std::log(2 * p) + other * std::log(2 * other);
    EXPECT_NEAR(must_compare({x, 0}, {0, 0}).kl, expected, 1e-13) << x;
    EXPECT_NEAR(must_compare({x + 8, 8}, {-16, -16}).kl, expected, 1e-13) << x << ", shifted";
  }
  // Three against one: 0.75 log(1.5) + 0.25 log(0.5), and the loss of each.
  const Comparison c = must_compare({std::log(3.0f), 0}, {0, 0}, 1);
  EXPECT_NEAR(c.kl, 0.1308120343, 1e-7);
  EXPECT_NEAR(c.base_loss, std::log(4.0), 1e-7);
  EXPECT_NEAR(c.variant_loss, std::log(2.0), 1e-15);
}

TEST(Divergence, OfEqualRowsIsExactlyNothing) {
  for (const size_t n : {1u, 8u, 1021u, 49152u}) {
    const Row row = random_row(n, 7, 5);
    const Comparison c = must_compare(row, row, 0);
    EXPECT_EQ(c.kl, 0);
    EXPECT_EQ(c.base_loss, c.variant_loss);
    EXPECT_TRUE(c.same_top);
  }
}

TEST(Divergence, IsNeverNegative) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const Row base = random_row(333, 8, seed);
    Row variant = base;
    for (float& x : variant) x = std::nextafter(x, seed % 2 ? 100.0f : -100.0f);
    EXPECT_GE(must_compare(base, variant).kl, 0);
  }
}

TEST(Divergence, LowestIdWinsATie) {
  EXPECT_TRUE(must_compare({1, 5, 5, 0}, {1, 5, 4, 0}).same_top);
  EXPECT_FALSE(must_compare({1, 5, 5, 0}, {1, 4, 5, 0}).same_top);
  EXPECT_TRUE(std::isnan(must_compare({1, 2}, {1, 2}).base_loss));
}

TEST(Divergence, LogitsThatAreNoNumbersAreNamed) {
  for (const float bad : {kNan, kInfinity, -kInfinity})
    for (const size_t at : {0u, 17u, 36u}) {
      const Row good = random_row(37, 2, 1);
      Row row = good;
      row[at] = bad;
      const std::string id = "logit of id " + std::to_string(at) + " of the ";
      expect_refused(compare(row, good, 1), {id + "base: found", "expected a finite number"});
      expect_refused(compare(good, row, 1), {id + "variant: found", "expected a finite number"});
      expect_refused(compare(row, row, 1), {id + "base: found"});
    }
  expect_refused(compare({}, {}, -1), {"found 0 of the base and 0"});
  expect_refused(compare(Row{1, 2}, Row{1, 2, 3}, -1), {"found 2 of the base and 3 of the variant"});
  expect_refused(compare(Row{1, 2}, Row{1, 2}, 2), {"next id: found 2"});
}

double mean(const std::vector<double>& v) {
  double sum = 0;
  for (double x : v) sum += x;
  return sum / double(v.size());
}

/// The standard deviation over the root of how many there are.
double standard_error(const std::vector<double>& v) {
  double sum = 0;
  for (double x : v) sum += (x - mean(v)) * (x - mean(v));
  return std::sqrt(sum / double(v.size() - 1)) / std::sqrt(double(v.size()));
}

TEST(Summary, IsThatOfAllNumbersAtOnce) {
  std::mt19937 generator(3);
  std::exponential_distribution<double> draw(0.4);
  std::vector<double> kl, top, base, variant, change;
  Summary s;
  for (int i = 0; i < 1001; ++i) {
    Comparison c{.kl = 0.01 * draw(generator), .same_top = i % 10 != 0};
    kl.push_back(c.kl);
    top.push_back(c.same_top);
    if (i % 7) {
      c.base_loss = draw(generator);
      c.variant_loss = c.base_loss + 0.1 * (draw(generator) - 2);
      base.push_back(c.base_loss);
      variant.push_back(c.variant_loss);
      change.push_back(c.variant_loss - c.base_loss);
    }
    s.add(c);
  }
  const auto expect = [](const Estimate& e, double value, double error) {
    EXPECT_NEAR(e.value, value, 1e-12 * value);
    EXPECT_NEAR(e.error, error, 1e-12 * value);
  };
  EXPECT_EQ(s.positions(), 1001u);
  EXPECT_EQ(s.predictions(), base.size());
  expect(s.kl(), mean(kl), standard_error(kl));
  expect(s.same_top(), mean(top), standard_error(top));
  expect(s.base_perplexity(), std::exp(mean(base)), std::exp(mean(base)) * standard_error(base));
  expect(s.variant_perplexity(), std::exp(mean(variant)), std::exp(mean(variant)) * standard_error(variant));
  EXPECT_NEAR(s.perplexity_change().value, std::exp(mean(variant)) / std::exp(mean(base)) - 1, 1e-12);
  EXPECT_NEAR(s.perplexity_change().error, (1 + s.perplexity_change().value) * standard_error(change), 1e-12);
  EXPECT_LT(s.perplexity_change().error, 0.5 * s.base_perplexity().error / s.base_perplexity().value) << "what both share does not count";
  std::sort(kl.begin(), kl.end());
  EXPECT_FLOAT_EQ(float(s.kl_quantile(0)), float(kl[0]));
  EXPECT_FLOAT_EQ(float(s.kl_quantile(0.5)), float(kl[500]));
  EXPECT_FLOAT_EQ(float(s.kl_quantile(0.999)), float(kl[999]));
  EXPECT_FLOAT_EQ(float(s.kl_quantile(0.9995)), float((kl[999] + kl[1000]) / 2));
  EXPECT_FLOAT_EQ(float(s.kl_quantile(1)), float(kl[1000]));
}

TEST(Summary, SaysNothingOfTooLittle) {
  Summary s;
  EXPECT_TRUE(std::isnan(s.kl().value) && std::isnan(s.kl_quantile(0.5)) && std::isnan(s.base_perplexity().value));
  s.add({.kl = 0.25, .same_top = true});
  EXPECT_EQ(s.kl().value, 0.25);
  EXPECT_EQ(s.kl_quantile(0.999), 0.25);
  EXPECT_TRUE(std::isnan(s.kl().error) && std::isnan(s.perplexity_change().value));
}

TEST(Summary, PositionsFallIntoBuckets) {
  PositionSummaries s;
  for (const int64_t position : {2048, 0, 511, 512, 1023, 1024, 2047, 511}) s.add(position, {.kl = double(position)});
  std::vector<std::vector<int64_t>> found;
  for (const auto& b : s.buckets()) found.push_back({b.begin, b.end, int64_t(b.summary.positions()), int64_t(b.summary.kl_quantile(1))});
  EXPECT_EQ(found, (std::vector<std::vector<int64_t>>{{0, 512, 3, 511}, {512, 1024, 2, 1023}, {1024, 2048, 2, 2047}, {2048, 4096, 1, 2048}}));
  EXPECT_EQ(s.all().positions(), 8u);
}

/// Its logits depend on every id in its cache, on where it stands, and on which kernels put it there.
class Told final : public rt::Session {
 public:
  static constexpr int64_t kVocab = 11;
  float fed_weight = 1, bad = 0;   ///< what counts for an id that was fed; what logit 4 becomes at position 5
  std::vector<std::string> calls;

  Status feed(std::span<const int32_t> ids) override {
    note("feed", ids);
    for (int32_t id : ids) cache_.push_back(float(id) * fed_weight);
    return ok();
  }
  Status score(std::span<const int32_t> ids, const std::function<void(size_t, std::span<const float>)>& row) override {
    note("score", ids);
    for (size_t i = 0; i < ids.size(); ++i) {
      cache_.push_back(float(ids[i]));
      Row logits = logits_after(cache_);
      if (cache_.size() == 6 && bad != 0) logits[4] = bad;
      row(i, logits);
    }
    return ok();
  }
  int64_t rewind(int64_t positions) override {
    calls.push_back("rewind " + std::to_string(positions));
    cache_.resize(size_t(positions));
    return positions;
  }
  Status step(int32_t) override { return error("step: not expected"); }
  Result<std::span<const float>> logits() override { return error("logits: not expected"); }
  int64_t position() const override { return int64_t(cache_.size()); }
  rt::KvStats kv_stats() const override { return {}; }

  static Row logits_after(const std::vector<float>& cache) {
    Row row(kVocab);
    for (size_t j = 0; j < cache.size(); ++j)
      for (size_t c = 0; c < row.size(); ++c) row[c] += 0.5f * std::sin(cache[j] * float(c + 1) + float(j));
    return row;
  }

 private:
  void note(const char* what, std::span<const int32_t> ids) {
    std::string call = what;
    for (int32_t id : ids) call += " " + std::to_string(id);
    calls.push_back(call);
  }
  std::vector<float> cache_;
};

struct Pair {
  Runner base{"base.gguf", std::make_unique<Told>()}, variant{"variant.gguf", std::make_unique<Told>()};
  Told& told(Runner& r) { return static_cast<Told&>(*r.session); }
  Result<LockstepResult> run(const std::vector<int32_t>& ids, const LockstepOptions& options) { return run_in_lockstep(base, {&variant, 1}, ids, options); }
};

std::vector<int32_t> some_ids(size_t n) {
  std::vector<int32_t> ids(n);
  for (size_t i = 0; i < n; ++i) ids[i] = int32_t((i * i + 3 * i + 1) % Told::kVocab);
  return ids;
}

TEST(Lockstep, ContextsBeginEmptyWithBosAndEndUnknown) {
  Pair pair;
  const auto ids = some_ids(25);
  std::vector<std::pair<int64_t, int64_t>> progress;
  const auto result = pair.run(ids, {.context = 10, .chunk = 4, .bos = 7, .threads = 2, .progress = [&](int64_t done, int64_t total) { progress.emplace_back(done, total); }});
  ASSERT_TRUE(result) << result.message();
  EXPECT_EQ(result->contexts, 3);    // 9 + 9 + 7 ids
  EXPECT_EQ(result->positions, 28);
  EXPECT_EQ(progress.front(), std::pair(int64_t(4), int64_t(28)));
  EXPECT_EQ(progress.back(), std::pair(int64_t(28), int64_t(28)));
  const Summary& s = result->variants[0].summaries.all();
  EXPECT_EQ(s.positions(), 28u);
  EXPECT_EQ(s.predictions(), 25u);
  EXPECT_EQ(s.kl_quantile(1), 0);
  EXPECT_EQ(s.same_top().value, 1);
  EXPECT_EQ(s.perplexity_change().value, 0);

  long double loss = 0;
  for (size_t begin = 0; begin < ids.size(); begin += 9) {
    std::vector<float> cache = {7};
    for (size_t i = begin; i < std::min(ids.size(), begin + 9); ++i) {
      loss -= log_probabilities(Told::logits_after(cache))[size_t(ids[i])];
      cache.push_back(float(ids[i]));
    }
  }
  EXPECT_NEAR(s.base_perplexity().value, double(std::exp(loss / 25)), 1e-10);
  EXPECT_EQ(pair.told(pair.base).calls, pair.told(pair.variant).calls);
  EXPECT_EQ(pair.told(pair.base).calls[1], "score 7 1 5 0");
  EXPECT_EQ(std::count(pair.told(pair.base).calls.begin(), pair.told(pair.base).calls.end(), "rewind 0"), 3);
}

TEST(Lockstep, AFedRunnerReadsChunksOnceTheyAreScored) {
  Pair pair;
  pair.variant.fed = true;
  pair.told(pair.variant).fed_weight = 1.01f;
  const auto ids = some_ids(10);
  const auto result = pair.run(ids, {.context = 100, .chunk = 4, .threads = 1});
  ASSERT_TRUE(result) << result.message();
  EXPECT_EQ(pair.told(pair.base).calls, (std::vector<std::string>{"rewind 0", "score 1 5 0 8", "score 7 8 0 5", "score 1 10"}));
  EXPECT_EQ(pair.told(pair.variant).calls,
            (std::vector<std::string>{"rewind 0", "score 1 5 0 8", "rewind 0", "feed 1 5 0 8", "score 7 8 0 5", "rewind 4", "feed 7 8 0 5", "score 1 10"}));

  std::vector<float> base, variant;
  std::vector<double> kl;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i % 4 == 0)
      for (size_t j = 0; j < i; ++j) variant[j] = float(ids[j]) * 1.01f;  // what was scored is replaced
    base.push_back(float(ids[i]));
    variant.push_back(float(ids[i]));
    kl.push_back(double(divergence(Told::logits_after(base), Told::logits_after(variant))));
  }
  EXPECT_EQ(kl[3], 0);
  EXPECT_GT(kl[4], 1e-6);
  EXPECT_NEAR(result->variants[0].summaries.all().kl().value, mean(kl), 1e-12);
}

TEST(Lockstep, ChunksLargerThanARowOfLogitsAreScoredInPieces) {
  Pair pair;
  const auto ids = some_ids(40);
  const auto result = pair.run(ids, {.context = 64, .chunk = 35, .threads = 3});
  ASSERT_TRUE(result) << result.message();
  std::vector<size_t> sizes;
  for (const std::string& call : pair.told(pair.base).calls)
    if (call.starts_with("score")) sizes.push_back(size_t(std::count(call.begin(), call.end(), ' ')));
  EXPECT_EQ(sizes, (std::vector<size_t>{16, 16, 3, 5}));
}

TEST(Lockstep, CountsFromAPositionOn) {
  Pair pair;
  const auto result = pair.run(some_ids(25), {.context = 10, .from = 6});
  ASSERT_TRUE(result) << result.message();
  EXPECT_EQ(result->variants[0].summaries.all().positions(), 4u + 4 + 0);
  EXPECT_EQ(result->variants[0].summaries.all().predictions(), 3u + 3 + 0);
}

TEST(Lockstep, ErrorsSayWhereTheyAre) {
  const auto refused = [](Pair& pair, const LockstepOptions& options, const std::vector<std::string>& words, const std::vector<int32_t>& ids = some_ids(25)) {
    const auto result = pair.run(ids, options);
    ASSERT_FALSE(result) << words[0];
    for (const std::string& w : words) EXPECT_NE(result.message().find(w), std::string::npos) << result.message();
  };
  Pair pair;
  refused(pair, {}, {"found none"}, {});
  refused(pair, {.context = 0}, {"context: found 0 positions, expected at least 1"});
  refused(pair, {.context = 1, .bos = 3}, {"context: found 1 positions, expected at least 2"});
  refused(pair, {.chunk = 0}, {"chunk: found 0"});
  refused(pair, {.context = 8, .from = 8}, {"found position 8, expected 0 to 7"});
  pair.told(pair.variant).bad = kNan;
  refused(pair, {.context = 100}, {"base.gguf and variant.gguf: context 0, position 5: logit of id 4 of the variant: found nan"});
}

}  // namespace
}  // namespace prism::analysis
