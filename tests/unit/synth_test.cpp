// Models of random weights: the shapes are the real ones, the values what they should be, and the models run.
#include "frontends/gguf/synth.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <set>
#include <thread>

#include "frontends/gguf/model.h"
#include "frontends/gguf/synth_values.h"
#include "frontends/gguf/tokenizer.h"
#include "ir/eval.h"

namespace prism::gguf {
namespace {

std::shared_ptr<File> open(const std::string& path) {
  auto file = File::open(path);
  EXPECT_TRUE(file) << file.message();
  return file ? *file : nullptr;
}

std::vector<uint8_t> bytes_of(const File& f, const std::string& name) {
  const TensorInfo& t = *f.tensor(name);
  const auto bytes = f.load(t);
  return {bytes.get(), bytes.get() + t.bytes};
}

std::vector<float> values_of(const File& f, const std::string& name) {
  const TensorInfo& t = *f.tensor(name);
  const int64_t n = std::accumulate(t.shape.begin(), t.shape.end(), int64_t(1), std::multiplies<>());
  std::vector<float> values(static_cast<size_t>(n));
  ir::dequantize_row(t.dtype, f.load(t).get(), values.data(), values.size());
  return values;
}

struct Moments {
  double mean, deviation;
};
Moments moments(const std::vector<float>& v) {
  double sum = 0, squares = 0;
  for (float x : v) sum += double(x), squares += double(x) * double(x);
  const double mean = sum / double(v.size());
  return {mean, std::sqrt(squares / double(v.size()) - mean * mean)};
}

/// Correlation of the values with those `lag` further on.
double correlation(const std::vector<float>& v, size_t lag) {
  double sum = 0, squares = 0;
  for (size_t i = 0; i + lag < v.size(); ++i) sum += double(v[i]) * double(v[i + lag]);
  for (float x : v) squares += double(x) * double(x);
  return sum / squares;
}

std::string parse_error(const std::string& path) {
  const auto s = parse_synth(path);
  return s ? "no error" : s.message();
}

TEST(Synth, EveryShapeInEveryTypeBuildsAModule) {
  for (const Shape& shape : shapes())
    for (std::string_view type : synth_types()) {
      const std::string path = "synth:" + std::string(shape.name) + ":" + std::string(type) + ":layers=2:vocab=300:ctx=100";
      SCOPED_TRACE(path);
      const auto file = open(path);
      ASSERT_TRUE(file);
      const auto module = build_module(file, {.weights = false});
      ASSERT_TRUE(module) << module.message();
      EXPECT_EQ((*module)->weights.size(), file->tensors().size());  // every tensor is used
      EXPECT_EQ((*module)->graph("forward")->args.size(), 3u);       // ids and two caches
      EXPECT_EQ((*module)->dims.at("seq").hi, 100);
    }
}

TEST(Synth, ParametersAreThoseOfTheRealModels) {
  const std::map<std::string_view, uint64_t> known = {
      {"smollm2-135m", 134'515'008},    {"smollm2-360m", 361'821'120},    {"smollm2-1.7b", 1'711'376'384},
      {"llama-3.2-1b", 1'235'814'400},  {"llama-3.2-3b", 3'212'749'824},  {"llama-3.1-8b", 8'030'261'248},
      {"qwen2.5-0.5b", 494'032'768},    {"qwen2.5-1.5b", 1'543'714'304},  {"qwen2.5-7b", 7'615'616'512},
      {"qwen3-0.6b", 596'049'920},      {"qwen3-1.7b", 1'720'574'976},    {"qwen3-8b", 8'190'735'360},
      {"gemma-3-270m", 268'098'176},    {"gemma-3-1b", 999'885'952},      {"gemma-3-4b", 3'880'099'328},
      {"gpt2", 124'439'808}};
  size_t real = 0;
  for (const Shape& shape : shapes()) {
    if (shape.name.starts_with("tiny-")) continue;
    ++real;
    ASSERT_TRUE(known.contains(shape.name)) << shape.name;
    EXPECT_EQ(Synth{.shape = shape}.parameters(), known.at(shape.name)) << shape.name;
  }
  EXPECT_EQ(real, known.size());
}

TEST(Synth, KeysSayWhatTheArchitectureNeeds) {
  const auto gemma = open("synth:gemma-3-4b:layers=1:vocab=300");
  EXPECT_EQ(*gemma->get_int("gemma3.attention.sliding_window"), 1024);
  EXPECT_EQ(*gemma->get_int("gemma3.attention.sliding_window_pattern"), 6);
  EXPECT_EQ(*gemma->get_float("gemma3.rope.scaling.factor"), 8);
  EXPECT_EQ(*gemma->get_int("gemma3.attention.key_length"), 256);
  const auto qwen = open("synth:qwen2.5-7b:layers=1:vocab=300");
  EXPECT_TRUE(qwen->tensor("output.weight"));
  EXPECT_TRUE(qwen->tensor("blk.0.attn_k.bias"));
  EXPECT_EQ(*qwen->get_float("qwen2.rope.freq_base"), 1e6);
  EXPECT_TRUE(open("synth:qwen3-8b:layers=1:vocab=300")->tensor("blk.0.attn_q_norm.weight"));
  EXPECT_EQ(open("synth:gpt2:layers=1:vocab=300")->tensor("position_embd.weight")->shape, (std::vector<int64_t>{1024, 768}));
}

TEST(Synth, RopeFactorsGoFromOneToTheFactor) {
  const auto f = open("synth:llama-3.1-8b:layers=1:vocab=300");
  const std::vector<float> factors = values_of(*f, "rope_freqs.weight");
  ASSERT_EQ(factors.size(), 64u);
  EXPECT_TRUE(std::ranges::is_sorted(factors));
  EXPECT_EQ(factors[0], 1);
  EXPECT_EQ(factors[28], 1);                  // a turn every 1956 positions
  EXPECT_NEAR(factors[29], 1.2075, 1e-3);     // every 2402: (8192/2402 - 1) / 3 = 0.8035 stays, of the rest an eighth
  EXPECT_EQ(factors[35], 8);                  // every 8230
  EXPECT_EQ(factors[63], 8);
  EXPECT_FALSE(open("synth:smollm2-135m:layers=1:vocab=300")->tensor("rope_freqs.weight"));
}

TEST(Synth, TypesOfAMixAndOfRowsThatDoNotFit) {
  using enum ir::DType;
  const auto type = [](const std::string& path, const std::string& tensor) { return open(path)->tensor(tensor)->dtype; };
  const std::string llama = "synth:llama-3.2-1b:q4_k_m:vocab=300";
  EXPECT_EQ(type(llama, "token_embd.weight"), Q6_K);  // it is the output
  std::vector<int> precise;
  for (int i = 0; i < 16; ++i) {
    const std::string block = "blk." + std::to_string(i) + ".";
    if (type(llama, block + "ffn_down.weight") == Q6_K) precise.push_back(i);
    EXPECT_EQ(type(llama, block + "attn_v.weight"), type(llama, block + "ffn_down.weight"));
    EXPECT_EQ(type(llama, block + "ffn_up.weight"), Q4_K);
    EXPECT_EQ(type(llama, block + "attn_norm.weight"), F32);
  }
  EXPECT_EQ(precise, (std::vector<int>{0, 1, 4, 7, 10, 13, 14, 15}));
  EXPECT_EQ(type("synth:llama-3.1-8b:vocab=300", "token_embd.weight"), Q4_K);
  EXPECT_EQ(type("synth:llama-3.1-8b:vocab=300", "output.weight"), Q6_K);
  EXPECT_EQ(type("synth:gpt2", "blk.5.attn_qkv.weight"), Q5_K);
  // 576 columns are no multiple of 256, 1536 are.
  for (const auto& [wanted, instead] : {std::pair{Q2_K, Q4_0}, {Q3_K, Q4_0}, {Q4_K, Q5_0}, {Q5_K, Q5_1}, {Q6_K, Q8_0}, {IQ4_XS, IQ4_NL}, {Q4_0, Q4_0}}) {
    const std::string path = "synth:smollm2-135m:" + std::string(ir::info(wanted).name);
    EXPECT_EQ(type(path, "blk.0.attn_q.weight"), instead);
    EXPECT_EQ(type(path, "blk.0.ffn_down.weight"), wanted);
  }
}

TEST(Synth, WeightsHaveTheIntendedMeanAndDeviation) {
  for (std::string_view type : synth_types()) {
    SCOPED_TRACE(type);
    const auto f = open("synth:tiny-llama:" + std::string(type) + ":vocab=1024");
    for (const auto& [name, columns] : {std::pair{"output.weight", 256}, {"blk.0.ffn_down.weight", 512}, {"blk.1.ffn_up.weight", 256}}) {
      const auto values = values_of(*f, name);
      const double intended = 1 / std::sqrt(double(columns)), n = double(values.size());
      const auto [mean, deviation] = moments(values);
      // The scales of blocks vary, and one scale for 256 values makes the average wander more than independent values would.
      EXPECT_NEAR(mean, 0, 6 * intended / std::sqrt(n)) << name;
      EXPECT_NEAR(deviation, intended, 0.03 * intended) << name;
      for (size_t lag : {1, 16, 32, 256, columns}) EXPECT_NEAR(correlation(values, lag), 0, 6 / std::sqrt(n)) << name << " " << lag;
      EXPECT_LT(*std::ranges::max_element(values), 6 * intended);
    }
    const auto [mean, deviation] = moments(values_of(*f, "output_norm.weight"));
    EXPECT_NEAR(mean, 1, 0.03);
    EXPECT_NEAR(deviation, 0.1, 0.02);
  }
}

TEST(Synth, PartsMadeInAnyOrderByAnyThreadAreTheWhole) {
  for (std::string_view name : synth_types()) {
    const auto type = ir::dtype_from_name(name);
    if (!type) continue;  // a mix
    SCOPED_TRACE(name);
    const ir::DTypeInfo& format = ir::info(*type);
    constexpr uint64_t kElements = 40 * kMadeUnit;
    std::vector<uint8_t> whole(kElements / format.block * format.bytes), parts(whole.size());
    make_values(*type, 7, {0, 1}, 0, whole);
    std::vector<std::thread> team;
    for (uint64_t thread = 0; thread < 4; ++thread)
      team.emplace_back([&, thread] {
        for (uint64_t unit = 40; unit-- > 0;) {
          if (unit / 3 % 4 != thread) continue;
          const uint64_t bytes = kMadeUnit / format.block * format.bytes;
          make_values(*type, 7, {0, 1}, unit * kMadeUnit, std::span(parts).subspan(unit * bytes, bytes));
        }
      });
    for (std::thread& t : team) t.join();
    EXPECT_EQ(parts, whole);
  }
}

TEST(Synth, WeightsDependOnSeedAndNameOnly) {
  const auto a = open("synth:tiny-llama:q4_0:seed=5"), b = open("synth:tiny-llama:q4_0:seed=5:layers=1"), c = open("synth:tiny-llama:q4_0:seed=6");
  const std::string up = "blk.0.ffn_up.weight", gate = "blk.0.ffn_gate.weight";
  EXPECT_EQ(bytes_of(*a, up), bytes_of(*b, up));
  EXPECT_NE(bytes_of(*a, up), bytes_of(*c, up));
  EXPECT_NE(bytes_of(*a, up), bytes_of(*a, gate));
  EXPECT_NE(bytes_of(*a, up), bytes_of(*a, "blk.1.ffn_up.weight"));
}

TEST(Synth, DataIsMadeWhenItIsRead) {
  const Synth s = *parse_synth("synth:tiny-llama:f32");
  int made = 0;
  auto file = File::made(synth_header(s), "counted", [&](const TensorInfo&, uint64_t, std::span<uint8_t> out) {
    ++made;
    std::ranges::fill(out, uint8_t(0));
  });
  ASSERT_TRUE(file) << file.message();
  EXPECT_EQ((*file)->size(), (*file)->header_bytes() + s.tensors().back().offset + s.tensors().back().bytes);
  ASSERT_TRUE(build_module(*file, {.weights = false}));
  EXPECT_EQ(made, 0);
  const TensorInfo& t = (*file)->tensors()[0];
  const uint8_t* data = (*file)->data(t);
  EXPECT_EQ((*file)->data(t), data);
  EXPECT_EQ(made, 1);  // and kept
  EXPECT_NE((*file)->load(t).get(), data);
  EXPECT_EQ(made, 2);
}

TEST(Synth, DataReadInAnyWayIsTheSame) {
  const auto f = open("synth:tiny-gpt2:q6_k");
  for (const TensorInfo& t : f->tensors()) {
    const std::vector<uint8_t> loaded = bytes_of(*f, t.name);
    std::vector<uint8_t> read(t.bytes);
    const uint64_t half = t.bytes / 2 / (ir::info(t.dtype).bytes * 256) * (ir::info(t.dtype).bytes * 256);
    f->read(t, half, std::span(read).subspan(half));
    f->read(t, 0, std::span(read).first(half));
    EXPECT_EQ(read, loaded) << t.name;
    EXPECT_EQ(memcmp(f->data(t), loaded.data(), t.bytes), 0) << t.name;
  }
}

/// Logits of the last of `ids`, from the reference evaluator.
std::vector<float> logits(const ir::Module& m, const std::vector<int64_t>& ids) {
  std::map<std::string, ir::Tensor> inputs = {{"ids", ir::Tensor{{int64_t(ids.size())}, {}, ids}}};
  auto results = ir::Evaluator(m).run(*m.graph("forward"), inputs, {{"out", 1}});
  EXPECT_TRUE(results) << results.message();
  return results ? std::move((*results)[0].f) : std::vector<float>();
}

int64_t likeliest(const std::vector<float>& v) { return std::ranges::max_element(v) - v.begin(); }

TEST(Synth, TinyModelsSaySomethingThatDependsOnThePrompt) {
  for (const char* shape : {"tiny-llama", "tiny-qwen2", "tiny-qwen3", "tiny-gemma3", "tiny-gpt2"})
    for (const char* type : {"bf16", "q4_k_m"}) {
      SCOPED_TRACE(std::string(shape) + " " + type);
      const auto module = build_module(open("synth:" + std::string(shape) + ":" + type), {.kv_dtype = ir::DType::F32});
      ASSERT_TRUE(module) << module.message();
      std::set<int64_t> said;
      std::vector<float> before;
      for (int64_t first : {10, 70, 130, 190, 250, 310, 370, 430}) {
        const auto now = logits(**module, {first, 300, 7, 8});  // alike but for the first token
        ASSERT_EQ(now.size(), 512u);
        for (float x : now) ASSERT_TRUE(std::isfinite(x));
        const auto [mean, deviation] = moments(now);
        EXPECT_NEAR(mean, 0, 0.3);
        EXPECT_GT(deviation, 0.3);
        EXPECT_LT(deviation, 3);
        EXPECT_NE(now, before);
        said.insert(likeliest(now));
        before = now;
      }
      EXPECT_GE(said.size(), 2u);
    }
}

TEST(Synth, TheVocabularyTokenizes) {
  const auto f = open("synth:tiny-llama:vocab=70000");
  auto tokenizer = Tokenizer::create(*f);
  ASSERT_TRUE(tokenizer) << tokenizer.message();
  const Tokenizer& t = **tokenizer;
  EXPECT_EQ(t.size(), 70000u);
  EXPECT_TRUE(t.add_bos());
  EXPECT_EQ(t.piece(t.bos()), "");
  EXPECT_EQ(t.piece(t.bos(), true), "<|begin|>");
  EXPECT_TRUE(t.is_end(t.eos()));
  EXPECT_FALSE(t.is_end(t.bos()));
  EXPECT_EQ(*t.encode("hi"), (std::vector<int32_t>{'h', 'i'}));
  const std::string text = "Grüße, 日本 \n\t🙂\x01\x7f";
  EXPECT_EQ(t.decode(*t.encode(text)), text);
  std::set<std::string> pieces;
  for (int32_t id = 258; id < 70000; ++id) pieces.insert(t.piece(id));
  EXPECT_EQ(pieces.size(), 70000u - 258);
  EXPECT_EQ(t.piece(258), " ba");
}

TEST(Synth, PathsRoundTrip) {
  for (const char* path : {"synth:gpt2:q4_k_m:seed=1", "synth:llama-3.1-8b:bf16:seed=18446744073709551615:layers=1:vocab=258:ctx=1"}) {
    const auto s = parse_synth(path);
    ASSERT_TRUE(s) << s.message();
    EXPECT_EQ(s->path(), path);
  }
  EXPECT_EQ(parse_synth("synth:gpt2")->path(), "synth:gpt2:q4_k_m:seed=1");
  EXPECT_EQ(parse_synth("synth:gpt2:ctx=1024:seed=3")->path(), "synth:gpt2:q4_k_m:seed=3");
}

TEST(Synth, WrongPathsAreOneLineErrors) {
  EXPECT_EQ(parse_error("synth:lama-3.2-1b"),
            "synth:lama-3.2-1b: unknown shape 'lama-3.2-1b', did you mean 'llama-3.2-1b'? (prism synth --list shows them all)");
  EXPECT_EQ(parse_error("synth:gpt2:q4_j"), "synth:gpt2:q4_j: unknown type 'q4_j', did you mean 'q4_0'?");
  EXPECT_EQ(parse_error("synth:gpt2:i8"), "synth:gpt2:i8: unknown type 'i8', did you mean 'f32'?");
  for (const char* value : {"0", "-1", "513", "99999999999999999999", "", "two", "2x", " 2"})
    EXPECT_EQ(parse_error("synth:gpt2:layers=" + std::string(value)),
              "synth:gpt2:layers=" + std::string(value) + ": layers: found '" + value + "', expected 1 to 512");
  EXPECT_EQ(parse_error("synth:gpt2:vocab=257"), "synth:gpt2:vocab=257: vocab: found '257', expected 258 to 1048576");
  EXPECT_EQ(parse_error("synth:gpt2:ctx=99999999"), "synth:gpt2:ctx=99999999: ctx: found '99999999', expected 1 to 16777216");
  EXPECT_EQ(parse_error("synth:gpt2:seed=-1"), "synth:gpt2:seed=-1: seed: found '-1', expected 0 to 18446744073709551615");
  EXPECT_EQ(parse_error("synth:gpt2:colour=red"), "synth:gpt2:colour=red: found 'colour=red', expected seed=, layers=, vocab= or ctx=");
  EXPECT_EQ(parse_error("synth:gpt2:seed=3:q8_0"), "synth:gpt2:seed=3:q8_0: found 'q8_0', expected seed=, layers=, vocab= or ctx=");
  EXPECT_EQ(parse_error("synth:gpt2:"), "synth:gpt2:: unknown type '', did you mean 'f32'?");
  const std::string newline = parse_error("synth:a\nb");
  EXPECT_NE(newline.find("unknown shape 'a\\x0ab'"), std::string::npos) << newline;
  EXPECT_FALSE(File::open("synth:"));
}

}  // namespace
}  // namespace prism::gguf
