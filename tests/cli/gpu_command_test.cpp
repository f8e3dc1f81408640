// The `prism` command and GPUs on a machine that has none: it compiles for them, and says in one line why it cannot run.
#include <nlohmann/json.hpp>

#include "tests/cli/command.h"

namespace prism::cli {
namespace {

class GpuCommand : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shop = new Workshop;
    shop->variables = {"PRISM_LIBCUDA=" + shop->path("libcuda_that_is_not_there.so")};
    for (const char* name : {"LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH"})  // where NVRTC may be
      if (const char* value = std::getenv(name)) shop->variables.push_back(std::string(name) + "=" + value);
  }
  /// An executable for GPUs, compiled once.
  static const std::string& compiled() {
    static const std::string prx = [] {
      const std::string path = shop->path("tiny.prx");
      shop->must({"compile", shop->path("tiny.gguf"), "-o", path, "--target", "cuda:sm_90a", "--embed-weights"});
      return path;
    }();
    return prx;
  }
  static void TearDownTestSuite() {
    delete shop;
    shop = nullptr;
  }
  static Workshop* shop;
  std::string gguf = shop->path("tiny.gguf"), bad = shop->path("bad");
  std::vector<std::string> no_driver = {"no NVIDIA driver: ", "libcuda_that_is_not_there.so", "install the driver"};
};
Workshop* GpuCommand::shop = nullptr;

TEST_F(GpuCommand, NoModelRunsWithoutADriver) {
  shop->must_fail({"run", gguf, "-p", "a", "--target", "cuda"}, no_driver);
  shop->must_fail({"bench", gguf, "-p", "8", "-n", "4", "--target", "cuda"}, no_driver);
}

TEST_F(GpuCommand, NoExecutableRunsWithoutADriver) {
  const std::string& prx = compiled();
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"run", prx, "-p", "a"}, {"run", prx, "-p", "a", "--target", "cuda"}, {"bench", prx, "-p", "8", "-n", "4"}})
    shop->must_fail(command, no_driver);
  shop->must_fail({"run", prx, "-p", "a", "--target", "cpu"}, {prx, "--target", "found code for cuda", "expected cpu"});
}

TEST_F(GpuCommand, CompilingForThisMachinesGpuAsksForAName) {
  auto expected = no_driver;
  expected.push_back("--target cuda:sm_90a");
  shop->must_fail({"compile", gguf, "-o", bad, "--target", "cuda"}, expected);
}

TEST_F(GpuCommand, CompilesForGpusElsewhere) {
  EXPECT_NE(shop->must({"inspect", compiled()}).find("code           cuda, isa sm_90a, cubin\n"), std::string::npos);
  const std::string two = shop->path("two.prx");
  shop->must({"compile", gguf, "-o", two, "--target", "cuda:sm_80,sm_90a"});
  const std::string text = shop->must({"inspect", two});
  for (const char* code : {"cuda, isa sm_80, cubin\n", "cuda, isa sm_90a, cubin\n"}) EXPECT_NE(text.find(code), std::string::npos) << code;
}

TEST_F(GpuCommand, Roofline) {
  const std::string text = shop->must({"roofline", gguf, "-p", "8", "-d", "0,16"});
  for (const char* part : {"KV cache in f16, on H200 (sm_90a, 132 multiprocessors, 4.22 TB/s):\n", "\n| decode | ", "\n| decode at 16 | ", "\n| prefill of 8 | ", "\n| linear_", "`linear(",
                           "\n| largest_logits | `the 64 largest of 257 logits` | cores | ", "\ndecode at 16:\n"})
    EXPECT_NE(text.find(part), std::string::npos) << "lacks: " << part << "\n" << text;
  const auto report = nlohmann::json::parse(shop->must({"roofline", gguf, "-p", "8", "-d", "0,16", "--json"}));
  ASSERT_EQ(report["steps"].size(), 3u);
  double seconds = 0;
  for (const auto& kernel : report["steps"][0]["kernels"]) {
    EXPECT_GT(kernel["registers"], 0) << kernel["kernel"] << ": found in the assembler's log";
    seconds += kernel["limit_seconds"].get<double>() + kernel["uneven_seconds"].get<double>() + kernel["boundary_seconds"].get<double>();
  }
  EXPECT_NEAR(report["steps"][0]["bound_tokens_per_second"].get<double>() * seconds, 1, 1e-9);
  EXPECT_GT(report["steps"][1]["kv_bytes"], report["steps"][0]["kv_bytes"]);
}

TEST_F(GpuCommand, RooflinesThatCannotBe) {
  for (const char* target : {"cpu", "emu", "cuda:sm_80,sm_90a"}) shop->must_fail({"roofline", gguf, "--target", target}, {"--target", target, "expected one GPU"});
  shop->must_fail({"roofline", gguf, "--target", "cuda:sm_75"}, {"found sm_75", "expected one of sm_90a, sm_80"});
}

TEST_F(GpuCommand, TargetsThatAreNone) {
  for (const char* target : {"cuda:abc", "gpu", "cuda:", "cuda:sm_90a,abc", "cuda:sm_", "emu:sm_80"}) {
    const std::vector<std::string> expected = {"--target", target, "expected cpu, cuda, cuda:sm_80,sm_90a or emu"};
    shop->must_fail({"compile", gguf, "-o", bad, "--target", target}, expected);
    shop->must_fail({"run", gguf, "-p", "a", "--target", target}, expected);
  }
}

}  // namespace
}  // namespace prism::cli
