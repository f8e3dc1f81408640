// Hugging Face folders written from GGUF files (hf_folder.h): the same tensors, logits and tokens, and one clear line about whatever is
// wrong with a folder.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <numbers>
#include <random>

#include "frontends/gguf/hf/folder.h"
#include "frontends/gguf/hf/safetensors.h"
#include "frontends/gguf/model.h"
#include "frontends/gguf/tokenizer.h"
#include "ir/eval.h"
#include "tests/unit/hf_folder.h"
#include "tests/unit/reference.h"
#include "tests/unit/tiny_program.h"

namespace prism::gguf {
namespace {

using rt::testing::TemporaryFolder;

std::shared_ptr<File> open(const std::string& path) {
  auto file = File::open(path);
  EXPECT_TRUE(file) << file.message();
  return file ? *file : nullptr;
}

std::vector<float> logits(std::shared_ptr<File> file, const std::vector<int64_t>& ids) {
  auto module = build_module(file, {.kv_dtype = ir::DType::F32});
  if (!module) return ADD_FAILURE() << module.message(), std::vector<float>();
  auto results = ir::Evaluator(**module).run(*(*module)->graph("forward"), {{"ids", ir::Tensor{{int64_t(ids.size())}, {}, ids}}}, {{"out", int64_t(ids.size())}});
  if (!results) return ADD_FAILURE() << results.message(), std::vector<float>();
  return std::move((*results)[0].f);
}

/// Exactly what a model's expectation says, whatever part is read.
void expect_tensors(const File& found, const HfModel& m) {
  EXPECT_EQ(found.tensors().size(), m.expected.size());
  for (const auto& [name, expected] : m.expected) {
    SCOPED_TRACE(name);
    const TensorInfo* t = found.tensor(name);
    ASSERT_NE(t, nullptr);
    const std::vector<float> values = floats_of(found, *t);
    ASSERT_EQ(values.size(), expected.size());
    EXPECT_EQ(std::memcmp(values.data(), expected.data(), 4 * values.size()), 0);
    const auto all = found.load(*t);
    const uint64_t step = 256 * ir::info(t->dtype).bytes;
    for (uint64_t at = 0; at < t->bytes; at += 3 * step) {
      std::vector<uint8_t> part(std::min(t->bytes - at, 2 * step - 100));
      found.read(*t, at, part);
      ASSERT_EQ(std::memcmp(part.data(), all.get() + at, part.size()), 0) << "from byte " << at;
    }
  }
}

// ---- weights

class SafetensorsReference : public testing::TestWithParam<const char*> {};

TEST_P(SafetensorsReference, TensorsAndLogitsAreTheRecordedOnes) {
  const std::string arch = GetParam(), name = arch + "-dense";
  std::string bytes = read_file(shared_path(name + ".gguf"));
  const std::span<const uint8_t> view(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  const auto source = *File::parse(view, name);
  const std::vector<int64_t> ids = reference()["tiny"]["ids"];
  auto expected = read_floats(shared_path(name + ".logits.f32"));
  json scaling = nullptr;
  if (const TensorInfo* factors = source->tensor("rope_freqs.weight")) {
    // Random ones there, which no config.json says: Llama 3's take their place, and what they are to give is evaluated.
    scaling = {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 64}};
    for (int i = 0; i < 64; ++i) {
      const double wave = 2 * std::numbers::pi * std::pow(10000.0, i / 64.0), smooth = (64 / wave - 1) / 3;
      const auto factor = float(wave < 16 ? 1 : wave > 64 ? 8 : 1 / ((1 - smooth) / 8 + smooth));
      std::memcpy(bytes.data() + factors->offset + 4 * size_t(i), &factor, 4);
    }
    expected = logits(source, ids);
  }
  if (const TensorInfo* bias = source->tensor("output.bias"))  // Qwen has none
    for (size_t i = 0; i < expected.size(); ++i) expected[i] -= floats_of(*source, *bias)[i % 128];
  const HfModel m = hf_model(*source, "F32", scaling);
  TemporaryFolder folder;
  m.write(folder.path());
  const auto file = open(folder.path());
  ASSERT_TRUE(file);
  expect_tensors(*file, m);
  const auto found = logits(file, ids);
  ASSERT_EQ(found.size(), expected.size());
  EXPECT_LE(nmse(found.data(), expected.data(), found.size()), arch == "gpt2" ? 1e-6 : arch == "gemma3" ? 5e-9 : 1e-10);
}

INSTANTIATE_TEST_SUITE_P(Architectures, SafetensorsReference, testing::Values("llama", "qwen2", "gemma3", "gpt2"),
                         [](const auto& info) { return std::string(info.param); });

HfModel synth_model(const std::string& arch, const std::string& type = "F32") {
  const json scaling = {{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 1}, {"high_freq_factor", 4}, {"original_max_position_embeddings", 8192}};
  return hf_model(**File::open("synth:tiny-" + arch + ":f32"), type, arch == "llama" ? scaling : json());
}

class SafetensorsSynth : public testing::TestWithParam<const char*> {};

TEST_P(SafetensorsSynth, TheSameModel) {
  const std::string arch = GetParam();
  const HfModel m = synth_model(arch);
  TemporaryFolder folder;
  m.write(folder.path());
  const auto file = open(folder.path());
  ASSERT_TRUE(file);
  expect_tensors(*file, m);
  EXPECT_EQ(file->sources(), std::vector<std::string>{folder / "model.safetensors"});
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < 40; ++i) ids.push_back(i * i % 512);
  const auto expected = logits(open("synth:tiny-" + arch + ":f32"), ids), found = logits(file, ids);
  ASSERT_EQ(found.size(), expected.size());
  EXPECT_LE(nmse(found.data(), expected.data(), found.size()), arch == "gemma3" ? 1e-11 : 0);  // 1 + (w - 1) is not always w
}

TEST_P(SafetensorsSynth, HalfPrecisionStaysAndSmallTensorsBecomeFloats) {
  for (const auto& [type, dtype] : {std::pair{"BF16", ir::DType::BF16}, {"F16", ir::DType::F16}}) {
    SCOPED_TRACE(type);
    const HfModel m = synth_model(GetParam(), type);
    TemporaryFolder folder;
    m.write(folder.path());
    const auto file = open(folder.path());
    ASSERT_TRUE(file);
    expect_tensors(*file, m);
    for (const TensorInfo& t : file->tensors())
      EXPECT_EQ(t.dtype, t.shape.size() == 1 || t.name == "position_embd.weight" ? ir::DType::F32 : dtype) << t.name;
    EXPECT_TRUE(build_module(file, {.weights = false}));
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, SafetensorsSynth, testing::Values("llama", "qwen2", "qwen3", "gemma3", "gpt2"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Safetensors, SeveralFilesByTheirIndex) {
  HfModel m = synth_model("llama");
  TemporaryFolder folder;
  m.write(folder.path());
  std::filesystem::remove(folder / "model.safetensors");
  std::map<std::string, HfTensor> shards[2];
  json map;
  for (const auto& [name, t] : m.tensors) {
    const size_t shard = map.size() % 2;
    shards[shard][name] = t;
    map[name] = "model-0000" + std::to_string(shard + 1) + "-of-00002.safetensors";
  }
  for (size_t i : {0, 1}) write_text(folder / ("model-0000" + std::to_string(i + 1) + "-of-00002.safetensors"), safetensors(shards[i]));
  const std::string index = folder / "model.safetensors.index.json";
  const auto with = [&](const json& weight_map) {
    write_text(index, json{{"metadata", {{"total_size", 1}}}, {"weight_map", weight_map}}.dump());
    const auto file = File::open(folder.path() + "/");
    return file ? "no error" : file.message();
  };
  ASSERT_EQ(with(map), "no error");
  const auto file = open(folder.path());
  expect_tensors(*file, m);
  EXPECT_EQ(file->sources().size(), 2u);

  const std::string norm = "model.norm.weight";
  const auto changed = [&](const json& place) {
    json copy = map;
    copy[norm] = place;
    return with(copy);
  };
  EXPECT_EQ(changed("gone.safetensors"), folder.path() + "/gone.safetensors: cannot open: No such file or directory");
  for (const json& bad : {json("../x.safetensors"), json("/etc/passwd"), json(".."), json(""), json(7), json(), json("a\nb"), json(std::string("a\0b", 3))})
    EXPECT_NE(changed(bad).find(index + ": tensor 'model.norm.weight': found "), std::string::npos) << changed(bad);
  const std::string other = map[norm] == "model-00001-of-00002.safetensors" ? "model-00002-of-00002.safetensors" : "model-00001-of-00002.safetensors";
  EXPECT_NE(changed(other).find("tensor 'model.norm.weight': found here, expected it in '" + other + "'"), std::string::npos) << changed(other);
  json more = map, less = map;
  more["extra"] = map[norm];
  less.erase(norm);
  EXPECT_NE(with(more).find("tensor 'extra': not found, expected by model.safetensors.index.json"), std::string::npos);
  EXPECT_NE(with(less).find("tensor 'model.norm.weight': found here, expected it in model.safetensors.index.json"), std::string::npos);
  EXPECT_NE(with(json::array()).find("'weight_map': found array, expected an object"), std::string::npos);
  EXPECT_NE(with(json::object()).find("'weight_map': found no tensors"), std::string::npos);
  std::filesystem::remove(index);
  EXPECT_EQ(File::open(folder.path()).message(), folder.path() + ": found neither model.safetensors nor model.safetensors.index.json");
}

// ---- what is wrong with a file

std::string refusal(const std::string& bytes) {
  const auto exact = std::make_unique<uint8_t[]>(bytes.size());  // of the exact size, so that a sanitizer sees the end
  std::memcpy(exact.get(), bytes.data(), bytes.size());
  const auto t = hf::parse_safetensors({exact.get(), bytes.size()}, "t.safetensors");
  if (t) {
    for (const auto& [name, tensor] : *t) EXPECT_LE(tensor.data.data() + tensor.data.size(), exact.get() + bytes.size());
    return "no error";
  }
  EXPECT_EQ(t.message().find("t.safetensors: "), 0u) << t.message();
  EXPECT_EQ(t.message().find('\n'), std::string::npos) << t.message();
  EXPECT_LT(t.message().size(), 400u);
  return t.message();
}

TEST(Safetensors, RefusesBadFiles) {
  const auto entry = [](const std::string& e, size_t data = 64) { return refusal(safetensors("{\"w\":" + e + "}", std::string(data, 'x'))); };
  const auto expect = [](const std::string& message, const std::string& text) {
    EXPECT_NE(message.find(text), std::string::npos) << message << "\nlacks: " << text;
  };
  EXPECT_EQ(entry(R"({"dtype":"F32","shape":[4,4],"data_offsets":[0,64]})"), "no error");
  EXPECT_EQ(entry(R"({"dtype":"F32","shape":[],"data_offsets":[8,12]})"), "no error");
  EXPECT_EQ(entry(R"({"dtype":"I64","shape":[8],"data_offsets":[0,64]})"), "no error");  // only an error where it is needed
  expect(refusal(""), "found 0 bytes, expected a safetensors file");
  const uint64_t lengths[] = {3, 100'000'001, uint64_t(1) << 40, uint64_t(INT64_MAX), UINT64_MAX};
  for (const uint64_t length : lengths)
    expect(refusal(std::string(reinterpret_cast<const char*>(&length), 8) + "{}"),
           "header: found a length of " + std::to_string(length) + " bytes, expected at most 100000000 and the file's 10");
  expect(refusal(safetensors("", "")), "header: found something else than JSON");
  expect(refusal(safetensors("[]", "")), "header: found array, expected an object");
  expect(refusal(safetensors("{\"w\":1}", "")), "tensor 'w': found number, expected an object");
  expect(refusal(safetensors(std::string(100000, '['), "")), "found JSON nested deeper than 64 levels");
  expect(refusal(safetensors(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", "12345678")),
         "key 'w': found twice, expected once");
  expect(entry(R"({"shape":[4,4],"data_offsets":[0,64]})"), "tensor 'w': 'dtype': not found, expected a string");
  expect(entry(R"({"dtype":4,"shape":[4,4],"data_offsets":[0,64]})"), "tensor 'w': 'dtype': found '4', expected a string");
  for (const char* shape : {"[-4,4]", "[4.5]", "[\"4\"]", "4", "[18446744073709551615]", "[9223372036854775808]", "[1e400]", "{}", "null"})
    EXPECT_NE(entry(R"({"dtype":"F32","shape":)" + std::string(shape) + R"(,"data_offsets":[0,64]})"), "no error") << shape;
  expect(entry(R"({"dtype":"F32","shape":[-4,4],"data_offsets":[0,64]})"), "tensor 'w': shape: found '[-4,4]', expected whole numbers that fit 63 bits");
  expect(entry(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,64]})"), "tensor 'w': shape: found a size that does not fit 64 bits");
  expect(entry(R"({"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]})"), "shape: found a size that does not fit 64 bits");
  expect(entry(R"({"dtype":"F32","shape":[4,3],"data_offsets":[0,64]})"), "data_offsets: found 64 bytes, expected the 48 of its shape");
  expect(entry(R"({"dtype":"BF16","shape":[4,4],"data_offsets":[0,64]})"), "data_offsets: found 64 bytes, expected the 32 of its shape");
  expect(entry(R"({"dtype":"F32","shape":[4,4],"data_offsets":[0,64]})", 63), "data_offsets: found 0 to 64, expected a range within the 63 bytes of data");
  expect(entry(R"({"dtype":"F32","shape":[4,4],"data_offsets":[64,0]})"), "data_offsets: found 64 to 0, expected a range");
  expect(entry(R"({"dtype":"F32","shape":[4,4],"data_offsets":[9223372036854775800,9223372036854775807]})"), "expected a range within the 64 bytes");
  for (const char* ends : {"[0]", "[0,64,64]", "[-1,64]", "[0,6.4e1]", "64", "\"0,64\""})
    expect(entry(R"({"dtype":"F32","shape":[4,4],"data_offsets":)" + std::string(ends) + "}"), "tensor 'w': data_offsets: found ");
  expect(refusal(safetensors(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[12,28]}})", std::string(64, 'x'))),
         "tensor 'b': found data that begins inside that of 'a', expected it apart");
}

TEST(Safetensors, DamagedFilesAreRefusedOrHarmlesslyRead) {
  std::map<std::string, HfTensor> tensors = {{"a", {"F32", {2, 2}, std::string(16, 'a')}}, {"b", {"BF16", {3}, std::string(6, 'b')}}, {"c", {"I8", {1}, "c"}}};
  const std::string whole = safetensors(tensors);
  ASSERT_EQ(refusal(whole), "no error");
  for (size_t n = 0; n < whole.size(); ++n) EXPECT_NE(refusal(whole.substr(0, n)), "no error") << n;
  for (size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string copy = whole;
    copy[bit / 8] = char(copy[bit / 8] ^ (1 << bit % 8));
    refusal(copy);
  }
  std::mt19937 random(1);
  for (int i = 0; i < 3000; ++i) {
    std::string copy = whole;
    for (unsigned k = 1 + random() % 4; k > 0; --k) copy[8 + random() % (copy.size() - 8)] = "0123456789[]{},:\"-e."[random() % 20];
    refusal(copy);
  }
}

/// A small folder whose parts a test spoils.
class SafetensorsFolder : public testing::Test {
 protected:
  HfModel model = synth_model("llama");
  TemporaryFolder folder;

  std::string opened(const HfModel& m) {
    m.write(folder.path());
    const auto file = File::open(folder.path());
    if (file) return "no error";
    EXPECT_EQ(file.message().find(folder.path()), 0u) << file.message();
    EXPECT_EQ(file.message().find('\n'), std::string::npos) << file.message();
    EXPECT_LT(file.message().size(), 700u);
    return file.message();
  }
  void expect(const std::function<void(HfModel&)>& spoil, const std::string& text) {
    HfModel m = model;
    spoil(m);
    const std::string message = opened(m);
    EXPECT_NE(message.find(text), std::string::npos) << message << "\nlacks: " << text;
  }
};

TEST_F(SafetensorsFolder, RefusesWhatTheArchitectureCannotCompute) {
  ASSERT_EQ(opened(model), "no error");
  const auto config = [&](const std::string& key, const json& value, const std::string& text) { expect([&](HfModel& m) { m.config[key] = value; }, text); };
  const auto scaling = [&](const json& value, const std::string& text) { config("rope_scaling", value, text); };
  config("architectures", json::array({"MixtralForCausalLM"}), "config.json: 'architectures': found 'MixtralForCausalLM', expected one of LlamaForCausalLM, ");
  config("architectures", json(), "no error");  // model_type says it
  config("hidden_act", "gelu", "'hidden_act': found 'gelu', expected 'silu'");
  config("sliding_window", 4096, "'sliding_window': found '4096', expected nothing");
  config("sliding_window", json(), "no error");
  config("quantization_config", {{"quant_method", "fp8"}}, "'quantization_config': found ");
  config("partial_rotary_factor", 0.5, "'partial_rotary_factor': found '0.5', expected '1'");
  config("attention_bias", true, "tensor 'model.layers.0.self_attn.q_proj.bias': not found in the weights, expected [256]");
  config("mlp_bias", "yes", "'mlp_bias': found 'yes', expected true or false");
  config("layer_types", json::array({"full_attention", "sliding_attention"}), "'layer_types': found ");
  config("layer_types", json::array({"full_attention", "full_attention"}), "no error");
  scaling({{"type", "linear"}, {"factor", 2}}, "no error");
  EXPECT_EQ(*open(folder.path())->get_float("llama.rope.scaling.factor"), 2);
  EXPECT_EQ(open(folder.path())->tensor("rope_freqs.weight"), nullptr);
  scaling({{"rope_type", "yarn"}, {"factor", 2}}, "'rope_scaling': 'rope_type': found 'yarn', expected default, linear or llama3");
  scaling({{"rope_type", "llama3"}, {"factor", 2}}, "'low_freq_factor': not found, expected a number");
  scaling({{"rope_type", "llama3"}, {"factor", 0}, {"low_freq_factor", 1}, {"high_freq_factor", 4}, {"original_max_position_embeddings", 64}},
          "'factor': found 0, expected a positive number");
  scaling({{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 4}, {"original_max_position_embeddings", 64}},
          "'high_freq_factor': found 4, expected more than low_freq_factor, 4");
  scaling("linear", "'rope_scaling': found string, expected an object");
  config("rope_parameters", {{"rope_type", "longrope"}, {"rope_theta", 1e4}}, "'rope_parameters': 'rope_type': found 'longrope'");
  config("rope_theta", -1, "'rope_theta': found -1, expected a positive number");
}

TEST_F(SafetensorsFolder, RefusesAbsurdNumbers) {
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "intermediate_size", "max_position_embeddings"})
    for (const json& value : {json(0), json(-1), json(1.5), json("7"), json(uint64_t(1) << 40), json(uint64_t(INT64_MAX)), json(UINT64_MAX), json(1e300), json::array()})
      expect([&](HfModel& m) { m.config[key] = value; }, "config.json: '" + std::string(key) + "': found ");
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size", "max_position_embeddings"})
    expect([&](HfModel& m) { m.config.erase(key); }, "config.json: '" + std::string(key) + "': not found, expected an integer from ");
}

