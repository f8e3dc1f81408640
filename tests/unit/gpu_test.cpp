// Kernels of GPUs: right numbers on the emulated device in every order, accepted by NVRTC, and each kind of mistake caught.
#include "gpu_fixture.h"

#include <algorithm>
#include <cmath>

namespace prism::gpu_test {
namespace {

constexpr uint64_t kSeeds[] = {1, 2, 3, 4, 5};

Kernel add(bool guarded = true) {
  Builder b("add", {"n"}, 64);
  const Buffer x = b.arg("x", Elem::F32), y = b.arg("y", Elem::F32), z = b.arg("z", Elem::F32, true);
  const Ex i = b.let(b.task() * 64 + b.thread());
  auto body = [&] { b.store(z, i, b.load(x, i) + b.load(y, i)); };
  if (guarded) b.if_(i < b.dim("n"), body);
  else body();
  return b.finish();
}

TEST(Gpu, VectorAddWithATail) {
  const Kernel k = add();
  expect_compiles(k);
  Emulated emulated(k);
  for (int64_t n : {1, 63, 64, 65, 1000}) {
    auto x = random_floats(size_t(n), 1), y = random_floats(size_t(n), 2);
    std::vector<float> z(static_cast<size_t>(n));
    ASSERT_EQ(emulated.run((n + 63) / 64, {memory(x), memory(y), memory(z)}, {n}), "");
    for (size_t i = 0; i < z.size(); ++i) EXPECT_EQ(z[i], x[i] + y[i]);
  }
}

TEST(Gpu, AccessPastTheEndIsCaught) {
  Emulated emulated(add(false));
  std::vector<float> x(100), y(100), z(100);
  const std::string error = emulated.run(2, {memory(x), memory(y), memory(z)}, {100});
  EXPECT_NE(error.find("kernel 'add', line "), error.npos) << error;
  EXPECT_NE(error.find(": block 1, thread "), error.npos) << error;
  EXPECT_NE(error.find("accesses 4 bytes of '"), error.npos) << error;
  EXPECT_NE(error.find(", which has 400"), error.npos) << error;
}

TEST(Gpu, CompilerErrorsAreOneLine) {
  const std::string source = codegen::cuda_primitives(codegen::CudaTarget::Device) + "#line 1 \"kernels\"\nKERNEL(32, 1) broken() { nothing(); }\n";
  auto broken = codegen::compile_cuda(source, "sm_80");
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.message(), "CUDA compiler for sm_80: kernels(1): error: identifier \"nothing\" is undefined");
  auto unknown = codegen::compile_cuda("", "sm_12");
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.message().find("CUDA compiler for sm_12: "), 0u);
  EXPECT_EQ(unknown.message().find('\n'), std::string::npos);
}

TEST(Gpu, ArchitecturesOfTheCompiler) {
  auto names = codegen::cuda_architectures();
  ASSERT_TRUE(names) << names.message();
  for (const char* name : {"sm_80", "sm_89", "sm_90"}) EXPECT_EQ(std::count(names->begin(), names->end(), name), 1) << name;
}

TEST(Gpu, AllTargetsGetTheSameText) {
  const Kernel k = add();
  using codegen::CudaTarget;
  auto text = [&](CudaTarget t) { return codegen::render_cuda({&k}, t).substr(codegen::cuda_primitives(t).size()); };
  EXPECT_EQ(text(CudaTarget::Device), text(CudaTarget::Emulated));
  EXPECT_NE(text(CudaTarget::Device).find("KERNEL(64, 1) add(ARGS(add_args) args) {"), std::string::npos);
  EXPECT_EQ(codegen::cuda_primitives(CudaTarget::Device).find("#include"), std::string::npos);
}

