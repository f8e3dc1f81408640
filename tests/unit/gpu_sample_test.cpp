// Sampling without all logits: what the GPU keeps of them, what the sampler makes of that, and sessions that use both.
#include <algorithm>
#include <cmath>
#include <limits>

#include "codegen/kernels/gpu/gpu.h"
#include "gpu_fixture.h"
#include "gpu_kernel_fixture.h"
#include "kir_mutate.h"
#include "runtime/sampler.h"
#include "runtime/session.h"

namespace prism::gpu_test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();

using Logits = std::vector<float>;

/// What the kernel is to find.
struct Largest {
  std::vector<float> logits;
  std::vector<int32_t> ids;
  float sum = 0;

  rt::LargestLogits view(int64_t vocab) const { return {logits, ids, sum, vocab}; }
};

Largest expected_largest(const Logits& logits, float temperature) {
  std::vector<std::pair<float, int32_t>> all;
  for (size_t i = 0; i < logits.size(); ++i) all.push_back({std::isnan(logits[i]) ? -kInf : logits[i], int32_t(i)});
  std::stable_sort(all.begin(), all.end(), [](auto& a, auto& b) { return a.first > b.first; });
  double sum = 0;
  for (const auto& [x, id] : all) sum += x == all[0].first ? 1 : std::exp((double(x) - all[0].first) / temperature);
  all.resize(std::min<size_t>(all.size(), 64));
  Largest l;
  for (const auto& [x, id] : all) {
    l.logits.push_back(x);
    l.ids.push_back(id);
  }
  l.sum = float(sum);
  return l;
}

/// The kernel for a vocabulary, with the memory it needs.
class LargestKernel {
 public:
  explicit LargestKernel(int64_t vocab, const std::function<void(Kernel&)>& mutate = {})
      : vocab_(vocab), lowered_(codegen::gpu_largest_logits("largest_logits", {}, vocab)) {
    if (mutate) mutate(lowered_.kernel);
    kernel_ = std::make_unique<OnTarget>(lowered_.kernel, !mutate);
    workspace_.assign(size_t(lowered_.workspace_bytes) / 4, kNan);
    counter_.assign(size_t(lowered_.counters), 0);
  }
  const Kernel& kernel() const { return lowered_.kernel; }

  std::string run(Logits logits, float temperature, Largest& out, uint64_t seed = 1) {
    std::vector<float> t = {temperature}, sum = {kNan};
    out.logits.assign(size_t(std::min<int64_t>(64, vocab_)), kNan);
    out.ids.assign(out.logits.size(), -1);
    const std::string error = kernel_->run(*lowered_.tasks.constant(), {memory(t), memory(logits), memory(out.logits), memory(out.ids), memory(sum),
                                                                           memory(workspace_), memory(counter_)}, {}, seed);
    out.sum = sum[0];
    return error;
  }

 private:
  int64_t vocab_;
  codegen::LoweredKernel lowered_;
  std::unique_ptr<OnTarget> kernel_;
  std::vector<float> workspace_;
  std::vector<uint32_t> counter_;
};

/// "" or the first difference.
std::string difference(LargestKernel& k, const Logits& logits, float temperature, uint64_t seed = 1) {
  Largest got;
  if (std::string error = k.run(logits, temperature, got, seed); !error.empty()) return error;
  const Largest want = expected_largest(logits, temperature);
  for (size_t i = 0; i < want.ids.size(); ++i)
    if (got.ids[i] != want.ids[i] || got.logits[i] != want.logits[i])
      return "place " + std::to_string(i) + ": found " + std::to_string(got.ids[i]) + ", expected " + std::to_string(want.ids[i]);
  const bool finite = std::isfinite(want.logits[0]);
  if (finite && !(std::abs(got.sum - want.sum) <= 1e-5 * want.sum)) return "sum: found " + std::to_string(got.sum) + ", expected " + std::to_string(want.sum);
  return "";
}

TEST(GpuSample, TheLargestInOrderAndTheSumOfAll) {
  for (int64_t vocab : {1, 2, 63, 64, 65, 1000, 1024, 1025, 5000}) {
    LargestKernel k(vocab);
    if (vocab == 1 || vocab == 5000) expect_compiles(k.kernel());
    for (uint64_t seed : {1, 2, 3})  // again with the same counter and a used workspace
      EXPECT_EQ(difference(k, normal_floats(size_t(vocab), unsigned(seed), 3), seed == 1 ? 1.0f : 0.3f * float(seed), seed), "") << vocab << " seed " << seed;
  }
}

