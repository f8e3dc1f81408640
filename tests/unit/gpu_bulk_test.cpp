// Mbarriers and bulk copies: a ring of stages on the emulated device, with every mistake that can be made with it.
#include "gpu_fixture.h"
#include "kir_mutate.h"

namespace prism::gpu_test {
namespace {

using SKind = Stmt::Kind;

constexpr int kThreads = 64, kStages = 3, kSteps = 8, kPiece = kThreads / 2;   // floats of a copy; two to a stage

/// y[thread] = sum over steps of x[step][thread], x by two bulk copies a step, kStages steps ahead.
Kernel ring() {
  Builder b("ring", {}, kThreads);
  const Buffer x = b.arg("x", Elem::F32, false, true), y = b.arg("y", Elem::F32, true);
  const Buffer stages = b.shared("stages", Elem::F32, kStages * kThreads), full = b.shared("full", Elem::I64, kStages);
  const auto copy = [&](Ex step) {
    b.if_(b.thread() == Ex(0), [&] {
      const Ex stage = b.let(step % kStages);
      b.mbarrier_expect(full, stage, 2 * kPiece * 4);
      for (int i = 0; i < 2; ++i) b.bulk_copy(stages, stage * kThreads + i * kPiece, x, step * kThreads + i * kPiece, kPiece * 4, full, stage);
    });
  };
  b.if_(b.thread() == Ex(0), [&] {
    for (int s = 0; s < kStages; ++s) b.mbarrier_init(full, Ex(s), 1);
  });
  for (int s = 0; s < kStages; ++s) copy(constant({Elem::I32, 1}, s));
  b.barrier();
  const Ex sum = b.var(constant({Elem::F32, 1}, 0));
  b.for_(constant({Elem::I32, 1}, 0), Ex(kSteps), 1, [&](Ex step) {
    b.mbarrier_wait(full, step % kStages, step / kStages % 2);
    b.assign(sum, sum + b.load(stages, step % kStages * kThreads + b.thread()));
    b.barrier();
    const Ex later = b.let(step + Ex(kStages));
    b.if_(later < Ex(kSteps), [&] { copy(later); });
  });
  b.store(y, b.thread(), sum);
  return b.finish();
}

/// "" if the sums are right in many orders, else what is wrong.
std::string wrong(const Kernel& kernel) {
  Emulated code(kernel, false);
  auto x = random_floats(kSteps * kThreads, 1);
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    std::vector<float> y(kThreads);
    if (std::string error = code.run(2, {memory(x), memory(y)}, {}, seed); !error.empty()) return error;
    for (size_t t = 0; t < kThreads; ++t) {
      float sum = 0;
      for (size_t s = 0; s < kSteps; ++s) sum += x[s * kThreads + t];
      if (y[t] != sum) return "wrong sum";
    }
  }
  return "";
}

void expect_wrong(const Kernel& kernel, const std::vector<std::string>& one_of) {
  const std::string found = wrong(kernel);
  const bool known = std::any_of(one_of.begin(), one_of.end(), [&](const std::string& s) { return found.find(s) != found.npos; });
  EXPECT_TRUE(known) << "found '" << found << "', expected '" << one_of[0] << "'";
  EXPECT_TRUE(found.starts_with("kernel 'ring', line ")) << found;
  EXPECT_NE(found.find("thread "), found.npos) << found;
}

TEST(GpuBulk, ARingOfStages) {
  EXPECT_TRUE(verify(ring())) << verify(ring()).message();
  EXPECT_EQ(wrong(ring()), "");
  expect_compiles(ring(), {"sm_90", "sm_90a"});
  const std::string text = print(ring());
  for (const char* part : {"mbarrier_init full[0] count 1", "mbarrier_expect full[v", "bytes 128 on full[v", "parity "}) EXPECT_NE(text.find(part), text.npos) << text;
}

const std::vector<std::string> kNotWaitedFor = {"whose mbarrier was not waited for", "to it is under way", "nobody wrote it"};
const std::vector<std::string> kForEver = {"waits for a phase of parity "};

TEST(GpuBulk, StatementsLeftOut) {
  const Kernel k = ring();
  const auto drop = [&](SKind kind, const std::vector<std::string>& expected) {
    const int n = count(k, of_kind(kind));
    ASSERT_GT(n, 0);
    for (int i = 0; i < n; ++i) expect_wrong(without(k, of_kind(kind), i), expected);
  };
  drop(SKind::MbarrierInit, {"nobody wrote it"});
  drop(SKind::MbarrierExpect, kForEver);
  drop(SKind::BulkCopy, kForEver);
  drop(SKind::MbarrierWait, kNotWaitedFor);
  expect_wrong(without(k, of_kind(SKind::Barrier), 0), {"waits for the mbarrier in shared 'full' at byte 0: nobody wrote it", "waits for the mbarrier in shared 'full' at byte 0: thread 0 wrote it with no barrier between"});
  expect_wrong(without(k, of_kind(SKind::Barrier), 1), {"read it with no barrier between"});   // a stage is used again too early
}

TEST(GpuBulk, PhasesAndBytes) {
  const Kernel k = ring();
  const auto parity = [&](const std::function<Ex(Ex)>& other) { return changed(k, of_kind(SKind::MbarrierWait), 0, [&](Stmt& s) { s.b = other(Ex(s.b)).node; }); };
  auto never_or_early = kNotWaitedFor;
  never_or_early.push_back(kForEver[0]);
  expect_wrong(parity([](Ex p) { return Ex(1) - p; }), never_or_early);
  expect_wrong(parity([](Ex) { return constant({Elem::I32, 1}, 0); }), never_or_early);
  expect_wrong(parity([](Ex p) { return p + Ex(2); }), {"expected 0 or 1"});
  for (int i = 0; i < count(k, of_kind(SKind::MbarrierExpect)); ++i) {
    const auto bytes = [&](int n) { return changed(k, of_kind(SKind::MbarrierExpect), i, [&](Stmt& s) { s.b = constant({Elem::I32, 1}, n).node; }); };
    expect_wrong(bytes(2 * kPiece * 4 + 16), kForEver);
    expect_wrong(bytes(kPiece * 4), {"the phase of its mbarrier ended before its 128 bytes came, fewer were expected"});
    expect_wrong(bytes(16), kForEver);
  }
  expect_wrong(changed(k, of_kind(SKind::MbarrierInit), 1, [](Stmt& s) { s.b = constant({Elem::I32, 1}, 2).node; }), kForEver);
  expect_wrong(changed(k, of_kind(SKind::MbarrierInit), 1, [](Stmt& s) { s.a = constant({Elem::I32, 1}, 0).node; }), {"makes a second mbarrier in shared 'full' at byte 0"});
  for (int i = 0; i < count(k, of_kind(SKind::BulkCopy)); ++i) {
    const auto copy = [&](const std::function<void(Stmt&)>& f) { return changed(k, of_kind(SKind::BulkCopy), i, f); };
    expect_wrong(copy([](Stmt& s) { s.bytes = 24; }), {"copies 24 bytes, expected a multiple of 16"});
    expect_wrong(copy([](Stmt& s) { s.a = (Ex(s.a) + Ex(1)).node; }), {"bytes of shared 'stages' at byte"});
    expect_wrong(copy([](Stmt& s) { s.b = (Ex(s.b) + Ex(1)).node; }), {"of 'x' at byte"});
    expect_wrong(copy([](Stmt& s) { s.a = (Ex(s.a) + Ex(kStages * kThreads)).node; }), {", which has 768"});
    expect_wrong(copy([](Stmt& s) { s.c = constant({Elem::I32, 1}, kStages).node; }), {"8 bytes of shared 'full' at byte 24, which has 24"});
  }
}

/// A thread's store where a copy will come, then a copy that one thread or nobody waits for.
Kernel overwritten(bool fence, bool waits = true) {
  Builder b("ring", {}, 32);
  const Buffer x = b.arg("x", Elem::F32, false, true), y = b.arg("y", Elem::F32, true);
  const Buffer stage = b.shared("stage", Elem::F32, 32), full = b.shared("full", Elem::I64, 1);
  b.store(stage, b.thread(), constant({Elem::F32, 1}, 0));
  b.if_(b.thread() == Ex(0), [&] { b.mbarrier_init(full, Ex(0), 1); });
  if (fence) b.async_fence();
  b.barrier();
  b.if_(b.thread() == Ex(0), [&] {
    b.mbarrier_expect(full, Ex(0), 128);
    b.bulk_copy(stage, Ex(0), x, Ex(0), 128, full, Ex(0));
    if (waits) b.mbarrier_wait(full, Ex(0), Ex(0));
  });
  b.warp_sync();   // what one thread waited for the others see
  if (waits) b.store(y, b.thread(), b.load(stage, b.thread()));
  return b.finish();
}

TEST(GpuBulk, OtherWritesAndTheEnd) {
  auto x = random_floats(32, 1);
  std::vector<float> y(32);
  const auto run = [&](const Kernel& k) {
    std::string error;
    for (uint64_t seed = 1; seed <= 12 && error.empty(); ++seed) error = Emulated(k).run(1, {memory(x), memory(y)}, {}, seed);
    return error;
  };
  EXPECT_EQ(run(overwritten(true)), "");
  EXPECT_EQ(x, y);
  EXPECT_NE(run(overwritten(false)).find("wrote it with no async_fence before the barrier"), std::string::npos) << run(overwritten(false));
  EXPECT_NE(run(overwritten(true, false)).find("its bulk copy is under way when its block ends"), std::string::npos) << run(overwritten(true, false));
}

TEST(GpuBulk, Verifier) {
  const auto message = [](const Kernel& k) { return verify(k).message(); };
  const Kernel k = ring();
  EXPECT_EQ(message(changed(k, of_kind(SKind::BulkCopy), 0, [](Stmt& s) { s.bytes = 24; })), "kernel ring: bulk_copy of 24 bytes, expected a multiple of 16");
  EXPECT_EQ(message(changed(k, of_kind(SKind::BulkCopy), 0, [](Stmt& s) { s.id = 1; })), "kernel ring: bulk_copy to y, which is not shared");
  EXPECT_EQ(message(changed(k, of_kind(SKind::BulkCopy), 0, [](Stmt& s) { s.source = 1; })), "kernel ring: bulk_copy from y, which is no constant argument");
  EXPECT_EQ(message(changed(k, of_kind(SKind::BulkCopy), 0, [](Stmt& s) { s.second = 2; })), "kernel ring: mbarrier in stages, expected shared i64");
  EXPECT_EQ(message(changed(k, of_kind(SKind::MbarrierWait), 0, [](Stmt& s) { s.id = 2; })), "kernel ring: mbarrier in stages, expected shared i64");
  EXPECT_EQ(message(changed(k, of_kind(SKind::MbarrierWait), 0, [](Stmt& s) { s.b = constant({Elem::U32, 1}, 0).node; })), "kernel ring: mbarrier full with u32, expected i32");
}

}  // namespace
}  // namespace prism::gpu_test
