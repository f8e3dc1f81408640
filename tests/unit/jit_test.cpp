// Compiling C in process: results load and run, errors are lines of text, repeated and concurrent use is safe, and the
// cache gives back what was compiled or nothing.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "codegen/cache.h"
#include "codegen/cpu/compile.h"

namespace prism::codegen {
namespace {

namespace fs = std::filesystem;

/// A loaded shared object; the file it was loaded from is gone by then.
struct Loaded {
  void* handle = nullptr;
  std::string error;

  explicit Loaded(const std::vector<uint8_t>& object) {
    std::string path = (fs::temp_directory_path() / "prism-jit-test-XXXXXX").string();
    close(mkstemp(path.data()));
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(object.data()), object.size());
    handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle) error = dlerror();
    fs::remove(path);
  }
  Loaded(const Loaded&) = delete;
  ~Loaded() {
    if (handle) dlclose(handle);
  }
  template <class F>
  F* function(const char* name) const {
    return handle ? reinterpret_cast<F*>(dlsym(handle, name)) : nullptr;
  }
};

/// Each test has a cache of its own, empty at first.
class Jit : public testing::Test {
 protected:
  void SetUp() override {
    std::string path = (fs::temp_directory_path() / "prism-jit-cache-XXXXXX").string();
    ASSERT_NE(mkdtemp(path.data()), nullptr);
    cache_ = path;
    if (const char* before = std::getenv("PRISM_CACHE")) before_ = before;
    setenv("PRISM_CACHE", path.c_str(), 1);
  }
  void TearDown() override {
    if (before_.empty()) {
      unsetenv("PRISM_CACHE");
    } else {
      setenv("PRISM_CACHE", before_.c_str(), 1);
    }
    fs::remove_all(cache_);
  }
  std::vector<fs::path> cached() const {
    std::vector<fs::path> files;
    if (fs::exists(cache_ / "kernels"))
      for (const auto& entry : fs::directory_iterator(cache_ / "kernels")) files.push_back(entry.path());
    return files;
  }

  fs::path cache_;
  std::string before_;
};

std::string constant(const std::string& name, int value) {
  return "int " + name + "(void) { return " + std::to_string(value) + "; }\n";
}

int call(const std::vector<uint8_t>& object, const char* name) {
  Loaded library(object);
  auto* f = library.function<int()>(name);
  EXPECT_NE(f, nullptr) << name << ": " << library.error;
  return f ? f() : -1;
}

TEST_F(Jit, UnitsAreLinkedTogetherAndRunForEveryIsa) {
  const std::vector<std::string> units = {
      "int twice(int x); int entry(int x) { return twice(x) + 1; }",
      "int twice(int x) { return 2 * x; }",
      "typedef float v16 __attribute__((vector_size(64)));"
      "void add(float* x, const float* y) { *(v16*)x += *(const v16*)y; }",
  };
  for (rt::Isa isa : {rt::Isa::Generic, rt::Isa::Avx2, rt::Isa::Avx512, rt::Isa::Amx}) {
    auto object = compile_c(units, isa);
    ASSERT_TRUE(object) << object.message();
    if (!rt::runs_here(isa)) continue;
    Loaded library(*object);
    ASSERT_NE(library.handle, nullptr) << library.error;
    EXPECT_EQ(library.function<int(int)>("entry")(20), 41);
    alignas(64) float x[16], y[16];
    for (int i = 0; i < 16; ++i) x[i] = float(i), y[i] = 0.5f;
    library.function<void(float*, const float*)>("add")(x, y);
    for (int i = 0; i < 16; ++i) EXPECT_EQ(x[i], float(i) + 0.5f);
  }
}

TEST_F(Jit, TheIsaDecidesTheInstructions) {
  const std::vector<std::string> units = {
      "typedef int v16 __attribute__((vector_size(64)));"
      "void dot(v16* s, v16* a, v16* b) { *s = __builtin_ia32_vpdpbusd512(*s, *a, *b); }"};
  EXPECT_TRUE(compile_c(units, rt::Isa::Avx512));
  auto avx2 = compile_c(units, rt::Isa::Avx2);
  ASSERT_FALSE(avx2);
  EXPECT_NE(avx2.message().find("avx512vnni"), std::string::npos) << avx2.message();
}