TEST_F(SafetensorsFolder, RefusesOtherTensorsThanTheConfigAsksFor) {
  const std::string q = "model.layers.1.self_attn.q_proj.weight";
  expect([&](HfModel& m) { m.tensors.erase(q); }, "config.json: tensor '" + q + "': not found in the weights, expected [256,256]");
  expect([&](HfModel& m) { m.tensors[q].shape = {128, 512}; }, "model.safetensors: tensor '" + q + "': found shape [128,512], expected [256,256] by config.json");
  expect([&](HfModel& m) { m.tensors[q].type = "I32"; }, "model.safetensors: tensor '" + q + "': found dtype 'I32', expected F32, F16 or BF16");
  expect([&](HfModel& m) { m.tensors["model.layers.0.mlp.gate.weight"] = m.tensors[q]; }, "tensor 'model.layers.0.mlp.gate.weight': found, but it is not part of architecture llama");
  expect([&](HfModel& m) { m.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = m.tensors["model.norm.weight"]; }, "no error");
  expect([&](HfModel& m) { m.config["vocab_size"] = 511; }, "tensor 'model.embed_tokens.weight': found shape [512,256], expected [511,256]");
  expect([&](HfModel& m) { m.config["num_hidden_layers"] = 3; }, "tensor 'model.layers.2.input_layernorm.weight': not found");
  expect([&](HfModel& m) { m.config["tie_word_embeddings"] = true; }, "no error");  // the embedding is taken, as Hugging Face does
  EXPECT_EQ(open(folder.path())->tensor("output.weight"), nullptr);
}