TEST(Gpu, PackF16) {
  Builder b("pack", {}, 32);
  const Buffer x = b.arg("x", Elem::F32), y = b.arg("y", Elem::U32, true);
  const Ex pair = b.let(b.load(x, b.thread() * 2, 2));
  b.store(y, b.thread(), pack_f16(lane(pair, 0), lane(pair, 1)));
  const Kernel k = b.finish();
  expect_compiles(k);
  auto in = random_floats(64, 1);
  in[2] = 1 + 0x1p-11f;  // halfway: to even
  in[3] = 1e-7f;         // subnormal
  std::vector<uint32_t> out(32);
  ASSERT_EQ(Emulated(k).run(1, {memory(in), memory(out)}), "");
  for (size_t i = 0; i < 32; ++i) EXPECT_EQ(out[i], f32_to_f16(in[2 * i]) | uint32_t(f32_to_f16(in[2 * i + 1])) << 16);
  Builder cpu("pack", {});
  const Buffer z = cpu.arg("z", Elem::U32, true);
  cpu.store(z, 0, pack_f16(Ex(1.0), Ex(2.0)));
  EXPECT_EQ(verify(cpu.finish()).message(), "kernel pack: pack_f16 in a CPU kernel");
  Builder wrong("pack", {}, 32);
  const Buffer w = wrong.arg("w", Elem::U32, true);
  wrong.store(w, 0, pack_f16(Ex(1), Ex(2)));
  EXPECT_EQ(verify(wrong.finish()).message(), "kernel pack: pack_f16 of i64, expected f32");
}

TEST(Gpu, Print) {
  Builder b("k", {"n"}, 32);
  const Buffer in = b.arg("in", Elem::F32), out = b.arg("out", Elem::U32, true), tile = b.shared("tile", Elem::F32, 128);
  b.async_copy(tile, b.thread() * 4, in, b.task() * 128 + b.thread() * 4);
  b.async_commit();
  b.async_wait(0);
  b.barrier();
  const Ex v = b.load(tile, b.thread() * 4, 4);
  const Ex s = b.shuffle_xor(lane(v, 1), 4);
  b.warp_sync();
  b.atomic_add(out, 0, bitcast({Elem::U32, 1}, s) ^ constant({Elem::U32, 1}, 3));
  b.wait_at_least(out, 0, 1);
  const Kernel k = b.finish();
  EXPECT_EQ(print(k), R"(kernel k(in: f32, out out: u32) threads 32 {
  shared tile: f32[128] at 0
  async_copy tile[(thread * 4)] = in[((task * 128) + (thread * 4))] bytes 16
  async_commit
  async_wait 0
  barrier
  let v2: f32 = shuffle_xor(tile[(thread * 4)]:f32x4.1, 4)
  warp_sync
  let v3: u32 = atomic_add(out, 0, (bitcast.u32(v2) ^ 3))
  wait out[0] >= 1
}
)");
  EXPECT_TRUE(verify(k));
}

/// Sums of rows of 128: shuffles within warps, shared memory between them.
Kernel block_sum(bool with_barrier = true, int warps_writing = 4) {
  Builder b("block_sum", {}, 128);
  const Buffer x = b.arg("x", Elem::F32), out = b.arg("out", Elem::F32, true), partial = b.shared("partial", Elem::F32, 4);
  Ex sum = b.let(b.load(x, b.task() * 128 + b.thread()));
  for (int mask = 16; mask > 0; mask /= 2) sum = b.let(sum + b.shuffle_xor(sum, mask));
  const Ex warp = b.let(b.thread() / 32);
  b.if_((b.thread() % 32 == Ex(0)) & (warp < Ex(warps_writing)), [&] { b.store(partial, warp, sum); });
  if (with_barrier) b.barrier();
  b.if_(b.thread() == Ex(0), [&] {
    const Ex v = b.let(b.load(partial, 0, 4));
    b.store(out, b.task(), (lane(v, 0) + lane(v, 1)) + (lane(v, 2) + lane(v, 3)));
  });
  return b.finish();
}

