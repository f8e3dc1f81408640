#include "codegen/limits.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>

#include "codegen/cpu/compile.h"
#include "codegen/kernels/worker.h"
#include "codegen/kir/kir.h"
#include "codegen/render/c.h"
#include "runtime/code_object.h"
#include "runtime/executable.h"
#include "runtime/memory.h"
#include "runtime/thread_pool.h"

namespace prism::codegen {
namespace {

using namespace kir;

constexpr int64_t kChunk = int64_t(1) << 20;   // bytes a task reads
constexpr int64_t kWords = 1024;               // of 4 bytes, in L1: what the others compute with
constexpr int64_t kSteps = 4096;               // of a task
constexpr int64_t kTasks = 128;                // of a thread: a millisecond

/// Reads a chunk; the sum is stored so that the loads are not dropped.
Kernel read_kernel() {
  constexpr int kSums = 8;
  Builder b("limit_read", {});
  const Buffer data = b.arg("data", Elem::I32), out = b.arg("out", Elem::I32, true);
  const Ex from = b.let(b.task() * Ex(kChunk / 4));
  std::vector<Ex> sums;
  for (int i = 0; i < kSums; ++i) sums.push_back(b.var(constant({Elem::I32, kLanes}, 0)));
  b.for_(0, Ex(kChunk / 4), kSums * kLanes, [&](Ex at) {
    for (int i = 0; i < kSums; ++i) b.assign(sums[size_t(i)], sums[size_t(i)] + b.load(data, from + at + Ex(i * kLanes), kLanes));
  });
  for (int i = 1; i < kSums; ++i) b.assign(sums[0], sums[0] + sums[size_t(i)]);
  b.store(out, b.task() * kLanes, sums[0]);
  return b.finish();
}

/// As the kernels do it: a vector of weights times one value (or four bytes, or two bf16) of each of some tokens. As many sums as hide
/// the time an instruction takes, and no more than there are registers.
Kernel product_kernel(const std::string& name, Fn fn, int sums_count) {
  Builder b(name, {});
  const Elem elem = fn == Fn::Fma ? Elem::F32 : fn == Fn::Dot4 ? Elem::I32 : Elem::U32, sum = fn == Fn::Dot4 ? Elem::I32 : Elem::F32;
  const Buffer data = b.arg("data", elem), out = b.arg("out", sum, true);
  std::vector<Ex> sums;
  for (int i = 0; i < sums_count; ++i) sums.push_back(b.var(constant({sum, kLanes}, 0)));
  b.for_(0, Ex(kSteps), 1, [&](Ex step) {
    const Ex at = b.let((step * kLanes) % Ex(kWords / 2));
    const Ex w = b.let(b.load(data, at, kLanes));
    for (int i = 0; i < sums_count; ++i) {
      const Ex x = splat(b.load(data, at + Ex(kWords / 2 + i)), kLanes), before = sums[size_t(i)];
      b.assign(before, fn == Fn::Fma ? call(fn, {w, x, before}) : call(fn, {before, fn == Fn::Dot4 ? bitcast({Elem::U32, kLanes}, w) : w, x}));
    }
  });
  for (int i = 1; i < sums_count; ++i) b.assign(sums[0], sums[0] + sums[size_t(i)]);
  b.store(out, b.task() * kLanes, sums[0]);
  return b.finish();
}

/// Bytes with AVX2, whose cheap product sums pairs in 16 bits: those of 32 columns, which do not overflow, are widened together.
Kernel pairs_kernel(int sums_count) {
  constexpr int kTogether = 8;
  Builder b("limit_int8", {});
  const Buffer data = b.arg("data", Elem::U32), out = b.arg("out", Elem::I32, true);
  std::vector<Ex> sums;
  for (int i = 0; i < sums_count; ++i) sums.push_back(b.var(constant({Elem::I32, kLanes}, 0)));
  b.for_(0, Ex(kSteps / kTogether), 1, [&](Ex step) {
    const Ex at = b.let((step * (kTogether * kLanes)) % Ex(kWords / 2));
    std::vector<Ex> pairs(sums.size(), constant({Elem::U32, kLanes}, 0));
    for (int j = 0; j < kTogether; ++j) {
      const Ex w = b.let(b.load(data, at + Ex(j * kLanes), kLanes));
      for (size_t i = 0; i < sums.size(); ++i) pairs[i] = b.let(call(Fn::DotPairs, {pairs[i], w, splat(bitcast({Elem::I32, 1}, b.load(data, at + Ex(kWords / 2 + j * kLanes + int64_t(i)))), kLanes)}));
    }
    for (size_t i = 0; i < sums.size(); ++i) b.assign(sums[i], call(Fn::SumPairs, {sums[i], pairs[i]}));
  });
  for (int i = 1; i < sums_count; ++i) b.assign(sums[0], sums[0] + sums[size_t(i)]);
  b.store(out, b.task() * kLanes, sums[0]);
  return b.finish();
}

/// Products of matrix registers: two by two, four sums.
Kernel tile_kernel() {
  Builder b("limit_bf16", {});
  b.use_tiles(std::vector<TileShape>(8, {kLanes, 64}));
  const Buffer data = b.arg("data", Elem::U32), out = b.arg("out", Elem::F32, true);
  const Buffer sums = b.scratch("sums", Elem::F32, 4 * kLanes * kLanes);
  for (int i = 0; i < 4; ++i) b.tile_zero(i);
  for (int i = 4; i < 8; ++i) b.tile_load(i, data, Ex((i - 4) * kLanes * kLanes), 64);
  b.for_(0, Ex(kSteps), 1, [&](Ex) {
    for (int i = 0; i < 4; ++i) b.tile_dot(i, 4 + i / 2, 6 + i % 2);
  });
  for (int i = 0; i < 4; ++i) b.tile_store(i, sums, Ex(i * kLanes * kLanes), 64);
  b.store(out, b.task() * kLanes, b.load(sums, 0, kLanes));
  return b.finish();
}

/// Much more than the caches hold, which machines may share and not tell.
uint64_t read_bytes() {
  const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
  constexpr uint64_t kLeast = uint64_t(256) << 20, kMost = uint64_t(1) << 30;
  return std::clamp(cache > 0 ? 4 * uint64_t(cache) : 0, kLeast, kMost) / kChunk * kChunk;
}

}  // namespace

Result<Limits> measure_limits(rt::Isa isa, unsigned threads) {
  const int sums = isa >= rt::Isa::Avx512 ? 12 : isa == rt::Isa::Avx2 ? 5 : 2;
  std::vector<Kernel> kernels = {read_kernel(), isa == rt::Isa::Avx2 ? pairs_kernel(sums) : product_kernel("limit_int8", Fn::Dot4, sums), product_kernel("limit_f32", Fn::Fma, sums)};
  const bool tiles = isa >= rt::Isa::Amx, pairs = !tiles && isa >= rt::Isa::Avx512;
  if (tiles) kernels.push_back(tile_kernel());
  if (pairs) kernels.push_back(product_kernel("limit_bf16", Fn::DotBf16, sums));
  std::vector<const Kernel*> all;
  for (const Kernel& k : kernels) {
    PRISM_CHECK(verify(k));
    all.push_back(&k);
  }
  PRISM_TRY(const auto elf, compile_c({render_cpu(all)}, isa));
  PRISM_TRY(const auto code, rt::CodeObject::load(elf, "limits"));
  PRISM_TRY(const auto team, rt::ThreadTeam::create(threads));
  const int64_t chunks = int64_t(read_bytes()) / kChunk, most_tasks = std::max<int64_t>(chunks, kTasks * int64_t(threads));
  PRISM_TRY(const auto data, rt::Mapping::anonymous(uint64_t(chunks * kChunk), "limits: data", /*huge_pages=*/true));
  PRISM_TRY(const auto out, rt::Mapping::anonymous(uint64_t(most_tasks) * kLanes * 4, "limits: results", /*huge_pages=*/false));
  PRISM_TRY(const auto scratch, rt::Mapping::anonymous(uint64_t(4 * kLanes * kLanes * 4) * threads, "limits: scratch", /*huge_pages=*/false));
  team->run([&](unsigned t) {  // each thread has the part it reads near itself
    std::fill(data.data() + chunks * t / threads * kChunk, data.data() + chunks * (t + 1) / threads * kChunk, uint8_t(1));
  });

  /// Tasks per second, the best of some runs: short ones, so that some are not interrupted.
  const auto rate = [&](const char* symbol, int64_t tasks, int runs) {
    const auto kernel = reinterpret_cast<rt::KernelFn>(code.symbol(symbol));
    void* const args[] = {data.data(), out.data()};
    double best = 0;
    for (int run = 0; run < runs; ++run) {
      const auto start = std::chrono::steady_clock::now();
      team->run([&](unsigned t) { kernel(args, nullptr, tasks * t / threads, tasks * (t + 1) / threads, scratch.data() + t * (4 * kLanes * kLanes * 4)); });
      best = std::max(best, double(tasks) / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
  };
  const int64_t tasks = kTasks * int64_t(threads);
  Limits l;
  l.read = rate("limit_read", chunks, 10) * double(kChunk);
  l.int8 = rate("limit_int8", tasks, 40) * double(kSteps * sums * kLanes * 8);
  l.f32 = rate("limit_f32", tasks, 40) * double(kSteps * sums * kLanes * 2);
  if (tiles || pairs) l.bf16 = rate("limit_bf16", tasks, 40) * double(kSteps * (tiles ? 4 * 16 * 16 * 32 * 2 : sums * kLanes * 4));
  return l;
}

}  // namespace prism::codegen
