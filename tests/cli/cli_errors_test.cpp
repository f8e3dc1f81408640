// What the `prism` command says when something is wrong: one line, naming the file, the item, what was found and expected, and
// no file left behind.
#include <sys/stat.h>

#include "frontends/gguf/gguf.h"
#include "runtime/cpu.h"
#include "tests/cli/command.h"

namespace prism::cli {
namespace {

namespace fs = std::filesystem;

class CliErrors : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shop = new Workshop;
    shop->must({"run", shop->path("tiny.gguf"), "-p", "a", "-n", "1"});  // compiled once: no progress among the errors
    shop->must({"compile", shop->path("tiny.gguf"), "-o", shop->path("tiny.prx"), "--embed-weights"});
    shop->must({"compile", shop->path("tiny.gguf"), "-o", shop->path("reference.prx")});
  }
  static void TearDownTestSuite() {
    delete shop;
    shop = nullptr;
  }
  static Workshop* shop;
  std::string gguf = shop->path("tiny.gguf"), prx = shop->path("tiny.prx"), bad = shop->path("bad");

  std::string write_bad(std::vector<uint8_t> bytes) const {
    write_bytes(bad, bytes);
    return bad;
  }
  std::vector<std::string> run(const std::string& model) const { return {"run", model, "-p", "a", "-n", "2"}; }
};
Workshop* CliErrors::shop = nullptr;

TEST_F(CliErrors, WrongCommandLines) {
  shop->must_fail({}, {"a subcommand is required", "prism --help"});
  shop->must_fail({"frobnicate"}, {"found 'frobnicate', expected a subcommand", "prism --help"});
  shop->must_fail({"run"}, {"run: model is required", "prism run --help"});
  shop->must_fail({"run", gguf}, {"run: ", "--prompt", "--file"});
  shop->must_fail({"run", gguf, "-f", shop->path("nothing.txt")}, {"nothing.txt", "cannot open"});
  shop->must_fail({"run", gguf, "-p", "a", "--frob"}, {"--frob", "prism run --help"});
  shop->must_fail({"run", gguf, "-p", "a", "-n", "0"}, {"--count", "0", "1 to "});
  shop->must_fail({"run", gguf, "-p", "a", "-n", "many"}, {"--count", "many"});
  shop->must_fail({"run", gguf, "-p", "a", "-t", "5000"}, {"--threads", "5000", "0 to 1024"});
  shop->must_fail({"run", gguf, "-p", "a", "--isa", "sse9"}, {"--isa", "sse9", "generic", "avx2"});
  shop->must_fail({"compile", gguf}, {"compile: --output is required"});
  shop->must_fail({"compile", gguf, "-o", bad, "--target", "toaster"}, {"--target", "toaster", "cpu"});
  shop->must_fail({"opt"}, {"opt: file is required"});
}

TEST_F(CliErrors, ValuesOutOfRange) {
  shop->must_fail({"run", gguf, "-p", "a", "--temp", "-1"}, {"temperature", "-1", "0 or more"});
  shop->must_fail({"run", gguf, "-p", "a", "--top-p", "1.5"}, {"top-p", "1.5"});
  shop->must_fail({"run", gguf, "-p", "a", "--min-p", "2"}, {"min-p", "2"});
  shop->must_fail({"run", gguf, "-p", "a", "--repeat-penalty", "0"}, {"penalty", "0"});
  shop->must_fail({"run", gguf, "-p", "a", "--ctx", "97"}, {gguf, "97", "0 to 96"});
  shop->must_fail({"bench", gguf, "-p", "5000", "--no-limits"}, {gguf, "5001", "0 to 96"});
  shop->must_fail({"bench", gguf, "-p", "8,x"}, {"--prompt-tokens", "x"});
  shop->must_fail({"bench", gguf, "-p", "8,-1"}, {"--prompt-tokens", "-1"});
  shop->must_fail({"bench", gguf, "-n", "1.5"}, {"--count", "1.5"});
  shop->must_fail({"bench", gguf, "-t", "1,0"}, {"--threads", "0"});
  shop->must_fail({"bench", gguf, "-t", ","}, {"--threads"});
  shop->must_fail({"bench", gguf, "-t", "1,2", "--profile", bad}, {"--profile", "2 numbers of threads"});
}

TEST_F(CliErrors, Prompts) {
  for (const std::string& model : {gguf, prx}) {
    shop->must_fail({"run", model, "-p", "ab\xff" "c"}, {model, "invalid UTF-8 at byte 2"});
    shop->must_fail({"run", model, "-p", ""}, {"prompt is empty"});
    shop->must_fail({"run", model, "-p", std::string(kContext + 1, 'a')}, {model, "context full", "97", "at most 96"});
    shop->must_fail({"run", model, "-p", std::string(80, 'a'), "--ctx", "64"}, {model, "context full", "80", "at most 64"});
  }
}

