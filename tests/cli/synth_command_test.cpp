// `prism synth`, and models that are made in memory wherever the command takes a file.
#include <sys/resource.h>

#include <csignal>
#include <cstring>

#include "frontends/gguf/gguf.h"
#include "tests/cli/command.h"

namespace prism::cli {
namespace {

namespace fs = std::filesystem;

class SynthCommand : public testing::Test {
 protected:
  Workshop shop;
  std::string out = shop.path("out.gguf");
};

TEST_F(SynthCommand, WritesWhatTheReaderReads) {
  for (const std::string shape : {"tiny-llama", "tiny-gemma3", "tiny-gpt2"}) {
    SCOPED_TRACE(shape);
    shop.must({"synth", shape, "-o", out, "--type", "q5_k", "--seed", "9", "--layers", "1", "--vocab", "2000", "--ctx", "64"});
    auto written = gguf::File::open(out), made = gguf::File::open("synth:" + shape + ":q5_k:seed=9:layers=1:vocab=2000:ctx=64");
    ASSERT_TRUE(written) << written.message();
    ASSERT_TRUE(made) << made.message();
    EXPECT_EQ((*written)->size(), (*made)->size());
    EXPECT_TRUE((*written)->metadata() == (*made)->metadata());
    EXPECT_EQ(*(*written)->get_string("general.name"), *(*made)->get_string("general.name"));
    ASSERT_EQ((*written)->tensors().size(), (*made)->tensors().size());
    for (const gguf::TensorInfo& t : (*written)->tensors()) {
      const gguf::TensorInfo* same = (*made)->tensor(t.name);
      ASSERT_TRUE(same && same->bytes == t.bytes && same->shape == t.shape) << t.name;
      EXPECT_EQ(memcmp((*written)->data(t), (*made)->data(*same), t.bytes), 0) << t.name;
    }
  }
}

TEST_F(SynthCommand, TheSameFileByAnyNumberOfThreads) {
  std::vector<uint8_t> first;
  for (const char* threads : {"1", "2", "7"}) {
    shop.must({"synth", "tiny-qwen3", "-o", out, "--vocab", "9000", "-t", threads});  // an embedding of several pieces
    const auto bytes = read_bytes(out);
    if (first.empty()) first = bytes;
    EXPECT_TRUE(bytes == first) << threads;
  }
  EXPECT_GT(first.size(), 1u << 20);
}

TEST_F(SynthCommand, RunsFromMemoryAsFromTheFile) {
  const std::string name = "synth:tiny-llama:q4_k_m:seed=2";
  shop.must({"synth", "tiny-llama", "-o", out, "--seed", "2"});
  const auto say = [&](const std::string& model, const std::string& prompt) { return shop.must({"run", model, "-p", prompt, "-n", "8"}); };
  const std::string text = say(name, "hello");
  EXPECT_EQ(text, say(out, "hello"));
  EXPECT_EQ(text, say(name, "hello"));  // from the cache
  EXPECT_NE(text.substr(5), say(name, "jello").substr(5));
  EXPECT_NE(text, say("synth:tiny-llama:q4_k_m:seed=3", "hello"));
  for (const char* reference : {"", "--reference"}) {
    std::vector<std::string> logits;
    for (const std::string& model : {name, out}) {
      std::vector<std::string> arguments = {"eval", model, "--ids", "1,2,3", "--logits", shop.path("l.f32")};
      if (*reference) arguments.push_back(reference);
      shop.must(arguments);
      logits.push_back(shop.read_text("l.f32"));
    }
    EXPECT_EQ(logits[0].size(), 3u * 512 * 4);
    EXPECT_TRUE(logits[0] == logits[1]) << reference;
  }
  EXPECT_NE(shop.must({"bench", name, "-p", "8", "-n", "4", "-r", "1"}).find(name), std::string::npos);
  EXPECT_EQ(shop.must({"tokenize", name}, "ab"), "97,98\n");
  EXPECT_NE(shop.must({"inspect", name}).find("22 tensors"), std::string::npos);
}

TEST_F(SynthCommand, TheCacheKeepsCodeButNoWeights) {
  const std::string name = "synth:tiny-llama:f32:layers=1:vocab=20000";  // 20 MB for each of two matrices
  EXPECT_NE(shop.must({"run", name, "-p", "a", "-n", "1", "--json"}).find("\"compiled\": true"), std::string::npos);
  EXPECT_NE(shop.must({"run", name, "-p", "a", "-n", "1", "--json"}).find("\"compiled\": false"), std::string::npos);
  EXPECT_NE(shop.must({"run", name + ":seed=8", "-p", "a", "-n", "1", "--json"}).find("\"compiled\": true"), std::string::npos);
  uint64_t cached = 0;
  for (const auto& entry : fs::recursive_directory_iterator(shop.path("cache")))
    if (entry.is_regular_file()) cached += entry.file_size();
  EXPECT_GT(cached, 0u);
  EXPECT_LT(cached, 10u << 20);
}

TEST_F(SynthCommand, CompilesWithItsWeightsAndWithout) {
  const std::string name = "synth:tiny-qwen2:q8_0:seed=4", prx = shop.path("a.prx"), embedded = shop.path("b.prx");
  shop.must({"compile", name, "-o", prx});
  shop.must({"compile", name, "-o", embedded, "--embed-weights"});
  EXPECT_LT(fs::file_size(prx), fs::file_size(embedded));
  EXPECT_NE(shop.must({"inspect", prx}).find("packed on load from " + name), std::string::npos);
  const std::string text = shop.must({"run", name, "-p", "x", "-n", "6"});
  EXPECT_EQ(text, shop.must({"run", prx, "-p", "x", "-n", "6"}));
  EXPECT_EQ(text, shop.must({"run", embedded, "-p", "x", "-n", "6"}));
  // A reference whose description no longer makes what it made.
  auto bytes = read_bytes(prx);
  const std::string seed = "seed=4";
  for (auto at = bytes.begin(); (at = std::search(at, bytes.end(), seed.begin(), seed.end())) != bytes.end(); ++at) at[5] = '5';
  write_bytes(prx, bytes);
  shop.must_fail({"run", prx, "-p", "x"}, {prx, "expected"});
}

TEST_F(SynthCommand, ListsTheShapes) {
  const std::string list = shop.must({"synth", "--list"});
  for (const char* text : {"\nllama-3.2-1b ", " 1235814400 ", "\ngemma-3-270m ", "\ntiny-gpt2 ", " q4_k_m\n"})
    EXPECT_NE(list.find(text), std::string::npos) << text;
}

TEST_F(SynthCommand, Errors) {
  shop.must_fail({"synth"}, {"synth: shape is required", "prism synth --help"});
  shop.must_fail({"synth", "gpt2"}, {"synth: --output is required"});
  shop.must_fail({"synth", "gpt3", "-o", out}, {"unknown shape 'gpt3'", "did you mean 'gpt2'?"});
  shop.must_fail({"synth", "tiny-gpt2", "-o", out, "--type", "q4k_m"}, {"unknown type 'q4k_m'", "'q4_k_m'"});
  for (const char* layers : {"0", "-3", "100000", "many"})
    shop.must_fail({"synth", "tiny-gpt2", "-o", out, "--layers", layers}, {"layers: found '" + std::string(layers) + "', expected 1 to 512"});
  shop.must_fail({"synth", "tiny-gpt2", "-o", out, "--vocab", "10"}, {"vocab: found '10', expected 258 to"});
  shop.must_fail({"synth", "tiny-gpt2", "-o", out, "-t", "5000"}, {"--threads"});
  const std::string nowhere = shop.path("no/such/folder/out.gguf");
  shop.must_fail({"synth", "tiny-gpt2", "-o", nowhere}, {nowhere, "No such file"});
  shop.must_fail({"run", "synth:tiny-lama", "-p", "a"}, {"unknown shape 'tiny-lama', did you mean 'tiny-llama'?"});
  shop.must_fail({"compile", "synth:tiny-llama:q9", "-o", out}, {"unknown type 'q9'"});
  fs::create_directory(shop.path("folder"));
  shop.must_fail({"synth", "tiny-gpt2", "-o", shop.path("folder")}, {shop.path("folder"), "cannot replace"});
}

TEST_F(SynthCommand, AFullDiskLeavesWhatWasThere) {
  shop.write_text("out.gguf", "precious");
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small = {1 << 20, before.rlim_max};
  const auto handler = signal(SIGXFSZ, SIG_IGN);  // which the command inherits: the failure is an error code
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  shop.must_fail({"synth", "tiny-llama", "-o", out, "--type", "f32"}, {out, "cannot reserve", "MiB"});
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  EXPECT_EQ(shop.read_text("out.gguf"), "precious");
}

}  // namespace
}  // namespace prism::cli
