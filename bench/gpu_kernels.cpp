// GPU kernels alone: linears of every format for one token and for many, attention. Rates of weight bytes, operations and cached
// bytes. Needs PRISM_GPU_TARGET=cuda; on the emulated device it only shows that it runs.
#include <benchmark/benchmark.h>

#include "tests/unit/gpu_kernel_fixture.h"

namespace prism {
namespace {

constexpr int kRepeats = 20;   // of the launches in a graph: the host is not what is measured

/// Runs an entry point over and over; the time is that of one.
void measure(benchmark::State& state, Result<std::unique_ptr<GpuKernelFixture>>& fixture, const std::string& entry,
             const std::map<std::string, int64_t>& dims, const std::vector<uint64_t>& kv, double operations, double bytes) {
  if (!fixture) return state.SkipWithError(fixture.message().c_str());
  GpuKernelFixture& f = **fixture;
  auto run = f.prepare(entry, dims, kv);
  if (!run) return state.SkipWithError(run.message().c_str());
  Status status = f.driver().begin_recording();
  for (int i = 0; status && i < kRepeats; ++i) status = run->launch();
  auto graph = f.driver().end_recording();
  for (int warm = 0; warm < 3 && status && graph; ++warm) status = f.driver().replay(**graph);
  if (status) status = f.driver().synchronize();
  if (!status || !graph) return state.SkipWithError((status ? graph.message() : status.message()).c_str());
  for (auto _ : state) {
    status = f.driver().replay(**graph);
    if (status) status = f.driver().synchronize();
    if (!status) return state.SkipWithError(status.message().c_str());
  }
  const double times = double(state.iterations()) * kRepeats;
  state.counters["seconds"] = benchmark::Counter(times, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  if (operations > 0) state.counters["op/s"] = benchmark::Counter(times * operations, benchmark::Counter::kIsRate);
  if (bytes > 0) state.counters["bytes/s"] = benchmark::Counter(times * bytes, benchmark::Counter::kIsRate);
}

/// Weights of 30 MB and more at the least, so that they come from memory and not from a cache.
void linear(benchmark::State& state, DType format, int64_t tokens) {
  const bool small = GpuKernelFixture::target() == "emu";
  const int64_t n = small ? 256 : 28672, k = small ? 256 : 8192;
  const std::string f(ir::info(format).name), rows = tokens == 1 ? "1" : "?seq";
  const std::string text = "module @bench level=graph {\n  dim ?seq in [1,4096]\n  weight @w : " + f + "[" + std::to_string(n) + "," + std::to_string(k) +
                           "]\n  graph @linear(%x: f32[" + rows + "," + std::to_string(k) + "]) -> (f32[" + rows + "," + std::to_string(n) +
                           "]) {\n    %y = linear(%x, @w) : f32[" + rows + "," + std::to_string(n) + "]\n    return %y\n  }\n}\n";
  auto fixture = GpuKernelFixture::create(text, tokens > 16 ? GpuRows::Many : GpuRows::Few);
  const double bytes = double(n * k) / double(ir::info(format).block) * double(ir::info(format).bytes);
  measure(state, fixture, "linear", {{"seq", tokens}}, {}, 2.0 * double(n * k * tokens), tokens > 16 ? 0 : bytes);
}

void attention(benchmark::State& state, int64_t tokens, int64_t past) {
  const int64_t heads = 32, kv_heads = 8, size = 128, context = (past + tokens + 63) / 64 * 64;
  const std::string rows = tokens == 1 ? "1" : "?seq";
  const std::string q = "f32[" + rows + ",32,128]", k = "f32[" + rows + ",8,128]";
  const std::string text = "module @bench level=graph {\n  dim ?seq in [1,8192]\n  dim ?past in [0,131072]\n  graph @attention(%q: " + q + ", %k: " + k + ", %kv: kv<f16>[?past,8,128]) -> (" +
                           q + ") {\n    %kv2 = kv_append(%kv, %k, %k) : kv<f16>[?past+" + rows + ",8,128]\n    %a = attention(%q, %kv2) {scale=0.0883883} : " + q +
                           "\n    return %a\n  }\n}\n";
  auto fixture = GpuKernelFixture::create(text, tokens > 16 ? GpuRows::Many : GpuRows::Few);
  const double pairs = double(tokens) * (double(past) + (double(tokens) + 1) / 2);   // causal
  const uint64_t plane = uint64_t(kv_heads * context * size * 2);
  measure(state, fixture, "attention", {{"seq", tokens}, {"past", past}, {"ctx", context}}, {plane, plane}, tokens > 16 ? 4.0 * pairs * double(heads * size) : 0,
          tokens > 16 ? 0 : 2.0 * double(past + tokens) * double(kv_heads * size) * 2);
}

const bool registered = [] {
  auto add = [](const std::string& name, auto function) { benchmark::RegisterBenchmark(name.c_str(), function)->UseRealTime(); };
  const bool small = GpuKernelFixture::target() == "emu";
  for (DType t : kFormats)
    for (int64_t tokens : {1, 4, 8, 2048}) {
      if (t == DType::F32 && tokens > 16) continue;
      add("linear/" + std::string(ir::info(t).name) + "/" + std::to_string(tokens), [=](benchmark::State& s) { linear(s, t, small ? std::min<int64_t>(tokens, 20) : tokens); });
    }
  for (int64_t past : {0, 4096, 32768}) add("attention_decode/" + std::to_string(past), [=](benchmark::State& s) { attention(s, 1, small ? past / 256 : past); });
  for (int64_t tokens : {512, 2048, 8192}) add("attention_prefill/" + std::to_string(tokens), [=](benchmark::State& s) { attention(s, small ? tokens / 64 : tokens, 0); });
  return true;
}();

}  // namespace
}  // namespace prism
