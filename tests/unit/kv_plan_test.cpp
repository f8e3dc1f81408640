// Choosing bits of a KV cache by layer.
#include "analysis/kv_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>

namespace prism::analysis {
namespace {

using Layers = std::vector<std::vector<KvOption>>;

uint64_t bytes_of(const Layers& layers, const std::vector<size_t>& chosen) {
  uint64_t bytes = 0;
  for (size_t l = 0; l < layers.size(); ++l) bytes += layers[l][chosen[l]].bytes;
  return bytes;
}
double loss_of(const Layers& layers, const std::vector<size_t>& chosen) {
  double loss = 0;
  for (size_t l = 0; l < layers.size(); ++l) loss += layers[l][chosen[l]].cost;
  return loss;
}

/// The smallest loss of all plans within the budget.
double least_loss(const Layers& layers, uint64_t budget) {
  double best = 1e9;
  std::vector<size_t> chosen(layers.size());
  const std::function<void(size_t)> walk = [&](size_t l) {
    if (l == layers.size()) {
      if (bytes_of(layers, chosen) <= budget) best = std::min(best, loss_of(layers, chosen));
      return;
    }
    for (chosen[l] = 0; chosen[l] < layers[l].size(); ++chosen[l]) walk(l + 1);
  };
  walk(0);
  return best;
}

// Where each step costs as many bytes and saves less than the one before, the walk is as good as trying all.
TEST(KvPlan, AsGoodAsTryingAllWhereGainsDiminish) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 50; ++trial) {
    Layers layers(5);
    for (auto& options : layers) {
      double loss = 1, gain = 0.5;
      for (uint64_t bytes = 100; bytes <= 400; bytes += 100) {
        options.push_back({"k4v4", loss, bytes});
        gain *= std::uniform_real_distribution<double>(0.1, 0.9)(random);
        loss -= gain;
      }
      std::shuffle(options.begin(), options.end(), random);
    }
    for (uint64_t budget : {500u, 700u, 950u, 1300u, 2000u}) {
      const auto chosen = choose_kv_options(layers, budget);
      ASSERT_TRUE(chosen) << chosen.message();
      EXPECT_LE(bytes_of(layers, *chosen), budget);
      EXPECT_NEAR(loss_of(layers, *chosen), least_loss(layers, budget), 1e-12) << "budget " << budget;
    }
  }
}

TEST(KvPlan, WithinTheBudgetAndNothingLeftThatHelps) {
  std::mt19937 random(2);
  std::uniform_real_distribution<double> loss(-0.1, 1);
  std::uniform_int_distribution<uint64_t> bytes(50, 300);
  for (int trial = 0; trial < 100; ++trial) {
    Layers layers(6);
    for (auto& options : layers)
      for (int i = 0; i < 4; ++i) options.push_back({"k4v4", loss(random), bytes(random)});
    const auto chosen = choose_kv_options(layers, 1500);
    if (!chosen) continue;
    const uint64_t total = bytes_of(layers, *chosen);
    EXPECT_LE(total, 1500u);
    for (size_t l = 0; l < layers.size(); ++l)
      for (const KvOption& o : layers[l]) {
        const KvOption& now = layers[l][(*chosen)[l]];
        EXPECT_FALSE(o.cost < now.cost && o.bytes > now.bytes && total - now.bytes + o.bytes <= 1500) << "layer " << l;
      }
  }
}

/// Layers' costs with errors of their own: guesses are nearer to the truth than measurements, the more so the larger the errors are.
TEST(KvPlan, UncertainCostsMoveTowardsTheirMean) {
  std::mt19937 random(3);
  std::normal_distribution<double> normal;
  for (const double noise : {0.1, 1.0, 10.0}) {
    double before = 0, after = 0;
    for (int trial = 0; trial < 200; ++trial) {
      Layers layers(20);
      std::vector<double> truth;
      for (auto& options : layers) {
        truth.push_back(5 + normal(random));
        const double error = noise * std::uniform_real_distribution<double>(0.5, 1.5)(random);
        options = {{"k4v4", 0, 100}, {"k3v3", truth.back() + error * normal(random), 80, error}};
      }
      const Layers measured = layers;
      shrink_costs(layers);
      for (size_t l = 0; l < layers.size(); ++l) {
        EXPECT_EQ(layers[l][0].cost, 0);
        before += std::pow(measured[l][1].cost - truth[l], 2);
        after += std::pow(layers[l][1].cost - truth[l], 2);
      }
    }
    EXPECT_LT(after, before * (noise < 1 ? 1.0 : noise > 1 ? 0.1 : 0.65)) << noise;
  }
  Layers few(2, {{"k3v3", 1, 80}});
  few[0][0].error = few[1][0].error = 1;
  few[1][0].cost = 3;
  shrink_costs(few);
  EXPECT_EQ(few[1][0].cost, 3) << "two say nothing about how costs vary";
}

TEST(KvPlan, ABudgetBelowTheMinimumIsRefused) {
  const Layers layers(2, {{"k2v2", 1, 2048}, {"k4v4", 0, 4096}});
  EXPECT_TRUE(choose_kv_options(layers, 4096));
  const auto refused = choose_kv_options(layers, 4095);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.message().find("expected at least 4.0 KiB"), std::string::npos) << refused.message();
}

TEST(KvPlan, Text) {
  EXPECT_EQ(kv_plan_text({"k4v3"}), "k4v3");
  EXPECT_EQ(kv_plan_text({"k4v3", "k4v3", "k3v3", "k4v3"}), "k4v3*2/k3v3/k4v3");
  EXPECT_EQ(kv_plan_text({}), "");
}

}  // namespace
}  // namespace prism::analysis