TEST_F(SafetensorsFolder, Gemma3sOwn) {
  model = synth_model("gemma3");
  const auto config = [&](const std::string& key, const json& value, const std::string& text) { expect([&](HfModel& m) { m.config[key] = value; }, text); };
  const std::string full = "full_attention", sliding = "sliding_attention";
  config("query_pre_attn_scalar", 32, "'query_pre_attn_scalar': found '32', expected '64'");
  config("attn_logit_softcapping", 50.0, "'attn_logit_softcapping': found '50.0'");
  config("use_bidirectional_attention", true, "'use_bidirectional_attention': found 'true', expected 'false'");
  config("hidden_activation", "gelu", "'hidden_activation': found 'gelu'");
  for (const json& types : {json({full, sliding, sliding, sliding, sliding, sliding}), json({sliding}), json(6), json({full, sliding, full, full, full, full})})
    config("layer_types", types, "'layer_types': found ");
  config("layer_types", {sliding, full, sliding, full, sliding, full}, "no error");
  EXPECT_EQ(*open(folder.path())->get_int("gemma3.attention.sliding_window_pattern"), 2);
  config("layer_types", {sliding, sliding, sliding, sliding, sliding, sliding}, "no error");
  EXPECT_EQ(*open(folder.path())->get_int("gemma3.attention.sliding_window_pattern"), 0);
  config("final_logit_softcapping", 30, "no error");
  EXPECT_EQ(*open(folder.path())->get_float("gemma3.final_logit_softcapping"), 30);
  config("rope_scaling", {{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 1}, {"high_freq_factor", 4}, {"original_max_position_embeddings", 64}},
         "'rope_type': found 'llama3', expected it with architecture llama only");
  // As newer files have it.
  config("rope_parameters", {{sliding, {{"rope_type", "default"}, {"rope_theta", 5000}}}, {full, {{"rope_type", "linear"}, {"factor", 4}, {"rope_theta", 7e5}}}}, "no error");
  const auto file = open(folder.path());
  EXPECT_EQ(*file->get_float("gemma3.rope.freq_base"), 7e5);
  EXPECT_EQ(*file->get_float("gemma3.rope.freq_base_swa"), 5000);
  EXPECT_EQ(*file->get_float("gemma3.rope.scaling.factor"), 4);
}

