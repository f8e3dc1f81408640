// Architectures built from GGUF files, run by the evaluator, against llama.cpp's numbers (../shared/reference).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include "frontends/gguf/model.h"
#include "ir/eval.h"
#include "tests/unit/reference.h"

namespace prism::gguf {
namespace {

std::unique_ptr<ir::Module> load(const std::string& path, const ModelOptions& options = {.kv_dtype = ir::DType::F32}) {
  auto file = File::open(path);
  if (!file) {
    ADD_FAILURE() << file.message();
    return nullptr;
  }
  auto module = build_module(*file, options);
  if (!module) ADD_FAILURE() << module.message();
  return module ? std::move(*module) : nullptr;
}

/// Feeds ids step by step, keeping the cache.
class Runner {
 public:
  explicit Runner(const ir::Module& m) : module_(m), evaluator_(m) {}

  /// Logits of the last `out` of `ids`.
  std::vector<float> feed(const std::vector<int64_t>& ids, int64_t out) {
    inputs_["ids"] = ir::Tensor{{int64_t(ids.size())}, {}, ids};
    auto results = evaluator_.run(*module_.graph("forward"), inputs_, {{"out", out}});
    if (!results) {
      ADD_FAILURE() << results.message();
      return {};
    }
    for (size_t i = 1; i < results->size(); ++i) inputs_["kv" + std::to_string(i - 1)] = std::move((*results)[i]);
    return std::move((*results)[0].f);
  }

  std::vector<int64_t> greedy(const std::vector<int64_t>& prompt, size_t n) {
    std::vector<int64_t> chosen;
    for (auto logits = feed(prompt, 1); !logits.empty(); logits = feed({chosen.back()}, 1)) {
      chosen.push_back(std::ranges::max_element(logits) - logits.begin());
      if (chosen.size() == n) break;
    }
    return chosen;
  }

 private:
  const ir::Module& module_;
  ir::Evaluator evaluator_;
  std::map<std::string, ir::Tensor> inputs_;
};

/// The recorded logits' own error: llama.cpp rounds gelu through a table of f16. Closer than the 1e-6 asked for,
/// because gemma3 without its sliding window is only 2e-7 away.
struct Tiny {
  const char* architecture;
  double limit;
};

class TinyModel : public testing::TestWithParam<Tiny> {
 protected:
  std::string name = std::string(GetParam().architecture) + "-dense";
  std::vector<int64_t> ids = reference()["tiny"]["ids"];
  std::unique_ptr<ir::Module> module = load(shared_path(name + ".gguf"));
};

TEST_P(TinyModel, LogitsEqualTheRecordedOnes) {
  ASSERT_TRUE(module);
  const auto expected = read_floats(shared_path(name + ".logits.f32"));
  const auto found = Runner(*module).feed(ids, int64_t(ids.size()));
  ASSERT_EQ(found.size(), expected.size());
  EXPECT_LE(nmse(found.data(), expected.data(), found.size()), GetParam().limit);
}

TEST_P(TinyModel, GreedyContinuationEqualsTheRecordedOne) {
  ASSERT_TRUE(module);
  const std::vector<int64_t> expected = reference()["tiny"]["files"][name]["greedy"];
  EXPECT_EQ(Runner(*module).greedy(ids, expected.size()), expected);
}

TEST_P(TinyModel, PiecesGiveTheNumbersOfTheWhole) {
  ASSERT_TRUE(module);
  const auto whole = Runner(*module).feed(ids, 1);
  Runner pieces(*module);
  pieces.feed({ids.begin(), ids.begin() + 50}, 1);
  pieces.feed({ids.begin() + 50, ids.end() - 1}, 1);
  EXPECT_EQ(pieces.feed({ids.back()}, 1), whole);
}

TEST_P(TinyModel, AnHalfPrecisionCacheIsTheDefault) {
  const auto half = load(shared_path(name + ".gguf"), {});
  ASSERT_TRUE(module && half);
  EXPECT_EQ(half->graph("forward")->args[1]->type.str(), "kv<f16>[?past,2,128]");
  const auto exact = Runner(*module).feed(ids, 96), rounded = Runner(*half).feed(ids, 96);
  const double difference = nmse(rounded.data(), exact.data(), exact.size());
  EXPECT_GT(difference, 0);
  EXPECT_LT(difference, 1e-5);
}

TEST_P(TinyModel, HasTheFactsAndArgumentsOfTheContract) {
  ASSERT_TRUE(module);
  const ir::Graph* g = module->graph("forward");
  ASSERT_EQ(g->args.size(), 3u);
  EXPECT_EQ(g->args[0]->name, "ids");
  EXPECT_EQ(g->args[2]->name, "kv1");
  EXPECT_EQ(g->returns[0]->type.str(), "f32[?out,128]");
  EXPECT_EQ(g->returns[2]->type.str(), "kv<f32>[?past+?seq,2,128]");
  const std::vector<std::pair<std::string, ir::Attr>> facts = {{"architecture", std::string(GetParam().architecture)},
                                                               {"context_length", int64_t{256}},
                                                               {"vocab_size", int64_t{128}}};
  EXPECT_EQ(module->attrs, facts);
}

INSTANTIATE_TEST_SUITE_P(Architectures, TinyModel,
                         testing::Values(Tiny{"llama", 1e-10}, Tiny{"qwen2", 1e-10}, Tiny{"gemma3", 5e-9},
                                         Tiny{"gpt2", 1e-6}),
                         [](const auto& info) { return std::string(info.param.architecture); });

using ReferenceEvaluation = RealModel;

TEST_P(ReferenceEvaluation, LogitsAndGreedyEqualTheRecordedOnes) {
  const auto& expected = reference()["models"].at(GetParam());
  const auto module = load(model_path(GetParam()));
  ASSERT_TRUE(module);
  const std::vector<int64_t> ids = expected["ids"];
  ASSERT_EQ(ids.size(), 512u);
  const auto logits = Runner(*module).feed(ids, 512);
  const auto rows = read_floats(shared_path(GetParam() + ".logits_0_63_255_511.f32"));
  const size_t vocab = rows.size() / 4;
  ASSERT_EQ(logits.size(), 512 * vocab);
  for (size_t i = 0; i < 4; ++i) {
    const size_t position = std::array{0, 63, 255, 511}[i];
    const double found = nmse(&logits[position * vocab], &rows[i * vocab], vocab);
    EXPECT_LE(found, 1e-6) << "position " << position;
    RecordProperty("nmse_" + std::to_string(position), std::to_string(found));
  }
  const auto& prompt = expected["prompts"][0];
  std::vector<int64_t> greedy = prompt["greedy_f32"];
  greedy.resize(12);
  EXPECT_EQ(Runner(*module).greedy(prompt["ids"], greedy.size()), greedy);
}

INSTANTIATE_TEST_SUITE_P(Models, ReferenceEvaluation, testing::ValuesIn(test_models()), real_model_name);

/// build_module's error for a tiny model with some bytes changed.
class BrokenModel : public testing::Test {
 protected:
  std::string bytes = read_file(shared_path("llama-dense.gguf"));