TEST_F(Jit, ProductsAndSumsAreNotContracted) {
  auto object = compile_c({"float f(float a, float b, float c) { return a * b + c; }"
                           "float g(float a, float b, float c) { return __builtin_fmaf(a, b, c); }"},
                          rt::Isa::Avx2);
  ASSERT_TRUE(object) << object.message();
  if (!rt::runs_here(rt::Isa::Avx2)) return;
  Loaded library(*object);
  const float a = 1 + 0x1p-12f;  // a * a = 1 + 2^-11 + 2^-24: the last bit is lost unless fused
  const float c = -(1 + 0x1p-11f);
  EXPECT_EQ(library.function<float(float, float, float)>("f")(a, a, c), 0.0f);
  EXPECT_EQ(library.function<float(float, float, float)>("g")(a, a, c), 0x1p-24f);
}

TEST_F(Jit, MemoryFunctionsComeFromTheProgram) {
  auto object = compile_c({"void f(char* to, const char* from, unsigned long n) { __builtin_memcpy(to, from, n); }"
                           "void z(char* to, unsigned long n) { for (unsigned long i = 0; i < n; ++i) to[i] = 0; }"},
                          rt::Isa::Generic);
  ASSERT_TRUE(object) << object.message();
  Loaded library(*object);
  ASSERT_NE(library.handle, nullptr) << library.error;
  char to[32] = "................";
  library.function<void(char*, const char*, unsigned long)>("f")(to, "kernel", 6);
  EXPECT_STREQ(to, "kernel..........");
  library.function<void(char*, unsigned long)>("z")(to, 32);
  EXPECT_STREQ(to, "");
}

TEST_F(Jit, ErrorsAreOneLineAndDoNotPoisonLaterCompiles) {
  const struct {
    const char* source;
    const char* expected;
  } bad[] = {
      {"int f(void) { return missing; }", "undeclared identifier 'missing'"},
      {"#include <stdint.h>\nint32_t x;", "'stdint.h' file not found"},
      {"float expf(float); float f(float x) { return expf(x); }", "undefined symbol 'expf'"},
      {"int f(void) { return 1; } }", "extraneous closing brace"},
      {"void f(void) { __asm__(\"nonsense\"); }", "invalid instruction mnemonic"},
  };
  for (const auto& [source, expected] : bad) {
    for (int repeat = 0; repeat < 2; ++repeat) {
      auto object = compile_c({constant("fine", 1), source}, rt::Isa::Avx2);
      ASSERT_FALSE(object) << source;
      EXPECT_NE(object.message().find(expected), std::string::npos) << object.message();
      EXPECT_EQ(object.message().find('\n'), std::string::npos) << object.message();
    }
    auto object = compile_c({constant("fine", 1)}, rt::Isa::Avx2);
    ASSERT_TRUE(object) << object.message();
    EXPECT_EQ(call(*object, "fine"), 1);
    fs::remove_all(cache_ / "kernels");
  }
  auto twice = compile_c({constant("same", 1), constant("same", 2)}, rt::Isa::Avx2);
  ASSERT_FALSE(twice);
  EXPECT_NE(twice.message().find("duplicate symbol: same"), std::string::npos) << twice.message();
  EXPECT_TRUE(compile_c({constant("same", 1)}, rt::Isa::Avx2));
}

TEST_F(Jit, TwoThreadsCompileTwentyTimesEach) {
  auto work = [](int thread) {
    for (int i = 0; i < 20; ++i) {
      const int value = 100 * thread + i;
      const std::string name = "f" + std::to_string(value);
      auto object = compile_c({constant(name, value), constant("other" + name, 1)}, rt::Isa::Avx2);
      ASSERT_TRUE(object) << object.message();
      EXPECT_EQ(call(*object, name.c_str()), value);
      if (i % 5 == 0) {
        EXPECT_FALSE(compile_c({"syntax error " + name}, rt::Isa::Avx2));
      }
    }
  };
  std::thread first(work, 1), second(work, 2);
  first.join();
  second.join();
}

TEST_F(Jit, TheSameSourceGivesTheSameBytes) {
  const std::vector<std::string> units = {constant("a", 1), constant("b", 2)};
  auto first = compile_c(units, rt::Isa::Avx2);
  fs::remove_all(cache_ / "kernels");
  auto second = compile_c(units, rt::Isa::Avx2);
  ASSERT_TRUE(first) << first.message();
  ASSERT_TRUE(second) << second.message();
  EXPECT_EQ(*first, *second);
}

TEST_F(Jit, TheCacheIsKeyedByUnitsAndIsa) {
  const std::string a = constant("a", 1), b = constant("b", 2);
  auto whole = compile_c({a + b}, rt::Isa::Avx2);
  ASSERT_TRUE(whole);
  EXPECT_EQ(cached().size(), 1u);
  EXPECT_EQ(*compile_c({a + b}, rt::Isa::Avx2), *whole);
  EXPECT_EQ(cached().size(), 1u);
  EXPECT_TRUE(compile_c({a, b}, rt::Isa::Avx2));
  EXPECT_EQ(cached().size(), 2u);
  EXPECT_TRUE(compile_c({a + b}, rt::Isa::Generic));
  EXPECT_EQ(cached().size(), 3u);
  EXPECT_FALSE(compile_c({"error"}, rt::Isa::Generic));
  EXPECT_EQ(cached().size(), 3u);
}