TEST_F(SafetensorsFolder, DamagedJsonIsRefusedOrHarmlesslyRead) {
  model.write(folder.path());
  std::mt19937 random(1);
  for (const std::string name : {"config.json", "tokenizer.json"}) {
    const std::string text = name == "config.json" ? model.config.dump() : model.tokenizer.dump();
    for (int i = 0; i < 400; ++i) {
      std::string copy = text;
      for (unsigned k = 1 + random() % 3; k > 0; --k) copy[random() % copy.size()] = "0123456789[]{},:\"-e.tn"[random() % 22];
      if (random() % 8 == 0) copy.resize(random() % copy.size());
      write_text(folder / name, copy);
      const auto file = File::open(folder.path());
      if (!file) {
        EXPECT_EQ(file.message().find(folder.path()), 0u) << file.message();
        EXPECT_EQ(file.message().find('\n'), std::string::npos) << file.message();
      } else if (const auto tokenizer = Tokenizer::create(**file)) {
        (void)(*tokenizer)->encode("ab a<s> b\n\xc3\xa9</s>");
      }
    }
    write_text(folder / name, text);
  }
}

// ---- tokenizers

/// The model's tokenizer in the folder of a model with two channels.
HfModel with_tokenizer(const json& tokenizer, int64_t vocab) {
  HfModel m;
  m.tokenizer = tokenizer;
  m.config = {{"architectures", {"LlamaForCausalLM"}}, {"vocab_size", vocab}, {"hidden_size", 2}, {"num_hidden_layers", 1}, {"num_attention_heads", 1},
              {"intermediate_size", 2}, {"max_position_embeddings", 64}, {"tie_word_embeddings", true}};
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    m.tensors[name] = {"F16", shape, std::string(size_t(2 * shape[0] * (shape.size() == 2 ? shape[1] : 1)), 0)};
  };
  add("model.embed_tokens.weight", {vocab, 2});
  add("model.norm.weight", {2});
  for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) add("model.layers.0." + std::string(norm) + ".weight", {2});
  for (const char* p : {"self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"})
    add("model.layers.0." + std::string(p) + "_proj.weight", {2, 2});
  return m;
}