TEST(GpuSample, ALargeVocabulary) {
  LargestKernel k(49152);
  EXPECT_EQ(difference(k, normal_floats(49152, 9, 4), 0.8f), "");
}

TEST(GpuSample, TiesInfinitiesAndNoNumbers) {
  for (int64_t vocab : {70, 3000}) {
    LargestKernel k(vocab);
    const auto n = size_t(vocab);
    EXPECT_EQ(difference(k, Logits(n, 0.5f), 1), "");
    Logits few(n, -kInf);
    few[n - 1] = -2;
    few[n / 2] = few[3] = 1;
    EXPECT_EQ(difference(k, few, 1), "");
    Logits zeros(n, 0.0f);
    for (size_t i = 0; i < n; i += 2) zeros[i] = -0.0f;
    EXPECT_EQ(difference(k, zeros, 1), "");
    Logits steps = normal_floats(n, 4);
    for (float& x : steps) x = std::round(2 * x);
    EXPECT_EQ(difference(k, steps, 1), "");
    Logits holes = normal_floats(n, 5);
    for (size_t i = 0; i < n; i += 3) holes[i] = kNan;
    EXPECT_EQ(difference(k, holes, 1), "");
    holes[n / 2] = kInf;
    EXPECT_EQ(difference(k, holes, 1), "");
    EXPECT_EQ(difference(k, Logits(n, -kInf), 1), "");
    EXPECT_EQ(difference(k, Logits(n, kNan), 1), "");
    Logits wide = normal_floats(n, 6, 1e38f);
    EXPECT_EQ(difference(k, wide, 1e-38f), "");
    Logits rising(n);
    for (size_t i = 0; i < n; ++i) rising[i] = float(i);
    EXPECT_EQ(difference(k, rising, 5), "");
  }
}

/// What is wrong in a kernel shows.
TEST(GpuSample, MutantsAreCaught) {
  const auto errors = [](const std::function<void(Kernel&)>& mutate) {
    constexpr int64_t vocab = 3000;
    LargestKernel k(vocab, mutate);
    std::string all;
    for (uint64_t seed = 1; seed <= 3 && all.empty(); ++seed) all = difference(k, normal_floats(size_t(vocab), unsigned(seed), 3), 1, seed);
    return all;
  };
  const Kernel whole = codegen::gpu_largest_logits("k", {}, 3000).kernel;
  const auto errors_without = [&](const StmtTest& test, int n) {
    EXPECT_LT(n, count(whole, test));
    return errors([&](Kernel& k) { k = without(k, test, n); });
  };
  const int barriers = count(whole, of_kind(Stmt::Kind::Barrier));
  EXPECT_EQ(barriers, 12);
  constexpr int kBeforeTheCounter = 5;  // keeps other blocks from reading too early: they would have to overtake by hundreds of steps, which the emulated device's do not
  for (int n = 0; n < barriers; ++n)
    if (n != kBeforeTheCounter) {
      EXPECT_NE(errors_without(of_kind(Stmt::Kind::Barrier), n), "") << n;
    }
  EXPECT_NE(errors_without(store_to(whole, "counter"), 0), "");   // it is not set back
  // one exchange of a merge less: an assignment stays as it was
  for (int n : {0, 17, 40, 90}) EXPECT_NE(errors_without(of_kind(Stmt::Kind::Assign), n), "") << n;
}

// The sampler

struct Setting {
  rt::SamplerOptions options;
  bool always;  ///< the largest 64 are enough for logits as a language model's
};

const std::vector<Setting>& settings() {
  static const std::vector<Setting> all = {
      {{}, true},
      {{.temperature = 1, .top_k = 1}, true},
      {{.temperature = 0.8f, .top_k = 40}, true},
      {{.temperature = 1.5f, .top_k = 64}, true},
      {{.temperature = 1, .top_k = 65}, false},
      {{.temperature = 0.7f, .top_k = 40, .top_p = 0.9f, .min_p = 0.02f}, true},
      {{.temperature = 0.5f, .top_p = 0.5f}, false},
      {{.temperature = 1, .top_p = 0.9f}, false},
      {{.temperature = 0.3f, .top_p = 0.99f, .min_p = 0.1f}, false},
      {{.temperature = 0.3f, .min_p = 0.2f}, true},
      {{.temperature = 1, .min_p = 1}, true},
      {{.temperature = 1, .min_p = 0.001f}, false},
      {{.temperature = 1}, false},
      {{.repeat_penalty = 1.3f}, true},
      {{.temperature = 0.8f, .top_k = 20, .repeat_penalty = 1.1f}, true},
      {{.temperature = 0.4f, .top_p = 0.7f, .repeat_penalty = 1.2f}, false},
      {{.temperature = 0.4f, .min_p = 0.3f, .repeat_penalty = 1.2f}, false},
      {{.temperature = 1, .top_k = 10, .repeat_penalty = 0.7f}, false},
  };
  return all;
}