TEST_F(Jit, TheCacheIsReadAndDamageIsNoticed) {
  const std::vector<std::string> units = {constant("answer", 42)};
  auto object = compile_c(units, rt::Isa::Avx2);
  ASSERT_TRUE(object) << object.message();
  ASSERT_EQ(cached().size(), 1u);
  const fs::path entry = cached()[0];

  // An entry that is whole is believed: put another program's entry in its place.
  auto other = compile_c({constant("answer", 43)}, rt::Isa::Avx2);
  ASSERT_TRUE(other);
  for (const fs::path& file : cached())
    if (file != entry) fs::rename(file, entry);
  EXPECT_EQ(call(*compile_c(units, rt::Isa::Avx2), "answer"), 43);

  // One that is not is compiled again, and replaced.
  const auto size = fs::file_size(entry);
  for (const std::string damage : {"flip", "truncate", "empty", "garbage"}) {
    if (damage == "flip") {
      std::fstream file(entry, std::ios::in | std::ios::out | std::ios::binary);
      file.seekg(size / 2);
      const char byte = char(file.get());
      file.seekp(size / 2);
      file.put(char(byte ^ 1));
    } else if (damage == "garbage") {
      std::ofstream(entry) << std::string(100, 'x');
    } else {
      fs::resize_file(entry, damage == "empty" ? 0 : size / 3);
    }
    auto again = compile_c(units, rt::Isa::Avx2);
    ASSERT_TRUE(again) << again.message();
    EXPECT_EQ(*again, *object) << damage;
    EXPECT_EQ(fs::file_size(entry), size) << damage;
  }
}

TEST_F(Jit, ACacheThatCannotBeWrittenIsNoError) {
  std::ofstream(cache_ / "kernels") << "a file where the folder should be";
  auto object = compile_c({constant("f", 7)}, rt::Isa::Avx2);
  ASSERT_TRUE(object) << object.message();
  EXPECT_EQ(call(*object, "f"), 7);
}

TEST_F(Jit, AMissingCompilerLibraryIsSaidInOneLine) {
  // This program again, somewhere without the library, running the test above.
  const fs::path copy = cache_ / "copy";
  fs::copy_file("/proc/self/exe", copy);
  const std::string command = "env -u GTEST_TOTAL_SHARDS -u GTEST_SHARD_INDEX " + copy.string() + " --gtest_filter=Jit.TheSameSourceGivesTheSameBytes 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string output;
  for (int c; (c = fgetc(pipe)) != EOF;) output += char(c);
  EXPECT_NE(pclose(pipe), 0);
  EXPECT_NE(output.find("the kernel compiler cannot be loaded (libprism_cpu_jit.so: "), std::string::npos) << output;
  EXPECT_NE(output.find("put libprism_cpu_jit.so into '" + cache_.string() + "'"), std::string::npos) << output;
}

TEST(CacheDirectory, FollowsTheEnvironment) {
  auto get = [](const char* name) {
    const char* value = std::getenv(name);
    return value ? std::string(value) : std::string();
  };
  const std::string prism = get("PRISM_CACHE"), xdg = get("XDG_CACHE_HOME"), home = get("HOME");
  const std::string root = (fs::temp_directory_path() / ("prism-cache-test-" + std::to_string(getpid()))).string();
  setenv("PRISM_CACHE", (root + "/own").c_str(), 1);
  setenv("XDG_CACHE_HOME", (root + "/xdg").c_str(), 1);
  setenv("HOME", (root + "/home").c_str(), 1);
  EXPECT_EQ(cache_directory(), root + "/own");
  EXPECT_TRUE(fs::is_directory(root + "/own"));
  unsetenv("PRISM_CACHE");
  EXPECT_EQ(cache_directory(), root + "/xdg/prism");
  unsetenv("XDG_CACHE_HOME");
  EXPECT_EQ(cache_directory(), root + "/home/.cache/prism");
  fs::remove_all(root);
  auto restore = [](const char* name, const std::string& value) {
    value.empty() ? unsetenv(name) : setenv(name, value.c_str(), 1);
  };
  restore("PRISM_CACHE", prism);
  restore("XDG_CACHE_HOME", xdg);
  restore("HOME", home);
}

}  // namespace
}  // namespace prism::codegen
