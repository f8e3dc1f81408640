// Whole models through the pipeline, code generation and the runtime, against logits recorded from llama.cpp.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "codegen/fill_weight.h"
#include "codegen/generate.h"
#include "frontends/gguf/model.h"
#include "passes/pass.h"
#include "tests/unit/reference.h"
#include "runtime/sampler.h"
#include "runtime/session.h"

namespace prism {
namespace {

Result<std::shared_ptr<rt::Executable>> compile(const std::string& path, const std::string& target = "cpu", ir::DType kv = ir::DType::F16, const std::string& first = "") {
  PRISM_TRY(auto file, gguf::File::open(path));
  PRISM_TRY(auto module, gguf::build_module(file, {.kv_dtype = kv}));
  PRISM_TRY(auto pipeline, passes::parse_pipeline(first + codegen::default_pipeline(target, rt::best_isa())));
  PRISM_CHECK(passes::Manager().run(*module, pipeline));
  codegen::GenerateOptions options;
  options.target = target;
  PRISM_TRY(auto program, codegen::generate(*module, options));
  rt::LoadOptions load;
  load.fill = [&](const rt::Weight& w, std::span<uint8_t> dst) {
    return codegen::fill_weight(w, [&](const std::string& name) -> Result<codegen::SourceTensor> {
      const gguf::TensorInfo* t = file->tensor(name);
      if (!t) return error("no tensor ", name);
      return codegen::SourceTensor{t->dtype, t->shape, file->data(*t)};
    }, dst);
  };
  return rt::Executable::from_program(std::move(program), load);
}

std::vector<float> score(const std::shared_ptr<rt::Executable>& exe, const std::vector<int32_t>& ids, unsigned threads) {
  auto session = rt::Session::create(exe, {threads, 0});
  EXPECT_TRUE(session) << session.message();
  std::vector<float> logits;
  auto status = (*session)->score(ids, [&](size_t, std::span<const float> row) { logits.insert(logits.end(), row.begin(), row.end()); });
  EXPECT_TRUE(status) << status.message();
  return logits;
}

/// Logits after the last id of every piece when the ids are fed in pieces of `chunk`.
std::vector<float> feed(const std::shared_ptr<rt::Executable>& exe, const std::vector<int32_t>& ids, size_t chunk, unsigned threads) {
  auto session = rt::Session::create(exe, {threads, 0});
  EXPECT_TRUE(session) << session.message();
  std::vector<float> all;
  for (size_t at = 0; at < ids.size(); at += chunk) {
    const Status fed = (*session)->feed(std::span(ids).subspan(at, std::min(chunk, ids.size() - at)));
    EXPECT_TRUE(fed) << fed.message();
    const auto logits = (*session)->logits();
    all.insert(all.end(), logits->begin(), logits->end());
  }
  return all;
}

std::vector<float> steps(const std::shared_ptr<rt::Executable>& exe, std::span<const int32_t> ids, bool persistent = false) {
  auto session = rt::Session::create(exe, {2, 0, persistent});
  EXPECT_TRUE(session) << session.message();
  std::vector<float> all;
  for (int32_t id : ids) {
    const Status stepped = (*session)->step(id);
    EXPECT_TRUE(stepped) << stepped.message();
    const auto logits = (*session)->logits();
    all.insert(all.end(), logits->begin(), logits->end());
  }
  return all;
}

/// Several ids scored at once read the weights once.
void expect_weights_read_once(const std::shared_ptr<rt::Executable>& exe) {
  auto session = rt::Session::create(exe, {1, 0});
  ASSERT_TRUE(session) << session.message();
  const auto at_once = (*session)->amounts(0, 16, rt::Session::How::Score), step = (*session)->amounts(0, 1, rt::Session::How::Step);
  ASSERT_TRUE(at_once && step);
  EXPECT_GT(step->weights, 0u);
  EXPECT_LT(at_once->weights, 2 * step->weights);
}

std::vector<float> last(const std::vector<float>& rows, size_t vocab) { return {rows.end() - long(vocab), rows.end()}; }

class CompiledTiny : public testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(CompiledTiny, LogitsAgreeWithLlamaCpp) {
  const auto& [target, model] = GetParam();
  auto exe = compile(shared_path(model + ".gguf"), target);
  ASSERT_TRUE(exe) << exe.message();
  auto ids = reference()["tiny"]["ids"].get<std::vector<int32_t>>();
  auto want = read_floats(shared_path(model + ".logits.f32"));
  const bool slow = target == "emu";
  if (slow) {  // more than one step of verify
    ids.resize(26);
    want.resize(26 * 128);
  }
  expect_weights_read_once(*exe);
  const auto scored = score(*exe, ids, 2), prefilled = feed(*exe, ids, slow ? 13 : 1, 2);
  ASSERT_EQ(scored.size(), want.size());
  EXPECT_LE(nmse(scored.data(), want.data(), want.size()), 1e-4);
  if (!slow) {
    EXPECT_LE(nmse(prefilled.data(), want.data(), want.size()), 1e-4);
  }
  EXPECT_LE(nmse(last(prefilled, 128).data(), last(want, 128).data(), 128), 1e-4);
  const size_t stepped = slow ? 18 : ids.size();
  EXPECT_EQ(steps(*exe, std::span(ids).first(stepped)), std::vector<float>(scored.begin(), scored.begin() + long(stepped * 128)));
  if (slow) {
    EXPECT_GE(exe->get()->entry("decode")->persistent, 0);
    EXPECT_EQ(steps(*exe, std::span(ids).first(stepped), true), std::vector<float>(scored.begin(), scored.begin() + long(stepped * 128))) << "in one launch";
  }
  for (size_t chunk : slow ? std::vector<size_t>{96} : std::vector<size_t>{5, 17, 96})
    EXPECT_EQ(last(feed(*exe, ids, chunk, 2), 128), last(prefilled, 128)) << "in pieces of " << chunk;
}

INSTANTIATE_TEST_SUITE_P(Models, CompiledTiny, testing::Combine(testing::Values("cpu", "emu"), testing::Values("llama-dense", "qwen2-dense", "gemma3-dense", "gpt2-dense")),
                         [](const auto& info) { return std::get<1>(info.param).substr(0, std::get<1>(info.param).find('-')) + "_" + std::get<0>(info.param); });

/// The weights are f32, so that what is lost when tokens are generated is what the cache loses.
/// All linears in 8 bits, rotated: near the truth, on CPUs and GPUs; and the prompt in whatever pieces as the steps.
TEST(CompiledInt8, IsNearTheTruthOnEveryTarget) {
  for (const char* target : {"cpu", "emu"}) {
    const auto exe = compile(shared_path("llama-dense.gguf"), target, ir::DType::F16, "insert-quantization{protect=none},fold-quantization,");
    ASSERT_TRUE(exe) << target << ": " << exe.message();
    const auto& features = exe->get()->program().required_features;
    EXPECT_EQ(std::count(features.begin(), features.end(), rt::kConvertedWeightsFeature), 1);
    auto ids = reference()["tiny"]["ids"].get<std::vector<int32_t>>();
    auto want = read_floats(shared_path("llama-dense.logits.f32"));
    ids.resize(20);
    want.resize(20 * 128);
    const auto scored = score(*exe, ids, 2);
    ASSERT_EQ(scored.size(), want.size());
    const double off = nmse(scored.data(), want.data(), want.size());
    EXPECT_GT(off, 1e-7) << target << ": nothing was rounded";
    EXPECT_LE(off, 2e-3) << target;
    EXPECT_EQ(steps(*exe, ids), scored) << target;
  }
}

TEST(CompiledCache, AWiderOneIsCloserToTheTruth) {
  const auto ids = reference()["tiny"]["ids"].get<std::vector<int32_t>>();
  const auto want = read_floats(shared_path("llama-dense.logits.f32"));
  const auto error = [&](ir::DType kv) {
    auto exe = compile(shared_path("llama-dense.gguf"), "cpu", kv);
    EXPECT_TRUE(exe) << exe.message();
    const auto got = score(*exe, ids, 1);
    return nmse(got.data(), want.data(), want.size());
  };
  const double bf16 = error(ir::DType::BF16), f16 = error(ir::DType::F16), f32 = error(ir::DType::F32);
  EXPECT_LT(bf16, 1e-4);
  EXPECT_LT(f16, bf16 / 10);
  EXPECT_LT(f32, f16 / 10);
}

TEST(CompiledForGpus, GreedyTextIsTheCpus) {
  const std::string path = model_path("smollm2");
  auto cpu = compile(path), emulated = compile(path, "emu");
  ASSERT_TRUE(cpu && emulated) << (cpu ? emulated : cpu).message();
  const auto prompt = reference()["models"]["smollm2"]["ids"].get<std::vector<int32_t>>();
  auto greedy = [&](const std::shared_ptr<rt::Executable>& exe) {
    auto session = rt::Session::create(exe, {2, 0});
    EXPECT_TRUE(session) << session.message();
    auto sampler = rt::Sampler::create({.temperature = 0});
    Status status = (*session)->feed(std::span(prompt).first(12));
    std::vector<int32_t> ids;
    while (status && ids.size() < 8) {
      auto id = (*session)->sample(*sampler);
      EXPECT_TRUE(id) << id.message();
      if (!id) break;
      ids.push_back(*id);
      status = (*session)->step(*id);
    }
    EXPECT_TRUE(status) << status.message();
    return ids;
  };
  EXPECT_EQ(greedy(*emulated), greedy(*cpu));
}

/// How far logits are from the recorded truth: n, k, ids [n,k], logits [n,k], log-sum-exp [n]; the tokens outside the k
/// are one bucket.
struct Quality {
  double mean_divergence = 0, agreement = 0;
};

Quality quality(const std::vector<float>& logits, const std::string& record) {
  int32_t n, k;
  memcpy(&n, record.data(), 4);
  memcpy(&k, record.data() + 4, 4);
  const size_t vocab = logits.size() / size_t(n);
  const auto* top = reinterpret_cast<const int32_t*>(record.data() + 8);
  const auto* top_logits = reinterpret_cast<const float*>(top + n * k);
  const float* log_sums = top_logits + n * k;
  Quality q;
  for (int i = 0; i < n; ++i) {
    const float* row = logits.data() + size_t(i) * vocab;
    const float* best = std::max_element(row, row + vocab);
    double sum = 0;
    for (size_t v = 0; v < vocab; ++v) sum += std::exp(double(row[v]) - *best);
    const double log_sum = std::log(sum) + *best;
    double p_rest = 1, q_rest = 1;
    for (int j = 0; j < k; ++j) {
      const double lp = double(top_logits[i * k + j]) - log_sums[i], lq = double(row[top[i * k + j]]) - log_sum;
      q.mean_divergence += std::exp(lp) * (lp - lq) / n;
      p_rest -= std::exp(lp);
      q_rest -= std::exp(lq);
    }
    p_rest = std::max(p_rest, 1e-12);
    q_rest = std::max(q_rest, 1e-12);
    q.mean_divergence += p_rest * std::log(p_rest / q_rest) / n;
    q.agreement += double(best - row == top[i * k]) / n;
  }
  return q;
}

using CompiledModel = RealModel;

TEST_P(CompiledModel, QualityIsNoWorseThanLlamaCppsAndBitsDoNotDependOnThreadsOrChunks) {
  auto exe = compile(model_path(GetParam()));
  ASSERT_TRUE(exe) << exe.message();
  const auto& model = reference()["models"].at(GetParam());
  const auto ids = model["ids"].get<std::vector<int32_t>>();
  expect_weights_read_once(*exe);
  const auto scored = score(*exe, ids, 2), prefilled = feed(*exe, ids, 1, 2);
  for (const std::vector<float>& logits : {std::cref(scored), std::cref(prefilled)}) {
    const Quality q = quality(logits, read_file(shared_path(GetParam() + ".top64.bin")));
    EXPECT_LE(q.mean_divergence, model["llamacpp"]["mean_kl"].get<double>());
    EXPECT_GE(q.agreement, model["llamacpp"]["top1_agreement"].get<double>());
    const std::string kernels = &logits == &scored ? "decode" : "prefill";
    RecordProperty(kernels + "_mean_kl", std::to_string(q.mean_divergence));
    RecordProperty(kernels + "_top1", std::to_string(q.agreement));
  }

  const size_t vocab = scored.size() / ids.size();
  EXPECT_EQ(steps(*exe, std::span(ids).first(20)), std::vector<float>(scored.begin(), scored.begin() + long(20 * vocab)));
  const std::vector<int32_t> prompt(ids.begin(), ids.begin() + 90);
  const std::vector<float> whole(prefilled.begin() + long(89 * vocab), prefilled.begin() + long(90 * vocab));
  EXPECT_EQ(feed(*exe, prompt, 90, 1), whole);
  EXPECT_EQ(feed(*exe, prompt, 90, 2), whole);
  EXPECT_EQ(feed(*exe, prompt, 90, 5), whole);
  EXPECT_EQ(last(feed(*exe, prompt, 33, 2), vocab), whole);
}

INSTANTIATE_TEST_SUITE_P(Models, CompiledModel, testing::ValuesIn(test_models()), real_model_name);

}  // namespace
}  // namespace prism