/// The same tokens from the largest logits as from all, or a refusal after which all give the same; returns the refusals.
int compare(Setting s, const std::vector<Logits>& rows, const std::function<Largest(const Logits&, float)>& largest, uint64_t seed) {
  s.options.seed = seed;
  auto few = rt::Sampler::create(s.options), all = rt::Sampler::create(s.options);
  EXPECT_TRUE(few && all);
  int refused = 0;
  for (const Logits& row : rows) {
    const Largest l = largest(row, few->temperature());
    auto id = few->sample(l.view(int64_t(row.size())));
    if (!id) {
      ++refused;
      id = few->sample(row);
    }
    EXPECT_EQ(*id, all->sample(row));
    few->accept(*id);
    all->accept(*id);
  }
  return refused;
}

/// Rows like a language model's: a few likely tokens, most of them again and again.
std::vector<Logits> rows_of(size_t vocab, size_t count, unsigned seed) {
  const Logits usual = normal_floats(vocab, seed, 2.5f);
  std::vector<Logits> rows;
  for (size_t r = 0; r < count; ++r) {
    rows.push_back(normal_floats(vocab, seed + 1 + unsigned(r)));
    for (size_t i = 0; i < vocab; ++i) rows[r][i] += usual[i];
  }
  return rows;
}

TEST(GpuSample, SameTokensAsFromAllLogits) {
  for (size_t vocab : {1, 63, 64, 65, 1000}) {
    LargestKernel k{int64_t(vocab)};
    const auto rows = rows_of(vocab, 4, unsigned(vocab));
    for (const Setting& s : settings()) {
      const int refused = compare(s, rows, [&](const Logits& row, float temperature) {
        Largest l;
        EXPECT_EQ(k.run(row, temperature, l), "");
        return l;
      }, vocab);
      if (s.always && vocab > 64) {
        EXPECT_EQ(refused, 0) << "top-k " << s.options.top_k << ", min-p " << s.options.min_p;
      }
    }
  }
}

/// More rows, with sums as far off as a GPU's may be.
TEST(GpuSample, SumsMayBeOff) {
  int refused = 0, asked = 0;
  for (unsigned round = 0; round < 30; ++round) {
    const size_t vocab = 100 + 371 * round;
    std::mt19937 random(round);
    std::uniform_real_distribution<double> off(-rt::LargestLogits::kSumError, rt::LargestLogits::kSumError);
    auto rows = rows_of(vocab, 20, round);
    for (size_t i = 0; i < rows.size(); i += 3)
      for (float& x : rows[i]) x = std::round(4 * x) / 4;  // ties
    for (const Setting& s : settings()) {
      const int found = compare(s, rows, [&](const Logits& row, float temperature) {
        Largest l = expected_largest(row, temperature);
        l.sum = float(l.sum * (1 + 0.99 * off(random)));
        return l;
      }, round);
      if (s.options.top_p < 1 && s.options.top_k == 0) {
        refused += found;
        asked += int(rows.size());
      }
      if (s.options.repeat_penalty < 1) {
        EXPECT_GE(found, int(rows.size()) - 1);
      }
    }
  }
  EXPECT_LT(refused, asked * 3 / 4);  // it is of use
  EXPECT_GT(refused, 0);
}

TEST(GpuSample, RefusesWhatOnlyAllLogitsTell) {
  const Logits flat(1000, 0.0f), none(1000, -kInf);
  Logits infinite(1000, 0.0f);
  infinite[7] = kInf;
  const auto sample = [](const rt::SamplerOptions& o, const Logits& row) {
    auto s = rt::Sampler::create(o);
    return s->sample(expected_largest(row, s->temperature()).view(int64_t(row.size())));
  };
  EXPECT_FALSE(sample({.temperature = 1, .top_p = 0.5f}, flat));
  EXPECT_FALSE(sample({.temperature = 1, .min_p = 0.5f}, flat));
  EXPECT_FALSE(sample({.temperature = 1}, flat));
  EXPECT_FALSE(sample({.temperature = 1, .top_k = 65}, flat));
  EXPECT_TRUE(sample({.temperature = 1, .top_k = 64}, flat));
  for (const Logits& row : {none, infinite}) EXPECT_FALSE(sample({}, row));
  // every one of the 64 penalised: an unknown one may be first now
  auto s = rt::Sampler::create({.repeat_penalty = 1.5f});
  Logits row(1000, 1.0f);
  for (int32_t i = 0; i < 64; ++i) s->accept(i);
  EXPECT_FALSE(s->sample(expected_largest(row, 1).view(1000)));
  EXPECT_EQ(s->sample(row), 64);
}

