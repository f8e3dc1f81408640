// `prism calibrate` and `prism quantize`.
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "analysis/divergence.h"
#include "frontends/gguf/gguf.h"
#include "tests/cli/command.h"
#include "tools/quantize/model.h"

namespace prism::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class QuantizeCommand : public testing::Test {
 protected:
  Workshop shop;
  const std::string tiny = shop.path("tiny.gguf"), out = shop.path("out.gguf"), cal = shop.path("tiny.cal"), text = shop.path("text.txt");
  /// Random weights, in a file.
  std::string synth(const std::string& shape, const std::string& name, const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {"synth", shape, "-o", shop.path(name), "--type", "f32"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    shop.must(arguments);
    return shop.path(name);
  }
  void write_text() {
    std::string words;
    for (int i = 0; i < 400; ++i) words += std::string(1, char('a' + i * i % 26)) + (i % 5 ? "" : " ");
    shop.write_text("text.txt", words);
  }
};

TEST_F(QuantizeCommand, WhatIsWrittenRuns) {
  const std::string said = shop.must({"run", tiny, "-p", "a", "-n", "20"});
  for (const char* type : {"q4_0", "q4_1", "q4_k", "q5_k", "q6_k", "f16"}) {
    SCOPED_TRACE(type);
    const std::string table = shop.must({"quantize", tiny, "-o", out, "--type", type});
    EXPECT_NE(table.find("f32 "), std::string::npos) << table;
    const auto file = gguf::File::open(out);
    ASSERT_TRUE(file) << file.message();
    EXPECT_EQ((*file)->size(), fs::file_size(out));
    EXPECT_EQ(shop.must({"run", out, "-p", "a", "-n", "20"}), said);
  }
}

TEST_F(QuantizeCommand, TheSameFileByAnyNumberOfThreads) {
  const std::string model = synth("tiny-qwen3", "qwen.gguf", {"--vocab", "9000"});
  std::vector<uint8_t> first;
  for (const char* threads : {"1", "2", "7"}) {
    shop.must({"quantize", model, "-o", out, "--type", "q4_k", "-t", threads});
    const auto bytes = read_bytes(out);
    if (first.empty()) first = bytes;
    EXPECT_TRUE(bytes == first) << threads;
  }
}

TEST_F(QuantizeCommand, JsonHasEveryTensor) {
  const std::string model = synth("tiny-llama", "llama.gguf");
  const json report = json::parse(shop.must({"quantize", model, "-o", out, "--type", "q5_k", "--json"}));
  const auto file = *gguf::File::open(out);
  EXPECT_EQ(report["bytes"], fs::file_size(out));
  ASSERT_EQ(report["tensors"].size(), file->tensors().size());
  uint64_t bytes = 0, weights = 0;
  for (size_t i = 0; i < file->tensors().size(); ++i) {
    const gguf::TensorInfo& t = file->tensors()[i];
    const json& row = report["tensors"][i];
    EXPECT_EQ(row["name"], t.name);
    EXPECT_EQ(row["type"], ir::info(t.dtype).name);
    EXPECT_EQ(row["bytes"], t.bytes);
    EXPECT_EQ(row.contains("error"), t.shape.size() == 2) << t.name;
    EXPECT_LT(row.value("error", 0.0), 0.003) << t.name;
    bytes += t.bytes;
    weights += t.bytes / ir::info(t.dtype).bytes * ir::info(t.dtype).block;
  }
  EXPECT_NEAR(report["bits_per_weight"].get<double>(), 8.0 * double(bytes) / double(weights), 1e-9);
}

TEST_F(QuantizeCommand, CalibratesAndChooses) {
  write_text();
  const std::string model = synth("tiny-llama", "llama.gguf");
  const json measured = json::parse(shop.must({"calibrate", model, "--text", text, "-o", cal, "--tokens", "100", "--window", "40", "--sensitivity", "60", "--json"}));
  EXPECT_EQ(measured["tokens"], 100);
  const auto file = *gguf::File::open(model);
  const auto c = quantize::read_calibration(cal);
  ASSERT_TRUE(c) << c.message();
  EXPECT_EQ(c->window, 40);
  EXPECT_EQ(c->ids.size(), 100u);
  size_t matrices = 0;
  for (const gguf::TensorInfo& t : file->tensors()) {
    if (t.shape.size() != 2) continue;
    ++matrices;
    const quantize::Inputs* in = c->find(t.name);
    ASSERT_TRUE(in && in->sensitivity) << t.name;
    EXPECT_GT(*in->sensitivity, 0) << t.name;
    EXPECT_EQ(in->mean_square.size(), t.name == "token_embd.weight" && file->tensor("output.weight") ? 0u : size_t(t.shape.back())) << t.name;
  }
  EXPECT_EQ(measured["matrices"].size(), matrices);
  // More bits, less divergence expected; the file keeps to them.
  double last = INFINITY;
  for (const char* bits : {"4.6", "5.5", "7", "9"}) {
    const json made = json::parse(shop.must({"quantize", model, "-o", out, "--calibration", cal, "--auto", "--bits", bits, "--json"}));
    EXPECT_LE(made["bits_per_weight"], std::stod(bits));
    EXPECT_GT(made["bits_per_weight"], std::stod(bits) - 0.6);
    EXPECT_LT(made["expected_kl"], last);
    last = made["expected_kl"];
  }
  shop.must({"run", out, "-p", "a", "-n", "4"});
  const uint64_t bytes = 3 * fs::file_size(out) / 4;
  shop.must({"quantize", model, "-o", out, "--calibration", cal, "--auto", "--bytes", std::to_string(bytes)});
  EXPECT_LE(fs::file_size(out), bytes);
  EXPECT_GT(fs::file_size(out), bytes * 9 / 10);
  // With importance other scales are the best.
  shop.must({"quantize", model, "-o", out, "--type", "q4_0"});
  const auto plain = read_bytes(out);
  shop.must({"quantize", model, "-o", out, "--type", "q4_0", "--calibration", cal});
  EXPECT_FALSE(read_bytes(out) == plain);

  // Less than there can be.
  shop.must_fail({"quantize", model, "-o", out, "--calibration", cal, "--auto", "--bits", "4"}, {"--bits: found 4", "expected at least 4.5", model});
  shop.must_fail({"quantize", model, "-o", out, "--calibration", cal, "--auto", "--bytes", "1000"}, {"--bytes: found 1000", "expected at least", model});
  // What was measured with another model, or without sensitivities.
  const std::string other = synth("tiny-llama", "other.gguf", {"--seed", "2"});
  shop.must_fail({"quantize", other, "-o", out, "--type", "q4_0", "--calibration", cal}, {cal, "was made with", other, "run prism calibrate"});
  // Ranges for int8 come from the same file.
  const std::string pipeline = "insert-quantization{protect=none,inputs=symmetric,ranges=" + cal + "},fold-quantization";
  shop.must_fail({"run", other, "-p", "a", "-n", "1", "--pipeline", pipeline}, {cal, "was made with", other, "run prism calibrate"});
  shop.must_fail({"run", model, "-p", "a", "-n", "1", "--pipeline", "insert-quantization{inputs=affine,protect=none},fold-quantization"}, {"found no range of what @", "option ranges"});
  const json quality = json::parse(shop.must({"quality", model, "--text", text, "--against", pipeline, "--json"}));
  EXPECT_GT(quality["variants"][0]["all"]["kl"]["mean"], 0);
  shop.must({"calibrate", model, "--text", text, "-o", cal, "--tokens", "30"});
  shop.must_fail({"quantize", model, "-o", out, "--calibration", cal, "--auto", "--bits", "6"}, {cal, "no sensitivity of 'token_embd.weight'", "--sensitivity"});
}

TEST_F(QuantizeCommand, SensitivityIsTheDivergenceWithOneMatrixQuantized) {
  write_text();
  const std::string model = synth("tiny-llama", "llama.gguf");
  shop.must({"calibrate", model, "--text", text, "-o", cal, "--tokens", "64", "--sensitivity", "48"});
  const auto calibration = std::make_shared<quantize::Calibration>(*quantize::read_calibration(cal));
  std::string ids;
  for (size_t i = 0; i < 48; ++i) ids += std::to_string(calibration->ids[i]) + " ";
  const auto logits = [&](const std::string& path) {
    shop.must({"eval", path, "--ids", ids, "--logits", shop.path("logits.f32"), "--reference"});
    const auto bytes = read_bytes(shop.path("logits.f32"));
    std::vector<float> values(bytes.size() / 4);
    memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  };
  const auto file = *gguf::File::open(model);
  const std::vector<float> base = logits(model);
  const size_t vocab = base.size() / 48;
  for (const std::string name : {"token_embd.weight", "blk.0.attn_v.weight", "blk.1.ffn_down.weight", "output.weight"}) {
    std::vector<ir::DType> types;
    const gguf::TensorInfo* matrix = file->tensor(name);
    for (const gguf::TensorInfo& t : file->tensors()) types.push_back(&t == matrix ? ir::DType::Q4_0 : t.dtype);
    const auto made = *quantize::quantized_file(file, types, calibration);
    std::vector<uint8_t> bytes(made->size());
    std::copy(made->bytes().begin(), made->bytes().end(), bytes.begin());
    for (const gguf::TensorInfo& t : made->tensors()) made->read(t, 0, std::span(bytes).subspan(t.offset, t.bytes));
    write_bytes(out, bytes);
    const std::vector<float> variant = logits(out);
    double divergence = 0;
    for (size_t row = 0; row < 48; ++row)
      divergence += analysis::compare(std::span(base).subspan(row * vocab, vocab), std::span(variant).subspan(row * vocab, vocab), -1)->kl / 48;
    const quantize::Inputs* inputs = calibration->find(name);
    ASSERT_TRUE(inputs && inputs->sensitivity) << name;
    const double expected = *inputs->sensitivity * quantize::sampled_error(*file, *matrix, ir::DType::Q4_0, inputs).error;
    EXPECT_GT(divergence, 1e-6) << name;
    EXPECT_NEAR(expected / divergence, 1, 0.02) << name;
  }
}

TEST_F(QuantizeCommand, Errors) {
  write_text();
  shop.must_fail({"quantize", tiny, "-o", out}, {"--type or --auto is required"});
  shop.must_fail({"quantize", tiny, "-o", out, "--type", "q9"}, {"--type", "q9"});
  shop.must_fail({"quantize", tiny, "-o", out, "--auto"}, {"--bits or --bytes"});
  shop.must_fail({"quantize", tiny, "-o", out, "--auto", "--bits", "5"}, {"--calibration"});
  shop.must_fail({"quantize", tiny, "-o", out, "--type", "q4_0", "--bits", "5"}, {"--bits", "--auto"});
  shop.must_fail({"quantize", shop.path("none.gguf"), "-o", out, "--type", "q4_0"}, {"none.gguf", "cannot open"});
  shop.must_fail({"quantize", tiny, "-o", shop.path("no/folder/out.gguf"), "--type", "q4_0"}, {"no/folder", "No such file"});
  shop.must_fail({"quantize", tiny, "-o", out, "--type", "q4_0", "--calibration", tiny}, {tiny, "architecture 'llama'", "prism calibrate"});
  shop.must_fail({"quantize", "synth:tiny-llama:q8_0", "-o", out, "--type", "q4_0"}, {"found q8_0", "--requantize"});
  shop.must({"quantize", "synth:tiny-llama:q8_0", "-o", shop.path("re.gguf"), "--type", "q4_0", "--requantize"});

  shop.must_fail({"calibrate", tiny, "--text", shop.path("none.txt"), "-o", cal}, {"none.txt", "cannot open"});
  shop.write_text("one.txt", "a");
  shop.must_fail({"calibrate", tiny, "--text", shop.path("one.txt"), "-o", cal}, {"one.txt", "found 1 tokens", "at least 2"});
  shop.write_text("same.txt", "qqqqqqqq");
  shop.must_fail({"calibrate", tiny, "--text", shop.path("same.txt"), "-o", cal}, {tiny, "channel", "for all tokens", "more text"});
  shop.must({"calibrate", tiny, "--text", shop.path("same.txt"), "-o", cal, "--allow-constant"});
  shop.must({"quantize", tiny, "-o", shop.path("same.gguf"), "--type", "q4_0", "--calibration", cal});
  shop.must_fail({"calibrate", tiny, "--text", text}, {"--output is required"});
  // A weight that is not a number: neither measured nor quantized.
  auto bytes = read_bytes(tiny);
  const auto file = *gguf::File::open(tiny);
  const float nan = NAN;
  memcpy(bytes.data() + file->tensor("blk.0.attn_q.weight")->offset + 8, &nan, 4);
  write_bytes(shop.path("nan.gguf"), bytes);
  shop.must_fail({"quantize", shop.path("nan.gguf"), "-o", out, "--type", "q4_0"}, {"'blk.0.attn_q.weight': row 0, column 2: found nan"});
  shop.must_fail({"calibrate", shop.path("nan.gguf"), "--text", text, "-o", cal}, {"nan.gguf", "channel", "expected finite"});
}

}  // namespace
}  // namespace prism::cli
