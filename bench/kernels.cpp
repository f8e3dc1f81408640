// One linear of every weight format at 1, 4 and 512 tokens on one thread: rates of operations and of weight bytes.
#include <benchmark/benchmark.h>

#include "tests/unit/kernel_fixture.h"

namespace prism {
namespace {

constexpr int64_t kRows = 1536, kColumns = 1536;

KernelFixture& linears() {
  static auto fixture = [] {
    std::string text = "module @bench level=graph {\n  dim ?seq in [1,512]\n";
    for (DType t : kFormats) {
      const std::string f(ir::info(t).name), n = std::to_string(kRows), k = std::to_string(kColumns);
      text += "  weight @w_" + f + " : " + f + "[" + n + "," + k + "]\n";
      for (const std::string seq : {"1", "?seq"})
        text += "  graph @" + f + (seq == "1" ? "_one" : "_many") + "(%x: f32[" + seq + "," + k + "]) -> (f32[" + seq + "," + n + "]) {\n    %y = linear(%x, @w_" + f +
                ") : f32[" + seq + "," + n + "]\n    return %y\n  }\n";
    }
    return KernelFixture::create(text + "}\n", rt::best_isa());
  }();
  if (!fixture) {
    fprintf(stderr, "%s\n", fixture.message().c_str());
    exit(1);
  }
  return **fixture;
}

void linear(benchmark::State& state, DType format, int64_t tokens) {
  KernelFixture& f = linears();
  const std::string name = std::string(ir::info(format).name) + (tokens == 1 ? "_one" : "_many");
  const rt::EntryPoint& entry = *f.executable().entry(name);
  const rt::Program& p = f.executable().program();
  std::vector<int64_t> dims;
  for (const std::string& d : p.dims) dims.push_back(d == "seq" ? tokens : 0);
  std::vector<uint8_t> arena(entry.arena_bytes + 64), scratch(1 << 22);
  auto aligned = [](std::vector<uint8_t>& v) { return reinterpret_cast<uint8_t*>((uintptr_t(v.data()) + 63) / 64 * 64); };
  uint64_t bytes = 0;
  for (auto _ : state)
    for (const rt::Launch& l : entry.launches) {
      std::vector<void*> args;
      for (const rt::Arg& a : l.args) {
        args.push_back(a.space == rt::Space::Weight ? const_cast<uint8_t*>(f.executable().weights()) + p.weights[a.index].offset : aligned(arena) + a.offset);
        if (a.space == rt::Space::Weight) bytes += p.weights[a.index].bytes;
      }
      f.executable().kernel(l.kernel)(args.data(), dims.data(), 0, *l.tasks.evaluate(dims), aligned(scratch));
      benchmark::ClobberMemory();
    }
  state.counters["op/s"] = benchmark::Counter(double(state.iterations()) * 2.0 * double(kRows * kColumns * tokens), benchmark::Counter::kIsRate);
  state.counters["weights"] = benchmark::Counter(double(bytes), benchmark::Counter::kIsRate, benchmark::Counter::kIs1024);
}

const bool registered = [] {
  for (DType t : kFormats)
    for (int64_t tokens : {1, 4, 512})
      benchmark::RegisterBenchmark(("linear/" + std::string(ir::info(t).name) + "/" + std::to_string(tokens)).c_str(),
                                   [=](benchmark::State& s) { linear(s, t, tokens); });
  return true;
}();

}  // namespace
}  // namespace prism
