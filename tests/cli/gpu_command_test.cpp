// The `prism` command and GPUs on a machine that has none: it compiles for them, and says in one line why it cannot run.
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
    table = shop->path("table.md");
  }
  /// An executable for GPUs and its table, compiled once.
  static const std::string& compiled() {
    static const std::string prx = [] {
      const std::string path = shop->path("tiny.prx");
      shop->must({"compile", shop->path("tiny.gguf"), "-o", path, "--target", "cuda:sm_90a", "--kernels", table, "--embed-weights"});
      return path;
    }();
    return prx;
  }
  static void TearDownTestSuite() {
    delete shop;
    shop = nullptr;
  }
  static Workshop* shop;
  static std::string table;
  std::string gguf = shop->path("tiny.gguf"), bad = shop->path("bad");
  std::vector<std::string> no_driver = {"no NVIDIA driver: ", "libcuda_that_is_not_there.so", "install the driver"};
};
Workshop* GpuCommand::shop = nullptr;
std::string GpuCommand::table;

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

TEST_F(GpuCommand, TableOfKernels) {
  compiled();
  const std::string text = shop->read_text("table.md");
  EXPECT_TRUE(text.starts_with("| kernel | computes | threads | shared bytes | sm_90a registers | sm_90a spill bytes |\n|---|---|---:|---:|---:|---:|\n")) << text;
  for (const char* part : {"\n| linear_", "`linear(", "\n| flash_attention_", "\n| largest_logits | `the 64 largest of 257 logits` | "})
    EXPECT_NE(text.find(part), std::string::npos) << "lacks: " << part << "\n" << text;
  EXPECT_EQ(text.find("| ? |"), std::string::npos) << text;  // every kernel was found in the assembler's log
}

TEST_F(GpuCommand, TablesThatCannotBe) {
  for (const char* target : {"cpu", "emu"}) shop->must_fail({"compile", gguf, "-o", bad, "--target", target, "--kernels", table + "2"}, {"--kernels", target, "expected cuda"});
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