TEST(Gpu, BlockSumInEveryOrder) {
  const Kernel k = block_sum();
  expect_compiles(k);
  Emulated emulated(k);
  for (uint64_t seed : kSeeds) {
    auto x = random_floats(128 * 7, uint32_t(seed));
    std::vector<float> out(7);
    ASSERT_EQ(emulated.run(7, {memory(x), memory(out)}, {}, seed), "");
    for (size_t r = 0; r < 7; ++r) {
      double sum = 0;
      for (size_t i = 0; i < 128; ++i) sum += x[r * 128 + i];
      EXPECT_NEAR(out[r], sum, 1e-5);
    }
  }
}

TEST(Gpu, MissingBarrierIsCaught) {
  Emulated emulated(block_sum(false));
  for (uint64_t seed : kSeeds) {
    std::vector<float> x(128), out(1);
    const std::string error = emulated.run(1, {memory(x), memory(out)}, {}, seed);
    EXPECT_TRUE(error.find("no barrier between") != error.npos || error.find("nobody wrote it") != error.npos) << error;
    EXPECT_NE(error.find("shared 'partial' at byte "), error.npos) << error;
  }
}

TEST(Gpu, UnwrittenSharedMemoryIsCaught) {
  Emulated emulated(block_sum(true, 3));
  std::vector<float> x(128), out(1);
  const std::string error = emulated.run(1, {memory(x), memory(out)});
  EXPECT_NE(error.find(": block 0, thread 0: reads shared 'partial' at byte 0: nobody wrote it"), error.npos) << error;
}

TEST(Gpu, SharedAccessOutOfBoundsIsCaught) {
  Builder b("over", {}, 32);
  const Buffer tile = b.shared("tile", Elem::F32, 31);
  b.store(tile, b.thread(), Ex(1.0));
  Emulated over(b.finish());
  const std::string error = over.run(1, {});
  EXPECT_NE(error.find("thread 31: writes 4 bytes of shared 'tile' at byte 124, which has 124"), error.npos) << error;
}

enum class Mistake { None, Wait, FirstBarrier, LastBarrier };

/// Sums tiles of 256 values that two stages of shared memory receive in turns; every thread reads what another copied.
Kernel pipeline(Mistake mistake = Mistake::None) {
  Builder b("pipeline", {"tiles"}, 64);
  const Buffer x = b.arg("x", Elem::F32), out = b.arg("out", Elem::F32, true), tile = b.shared("tile", Elem::F32, 512);
  const Ex tiles = b.let(cast(Elem::I32, b.dim("tiles"))), mine = b.let(b.thread() * 4);
  auto fetch = [&](Ex t) { b.async_copy(tile, t % 2 * 256 + mine, x, t * 256 + mine); };
  Ex sum = b.var(constant({Elem::F32, 1}, 0));
  fetch(constant({Elem::I32, 1}, 0));
  b.async_commit();
  b.for_(0, tiles, 1, [&](Ex t) {
    b.if_(t + 1 < tiles, [&] { fetch(t + 1); });
    b.async_commit();
    if (mistake != Mistake::Wait) b.async_wait(1);
    if (mistake != Mistake::FirstBarrier) b.barrier();
    const Ex v = b.let(b.load(tile, t % 2 * 256 + (63 - b.thread()) * 4, 4));
    for (int i = 0; i < 4; ++i) b.assign(sum, sum + lane(v, i) * constant({Elem::F32, 1}, i + 1));
    if (mistake != Mistake::LastBarrier) b.barrier();
  });
  b.store(out, b.thread(), sum);
  return b.finish();
}

TEST(Gpu, DoubleBufferedAsyncCopies) {
  const Kernel k = pipeline();
  expect_compiles(k);
  Emulated emulated(k);
  for (uint64_t seed : kSeeds) {
    auto x = random_floats(256 * 5, uint32_t(seed));
    std::vector<float> out(64);
    ASSERT_EQ(emulated.run(1, {memory(x), memory(out)}, {5}, seed), "");
    for (size_t thread = 0; thread < 64; ++thread) {
      float sum = 0;
      for (size_t t = 0; t < 5; ++t)
        for (size_t i = 0; i < 4; ++i) sum += x[t * 256 + (63 - thread) * 4 + i] * float(i + 1);
      EXPECT_EQ(out[thread], sum);
    }
  }
}