// Sessions

/// A model whose next logits depend on the last id only.
constexpr const char* kBigrams = R"(module @bigrams level=graph {
  attr context_length=256
  attr vocab_size=300
  dim ?seq in [1,64]
  dim ?past in [0,256]
  dim ?out in [1,64]
  weight @table : f32[300,300]
  graph @forward(%ids: i32[?seq]) -> (f32[?out,300]) {
    %last = embedding(%ids, @table) : f32[?seq,300]
    %logits = tail(%last) {rows="?out"} : f32[?out,300]
    return %logits
  }
}
)";

std::unique_ptr<rt::Session> session(const std::string& target, bool with_largest = true) {
  auto module = ir::parse(kBigrams, "bigrams");
  EXPECT_TRUE(module) << module.message();
  auto steps = passes::parse_pipeline(codegen::default_pipeline(target, rt::best_isa()));
  const Status passed = passes::Manager().run(**module, *steps);
  EXPECT_TRUE(passed) << passed.message();
  auto program = codegen::generate(**module, {.target = target});
  EXPECT_TRUE(program) << program.message();
  if (!program) return nullptr;
  const auto added = std::count_if(program->entries.begin(), program->entries.end(), [](auto& e) { return e.name.ends_with(rt::kLargestSuffix); });
  EXPECT_EQ(added, target == "cpu" ? 0 : 3);
  if (!with_largest) std::erase_if(program->entries, [](auto& e) { return e.name.ends_with(rt::kLargestSuffix); });
  rt::LoadOptions load;
  load.fill = [](const rt::Weight&, std::span<uint8_t> dst) {
    const auto table = normal_floats(dst.size() / 4, 11, 2);
    std::memcpy(dst.data(), table.data(), dst.size());
    return ok();
  };
  auto exe = rt::Executable::from_program(std::move(*program), load);
  EXPECT_TRUE(exe) << exe.message();
  auto s = rt::Session::create(*exe, {.threads = 1});
  EXPECT_TRUE(s) << s.message();
  return std::move(*s);
}

std::vector<int32_t> generate(rt::Session& s, const rt::SamplerOptions& o) {
  auto sampler = rt::Sampler::create(o);
  std::vector<int32_t> ids = {17, 4, 250};
  s.rewind(0);
  Status status = s.feed(ids);
  for (int i = 0; i < 12; ++i) {
    EXPECT_TRUE(status) << status.message();
    const auto id = s.sample(*sampler);
    EXPECT_TRUE(id) << id.message();
    if (!id) break;
    sampler->accept(*id);
    ids.push_back(*id);
    status = s.step(*id);
  }
  return ids;
}

TEST(GpuSample, SessionsOfAllDevicesGenerateTheSame) {
  auto cpu = session("cpu"), gpu = session("emu"), plain = session("emu", false);
  ASSERT_TRUE(cpu && gpu && plain);
  for (const Setting& s : settings()) {
    const auto ids = generate(*cpu, s.options);
    EXPECT_EQ(ids.size(), 15u);
    EXPECT_EQ(generate(*gpu, s.options), ids) << "top-k " << s.options.top_k << ", top-p " << s.options.top_p;
    EXPECT_EQ(generate(*plain, s.options), ids);
  }
  // Logits and samples as often as one likes, in any order.
  ASSERT_TRUE(gpu->feed(std::vector<int32_t>{5}));
  ASSERT_TRUE(cpu->feed(std::vector<int32_t>{5}));
  auto greedy = rt::Sampler::create({});
  const auto first = gpu->sample(*greedy), second = gpu->sample(*greedy);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(*first, *second);
  const auto a = gpu->logits(), b = cpu->logits();
  ASSERT_TRUE(a && b);
  EXPECT_EQ(Logits(a->begin(), a->end()), Logits(b->begin(), b->end()));
  EXPECT_EQ(*gpu->sample(*greedy), greedy->sample(*b));
}

}  // namespace
}  // namespace prism::gpu_test