using SafetensorsTokenizer = RealModel;

TEST_P(SafetensorsTokenizer, GivesTheIdsOfTheGgufFile) {
  const auto gguf = open(model_path(GetParam()));
  ASSERT_TRUE(gguf);
  const auto expected = *Tokenizer::create(*gguf);
  HfModel m = with_tokenizer(hf_tokenizer(*gguf), int64_t(expected->size()));
  m.config["bos_token_id"] = expected->bos();
  TemporaryFolder folder;
  m.write(folder.path());
  const auto text = [&](int32_t id) { return std::string(std::get<std::vector<std::string_view>>(*gguf->find("tokenizer.ggml.tokens"))[size_t(id)]); };
  write_text(folder / "tokenizer_config.json", json{{"eos_token", {{"content", text(expected->eos())}}}, {"add_bos_token", expected->add_bos()}, {"chat_template", "{{x}}"}}.dump());
  const auto file = open(folder.path());
  ASSERT_TRUE(file);
  EXPECT_EQ(*file->get_string("tokenizer.chat_template"), "{{x}}");
  const auto found = Tokenizer::create(*file);
  ASSERT_TRUE(found) << found.message();
  EXPECT_EQ((*found)->size(), expected->size());
  EXPECT_EQ((*found)->bos(), expected->bos());
  EXPECT_EQ((*found)->eos(), expected->eos());
  EXPECT_EQ((*found)->add_bos(), expected->add_bos());
  std::vector<std::string> texts = {read_file(shared_path("text.txt"))};
  for (const json& sample : reference()["models"].at(GetParam())["tokenizer"]) texts.push_back(sample["text"]);
  for (const std::string& t : texts)
    for (const bool special : {true, false}) EXPECT_EQ(*(*found)->encode(t, special), *expected->encode(t, special)) << t.substr(0, 80);
  for (int32_t id = 0; id < int32_t(expected->size()); ++id) {
    ASSERT_EQ((*found)->piece(id), expected->piece(id)) << id;
    ASSERT_EQ((*found)->piece(id, true), expected->piece(id, true)) << id;
    ASSERT_EQ((*found)->is_end(id), expected->is_end(id)) << id;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, SafetensorsTokenizer, testing::ValuesIn(test_models()), real_model_name);

class SafetensorsVocabulary : public SafetensorsFolder {
 protected:
  /// Byte-level, as GPT-2's.
  static json byte_level() {
    return {{"added_tokens", json::array({{{"id", 5}, {"content", "<s>"}, {"special", true}}, {{"id", 6}, {"content", "<tool>"}, {"special", false}}})},
            {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
            {"model", {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}, {"Ġ", 3}, {"Ġab", 4}}}, {"merges", {"a b", "Ġ ab"}}}}};
  }
  /// Characters and bytes, as Llama 2's.
  static json characters() {
    json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}, {"<0x0A>", 3}, {"▁", 4}, {"a", 5}, {"b", 6}, {"c", 7}, {"ab", 8}, {"▁a", 9}, {"abc", 10}, {"bc", 11}};
    json merges = json::array({{"a", "b"}, {"▁", "a"}, {"ab", "c"}, {"a", "bc"}, {"b", "c"}});
    return {{"added_tokens", json::array({{{"id", 0}, {"content", "<unk>"}, {"special", true}}, {{"id", 1}, {"content", "<s>"}, {"special", true}}, {{"id", 2}, {"content", "</s>"}, {"special", true}}})},
            {"normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "Prepend"}, {"prepend", "▁"}}, {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}}}}}},
            {"post_processor", {{"type", "TemplateProcessing"}, {"single", {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}}}},
            {"model", {{"type", "BPE"}, {"byte_fallback", true}, {"vocab", vocab}, {"merges", merges}}}};
  }
  std::vector<int32_t> ids(const std::string& text) {
    const auto file = open(folder.path());
    return file ? *(*Tokenizer::create(*file))->encode(text) : std::vector<int32_t>();
  }
};

