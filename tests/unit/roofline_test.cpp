// What a GPU allows at most, of a program whose sizes make it easy to compute by hand.
#include <gtest/gtest.h>

#include "codegen/roofline.h"

namespace prism::codegen {
namespace {

using rt::Expr;

/// A GPU of 10 multiprocessors with round numbers.
Gpu gpu() { return {"sm_90a", "test", 10, 228, 1e9, 4e9, 2e9, 1e9}; }

Expr dim(int64_t index) { return {{Expr::Dim, index}}; }
Expr times(int64_t n, int64_t index) { return {{Expr::Const, n, Expr::Dim, index, Expr::Mul, 0}}; }

/// @decode: "weights" in 15 blocks and "cache", whose work grows with the position, twice. @prefill of 8 tokens at most: "rows", a block for each.
struct Made {
  rt::Program p;
  std::vector<KernelReport> reports;

  Made() {
    p.name = "made";
    p.dims = {"seq", "past"};
    const auto kernel = [&](const std::string& symbol, rt::Work work, MathUnit unit) {
      p.kernels.push_back({symbol, "", 0, 128, 0});
      p.kernels.back().work = std::move(work);
      reports.push_back({symbol, "", 128, 0, unit, {{"sm_90a", {symbol, 64, 0}}}});
    };
    const Expr none = Expr::constant(0);
    kernel("weights", {Expr::constant(1000000), none, none, Expr::constant(1000)}, MathUnit::Mma);
    kernel("cache", {none, times(1000, 1), none, none}, MathUnit::Mma);
    kernel("rows", {Expr::constant(100), none, none, times(8000000, 0)}, MathUnit::Wgmma);
    kernel("largest", {none, none, Expr::constant(500), none}, MathUnit::Cores);
    rt::EntryPoint decode{.name = "decode", .dim_min = {1, 0}, .dim_max = {1, 100}};
    decode.launches = {{0, {}, Expr::constant(15)}, {1, {}, Expr::constant(10)}, {1, {}, Expr::constant(10)}};
    rt::EntryPoint prefill{.name = "prefill", .dim_min = {1, 0}, .dim_max = {8, 100}};
    prefill.launches = {{2, {}, dim(0)}};
    rt::EntryPoint largest{.name = "decode.largest", .dim_min = {1, 0}, .dim_max = {1, 100}};
    largest.launches = {{3, {}, Expr::constant(10)}};
    p.entries = {decode, prefill, largest};
  }
};

TEST(Roofline, ALaunchTakesAsLongAsItsBytesOrItsOperations) {
  const Made made;
  const auto step = bound_of(made.p, made.reports, gpu(), /*decode=*/true, 1, 50);
  ASSERT_TRUE(step) << step.message();
  ASSERT_EQ(step->kernels.size(), 3u);
  // 15 blocks on 10 multiprocessors: one of them has two, which take as long as 20 would.
  const KernelBound& weights = step->kernels[0];
  EXPECT_EQ(weights.kernel, 0u) << "most is lost there, so it comes first";
  EXPECT_DOUBLE_EQ(weights.limit, 1e-3);
  EXPECT_NEAR(weights.uneven, 1e-3 / 3, 1e-12);
  EXPECT_DOUBLE_EQ(weights.boundaries, kBoundarySeconds);
  const KernelBound& cache = step->kernels[1];
  EXPECT_EQ(cache.launches, 2);
  EXPECT_EQ(cache.amounts.kv, 2 * 50 * 1000);
  EXPECT_DOUBLE_EQ(cache.limit, 1e-4);
  EXPECT_NEAR(cache.uneven, 0, 1e-12);
  EXPECT_EQ(step->all.launches, 4) << "and what picks the largest logits";
  EXPECT_NEAR(step->all.limit, 1e-3 + 1e-4 + 5e-7, 1e-12);
  EXPECT_NEAR(step->seconds(), step->all.limit + 1e-3 / 3 + 4 * kBoundarySeconds, 1e-12);
}

TEST(Roofline, PromptsComeInPieces) {
  const Made made;
  const auto step = bound_of(made.p, made.reports, gpu(), /*decode=*/false, 20, 0);
  ASSERT_TRUE(step) << step.message();
  const KernelBound& rows = step->kernels.at(0);
  EXPECT_EQ(rows.launches, 3);   // 8, 8, 4
  EXPECT_EQ(rows.blocks, 20);
  EXPECT_EQ(rows.amounts.operations, 20 * 8000000);
  EXPECT_DOUBLE_EQ(rows.limit, 20 * 8000000 / 4e9);   // by wgmma
  EXPECT_NEAR(rows.uneven, 2 * 0.016 * (10.0 / 8 - 1) + 0.008 * (10.0 / 4 - 1), 1e-12);
}

TEST(Roofline, ALibraryDoesProductsByWgmma) {
  Made made;
  made.reports[2].unit = MathUnit::Cores;
  made.p.entries[1].launches[0].product = rt::Product{};
  const auto step = bound_of(made.p, made.reports, gpu(), /*decode=*/false, 8, 0);
  ASSERT_TRUE(step) << step.message();
  EXPECT_DOUBLE_EQ(step->kernels.at(0).limit, 8 * 8000000 / 4e9);
}

TEST(Roofline, AMultiprocessorHoldsAsManyBlocksAsFit) {
  const auto blocks = [](int64_t threads, int64_t shared, int registers) {
    return resident_blocks({"k", "", threads, shared, MathUnit::Cores, {{"sm_90a", {"k", registers, 0}}}}, gpu());
  };
  EXPECT_EQ(blocks(128, 0, 32), 16);          // threads
  EXPECT_EQ(blocks(32, 0, 16), 32);           // blocks
  EXPECT_EQ(blocks(128, 0, 250), 2);          // registers, 256 each
  EXPECT_EQ(blocks(128, 100 << 10, 32), 2);   // shared memory
  EXPECT_EQ(blocks(256, 227 << 10, 255), 1);
}

TEST(Roofline, WhatIsMissingIsAnError) {
  Made made;
  made.p.entries.resize(1);
  const auto step = bound_of(made.p, made.reports, gpu(), /*decode=*/false, 8, 0);
  ASSERT_FALSE(step);
  EXPECT_EQ(step.message(), "made: entry points: found no prefill");
  const auto unknown = gpu_of("sm_75");
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.message(), "limits of GPUs: found sm_75, expected one of sm_90a, sm_80");
  EXPECT_TRUE(gpu_of("sm_80"));
}

}  // namespace
}  // namespace prism::codegen