TEST_F(CliErrors, Ids) {
  const auto eval = [&](const std::string& ids) { return std::vector<std::string>{"eval", gguf, "--ids", ids, "--logits", bad}; };
  fs::remove(bad);
  shop->must_fail(eval("1,257"), {gguf, "id 1", "257", "0 to 256"});
  shop->must_fail(eval("-1"), {gguf, "id 0", "-1", "0 to 256"});
  shop->must_fail(eval("1,two"), {"ids", "'two'"});
  shop->must_fail(eval("99999999999"), {"ids", "'99999999999'"});
  shop->must_fail(eval(","), {"--ids", "at least one"});
  shop->must_fail(eval("@" + shop->path("nothing")), {shop->path("nothing"), "No such file"});
  std::string many = "1";
  for (int i = 0; i < kContext; ++i) many += ",1";
  shop->must_fail(eval(many), {gguf, "97", "96"});
  for (const char* reference : {"1,257", "-1"}) {
    auto arguments = eval(reference);
    arguments.push_back("--reference");
    shop->must_fail(arguments, {gguf, "0 to 256"});
  }
}

TEST_F(CliErrors, FilesThatAreNotThere) {
  const std::string nothing = shop->path("nothing.gguf");
  for (std::vector<std::string> arguments : std::vector<std::vector<std::string>>{
           run(nothing), {"compile", nothing, "-o", bad}, {"eval", nothing, "--ids", "1", "--logits", bad}, {"tokenize", nothing},
           {"inspect", nothing}, {"bench", nothing}, {"opt", nothing, "--passes=dce"}})
    shop->must_fail(arguments, {nothing, "cannot open", "No such file"});
  const std::string out = shop->path("no/such/folder/out");
  shop->must_fail({"compile", gguf, "-o", out}, {out, "No such file"});
  shop->must_fail({"compile", gguf, "-o", out, "--embed-weights"}, {out, "No such file"});
  shop->must_fail({"eval", gguf, "--ids", "1", "--logits", out}, {out, "No such file"});
  shop->must_fail(run(shop->folder.path()), {shop->folder.path(), "'GGUF'"});
}

TEST_F(CliErrors, GgufFilesThatAreNot) {
  auto bytes = read_bytes(gguf);
  for (const auto& command : {std::vector<std::string>{"run", bad, "-p", "a"}, {"compile", bad, "-o", shop->path("out.prx")},
                              {"tokenize", bad}, {"inspect", bad}, {"eval", bad, "--ids", "1", "--logits", shop->path("out.f32"), "--reference"}}) {
    write_bad({bytes.begin(), bytes.end() - 64});
    shop->must_fail(command, {bad, "tensor 'output.weight'", "expected"});
    write_bad({bytes.begin(), bytes.begin() + 2000});
    shop->must_fail(command, {bad, "tokenizer.ggml.tokens", "expected at most the"});
  }
  write_bad({'G', 'G', 'M', 'L', 1, 2, 3});
  shop->must_fail(run(bad), {bad, "found neither 'GGUF' nor 'PRX1'"});
  shop->must_fail({"compile", bad, "-o", shop->path("out.prx")}, {bad, "'GGML'", "expected 'GGUF'"});
  write_bad({});
  shop->must_fail(run(bad), {bad});
  bytes[4] = 9;
  shop->must_fail(run(write_bad(bytes)), {bad, "version 9", "expected 2 or 3"});
}

TEST_F(CliErrors, AnOutputThatExistsStaysWhenCompilingFails) {
  shop->write_text("kept.prx", "precious");
  auto bytes = read_bytes(gguf);
  write_bad({bytes.begin(), bytes.end() - 64});
  shop->must_fail({"compile", bad, "-o", shop->path("kept.prx"), "--embed-weights"}, {bad});
  shop->must_fail({"compile", gguf, "-o", shop->path("kept.prx"), "--pipeline", "fuse-attention"}, {"level", "fused"});  // the target's begin at level graph
  EXPECT_EQ(shop->read_text("kept.prx"), "precious");
}

TEST_F(CliErrors, FlippedBitsInAPrx) {
  const auto good = read_bytes(prx);
  // Header, description and code, weights.
  for (size_t at : {size_t(1), size_t(9), size_t(30), size_t(70), good.size() / 3, good.size() / 2, good.size() - 5000, good.size() - 1}) {
    SCOPED_TRACE(at);
    auto bytes = good;
    bytes[at] ^= 4;
    shop->must_fail(run(write_bad(bytes)), {bad, "found", "expected"});
  }
  for (size_t size : {size_t(5), size_t(63), size_t(64), good.size() / 2, good.size() - 1})
    shop->must_fail(run(write_bad({good.begin(), good.begin() + ptrdiff_t(size)})), {bad, "file size: found", "expected"});
}

