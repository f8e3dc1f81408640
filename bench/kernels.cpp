// Kernels alone on one thread, and what fraction of the machine's limits (codegen/limits.h) they reach: a linear of every weight
// format on 512 tokens and, with weights that no cache holds, on 1, 4 and 8; attention of SmolLM2's shape. --isa=avx2: for
// that instruction set, else for this machine's best.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>

#include "codegen/limits.h"
#include "runtime/memory.h"
#include "runtime/work.h"
#include "tests/unit/kernel_fixture.h"

namespace prism {
namespace {

template <class T>
T value_of(Result<T> result) {
  if (result) return *std::move(result);
  fprintf(stderr, "%s\n", result.message().c_str());
  exit(1);
}

rt::Isa isa = rt::best_isa();

const codegen::Limits& limits() {
  static const codegen::Limits l = value_of(codegen::measure_limits(isa, 1));
  return l;
}

/// A fixture and the memory its kernels work on.
class Subject {
 public:
  explicit Subject(const std::string& graphs)
      : fixture_(value_of(KernelFixture::create("module @bench level=graph {\n  dim ?past in [0,4096]\n  dim ?few in [1,8]\n  dim ?seq in [1,512]\n" + graphs + "}\n", isa))) {
    uint64_t arena = 64, scratch = 64, plane = 0;
    for (const rt::EntryPoint& e : program().entries) arena = std::max(arena, e.arena_bytes);
    for (const rt::Kernel& k : program().kernels) scratch = std::max(scratch, k.scratch_bytes);
    for (const rt::KvLayer& l : program().kv) plane = std::max(plane, uint64_t(l.heads * l.head_size * kContext * 2));
    arena_ = value_of(rt::Mapping::anonymous(arena, "arena", true));
    scratch_ = value_of(rt::Mapping::anonymous(scratch, "scratch", true));
    planes_ = value_of(rt::Mapping::anonymous(2 * plane + 64, "planes", true));
    memset(planes_.data(), 0x2c, planes_.bytes());  // 0.065 in f16
  }

  const rt::Program& program() { return fixture_->executable().program(); }

