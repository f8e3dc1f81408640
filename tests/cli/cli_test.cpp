// The `prism` command from end to end: what a user types and what comes back.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/cli/command.h"

namespace prism::cli {
namespace {

using nlohmann::json;

class Cli : public testing::Test {
 protected:
  static void SetUpTestSuite() { shop = new Workshop; }
  static void TearDownTestSuite() {
    delete shop;
    shop = nullptr;
  }
  static Workshop* shop;
  std::string gguf = shop->path("tiny.gguf");

  /// What `run --json` says of the same short generation.
  json generate(const std::string& model, std::vector<std::string> more = {}, const std::string& count = "25") const {
    std::vector<std::string> arguments = {"run", model, "-p", "a", "-n", count, "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return json::parse(shop->must(arguments));
  }
  std::vector<float> logits(const std::string& model, std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments = {"eval", model, "--ids", "97,195,122,0", "--logits", shop->path("logits.f32")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    shop->must(arguments);
    const auto bytes = read_bytes(shop->path("logits.f32"));
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
};
Workshop* Cli::shop = nullptr;

TEST_F(Cli, RunCompilesOnceAndContinuesThePrompt) {
  const json first = generate(gguf);
  EXPECT_EQ(first["text"], kSaid + kSaid + "é日");
  EXPECT_EQ(first["ids"].size(), 25u);
  EXPECT_EQ(first["prompt_ids"], json({97}));
  EXPECT_EQ(first["stop"], "length");
  EXPECT_TRUE(first["compiled"]);
  EXPECT_GT(first["tokens_per_second"], 0);
  EXPECT_EQ(first["kv"]["positions"], 25);
  const json second = generate(gguf);
  EXPECT_FALSE(second["compiled"]);
  EXPECT_EQ(second["ids"], first["ids"]);
}

TEST_F(Cli, APromptCanBeAFileOrStandardInput) {
  const json said = json::parse(shop->must({"run", gguf, "-p", "a", "-n", "25", "--json"}));
  shop->write_text("prompt.txt", "a");
  EXPECT_EQ(json::parse(shop->must({"run", gguf, "-f", shop->path("prompt.txt"), "-n", "25", "--json"}))["ids"], said["ids"]);
  EXPECT_EQ(json::parse(shop->must({"run", gguf, "-f", "-", "-n", "25", "--json"}, "a"))["ids"], said["ids"]);
}

TEST_F(Cli, StreamedTextIsNeverCutInsideACharacter) {
  const Outcome o = shop->run({"run", gguf, "-p", "a", "-n", "36"});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  // 36 = 3 x 10 + é, 日 and one of 🙂's bytes, which comes out as U+FFFD.
  EXPECT_EQ(o.out, "a" + kSaid + kSaid + kSaid + "é日\uFFFD\n");
  EXPECT_GE(o.writes.size(), 14u) << "not streamed";
  for (const std::string& w : o.writes) EXPECT_NO_THROW((void)json(w).dump()) << "found invalid UTF-8";
  for (const char* word : {"load", "first token", "tokens/s", "kv cache"}) EXPECT_NE(o.err.find(word), std::string::npos) << word;
}

TEST_F(Cli, RunStopsAtTheEndOfTextOrOfTheContext) {
  const json end = json::parse(shop->must({"run", gguf, "-p", "az", "--json"}));
  EXPECT_EQ(end["stop"], "end");
  EXPECT_EQ(end["text"], "");
  const json full = json::parse(shop->must({"run", gguf, "-p", "a", "-n", "500", "--json"}));
  EXPECT_EQ(full["stop"], "context");
  EXPECT_EQ(full["kv"]["positions"], kContext);
}

TEST_F(Cli, SamplingDependsOnTheSeedAlone) {
  const std::vector<std::string> one = {"--temp", "30", "--seed", "1"};
  const json a = generate(gguf, one);
  EXPECT_EQ(generate(gguf, {"--temp", "30", "--seed", "1", "-t", "1"})["ids"], a["ids"]);
  EXPECT_NE(generate(gguf, {"--temp", "30", "--seed", "2"})["ids"], a["ids"]);
}

TEST_F(Cli, CompiledFilesSayWhatTheModelSays) {
  const std::string reference = shop->path("reference.prx"), embedded = shop->path("embedded.prx");
  shop->must({"compile", gguf, "-o", reference});
  shop->must({"compile", gguf, "-o", embedded, "--embed-weights", "--dump-ir", shop->path("ir")});
  EXPECT_TRUE(std::filesystem::exists(shop->path("ir/00-frontend.prism")));
  const json expected = generate(gguf);
  EXPECT_EQ(generate(reference)["ids"], expected["ids"]);
  EXPECT_EQ(generate(embedded)["ids"], expected["ids"]);
  EXPECT_EQ(logits(reference), logits(gguf));
  EXPECT_EQ(logits(embedded, {"-t", "1"}), logits(gguf, {"-t", "2"}));

  // Elsewhere: the model file beside the .prx is found.
  Workshop other;
  std::filesystem::copy_file(reference, other.path("moved.prx"));
  std::filesystem::rename(gguf, gguf + ".away");
  EXPECT_EQ(json::parse(other.must({"run", other.path("moved.prx"), "-p", "a", "-n", "25", "--json"}))["ids"], expected["ids"]);
  std::filesystem::rename(gguf + ".away", gguf);
}

TEST_F(Cli, EvalWritesTheLogitsOfEveryId) {
  const auto compiled = logits(gguf), reference = logits(gguf, {"--reference"});
  ASSERT_EQ(compiled.size(), size_t(4 * kVocab));
  ASSERT_EQ(reference.size(), compiled.size());
  const int ids[] = {97, 195, 122};  // the last id, 0, is followed by nothing
  for (int i = 0; i < 3; ++i) {
    const auto row = compiled.begin() + i * kVocab;
    EXPECT_EQ(std::max_element(row, row + kVocab) - row, successor(ids[i])) << "after " << ids[i];
  }
  double difference = 0, power = 0;
  for (size_t i = 0; i < compiled.size(); ++i) {
    difference += std::pow(double(compiled[i]) - reference[i], 2);
    power += double(reference[i]) * reference[i];
  }
  EXPECT_LE(difference / power, 1e-4);
  shop->write_text("ids.txt", "97 195\n122,0\n");
  shop->must({"eval", gguf, "--ids", "@" + shop->path("ids.txt"), "--logits", shop->path("again.f32")});
  logits(gguf);
  EXPECT_EQ(shop->read_text("again.f32"), shop->read_text("logits.f32"));
}

TEST_F(Cli, TokenizeGoesThereAndBack) {
  const std::string texts = std::string("a z") + '\0' + "é" + '\0';
  const std::string lines = "97,32,122\n195,169\n\n";
  EXPECT_EQ(shop->must({"tokenize", gguf}, texts), lines);
  EXPECT_EQ(shop->must({"tokenize", gguf, "--detokenize"}, lines), texts);
  EXPECT_EQ(shop->must({"tokenize", gguf}, "<|end|>"), "256\n");
  shop->must({"compile", gguf, "-o", shop->path("tokens.prx")});
  EXPECT_EQ(shop->must({"tokenize", shop->path("tokens.prx")}, texts), lines);
}

TEST_F(Cli, InspectShowsWhatAFileHolds) {
  const std::string prx = shop->path("inspected.prx");
  shop->must({"compile", gguf, "-o", prx, "--isa", "generic"});
  const auto contains = [](const std::string& text, const std::vector<std::string>& words) {
    for (const std::string& w : words) EXPECT_NE(text.find(w), std::string::npos) << "lacks " << w << "\n" << text;
  };
  contains(shop->must({"inspect", gguf}), {"GGUF", "general.name", "Tiny Speaker", "blk.0.attn_q.weight", "[64,64]"});
  contains(shop->must({"inspect", prx}), {"Tiny Speaker", "architecture llama", "isa generic", "context 96", "vocabulary 257", "prefill",
                                          "decode", "arena", "kv cache", "kernels", gguf});
}

TEST_F(Cli, BenchMeasuresEveryCombination) {
  const json report = json::parse(shop->must({"bench", gguf, "-p", "16,0,9", "-n", "8", "-d", "0,32", "-t", "1,2", "-r", "3", "--json"}));
  EXPECT_EQ(report["model"], "Tiny Speaker");
  EXPECT_EQ(report["architecture"], "llama");
  ASSERT_EQ(report["limits"].size(), 2u);
  for (const json& l : report["limits"])
    for (const char* what : {"read_bytes_per_second", "int8_operations_per_second", "f32_operations_per_second"}) EXPECT_GT(l[what], 1e6) << what;
  std::vector<std::string> rows;
  for (const json& r : report["rows"]) {
    rows.push_back(std::string(r["phase"]) + " " + r["tokens"].dump() + " at " + r["depth"].dump() + " by " + r["threads"].dump());
    ASSERT_EQ(r["samples"].size(), 3u);
    EXPECT_GT(r["min"], 0);
    EXPECT_LE(r["min"], r["median"]);
    EXPECT_LE(r["median"], r["max"]);
    EXPECT_NEAR(double(r["bytes_per_second"]) / (double(r["bytes_per_token"]) * double(r["median"])), 1, 1e-9);
    for (const char* limit : {"read", "int8", "f32"}) EXPECT_GT(r["of_limits"][limit], 0) << limit;
  }
  std::vector<std::string> expected;
  for (const char* threads : {"1", "2"})
    for (const char* depth : {"0", "32"})
      for (const char* what : {"prefill 16", "prefill 9", "decode 8"}) expected.push_back(std::string(what) + " at " + depth + " by " + threads);
  EXPECT_EQ(rows, expected);
}

TEST_F(Cli, TheCacheHasTheTypeThatIsAskedFor) {
  for (const auto& [dtype, bytes] : std::vector<std::pair<std::string, int>>{{"bf16", 2}, {"f32", 4}}) {
    const std::string prx = shop->path(dtype + ".prx");
    shop->must({"compile", gguf, "-o", prx, "--kv", dtype});
    EXPECT_NE(shop->must({"inspect", prx}).find("kv cache       1 layers, " + dtype + ", 2 heads of 32"), std::string::npos);
    for (const json& said : {generate(prx), generate(prx, {"--kv", dtype}), generate(gguf, {"--kv", dtype})}) {
      EXPECT_EQ(said["text"], kSaid + kSaid + "é日");
      EXPECT_EQ(said["kv"]["dtype"], dtype);
      EXPECT_EQ(said["kv"]["bytes_used"], said["kv"]["positions"].get<int>() * 2 * 64 * bytes);
    }
  }
  const json compressed = generate(gguf, {"--kv", "k4v3"})["kv"];
  EXPECT_EQ(compressed["dtype"], "k4v3");
  EXPECT_EQ(compressed["bytes_exact"], 2 * 64 * 2 * (16 + 208));
  EXPECT_GE(compressed["compressing_ms"], 0);
  EXPECT_EQ(generate(gguf)["kv"]["dtype"], "f16");
  EXPECT_FALSE(generate(gguf, {"--kv", "f16"})["compiled"]) << "the same again";
  EXPECT_EQ(generate(gguf, {"--reference", "--kv", "f32"})["kv"]["dtype"], "f32");
}

/// The model was made for 96 positions.
TEST_F(Cli, GoesOnBeyondTheContextWhereItEvicts) {
  const std::string prx = shop->path("evicting.prx");
  shop->must({"compile", gguf, "-o", prx, "--kv-evict", "256"});
  std::string said;
  while (said.size() < 1000) said += kSaid;
  for (const std::string kv : {"f16", "k4v3"}) {
    const json all = generate(gguf, {"--kv", kv, "--kv-evict", "256"}, "1000");
    EXPECT_EQ(all["stop"], "length");
    EXPECT_EQ(all["text"].get<std::string>().substr(0, 900), said.substr(0, 900));
    EXPECT_EQ(all["kv"]["positions"], 1000);
    EXPECT_GT(all["kv"]["evicted"], 500);
  }
  EXPECT_EQ(generate(prx, {}, "1000")["ids"], generate(gguf, {"--kv-evict", "256"}, "1000")["ids"]);
  EXPECT_EQ(generate(gguf, {}, "1000")["stop"], "context");
  EXPECT_NE(shop->must({"inspect", prx}).find("the first 64 and the newest 320 positions for a window of 192"), std::string::npos);
  shop->must_fail({"run", prx, "-p", "a", "--kv-evict", "256"}, {prx, "passes: found evict-kv{positions=256} to run, expected none", "compile its model again"});
}

// The weights that a token needs: all but the embedding, of which it needs a row; and the cache up to its position.
TEST_F(Cli, BenchCountsWhatATokenReads) {
  const json report = json::parse(shop->must({"bench", gguf, "-p", "16", "-n", "2", "-d", "32", "-r", "1", "-t", "1", "--no-limits", "--json"}));
  EXPECT_TRUE(report["limits"].empty());
  constexpr double kWidth = 64, kLayer = 7 * kWidth * kWidth * 4 + 3 * kWidth * 4;  // norms: two of the layer, one before the output
  constexpr double kOutput = 272 * kWidth * 4;                                     // 257 rows in groups of 16
  constexpr double kPosition = 2 * kWidth * 2;                                     // a key and a value in f16
  const json &prefill = report["rows"][0], &decode = report["rows"][1];
  EXPECT_FALSE(decode.contains("of_limits"));
  const double row = kWidth * 4;  // of the embedding
  EXPECT_NEAR(double(decode["bytes_per_token"]), kLayer + kOutput + row + kPosition * (1 + 33.5), 1);
  EXPECT_NEAR(double(prefill["bytes_per_token"]), (kLayer + kOutput) / 16 + row + kPosition * (1 + 48 / 16.0), 1);
  const json wide = json::parse(shop->must({"bench", gguf, "-p", "0", "-n", "2", "-d", "32", "-r", "1", "-t", "1", "--no-limits", "--json", "--kv", "f32"}));
  EXPECT_EQ(report["kv_dtype"], "f16");
  EXPECT_EQ(wide["kv_dtype"], "f32");
  EXPECT_NEAR(double(wide["rows"][0]["bytes_per_token"]), kLayer + kOutput + row + 2 * kPosition * (1 + 33.5), 1);
}

TEST_F(Cli, BenchPrintsATable) {
  const std::string table = shop->must({"bench", gguf, "-p", "16", "-n", "8", "-r", "1", "-t", "1"});
  for (const char* words : {"Tiny Speaker (llama), ", "limits of 1 thread: read ", " GB/s", "prefill      16      0       1 ", "decode        8      0       1 ", " %"})
    EXPECT_NE(table.find(words), table.npos) << words << "\n" << table;
}

TEST_F(Cli, HelpAndVersionAreNoErrors) {
  for (const char* command : {"run", "compile", "opt", "eval", "tokenize", "bench", "inspect", "quality"}) {
    EXPECT_NE(shop->must({command, "--help"}).find("Usage"), std::string::npos) << command;
  }
  EXPECT_TRUE(shop->must({"--version"}).starts_with("prism "));
}

TEST_F(Cli, ACompiledFileNeedsNeitherTheCompilerNorAToolchain) {
  shop->must({"compile", gguf, "-o", shop->path("alone.prx"), "--embed-weights"});
  Workshop alone;
  alone.binary = alone.path("prism");
  std::filesystem::copy_file(shop->binary, alone.binary);
  const json said = json::parse(alone.must({"run", shop->path("alone.prx"), "-p", "a", "-n", "25", "--json"}));
  EXPECT_EQ(said["ids"], generate(gguf)["ids"]);
  alone.must_fail({"run", alone.path("tiny.gguf"), "-p", "a"}, {"the kernel compiler cannot be loaded (libprism_cpu_jit.so"});
}

}  // namespace
}  // namespace prism::cli