TEST_F(CliErrors, APrxForAnotherInstructionSet) {
  const std::string generic = shop->path("generic.prx");
  shop->must({"compile", gguf, "-o", generic, "--isa", "generic", "--embed-weights"});
  shop->must_fail({"run", generic, "-p", "a", "--isa", "avx2"}, {generic, "--isa", "found code for generic", "expected avx2"});
  if (rt::best_isa() == rt::Isa::Amx) return;  // no machine has more
  auto file = rt::open_prx(generic);
  ASSERT_TRUE(file) << file.message();
  rt::Program p = file->program;
  p.codes[0].isa = "amx";
  p.codes[0].data.assign(file->code[0].begin(), file->code[0].end());
  write_bad(rt::testing::prx_bytes(p, {file->weights.begin(), file->weights.end()}));
  shop->must_fail(run(bad), {bad, "found \"amx\"", "this machine has"});
}

TEST_F(CliErrors, TypesOfTheCache) {
  for (const auto& command : {run(gguf), {"compile", gguf, "-o", bad}, {"bench", gguf}, {"eval", gguf, "--ids", "1", "--logits", bad}}) {
    auto arguments = command;
    arguments.insert(arguments.end(), {"--kv", "q8_0"});
    shop->must_fail(arguments, {"--kv: found 'q8_0'", "f16, bf16, f32 or bits"});
  }
  const auto with = [](std::vector<std::string> arguments, const std::vector<std::string>& more) {
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  for (const char* dtype : {"bf16", "f32"}) {
    shop->must_fail(with(run(prx), {"--kv", dtype}), {prx, "--kv", "found a KV cache of f16, expected " + std::string(dtype), "compile its model again"});
    shop->must_fail({"compile", gguf, "-o", shop->path("gpu.prx"), "--kv", dtype, "--target", "emu"}, {"--kv", "found " + std::string(dtype), "expected f16", "GPUs"});
  }
  shop->must_fail(with(run(gguf), {"--kv", "f32", "--target", "emu"}), {"--kv", "found f32", "expected f16", "GPUs"});
  shop->must_fail(with(run(gguf), {"--kv", "bf16", "--reference"}), {"--kv", "found bf16, expected f32", "--reference"});
}

TEST_F(CliErrors, AModelFileThatChangedOrIsGone) {
  const std::string reference = shop->path("reference.prx"), away = shop->path("away.gguf");
  shop->must(run(reference));
  struct stat before;
  ASSERT_EQ(stat(gguf.c_str(), &before), 0);
  const auto good = read_bytes(gguf);
  for (size_t at : {good.size() - 1, good.size() / 2}) {  // the same size and time, one bit apart
    auto bytes = good;
    bytes[at] ^= 1;
    write_bytes(gguf, bytes);
    const timespec times[] = {before.st_atim, before.st_mtim};
    ASSERT_EQ(utimensat(AT_FDCWD, gguf.c_str(), times, 0), 0);
    shop->must_fail(run(reference), {reference, gguf, "hash", "expected", "compile it again"});
  }
  write_bytes(gguf, good);
  shop->must(run(reference));
  fs::rename(gguf, away);
  shop->must_fail(run(reference), {reference, gguf, "not found", "--embed-weights"});
  fs::rename(away, gguf);
}

TEST_F(CliErrors, PassesAndIrText) {
  shop->write_text("m.prism", "module @m level=graph {\n  graph @f(%x: f32[4]) -> (f32[4]) {\n    return %x\n  }\n}\n");
  const std::string m = shop->path("m.prism");
  shop->must({"opt", m, "--passes=dce", "--verify-each"});
  shop->must_fail({"opt", m, "--passes=dec"}, {"unknown pass 'dec'", "did you mean 'dce'?"});
  shop->must_fail({"opt", m, "--passes=fuse-attention{tile=1}"}, {"fuse-attention", "tile"});
  shop->must_fail({"compile", gguf, "-o", bad, "--pipeline", "nonsense"}, {"unknown pass 'nonsense'"});
  shop->write_text("m.prism", "module @m level=graph {\n  graph @f(%x: f33[4]) -> (f32[4]) {\n");
  shop->must_fail({"opt", m, "--passes=dce"}, {m + ":2:", "f33"});
}

TEST_F(CliErrors, AStandardOutputThatCannotBeWritten) {
  shop->output = "/dev/full";
  shop->must_fail(run(gguf), {"standard output: cannot write"});
  shop->must_fail({"inspect", gguf}, {"standard output: cannot write"});
  shop->must_fail({"opt", "--list-passes"}, {"standard output: cannot write"});
  shop->output.clear();
}

}  // namespace
}  // namespace prism::cli