TEST(Gpu, MissingWaitsAndBarriersOfAPipelineAreCaught) {
  for (Mistake mistake : {Mistake::Wait, Mistake::FirstBarrier, Mistake::LastBarrier}) {
    Emulated emulated(pipeline(mistake));
    int under_way = 0;
    for (uint64_t seed : kSeeds) {
      std::vector<float> x(256 * 5), out(64);
      const std::string error = emulated.run(1, {memory(x), memory(out)}, {5}, seed);
      EXPECT_NE(error.find(": reads shared 'tile' at byte "), error.npos) << error;
      under_way += error.find("an asynchronous copy of thread ") != error.npos && error.ends_with(" to it is under way");
    }
    EXPECT_GT(under_way, mistake == Mistake::FirstBarrier ? 0 : 4);   // else a thread may come before any copy
  }
}

TEST(Gpu, WriteAfterReadIsCaught) {
  for (bool barrier : {true, false}) {
    Builder b("reverse", {}, 64);
    const Buffer tile = b.shared("tile", Elem::U8, 64);
    b.store(tile, b.thread(), cast(Elem::U8, b.thread()));   // neighbouring bytes are no conflict
    b.barrier();
    const Ex other = b.let(b.load(tile, 63 - b.thread()));
    if (barrier) b.barrier();
    b.store(tile, b.thread(), other);
    const std::string error = Emulated(b.finish()).run(1, {});
    if (barrier) EXPECT_EQ(error, "");
    else EXPECT_TRUE(error.find("wrote it with no barrier between") != error.npos) << error;
  }
}

TEST(Gpu, EitherOrderOfAReadAndAWriteIsCaught) {
  Builder b("either", {}, 64);
  const Buffer out = b.arg("out", Elem::I32, true), tile = b.shared("tile", Elem::I32, 32);
  b.if_(b.thread() < Ex(32), [&] { b.store(tile, b.thread(), b.thread()); });
  b.barrier();
  b.if_(b.thread() < Ex(32), [&] { b.store(tile, b.thread(), Ex(constant({Elem::I32, 1}, 7))); },
        [&] { b.store(out, b.thread(), b.load(tile, b.thread() - 32)); });
  Emulated emulated(b.finish());
  int read = 0, wrote = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    std::vector<int> values(64);
    const std::string error = emulated.run(1, {memory(values)}, {}, seed);
    read += error.ends_with(" read it with no barrier between");
    wrote += error.ends_with(" wrote it with no barrier between");
  }
  EXPECT_GT(read, 0);
  EXPECT_GT(wrote, 0);
  EXPECT_EQ(read + wrote, 20);
}

TEST(Gpu, MisalignedAccessIsCaught) {
  Builder b("misaligned", {}, 32);
  const Buffer x = b.arg("x", Elem::F32), out = b.arg("out", Elem::F32, true);
  b.store(out, b.thread() * 4, b.load(x, b.thread() * 2, 4));
  std::vector<float> in(256), values(256);
  const std::string error = Emulated(b.finish()).run(1, {memory(in), memory(values)});
  EXPECT_NE(error.find("accesses 16 bytes of 'x' at byte "), error.npos) << error;
  EXPECT_NE(error.find(", which is not aligned"), error.npos) << error;
}