TEST_F(SafetensorsVocabulary, ByteLevel) {
  model = with_tokenizer(byte_level(), 9);
  ASSERT_EQ(opened(model), "no error");
  EXPECT_EQ(ids("ab ab<s>b<tool>"), (std::vector<int32_t>{2, 4, 5, 1, 6}));
  const auto file = open(folder.path());
  EXPECT_EQ(std::get<std::vector<int64_t>>(*file->find("tokenizer.ggml.token_type")), (std::vector<int64_t>{1, 1, 1, 1, 1, 3, 4, 5, 5}));
  EXPECT_EQ(std::get<std::vector<std::string_view>>(*file->find("tokenizer.ggml.tokens"))[8], "[PAD8]");
  const auto tokenizer = [&](const std::string& pointer, const json& value, const std::string& text) {
    expect([&](HfModel& m) { m.tokenizer[json::json_pointer(pointer)] = value; }, text);
  };
  tokenizer("/model/type", "Unigram", "tokenizer.json: 'model': 'type': found 'Unigram', expected 'BPE'");
  tokenizer("/model/vocab/x", 9, "'vocab': 'x': found '9', expected an integer from 0 to 8");
  tokenizer("/model/vocab/x", -1, "'vocab': 'x': found '-1', expected an integer from 0 to 8");
  tokenizer("/model/vocab/x", 2, "token 'x': found id 2, which is that of 'ab'");
  tokenizer("/model/merges/1", "Ġab", "merge 1: found ");
  tokenizer("/model/merges/1", "b a", "merge 1: found 'b a', expected two tokens that make a third");
  tokenizer("/model/merges/1", json::array({"a"}), "merge 1: found ");
  tokenizer("/model/merges", 1, "'merges': found another kind, expected an array");
  tokenizer("/model/ignore_merges", true, "'pre_tokenizer': found 'ByteLevel' with ignore_merges true, expected that of ");
  tokenizer("/pre_tokenizer/add_prefix_space", true, "'add_prefix_space': found 'true', expected 'false'");
  tokenizer("/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {{{"type", "Split"}, {"pattern", {{"Regex", "\\p{Han}+"}}}, {"behavior", "Isolated"}}, byte_level()["pre_tokenizer"]}}},
            "'pre_tokenizer': found '\\p{Han}+', 'ByteLevel' with ignore_merges false");
  tokenizer("/pre_tokenizer", json(), "found BPE that is neither byte-level nor falls back on bytes");
  tokenizer("/normalizer", {{"type", "Lowercase"}}, "'type': found 'Lowercase', expected 'NFC'");
  tokenizer("/normalizer", {{"type", "NFC"}}, "no error");
  tokenizer("/added_tokens/0/lstrip", true, "added token 0: 'lstrip': found 'true', expected 'false'");
  tokenizer("/added_tokens/0/id", 2, "added token 0: token '<s>': found id 2, which is that of 'ab'");
  tokenizer("/added_tokens/0/id", 100, "no error");  // beyond what the weights know
  expect([](HfModel& m) { m.tokenizer["added_tokens"][0]["id"] = m.tokenizer["model"]["vocab"]["<s>"] = 100; }, "no error");
  model.config["bos_token_id"] = 5;
  tokenizer("/post_processor", {{"single", {{{"SpecialToken", {{"id", "<tool>"}}}}}}}, "'post_processor': found '<tool>' before every text");
  std::filesystem::remove(folder / "tokenizer.json");
  EXPECT_EQ(File::open(folder.path()).message(), folder.path() + "/tokenizer.json: cannot open: No such file or directory");
}

