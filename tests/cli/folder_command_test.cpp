// A Hugging Face folder wherever a model file can be given.
#include <sys/stat.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "tests/cli/command.h"
#include "tests/unit/hf_folder.h"

namespace prism::cli {
namespace {

namespace fs = std::filesystem;

class FolderCommand : public testing::Test {
 protected:
  Workshop shop;
  const std::string gguf = shop.path("tiny.gguf"), folder = shop.path("tiny"), weights = folder + "/model.safetensors";

  void SetUp() override {
    const auto file = gguf::File::open(gguf);
    ASSERT_TRUE(file) << file.message();
    gguf::HfModel m = gguf::hf_model(**file);
    m.config["eos_token_id"] = kEnd;
    m.write(folder);
  }
  std::vector<float> logits(const std::string& model) const {
    shop.must({"eval", model, "--ids", "97,195,122,0", "--logits", shop.path("logits.f32")});
    const auto bytes = read_bytes(shop.path("logits.f32"));
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  /// Changes a tensor's first or last weight and gives the file the times of the folder's.
  void change(const std::string& path, const std::string& tensor, bool last) const {
    struct stat times{};
    ASSERT_EQ(stat(weights.c_str(), &times), 0);
    auto bytes = read_bytes(path);
    uint64_t header = 0;
    std::memcpy(&header, bytes.data(), 8);
    const auto ends = nlohmann::json::parse(bytes.begin() + 8, bytes.begin() + 8 + ptrdiff_t(header))[tensor]["data_offsets"];
    bytes[8 + header + (last ? ends[1].get<size_t>() - 1 : ends[0].get<size_t>() + 3)] ^= 1;
    write_bytes(path, bytes);
    const timespec both[] = {times.st_atim, times.st_mtim};
    ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), both, 0), 0);
  }
};

TEST_F(FolderCommand, TheSameAsTheFileItCameFrom) {
  const std::string said = shop.must({"run", gguf, "-p", "a", "-n", "25"});
  EXPECT_EQ(shop.must({"run", folder, "-p", "a", "-n", "25"}), said);
  EXPECT_EQ(shop.must({"run", folder + "/", "-p", "a", "-n", "25", "--reference"}), said);
  EXPECT_EQ(logits(folder), logits(gguf));
  EXPECT_EQ(shop.run({"tokenize", folder}, "a b").out, shop.run({"tokenize", gguf}, "a b").out);
  const std::string shown = shop.must({"inspect", folder});
  for (const char* fact : {"general.architecture", "llama", "blk.0.attn_q.weight"}) EXPECT_NE(shown.find(fact), shown.npos) << fact;
  shop.must({"quantize", folder, "-o", shop.path("a.gguf"), "--type", "q8_0"});
  shop.must({"quantize", gguf, "-o", shop.path("b.gguf"), "--type", "q8_0"});
  EXPECT_EQ(logits(shop.path("a.gguf")), logits(shop.path("b.gguf")));
}

TEST_F(FolderCommand, IsCompiledOnceAndAgainWhenAFileChanges) {
  const auto compiled = [&] { return nlohmann::json::parse(shop.must({"run", folder, "-p", "a", "-n", "2", "--json"}))["compiled"].get<bool>(); };
  EXPECT_TRUE(compiled());
  EXPECT_FALSE(compiled());
  const struct timespec later[] = {{0, UTIME_OMIT}, {2'000'000'000, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, weights.c_str(), later, 0), 0);
  EXPECT_TRUE(compiled());
  EXPECT_FALSE(compiled());
}

TEST_F(FolderCommand, FoldersWithEqualHeadersAndTimesAreToldApart) {
  const std::string other = shop.path("other") + "/tiny";
  fs::create_directories(shop.path("other"));
  fs::copy(folder, other);
  change(other + "/model.safetensors", "model.embed_tokens.weight", /*last=*/false);
  EXPECT_NE(logits(folder), logits(other));
}

TEST_F(FolderCommand, AnExecutableKnowsItsFolder) {
  const std::string prx = shop.path("tiny.prx");
  shop.must({"compile", folder, "-o", prx});
  EXPECT_EQ(logits(prx), logits(gguf));
  fs::create_directories(shop.path("moved"));
  fs::copy(folder, shop.path("moved/tiny"));
  fs::rename(folder, shop.path("elsewhere"));
  shop.must_fail({"eval", prx, "--ids", "1", "--logits", shop.path("l")}, {prx, "model file " + folder, "not found"});
  fs::rename(prx, shop.path("moved/tiny.prx"));
  EXPECT_EQ(logits(shop.path("moved/tiny.prx")), logits(gguf));  // beside it
  fs::rename(shop.path("elsewhere"), folder);
  change(weights, "lm_head.weight", /*last=*/true);
  shop.must_fail({"eval", shop.path("moved/tiny.prx"), "--ids", "1", "--logits", shop.path("l")}, {"model file " + folder, "with hash", "those it was compiled from; compile it again"});
}

TEST_F(FolderCommand, SaysWhatIsMissing) {
  fs::remove(folder + "/tokenizer.json");
  shop.must_fail({"run", folder, "-p", "a"}, {folder + "/tokenizer.json: cannot open"});
  fs::remove(weights);
  shop.must_fail({"quantize", folder, "-o", shop.path("x.gguf"), "--type", "q8_0"}, {folder, "found neither model.safetensors nor model.safetensors.index.json"});
  fs::remove(folder + "/config.json");
  shop.must_fail({"run", folder, "-p", "a"}, {folder, "expected a GGUF or .prx file, or a Hugging Face folder with config.json"});
}

}  // namespace
}  // namespace prism::cli