TEST(Gpu, CopiesFillWithZeros) {
  Builder b("fill", {"n"}, 32);
  const Buffer x = b.arg("x", Elem::F32), out = b.arg("out", Elem::F32, true), tile = b.shared("tile", Elem::F32, 128);
  const Ex at = b.let(b.thread() * 4), n = b.let(cast(Elem::I32, b.dim("n")));
  b.async_copy(tile, at, x, min(at, n), max(min((n - at) * 4, 16), 0));
  b.async_commit();
  b.async_wait(0);
  b.store(out, at, b.load(tile, at, 4));
  const Kernel k = b.finish();
  expect_compiles(k);
  auto in = random_floats(101, 1);
  std::vector<float> filled(128, -1);
  ASSERT_EQ(Emulated(k).run(1, {memory(in), memory(filled)}, {101}), "");
  for (size_t i = 0; i < 128; ++i) EXPECT_EQ(filled[i], i < 101 ? in[i] : 0.0f) << i;
}

TEST(Gpu, DivergentBarrierIsCaughtByVerifierAndDevice) {
  Builder b("divergent", {}, 64);
  b.if_(b.thread() < Ex(40), [&] { b.barrier(); });
  const Kernel k = b.finish();
  const Status status = verify(k);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.message(), "kernel divergent: barrier where the block's threads may part");
  const std::string error = Emulated(k, false).run(1, {});
  EXPECT_NE(error.find("waits at a barrier that thread 40 never reached"), error.npos) << error;
}

TEST(Gpu, DivergentShuffleIsCaught) {
  Builder b("divergent", {}, 32);
  const Buffer out = b.arg("out", Elem::I32, true);
  b.if_(b.thread() < Ex(16), [&] { b.store(out, b.thread(), b.shuffle_xor(b.thread(), 1)); });
  std::vector<int> values(32);
  const std::string error = Emulated(b.finish()).run(1, {memory(values)});
  EXPECT_NE(error.find("waits for its warp, which "), error.npos) << error;
}

/// Block i adds its number to what block i - 1 left, once a counter says so.
Kernel chain(int extra) {
  Builder b("chain", {}, 32);
  const Buffer count = b.arg("count", Elem::U32, true), out = b.arg("out", Elem::I32, true);
  b.if_(b.thread() == Ex(0), [&] { b.wait_at_least(count, 0, cast(Elem::U32, b.task() + extra)); });
  b.barrier();
  b.store(out, (b.task() + 1) * 32 + b.thread(), b.load(out, b.task() * 32 + (31 - b.thread())) + b.task());
  b.barrier();
  b.if_(b.thread() == Ex(0), [&] { b.atomic_add(count, 0, 1); });
  return b.finish();
}

TEST(Gpu, BlocksWaitForEachOther) {
  const Kernel k = chain(0);
  expect_compiles(k);
  Emulated emulated(k);
  for (uint64_t seed : kSeeds) {
    std::vector<uint32_t> count(1);
    std::vector<int> out(32 * 11);
    for (int i = 0; i < 32; ++i) out[size_t(i)] = i;
    ASSERT_EQ(emulated.run(10, {memory(count), memory(out)}, {}, seed), "");
    for (int i = 0; i < 32; ++i) EXPECT_EQ(out[size_t(320 + i)], i + 45);
    EXPECT_EQ(count[0], 10u);
  }
}

TEST(Gpu, WaitingForEverIsCaught) {
  std::vector<uint32_t> count(1);
  std::vector<int> out(32 * 11);
  const std::string error = Emulated(chain(1)).run(10, {memory(count), memory(out)});
  EXPECT_NE(error.find("waits for 'count' to reach 1, it stays 0"), error.npos) << error;
}