TEST_F(SafetensorsVocabulary, RolesOfTokens) {
  model = with_tokenizer(byte_level(), 9);
  const std::string tokens = folder / "tokenizer_config.json", generation = folder / "generation_config.json", jinja = folder / "chat_template.jinja";
  const auto role = [&](const std::string& key) { return *open(folder.path())->get_int("tokenizer.ggml." + key, -1); };
  const auto add_bos = [&] { return *open(folder.path())->get_bool("tokenizer.ggml.add_bos_token"); };
  ASSERT_EQ(opened(model), "no error");
  EXPECT_EQ(role("eos_token_id"), -1);
  EXPECT_FALSE(add_bos());
  write_text(generation, R"({"eos_token_id":[3,4]})");
  EXPECT_EQ(role("eos_token_id"), 3);
  model.config["eos_token_id"] = 2;
  model.config["bos_token_id"] = 99;  // no token
  model.config["pad_token_id"] = -1;
  ASSERT_EQ(opened(model), "no error");
  EXPECT_EQ(role("eos_token_id"), 2);
  EXPECT_EQ(role("bos_token_id"), -1);
  EXPECT_EQ(role("padding_token_id"), -1);
  write_text(tokens, R"({"eos_token":"ab","bos_token":{"content":"<s>"},"unk_token":"<none>","chat_template":"short"})");
  model.config["eos_token_id"] = 0;
  model.tokenizer["post_processor"] = {{"type", "Sequence"}, {"processors", {{{"type", "ByteLevel"}}, {{"type", "TemplateProcessing"}, {"single", {{{"SpecialToken", {{"id", "<s>"}}}}}}}}}};
  ASSERT_EQ(opened(model), "no error");
  EXPECT_EQ(role("eos_token_id"), 2);
  EXPECT_EQ(role("bos_token_id"), 5);
  EXPECT_EQ(role("unknown_token_id"), -1);
  EXPECT_TRUE(add_bos());
  EXPECT_EQ(*open(folder.path())->get_string("tokenizer.chat_template"), "short");
  write_text(tokens, R"({"bos_token":"<s>","add_bos_token":false})");
  write_text(jinja, "{{ long }}");
  EXPECT_FALSE(add_bos());
  EXPECT_EQ(*open(folder.path())->get_string("tokenizer.chat_template"), "{{ long }}");
  write_text(tokens, "{}");
  EXPECT_EQ(role("bos_token_id"), 5);  // what is put before every text
  write_text(tokens, R"({"add_bos_token":1})");
  EXPECT_EQ(opened(model), tokens + ": 'add_bos_token': found '1', expected true or false");
}

