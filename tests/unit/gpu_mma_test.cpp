// The matrix instructions against plain loops, on matrices without any symmetry.
#include "gpu_fixture.h"

namespace prism::gpu_test {
namespace {

constexpr int kM = 16, kN = 8;

/// One warp: c[16][8] = a[16][k] * b[8][k]^T, fragments straight from global memory. `swapped`: two registers are.
Kernel product(Fn shape, bool swapped = false) {
  constexpr int words = 8;   // u32 in a row of a and b
  Builder b("product", {}, 32);
  const Buffer a = b.arg("a", Elem::U32), bt = b.arg("b", Elem::U32), c = b.arg("c", shape == Fn::MmaU8 ? Elem::I32 : Elem::F32, true);
  const Ex group = b.let(b.thread() / 4), in_group = b.let(b.thread() % 4);
  auto at = [&](const Buffer& m, int row, int column) { return b.load(m, (group + row) * words + in_group + column); };
  Ex second = at(a, 8, 0), third = at(a, 0, 4);
  if (swapped) std::swap(second, third);
  const Ex fa = b.let(pack({at(a, 0, 0), second, third, at(a, 8, 4)}));
  const Ex fb = b.let(pack({at(bt, 0, 0), at(bt, 0, 4)}));
  Ex sum = b.var(constant({c.elem, 4}, 0));
  b.mma(shape, sum, fa, fb);
  for (int i = 0; i < 4; ++i) b.store(c, (group + 8 * (i / 2)) * kN + in_group * 2 + i % 2, lane(sum, i));
  return b.finish();
}

template <class T>
std::vector<T> random_bits(size_t n, uint32_t seed, T (*from)(float)) {
  std::vector<T> v;
  for (float x : random_floats(n, seed)) v.push_back(from(x));
  return v;
}

template <class Sum, class A, class B, class Value>
std::vector<Sum> plain(const std::vector<A>& a, const std::vector<B>& b, int depth, Value value) {
  std::vector<Sum> c(kM * kN);
  for (int m = 0; m < kM; ++m)
    for (int n = 0; n < kN; ++n)
      for (int k = 0; k < depth; ++k) c[size_t(m * kN + n)] += Sum(value(a[size_t(m * depth + k)])) * Sum(value(b[size_t(n * depth + k)]));
  return c;
}

TEST(GpuMma, HalfPrecision) {
  struct Case {
    Fn shape;
    uint16_t (*to)(float);
    float (*from)(uint16_t);
  };
  for (const Case& c : {Case{Fn::MmaBf16, f32_to_bf16, bf16_to_f32}, Case{Fn::MmaF16, f32_to_f16, f16_to_f32}}) {
    const Kernel k = product(c.shape);
    expect_compiles(k);
    auto a = random_bits<uint16_t>(kM * 16, 1, c.to), b = random_bits<uint16_t>(kN * 16, 2, c.to);
    std::vector<float> out(kM * kN);
    ASSERT_EQ(Emulated(k).run(1, {memory(a), memory(b), memory(out)}), "");
    const auto expected = plain<double>(a, b, 16, c.from);
    for (size_t i = 0; i < out.size(); ++i) EXPECT_NEAR(out[i], expected[i], 1e-6) << i;
    // a kernel whose fragments are not where PTX has them is not right by luck
    ASSERT_EQ(Emulated(product(c.shape, true)).run(1, {memory(a), memory(b), memory(out)}), "");
    double off = 0;
    for (size_t i = 0; i < out.size(); ++i) off = std::max(off, std::abs(out[i] - expected[i]));
    EXPECT_GT(off, 0.1);
  }
}

TEST(GpuMma, Bytes) {
  const Kernel k = product(Fn::MmaU8);
  expect_compiles(k);
  auto a = random_bits<uint8_t>(kM * 32, 3, [](float x) { return uint8_t(x * 127 + 128); });
  auto b = random_bits<int8_t>(kN * 32, 4, [](float x) { return int8_t(x * 127); });
  std::vector<int32_t> out(kM * kN);
  ASSERT_EQ(Emulated(k).run(1, {memory(a), memory(b), memory(out)}), "");
  EXPECT_EQ(out, plain<int32_t>(a, b, 32, [](auto v) { return v; }));
}

/// One warp: c[16][16] = a[16][16] * b[16][16], both row by row, through shared memory and ldmatrix.
Kernel staged_product(bool synchronized = true) {
  Builder b("staged_product", {}, 32);
  const Buffer a = b.arg("a", Elem::BF16), w = b.arg("b", Elem::BF16), c = b.arg("c", Elem::F32, true);
  const Buffer sa = b.shared("sa", Elem::BF16, 256), sb = b.shared("sb", Elem::BF16, 256);
  const Ex mine = b.let(b.thread() * 8);
  b.store(sa, mine, b.load(a, mine, 8));
  b.store(sb, mine, b.load(w, mine, 8));
  if (synchronized) b.warp_sync();
  const Ex at = b.let(b.thread() % 16 * 16 + b.thread() / 16 * 8);
  const Ex fa = b.ld_matrix(sa, at), fb = b.ld_matrix(sb, at, true);
  for (int n = 0; n < 2; ++n) {
    Ex sum = b.var(constant({Elem::F32, 4}, 0));
    b.mma(Fn::MmaBf16, sum, fa, b.let(pack({lane(fb, 2 * n), lane(fb, 2 * n + 1)})));
    for (int i = 0; i < 4; ++i)
      b.store(c, (b.thread() / 4 + 8 * (i / 2)) * 16 + 8 * n + b.thread() % 4 * 2 + i % 2, lane(sum, i));
  }
  return b.finish();
}

TEST(GpuMma, LdMatrix) {
  const Kernel k = staged_product();
  expect_compiles(k);
  auto a = random_bits<uint16_t>(256, 5, f32_to_bf16), w = random_bits<uint16_t>(256, 6, f32_to_bf16);
  std::vector<float> out(256);
  Emulated emulated(k);
  for (uint64_t seed : {1, 2, 3}) {
    ASSERT_EQ(emulated.run(1, {memory(a), memory(w), memory(out)}, {}, seed), "");
    for (size_t m = 0; m < 16; ++m)
      for (size_t n = 0; n < 16; ++n) {
        double sum = 0;
        for (size_t i = 0; i < 16; ++i) sum += double(bf16_to_f32(a[m * 16 + i])) * bf16_to_f32(w[i * 16 + n]);
        EXPECT_NEAR(out[m * 16 + n], sum, 1e-6);
      }
  }
  const std::string error = Emulated(staged_product(false)).run(1, {memory(a), memory(w), memory(out)});
  EXPECT_NE(error.find("reads shared 'sa' at byte "), error.npos) << error;
  EXPECT_NE(error.find("no barrier between"), error.npos) << error;
}

TEST(GpuMma, PackedConversionsAndBytes) {
  Builder b("packed", {}, 32);
  const Buffer x = b.arg("x", Elem::F32), out = b.arg("out", Elem::U32, true);
  const Ex low = b.let(b.load(x, b.thread() * 2)), high = b.let(b.load(x, b.thread() * 2 + 1));
  b.store(out, b.thread(), pack_bf16(low, high));
  b.store(out, b.thread() + 32, byte_permute(bitcast({Elem::U32, 1}, low), bitcast({Elem::U32, 1}, high), 0x6417));
  const Kernel k = b.finish();
  expect_compiles(k);
  auto values = random_floats(64, 9);
  values[0] = 1 + 0x1p-8f;   // halfway between two: to the even one
  values[1] = 1 + 0x3p-8f;
  std::vector<uint32_t> found(64);
  ASSERT_EQ(Emulated(k).run(1, {memory(values), memory(found)}), "");
  EXPECT_EQ(found[0], 0x3f823f80u);
  for (size_t i = 0; i < 32; ++i) {
    EXPECT_EQ(found[i], f32_to_bf16(values[2 * i]) | uint32_t(f32_to_bf16(values[2 * i + 1])) << 16);
    uint8_t bytes[8];
    std::memcpy(bytes, &values[2 * i], 8);
    EXPECT_EQ(found[32 + i], bytes[7] | bytes[1] << 8 | bytes[4] << 16 | uint32_t(bytes[6]) << 24);
  }
}

enum class Mistake { None, Swizzle, AsyncFence, Wait, EarlyStore, WgmmaFence };

/// A warpgroup: c[64][n] = a[64][64] * b[n][64]^T, then the first 64 rows of b are overwritten.
Kernel warpgroup_product(int n, Mistake mistake = Mistake::None) {
  Builder b("warpgroup_product", {}, 128);
  const Buffer a = b.arg("a", Elem::BF16), w = b.arg("b", Elem::BF16), c = b.arg("c", Elem::F32, true);
  const Buffer sa = b.shared("sa", Elem::BF16, 64 * 64), sb = b.shared("sb", Elem::BF16, n * 64);
  const auto stage = [&](const Buffer& to, const Buffer& from, int rows) {
    b.for_(b.thread(), rows * 8, 128, [&](Ex i) {
      const Ex row = b.let(i / 8), chunk = mistake == Mistake::Swizzle ? i % 8 : (i % 8) ^ (row % 8);
      b.store(to, row * 64 + chunk * 8, b.load(from, i * 8, 8));
    });
  };
  stage(sa, a, 64);
  stage(sb, w, n);
  if (mistake != Mistake::AsyncFence) b.async_fence();
  b.barrier();
  const Ex sum = b.var(constant({Elem::F32, n / 2}, 0));
  if (mistake != Mistake::WgmmaFence) b.wgmma_fence();
  for (int k = 0; k < 64; k += 16) b.wgmma(sum, sa, k, sb, k);
  b.wgmma_commit();
  if (mistake == Mistake::EarlyStore) stage(sb, a, 64);
  if (mistake != Mistake::Wait) b.wgmma_wait(0);
  const Ex lane_in_warp = b.let(b.thread() % 32), row = b.let(b.thread() / 32 * 16 + lane_in_warp / 4);
  for (int i = 0; i < n / 2; ++i) b.store(c, (row + i / 2 % 2 * 8) * n + i / 4 * 8 + lane_in_warp % 4 * 2 + i % 2, lane(sum, i));
  return b.finish();
}

TEST(GpuMma, WarpgroupProducts) {
  auto a = random_bits<uint16_t>(64 * 64, 7, f32_to_bf16);
  for (int n : {64, 128, 256}) {
    auto w = random_bits<uint16_t>(size_t(n) * 64, 8, f32_to_bf16);
    std::vector<float> out(size_t(64 * n)), expected(out.size());
    for (size_t m = 0; m < 64; ++m)
      for (size_t j = 0; j < size_t(n); ++j) {
        double sum = 0;
        for (size_t i = 0; i < 64; ++i) sum += double(bf16_to_f32(a[m * 64 + i])) * bf16_to_f32(w[j * 64 + i]);
        expected[m * size_t(n) + j] = float(sum);
      }
    const auto off = [&](Mistake mistake, uint64_t seed) {
      std::string error = Emulated(warpgroup_product(n, mistake)).run(1, {memory(a), memory(w), memory(out)}, {}, seed);
      double most = 0;
      for (size_t i = 0; i < out.size(); ++i) most = out[i] == out[i] ? std::max(most, double(std::abs(out[i] - expected[i]))) : 1e9;
      return error.empty() && !(most < 1e-5) ? "wrong" : error;
    };
    for (uint64_t seed : {1, 2, 3}) EXPECT_EQ(off(Mistake::None, seed), "") << n;
    expect_compiles(warpgroup_product(n), {"sm_90a"});
    if (n > 64) continue;
    EXPECT_EQ(off(Mistake::Swizzle, 1), "wrong");
    EXPECT_EQ(off(Mistake::Wait, 1), "wrong");
    EXPECT_NE(off(Mistake::AsyncFence, 1).find("no async_fence before the barrier"), std::string::npos);
    EXPECT_NE(off(Mistake::EarlyStore, 1).find("a matrix product that was not waited for reads it"), std::string::npos);
    EXPECT_NE(off(Mistake::WgmmaFence, 1).find("no wgmma_fence"), std::string::npos);
  }
}

}  // namespace
}  // namespace prism::gpu_test