  /// Makes `name` ready with so many tokens.
  void choose(const std::string& name, int64_t seq, int64_t past) {
    const rt::Program& p = program();
    const rt::EntryPoint& entry = *fixture_->executable().entry(name);
    dims_.clear();
    for (const std::string& d : p.dims) dims_.push_back(d == "seq" || d == "few" ? seq : d == "past" ? past : kContext);
    amounts_ = value_of(rt::amounts_of(p, entry, dims_));
    launches_.clear();
    for (const rt::Launch& l : entry.launches) {
      Launch& launch = launches_.emplace_back(Launch{fixture_->executable().kernel(l.kernel), {}, value_of(l.tasks.evaluate(dims_))});
      for (const rt::Arg& a : l.args) {
        if (a.space == rt::Space::Arena) launch.args.push_back(arena_.data() + a.offset);
        else if (a.space == rt::Space::Weight) launch.args.push_back(const_cast<uint8_t*>(fixture_->executable().weight(a.index)) + a.offset);
        else launch.args.push_back(planes_.data() + (a.space == rt::Space::KvV ? planes_.bytes() / 2 / 64 * 64 : 0));
      }
      computes_ = p.kernels[l.kernel].computes;  // the last launch is the one that matters: those before it make its input
    }
  }
  /// Seconds it took.
  double run() {
    const auto start = std::chrono::steady_clock::now();
    for (Launch& l : launches_) l.kernel(l.args.data(), dims_.data(), 0, l.tasks, scratch_.data());
    benchmark::ClobberMemory();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  /// Runs it for as long as the library likes; the fraction of the limit is that of the best time, as the limit is.
  double measure(benchmark::State& state, bool from_memory) {
    double best = 1e9;
    for (auto _ : state) best = std::min(best, run());
    report(state, from_memory, best);
    return best;
  }

 private:
  void report(benchmark::State& state, bool from_memory, double best) {
    const double runs = double(state.iterations()), operations = double(amounts_.operations), bytes = double(amounts_.weights + amounts_.kv);
    const codegen::Limits& l = limits();
    const bool int8 = computes_.find("(q8a") != computes_.npos, bf16 = computes_.find("(bf16") != computes_.npos;
    const double limit = from_memory ? l.read : int8 ? l.int8 : bf16 ? l.bf16 : l.f32;
    state.counters["op/s"] = benchmark::Counter(runs * operations, benchmark::Counter::kIsRate);
    state.counters["read"] = benchmark::Counter(runs * bytes, benchmark::Counter::kIsRate, benchmark::Counter::kIs1024);
    state.counters["of_limit"] = (from_memory ? bytes : operations) / best / limit;
    state.SetLabel(from_memory ? "of reading" : int8 ? "of int8" : bf16 ? "of bf16" : "of f32");
  }

  static constexpr int64_t kContext = 4608;
  struct Launch {
    rt::KernelFn kernel;
    std::vector<void*> args;
    int64_t tasks;
  };
  std::unique_ptr<KernelFixture> fixture_;
  rt::Mapping arena_, scratch_, planes_;
  std::vector<int64_t> dims_;
  std::vector<Launch> launches_;
  rt::Amounts amounts_;
  std::string computes_;
};

/// A linear of a format with a weight of rows by columns, for one token, for few and for many.
std::string linear_graphs(DType format, int64_t rows, int64_t columns) {
  const std::string f(ir::info(format).name), n = std::to_string(rows), k = std::to_string(columns);
  std::string text = "  weight @w : " + f + "[" + n + "," + k + "]\n";
  for (const auto& [name, seq] : {std::pair<std::string, std::string>("one", "1"), {"few", "?few"}, {"many", "?seq"}})
    text += "  graph @" + name + "(%x: f32[" + seq + "," + k + "]) -> (f32[" + seq + "," + n + "]) {\n    %y = linear(%x, @w) : f32[" +
            seq + "," + n + "]\n    return %y\n  }\n";
  return text;
}

/// The subject of the format measured last: the large ones are not all kept.
Subject& subject(DType format, bool large) {
  static std::unique_ptr<Subject> kept;
  static std::pair<DType, bool> is;
  if (kept && is == std::pair(format, large)) return *kept;
  kept.reset();
  constexpr int64_t kColumns = 1536;
  constexpr uint64_t kLargeBytes = uint64_t(128) << 20;
  const ir::DTypeInfo& f = ir::info(format);
  const int64_t rows = large ? int64_t(kLargeBytes / (kColumns / f.block * f.bytes)) / 16 * 16 : 1536;
  kept = std::make_unique<Subject>(linear_graphs(format, rows, kColumns));
  is = {format, large};
  return *kept;
}

/// "extra_row": what each token beside the first adds to its time.
void linear(benchmark::State& state, DType format, int64_t tokens) {
  const bool from_memory = tokens < 16;
  Subject& s = subject(format, from_memory);
  double one = 1e9;
  if (from_memory && tokens > 1) {
    s.choose("one", 1, 0);
    for (int i = 0; i < 5; ++i) one = std::min(one, s.run());
  }
  s.choose(tokens == 1 ? "one" : from_memory ? "few" : "many", tokens, 0);
  const double best = s.measure(state, from_memory);
  if (from_memory && tokens > 1) state.counters["extra_row"] = (best / one - 1) / double(tokens - 1);  // of the time of one token
}

void attention(benchmark::State& state, int64_t seq, int64_t past) {
  static Subject s([] {
    std::string text;
    for (const std::string seq : {"1", "?seq"})
      text += "  graph @" + std::string(seq == "1" ? "one" : "many") + "(%q: f32[" + seq + ",9,64], %kv: kv<f16>[?past+" + seq + ",3,64]) -> (f32[" + seq +
              ",9,64]) {\n    %a = attention(%q, %kv) {scale=0.125} : f32[" + seq + ",9,64]\n    return %a\n  }\n";
    return text;
  }());
  s.choose(seq == 1 ? "one" : "many", seq, past);
  s.measure(state, false);
}

const bool registered = [] {
  for (DType t : kFormats)
    for (int64_t tokens : {512, 1, 4, 8})
      benchmark::RegisterBenchmark(("linear/" + std::string(ir::info(t).name) + "/" + std::to_string(tokens)).c_str(),
                                   [=](benchmark::State& s) { linear(s, t, tokens); })->Unit(benchmark::kMicrosecond)->UseRealTime();
  benchmark::RegisterBenchmark("attention_decode/4096", [](benchmark::State& s) { attention(s, 1, 4095); })->Unit(benchmark::kMicrosecond)->UseRealTime();
  benchmark::RegisterBenchmark("attention_prefill/512/0", [](benchmark::State& s) { attention(s, 512, 0); })->Unit(benchmark::kMicrosecond)->UseRealTime();
  benchmark::RegisterBenchmark("attention_prefill/512/3584", [](benchmark::State& s) { attention(s, 512, 3584); })->Unit(benchmark::kMicrosecond)->UseRealTime();
  return true;
}();

/// Takes --isa=NAME, which the library left.
bool choose_isa(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const auto named = argument.starts_with("--isa=") ? rt::isa_from_name(argument.substr(6)) : std::nullopt;
    if (!named || !rt::runs_here(*named)) {
      fprintf(stderr, "found %s, expected --isa= with an instruction set of this machine\n", argv[i]);
      return false;
    }
    isa = *named;
  }
  return true;
}

}  // namespace
}  // namespace prism

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (!prism::choose_isa(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