TEST_F(SafetensorsVocabulary, AddedTokens) {
  json t = byte_level();
  t["added_tokens"].push_back({{"id", 7}, {"content", "<|special by its looks|>"}, {"special", false}});
  t["added_tokens"].push_back({{"id", 8}, {"content", "▁▁"}});  // found in the text as two spaces
  ASSERT_EQ(opened(with_tokenizer(t, 9)), "no error");
  const auto file = open(folder.path());
  EXPECT_EQ(std::get<std::vector<int64_t>>(*file->find("tokenizer.ggml.token_type")), (std::vector<int64_t>{1, 1, 1, 1, 1, 3, 4, 3, 4}));
  EXPECT_EQ(ids("a  b"), (std::vector<int32_t>{0, 8, 1}));
}

TEST_F(SafetensorsVocabulary, PreTokenizersByTheirRegularExpressions) {
  const std::string head = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)", tail = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  for (const auto& [digits, ignore, name] : {std::tuple{R"(\p{N})", false, "qwen2"}, {R"(\p{N}{1,3})", true, "llama-bpe"}, {R"(\p{N}{1,3})", false, "smaug-bpe"}}) {
    json t = byte_level();
    t["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {{{"type", "Split"}, {"pattern", {{"Regex", head + digits + tail}}}, {"behavior", "Isolated"}, {"invert", false}},
                                                                   {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
    t["model"]["ignore_merges"] = ignore;
    ASSERT_EQ(opened(with_tokenizer(t, 9)), "no error");
    EXPECT_EQ(*open(folder.path())->get_string("tokenizer.ggml.pre"), name);
  }
}

TEST_F(SafetensorsVocabulary, CharactersWithBytesToFallBackOn) {
  model = with_tokenizer(characters(), 12);
  model.config["bos_token_id"] = 1;
  ASSERT_EQ(opened(model), "no error");
  // Ranks: "ab" is made before "▁a", both before "abc", and "bc" last.
  EXPECT_EQ(ids("ab"), (std::vector<int32_t>{4, 8}));
  EXPECT_EQ(ids("abc"), (std::vector<int32_t>{4, 10}));
  EXPECT_EQ(ids("bc\nac"), (std::vector<int32_t>{4, 11, 3, 5, 7}));
  const auto t = *Tokenizer::create(*open(folder.path()));
  EXPECT_TRUE(t->add_bos());
  EXPECT_EQ(t->bos(), 1);
  const auto tokenizer = [&](const std::string& pointer, const json& value, const std::string& text) {
    expect([&](HfModel& m) { m.tokenizer[json::json_pointer(pointer)] = value; }, text);
  };
  tokenizer("/model/merges", json::array({{"a", "b"}, {"▁", "a"}, {"ab", "c"}, {"b", "c"}}), "token 'abc': found no merge of 'a' and 'bc', which GGUF's scores cannot say");
  tokenizer("/model/merges", json::array({{"a", "b"}, {"▁", "a"}, {"ab", "c"}, {"b", "c"}, {"a", "bc"}}), "merge 4: found another way of making 'abc', expected it beside the others");
  tokenizer("/model/merges", json::array({{"▁", "a"}, {"ab", "c"}, {"a", "bc"}, {"b", "c"}}), "no error");  // those of "ab", the first, are lost
  EXPECT_EQ(ids("ab"), (std::vector<int32_t>{4, 8}));
  tokenizer("/model/merges", json::array({{"a", "b"}, {"▁", "a"}, {"b", "c"}}), "token 'abc': found no merge of 'a' and 'bc'");
  tokenizer("/normalizer/normalizers/0", {{"type", "Lowercase"}}, "which is not supported");
  tokenizer("/normalizer", json(), "'normalizer': found none that replaces spaces");
  tokenizer("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "first"}, {"split", false}}, "which is not supported");
  model.tokenizer["normalizer"] = nullptr;
  tokenizer("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "first"}, {"split", false}}, "which is not supported");
  tokenizer("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "never"}, {"split", false}}, "no error");
  EXPECT_EQ(ids("abc"), (std::vector<int32_t>{10}));
}

}  // namespace
}  // namespace prism::gguf