  Result<std::unique_ptr<ir::Module>> build() const {
    PRISM_TRY(auto file, File::parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "tiny.gguf"));
    return build_module(file);
  }
  std::string message() const {
    auto module = build();
    return module ? "no error" : module.message();
  }
  /// The values of an attribute on all operations of one kind, in order.
  template <class T>
  std::vector<T> attrs(ir::Op kind, const char* name) const {
    auto module = build();
    if (!module) return ADD_FAILURE() << module.message(), std::vector<T>();
    std::vector<T> values;
    for (const ir::Operation& op : (*module)->graph("forward")->ops)
      if (op.op == kind) values.push_back(op.attr<T>(name));
    return values;
  }
  /// Where the value of `key` begins, or the dims of the tensor of that name.
  size_t after(const std::string& name) const {
    const uint64_t size = name.size();
    const std::string text = std::string(reinterpret_cast<const char*>(&size), 8) + name;
    const size_t at = bytes.find(text);
    EXPECT_NE(at, std::string::npos) << name;
    return at + text.size() + 4;  // past the value's type, or the number of dims
  }
  template <class T>
  void put(size_t at, T value) {
    ASSERT_LE(at, bytes.size() - sizeof(T));
    std::memcpy(bytes.data() + at, &value, sizeof(T));
  }
  void rename(const std::string& from, const std::string& to) {
    ASSERT_EQ(from.size(), to.size());
    const size_t at = bytes.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    bytes.replace(at, from.size(), to);
  }
};

TEST_F(BrokenModel, UnchangedIsFine) { EXPECT_EQ(message(), "no error"); }

TEST_F(BrokenModel, UnknownArchitecture) {
  put(after("general.architecture") + 8, 'k');
  EXPECT_EQ(message(), "tiny.gguf: general.architecture is 'klama', expected one of llama, qwen2, qwen3, gemma3, gpt2");
}

TEST_F(BrokenModel, MissingTensor) {
  rename("blk.1.ffn_up.weight", "blk.1.ffn_uq.weight");
  EXPECT_EQ(message(), "tiny.gguf: tensor 'blk.1.ffn_up.weight' is missing, expected shape [384,256]");
}

TEST_F(BrokenModel, MisshapenTensor) {
  const size_t dims = after("blk.1.ffn_up.weight");
  put<uint64_t>(dims, 384);
  put<uint64_t>(dims + 8, 256);
  EXPECT_EQ(message(), "tiny.gguf: tensor 'blk.1.ffn_up.weight': found shape [256,384], expected [384,256]");
}

TEST_F(BrokenModel, MisshapenScale) {
  put<uint64_t>(after("blk.0.attn_q.scale"), 2);
  EXPECT_EQ(message(), "tiny.gguf: tensor 'blk.0.attn_q.scale': found f32[2], expected one float");
}

TEST_F(BrokenModel, TensorNothingReads) {
  rename("blk.0.attn_q.bias", "blk.0.attn_q.bsia");
  EXPECT_EQ(message(), "tiny.gguf: tensor 'blk.0.attn_q.bsia' is not part of architecture llama");
}

TEST_F(BrokenModel, HyperParametersOutOfRange) {
  const struct {
    const char* key;
    uint32_t value;
    const char* message;
  } cases[] = {
      {"llama.block_count", 0, "tiny.gguf: llama.block_count is 0, expected 1 to 512"},
      {"llama.block_count", 4000000000u, "tiny.gguf: llama.block_count is 4000000000, expected 1 to 512"},
      {"llama.block_count", 3, "tiny.gguf: tensor 'blk.2.attn_norm.weight' is missing, expected shape [256]"},
      {"llama.context_length", 0, "tiny.gguf: llama.context_length is 0, expected 1 to 16777216"},
      {"llama.embedding_length", 1u << 30, "tiny.gguf: llama.embedding_length is 1073741824, expected 1 to 262144"},
      {"llama.attention.head_count", 0, "tiny.gguf: llama.attention.head_count is 0, expected 1 to 4096"},
      {"llama.attention.head_count", 3, "tiny.gguf: llama.attention.head_count_kv is 2, expected a divisor of 3 heads"},
      {"llama.attention.key_length", 64, "tiny.gguf: llama.attention.value_length is 128, expected 64"},
      {"llama.rope.dimension_count", 63, "tiny.gguf: llama.rope.dimension_count is 63, expected an even number"},
      {"llama.rope.dimension_count", 64, "tiny.gguf: llama.rope.dimension_count is 64, expected 128"},
      {"llama.expert_count", 8, "tiny.gguf: llama.expert_count is 8, expected 0"},
  };
  const std::string original = bytes;
  for (const auto& c : cases) {
    bytes = original;
    put<uint32_t>(after(c.key), c.value);
    EXPECT_EQ(message(), c.message);
  }
}

TEST_F(BrokenModel, UnsupportedRopeScaling) {
  bytes.replace(after("llama.rope.scaling.type") + 8, 6, "yarn  ");
  EXPECT_EQ(message(), "tiny.gguf: llama.rope.scaling.type is 'yarn  ', expected none or linear");
}

TEST_F(BrokenModel, BiasThatGpt2Needs) {
  bytes = read_file(shared_path("gpt2-dense.gguf"));
  rename("blk.1.ffn_up.bias", "blk.1.ffn_up.bais");
  EXPECT_EQ(message(), "tiny.gguf: tensor 'blk.1.ffn_up.bias' is missing, expected shape [384]");
}

/// The same, with changes that are allowed.
using ChangedModel = BrokenModel;

TEST_F(ChangedModel, LinearRopeScalingReachesTheGraph) {
  put<float>(after("llama.rope.scaling.factor"), 4.0f);
  EXPECT_EQ(attrs<double>(ir::Op::Rope, "scale"), (std::vector<double>{0.25, 0.25, 0.25, 0.25}));
}

TEST_F(ChangedModel, SlidingWindows) {
  bytes = read_file(shared_path("gemma3-dense.gguf"));
  const std::string pattern = "gemma3.attention.sliding_window_pattern";
  put<float>(after("gemma3.rope.freq_base"), 5e5f);
  using Ints = std::vector<int64_t>;
  const auto windows = [&] { return attrs<int64_t>(ir::Op::Attention, "window"); };
  EXPECT_EQ(windows(), (Ints{32, 0}));
  EXPECT_EQ(attrs<double>(ir::Op::Rope, "base"), (std::vector<double>{1e4, 1e4, 5e5, 5e5}));
  rename(pattern, "gemma3.attention.sliding_window_unknown");  // five of six layers slide
  EXPECT_EQ(windows(), (Ints{32, 32}));
  put<uint32_t>(after("gemma3.attention.sliding_window"), 0);
  EXPECT_EQ(windows(), (Ints{0, 0}));
}

}  // namespace
}  // namespace prism::gguf