TEST(Gpu, AtomicsOfSharedMemory) {
  Builder b("histogram", {}, 64);
  const Buffer x = b.arg("x", Elem::I32), out = b.arg("out", Elem::I32, true), bins = b.shared("bins", Elem::I32, 8);
  b.if_(b.thread() < Ex(8), [&] { b.store(bins, b.thread(), constant({Elem::I32, 1}, 0)); });
  b.barrier();
  b.atomic_add(bins, b.load(x, b.thread()), 1);
  b.barrier();
  b.if_(b.thread() < Ex(8), [&] { b.store(out, b.thread(), b.load(bins, b.thread())); });
  const Kernel k = b.finish();
  expect_compiles(k);
  std::vector<int> in(64), counts(8), expected(8);
  for (int i = 0; i < 64; ++i) ++expected[size_t(in[size_t(i)] = i * i % 8)];
  ASSERT_EQ(Emulated(k).run(1, {memory(in), memory(counts)}), "");
  EXPECT_EQ(counts, expected);
}

TEST(Gpu, Functions) {
  Builder b("functions", {}, 32);
  const Buffer x = b.arg("x", Elem::F32), out = b.arg("out", Elem::F32, true), table = b.table("table", {3, 5, 7, 11});
  const Ex v = b.let(b.load(x, b.thread()));
  const Ex half = b.let(cast(Elem::F16, v)), brain = b.let(cast(Elem::BF16, v));
  const Ex bytes = b.let(bitcast({Elem::U32, 1}, v)), dot = call(Fn::Dot4, {b.thread(), bytes, bitcast({Elem::I32, 1}, v)});
  LookupTable squares;
  for (size_t i = 0; i < 16; ++i) squares[i] = uint8_t(255 - i * i);
  const Ex results[] = {call(Fn::Exp, {v}), call(Fn::Tanh, {v}), call(Fn::Erf, {v}), call(Fn::Sqrt, {call(Fn::Abs, {v})}),
                        call(Fn::SinTurns, {v * 0.5}), call(Fn::CosTurns, {v * 0.5}), call(Fn::RoundEven, {v * 4.0}),
                        fma(v, v, 1.0), cast(Elem::F32, half), cast(Elem::F32, brain), b.load(table, b.thread() % 4),
                        call(Fn::Exp2Coarse, {v - 1.0}), cast(Elem::F32, dot),
                        cast(Elem::F32, select(v < Ex(0.0), constant({Elem::F16, 1}, -1.5), constant({Elem::F16, 1}, 3))),
                        cast(Elem::F32, lookup(Fn::LookupLow, bytes, squares) & 0xffffff), cast(Elem::F32, lookup(Fn::LookupHigh, bytes, squares) >> 8)};
  int row = 0;
  for (const Ex& r : results) b.store(out, b.thread() + 32 * row++, r);
  const Kernel k = b.finish();
  expect_compiles(k);
  auto in = random_floats(32, 5);
  std::vector<float> values(32 * std::size(results));
  ASSERT_EQ(Emulated(k).run(1, {memory(in), memory(values)}), "");
  for (size_t i = 0; i < 32; ++i) {
    const float f = in[i], pi = std::acos(-1.0f);
    int32_t sum = int32_t(i);
    uint8_t byte[4];
    std::memcpy(byte, &f, 4);
    for (uint8_t value : byte) sum += int(value) * int8_t(value);
    uint32_t low = 0, high = 0;
    for (int j = 0; j < 3; ++j) {
      low |= uint32_t(squares[byte[j] & 15]) << 8 * j;
      high |= uint32_t(squares[byte[j + 1] >> 4]) << 8 * j;
    }
    const float expected[] = {std::exp(f), std::tanh(f), std::erf(f), std::sqrt(std::fabs(f)), std::sin(pi * f), std::cos(pi * f),
                              std::nearbyint(4 * f), std::fma(f, f, 1.0f), f16_to_f32(f32_to_f16(f)), bf16_to_f32(f32_to_bf16(f)),
                              std::vector<float>{3, 5, 7, 11}[i % 4], std::exp2(f - 1), float(sum), f < 0 ? -1.5f : 3.0f, float(low), float(high)};
    for (size_t r = 0; r < std::size(expected); ++r) EXPECT_NEAR(values[r * 32 + i], expected[r], 1e-6) << r;
  }
}

}  // namespace
}  // namespace prism::gpu_test
