// prism quality on a tiny model whose attention counts, against what `prism eval` writes of the same ids.
#include <cmath>
#include <nlohmann/json.hpp>

#include "runtime/cpu.h"
#include "tests/cli/command.h"

namespace prism::cli {
namespace {

using nlohmann::json;

class QualityCommand : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shop = new Workshop;
    write_bytes(shop->path("model.gguf"), tiny_model(0.05f).bytes());
    std::string text;
    for (int i = 0; i < 20; ++i) text += kSaid;  // 10 ids each
    shop->write_text("text.txt", text + "z and all that");
  }
  static void TearDownTestSuite() {
    delete shop;
    shop = nullptr;
  }
  static Workshop* shop;
  std::string model = shop->path("model.gguf"), text = shop->path("text.txt");

  std::vector<std::string> command(std::vector<std::string> more) const {
    std::vector<std::string> arguments = {"quality", model, "--text", text};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  json quality(std::vector<std::string> more) const {
    more.push_back("--json");
    return json::parse(shop->must(command(std::move(more))));
  }
  /// Rows of logits of the first `n` ids of the text.
  std::vector<std::vector<float>> logits(const std::string& kv, size_t n) const {
    const std::string ids = shop->must({"tokenize", model}, shop->read_text("text.txt"));
    size_t end = 0;
    for (size_t i = 0; i < n; ++i) end = ids.find(',', end + 1);
    shop->must({"eval", model, "--ids", ids.substr(0, end), "--logits", shop->path("logits.f32"), "--kv", kv});
    const auto bytes = read_bytes(shop->path("logits.f32"));
    EXPECT_EQ(bytes.size(), n * kVocab * sizeof(float));
    std::vector<std::vector<float>> rows(n, std::vector<float>(kVocab));
    for (size_t i = 0; i < n; ++i) std::memcpy(rows[i].data(), bytes.data() + i * kVocab * sizeof(float), kVocab * sizeof(float));
    return rows;
  }
  static double log_sum(const std::vector<float>& row) {
    double sum = 0;
    for (float x : row) sum += std::exp(double(x));
    return std::log(sum);
  }
};
Workshop* QualityCommand::shop = nullptr;

TEST_F(QualityCommand, TypesOfTheCacheDifferAsTheirLogitsDo) {
  constexpr size_t kIds = 60;
  const json report = quality({"--against-kv", "f32", "--limit", std::to_string(kIds), "--no-noise"});
  EXPECT_EQ(report["model"], "Tiny Speaker");
  EXPECT_EQ(report["context"], kContext);
  EXPECT_EQ(report["contexts"], 1);
  EXPECT_TRUE(report["noise"].is_null());
  ASSERT_EQ(report["variants"].size(), 1u);
  EXPECT_EQ(report["variants"][0]["name"], "KV cache in f32");
  const json& all = report["variants"][0]["all"];
  EXPECT_EQ(all["positions"], kIds);
  EXPECT_EQ(all["predictions"], kIds - 1);

  const auto narrow = logits("f16", kIds), wide = logits("f32", kIds);
  double kl = 0, most = 0, loss = 0, same = 0;
  for (size_t i = 0; i < kIds; ++i) {
    const double here = log_sum(narrow[i]), there = log_sum(wide[i]);
    double sum = 0;
    for (size_t c = 0; c < kVocab; ++c) sum += std::exp(narrow[i][c] - here) * ((narrow[i][c] - here) - (wide[i][c] - there));
    kl += sum;
    most = std::max(most, sum);
    const auto top = [](const std::vector<float>& r) { return std::max_element(r.begin(), r.end()) - r.begin(); };
    same += top(narrow[i]) == top(wide[i]);
    if (i + 1 < kIds) loss += here - narrow[i][uint8_t(kSaid[(i + 1) % kSaid.size()])];
  }
  EXPECT_GT(double(all["kl"]["mean"]), 1e-10);
  EXPECT_LT(double(all["kl"]["mean"]), 1e-3);
  EXPECT_NEAR(double(all["kl"]["mean"]), kl / kIds, 1e-12);
  EXPECT_NEAR(double(all["kl"]["max"]), most, 1e-6 * most + 1e-13);
  EXPECT_NEAR(double(all["base_perplexity"]["value"]), std::exp(loss / (kIds - 1)), 1e-9);
  EXPECT_NEAR(double(all["same_top"]["value"]), same / kIds, 1e-12);
  EXPECT_NE(all["perplexity_change"]["value"], 0);
}

TEST_F(QualityCommand, ComparesSeveralTypesAtOnce) {
  const json report = quality({"--against-kv", "bf16,f16,f32", "--limit", "60"});
  ASSERT_EQ(report["variants"].size(), 3u);
  EXPECT_EQ(report["variants"][1]["name"], "KV cache in f16");
  EXPECT_EQ(report["variants"][1]["all"]["kl"]["max"], 0);
  const double bf16 = report["variants"][0]["all"]["kl"]["mean"], f32 = report["variants"][2]["all"]["kl"]["mean"];
  EXPECT_GT(bf16, 10 * f32) << "8 bits of precision and 11";
  EXPECT_EQ(report["variants"][0]["all"], quality({"--against-kv", "bf16", "--limit", "60"})["variants"][0]["all"]);
}

TEST_F(QualityCommand, TheSameModelIsNoVariant) {
  shop->must({"compile", model, "-o", shop->path("model.prx"), "--embed-weights"});
  for (const std::string& same : {model, shop->path("model.prx")}) {
    const json report = quality({"--against", same, "--ctx", "50", "-t", "1"});
    EXPECT_EQ(report["contexts"], 5);  // 214 ids
    const json& all = report["variants"][0]["all"];
    EXPECT_EQ(all["positions"], 214);
    EXPECT_EQ(all["predictions"], 214 - 5);
    EXPECT_EQ(all["kl"]["max"], 0);
    EXPECT_EQ(all["same_top"]["value"], 1);
    EXPECT_EQ(all["perplexity_change"]["value"], 0);
    EXPECT_EQ(all["perplexity_change"]["error"], 0);
    EXPECT_EQ(report["noise"]["all"]["positions"], 214);
  }
}

TEST_F(QualityCommand, OnlyPromptsAreRoundedToBf16) {
  if (rt::best_isa() < rt::Isa::Avx512) return;  // no kernels of prompts that round more than those that generate
  const std::string without = "canonicalize,specialize-entry-points,fuse-attention,pack-weights,dce,fuse-epilogues,plan-memory";
  const json one_way = quality({"--against", without, "--chunk", "32"});
  EXPECT_EQ(one_way["variants"][0]["name"], without);
  EXPECT_LT(double(one_way["variants"][0]["all"]["kl"]["max"]), 1e-9);
  const double noise = one_way["noise"]["all"]["kl"]["mean"];
  EXPECT_GT(noise, 1e-9);
  const json other_way = quality({"--each-pass", "--chunk", "32", "--prompt"});
  ASSERT_EQ(other_way["variants"].size(), 1u);
  EXPECT_EQ(other_way["variants"][0]["name"], "quantize-activations");
  EXPECT_NEAR(double(other_way["variants"][0]["all"]["kl"]["mean"]) / noise, 1, 0.5);
}

/// Passes that do not lower come before the target's; each layer alone loses less than all of them, and only their own.
TEST_F(QualityCommand, RoundedLinearsAndEachLayerOfThem) {
  const auto kl = [](const json& variant) { return double(variant["all"]["kl"]["mean"]); };
  const json all = quality({"--against", "insert-quantization{protect=none},fold-quantization", "--limit", "60", "--no-noise"});
  EXPECT_GT(kl(all["variants"][0]), 1e-9);
  const json kept = quality({"--against", "insert-quantization{protect=none,keep=blk.0./output},fold-quantization", "--limit", "60", "--no-noise"});
  EXPECT_EQ(kl(kept["variants"][0]), 0);
  const json layers = quality({"--each-layer", "int8", "--limit", "60"});
  ASSERT_EQ(layers["variants"].size(), 2u);
  EXPECT_EQ(layers["variants"][0]["name"], "blk.0.");
  EXPECT_EQ(layers["variants"][1]["name"], "output.weight");
  for (const json& v : layers["variants"]) EXPECT_GT(kl(v), 1e-9);
  EXPECT_TRUE(layers["noise"].is_null());
  shop->must_fail(command({"--each-layer", "int9"}), {"--each-layer", "int9"});
}

/// What is exact may be in f32: with 8 bits behind it nearer to an f32 cache than with f16.
TEST_F(QualityCommand, ExactPositionsMayBeInAnyType) {
  const auto kl = [&](const std::string& kv) {
    const json report = json::parse(shop->must({"quality", "synth:tiny-llama:f32", "--text", text, "--kv", "f32", "--against-kv", kv, "--ctx", "200", "--from", "130", "--limit", "200", "--no-noise", "--json"}));
    EXPECT_EQ(report["variants"][0]["name"], "KV cache in " + kv);
    return double(report["variants"][0]["all"]["kl"]["mean"]);
  };
  const double f32 = kl("f32+k8v8"), bf16 = kl("bf16+k8v8");
  EXPECT_GT(f32, 0);
  EXPECT_LT(f32, bf16 / 2);
  shop->must_fail(command({"--against-kv", "f32+"}), {"found 'f32+'"});
  shop->must_fail(command({"--against-kv", "f8+k8v8"}), {"found 'f8+k8v8'"});
}

TEST_F(QualityCommand, NoiseAloneOfTheLaterPositions) {
  const json report = quality({"--noise-only", "--from", "90", "--isa", "generic"});
  EXPECT_TRUE(report["variants"].empty());
  EXPECT_EQ(report["noise"]["all"]["positions"], 6 + 6 + 0);  // 96 + 96 + 22 ids
  EXPECT_LT(double(report["noise"]["all"]["kl"]["max"]), 1e-9);
  EXPECT_EQ(report["noise"]["by_position"][0]["begin"], 0);
  EXPECT_EQ(report["noise"]["by_position"][0]["end"], 512);
}

TEST_F(QualityCommand, TheReferenceIsNearAndTheTableSaysIt) {
  const json report = quality({"--reference", "--limit", "40"});
  EXPECT_EQ(report["variants"][0]["name"], "compiled");
  EXPECT_TRUE(report["noise"].is_null());
  EXPECT_GT(double(report["variants"][0]["all"]["kl"]["mean"]), 0);
  EXPECT_LT(double(report["variants"][0]["all"]["kl"]["mean"]), 1e-3);

  const Outcome o = shop->run(command({"--against-kv", "bf16", "--limit", "40"}));
  ASSERT_EQ(o.exit_code, 0) << o.err;
  for (const char* words : {"Tiny Speaker (llama), ", "base: KV cache in f16; 40 ids in 1 context of up to 96", "mean KL", "99.9 %", "\nKV cache in bf16\n",
                            "          all       40", "noise: the base again, its context read by the kernels of prompts\n", " ± "})
    EXPECT_NE(o.out.find(words), o.out.npos) << words << "\n" << o.out;
  for (const char* words : {"40 tokens in ", "tokens/s: base ", "comparing "}) EXPECT_NE(o.err.find(words), o.err.npos) << words << "\n" << o.err;
}

TEST_F(QualityCommand, RefusesWhatCannotBeCompared) {
  shop->must(command({"--against-kv", "f32", "--limit", "2"}));  // compiled once: no progress among the errors
  shop->must({"compile", model, "-o", shop->path("model.prx")});
  const std::string nothing = shop->path("nothing.gguf"), other = shop->path("other.gguf"), prx = shop->path("model.prx");
  shop->must_fail(command({}), {"found no variant, expected --against, --against-kv"});
  shop->must_fail({"quality", model, "--against-kv", "f32"}, {"--text is required"});
  shop->must_fail(command({"--against-kv", "q3"}), {"--against-kv: found 'q3'", "f16, bf16, f32 or bits"});
  shop->must_fail(command({"--against", nothing}), {nothing, "cannot open"});
  shop->must_fail(command({"--against", "canonicalise"}), {"unknown pass 'canonicalise'", "did you mean 'canonicalize'?"});
  shop->must_fail(command({"--against", "dce", "--each-pass"}), {"--each-pass", "excludes"});
  shop->must_fail(command({"--against-kv", "f32", "--ctx", "97"}), {model, "97", "0 to 96"});
  shop->must_fail(command({"--against-kv", "f32", "--from", "96"}), {"found position 96, expected 0 to 95"});
  shop->must_fail(command({"--reference", "--kv", "bf16"}), {"--kv", "found bf16, expected f32"});
  shop->must_fail(command({"--each-pass", "--pipeline", "canonicalize,specialize-entry-points,fuse-attention,pack-weights,fuse-epilogues,plan-memory"}), {"--each-pass: found no pass"});
  shop->must_fail({"quality", prx, "--text", text, "--against", "cpu"}, {prx, "found a pipeline for a .prx"});
  shop->must_fail({"quality", prx, "--text", text, "--against-kv", "f32"}, {prx, "found a KV cache of f16, expected f32"});
  shop->must_fail({"quality", model, "--text", nothing, "--against-kv", "f32"}, {nothing, "cannot open"});
  shop->write_text("empty.txt", "");
  shop->must_fail({"quality", model, "--text", shop->path("empty.txt"), "--against-kv", "f32"}, {"empty.txt", "found no text"});
  shop->write_text("bad.txt", "good \xff");
  shop->must_fail({"quality", model, "--text", shop->path("bad.txt"), "--against-kv", "f32"}, {"invalid UTF-8 at byte 5"});
}

TEST_F(QualityCommand, RefusesOtherTokens) {
  const std::string other = shop->path("other.gguf");
  auto bytes = read_bytes(model);
  const auto find = [&](const std::string& token) {  // as the vocabulary has it: its length, its bytes
    const std::string entry = std::string("\1\0\0\0\0\0\0\0", 8) + token;
    const auto at = std::search(bytes.begin(), bytes.end(), entry.begin(), entry.end());
    EXPECT_NE(at, bytes.end());
    return at + 8;
  };
  std::iter_swap(find("z"), find("q"));
  write_bytes(other, bytes);
  shop->must_fail(command({"--against", other}), {other, "found a tokenizer whose ids of the text differ", "at 200", "expected that of " + model});
}

TEST_F(QualityCommand, NamesALogitThatIsNoNumber) {
  const std::string broken = shop->path("broken.gguf");
  auto bytes = read_bytes(model);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(&bytes[bytes.size() - 64 * sizeof(float)], &nan, sizeof nan);  // in the output row of the last id
  write_bytes(broken, bytes);
  shop->must_fail(command({"--against", broken}), {model, broken, "context 0, position 0: logit of id 256 of the variant: found nan"});
}

}  // namespace
}  // namespace prism::cli
