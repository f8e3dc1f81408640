#include "codegen/cpu/compile.h"

#include <dlfcn.h>
#include <llvm/Config/llvm-config.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string_view>
#include <thread>

#include "codegen/cache.h"
#include "codegen/cpu/jit.h"

namespace prism::codegen {
namespace {

namespace fs = std::filesystem;

constexpr char kLibrary[] = "libprism_cpu_jit.so";

// No contraction and no fast-math, so that the source alone decides every bit of a result, whatever the ISA: kernels
// call the fma builtins where they mean them.
constexpr char kCommonFlags[] =
    "-O3\n-fPIC\n-nostdinc\n-w\n-ffp-contract=off\n-fno-math-errno\n-fno-trapping-math\n"
    "-fno-stack-protector\n-fomit-frame-pointer\n-fno-asynchronous-unwind-tables\n-ffunction-sections\n";

#define PRISM_AVX512 "-march=x86-64-v4\n-mavx512vnni\n-mavx512bf16\n-mprefer-vector-width=512\n-mtune=znver4"

const char* isa_flags(rt::Isa isa) {
  switch (isa) {
    case rt::Isa::Generic: return "-march=x86-64";
    case rt::Isa::Avx2: return "-march=x86-64-v3";
    case rt::Isa::Avx512: return PRISM_AVX512;
    case rt::Isa::Amx: return PRISM_AVX512 "\n-mamx-tile\n-mamx-bf16";
  }
  return "";
}

// --- the compiler library --------------------------------------------------------------------------------------------

struct Compiler {
  decltype(&prism_cpu_jit_compile) compile = nullptr;  // or null and why
  std::string error;
};

Compiler load_compiler() {
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  std::string path = kLibrary;  // found by the loader if in neither place
  for (const fs::path& candidate : {program / kLibrary, program / ".." / "lib" / kLibrary})
    if (fs::exists(candidate, ignored)) {
      path = candidate.string();
      break;
    }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library)
    return {nullptr, error("the kernel compiler cannot be loaded (", dlerror(), "); put ", kLibrary, " into '",
                           program.string(), "', or run a .prx file, which needs no compiler").message};
  auto* compile = reinterpret_cast<decltype(&prism_cpu_jit_compile)>(dlsym(library, "prism_cpu_jit_compile"));
  if (!compile)
    return {nullptr, error(path, ": found no prism_cpu_jit_compile, expected this program's own library").message};
  return {compile, ""};
}

/// Loaded once; never unloaded, because LLVM does not survive it.
const Compiler& compiler() {
  static const Compiler loaded = load_compiler();
  return loaded;
}

/// The first error among the lines of a compiler's output.
std::string_view first_error(std::string_view diagnostics) {
  for (std::string_view rest = diagnostics; !rest.empty();) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    if (line.find("error") != line.npos) return line;
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
  }
  return diagnostics.substr(0, diagnostics.find('\n'));
}

Result<std::vector<uint8_t>> compile_now(const std::vector<std::string>& units, const std::string& flags) {
  const Compiler& jit = compiler();
  if (!jit.compile) return Error{jit.error};
  std::vector<const char*> sources;
  for (const std::string& unit : units) sources.push_back(unit.c_str());

  uint8_t* object = nullptr;
  size_t bytes = 0;
  char* message = nullptr;
  const unsigned threads = std::max(1u, std::thread::hardware_concurrency());
  if (jit.compile(sources.data(), sources.size(), flags.c_str(), threads, &object, &bytes, &message) != 0) {
    std::unique_ptr<char, decltype(&std::free)> owned(message, &std::free);
    return error("kernel compiler: ", first_error(message));
  }
  std::unique_ptr<uint8_t, decltype(&std::free)> owned(object, &std::free);
  return std::vector<uint8_t>(object, object + bytes);
}

/// The compiler's version in the key is the one this program was built with: asking the library would mean loading it,
/// 30 ms even where nothing is compiled.
Result<std::vector<uint8_t>> compile(const std::vector<std::string>& units, const std::string& flags) {
  std::vector<std::string_view> parts = {LLVM_VERSION_STRING, flags};
  parts.insert(parts.end(), units.begin(), units.end());
  const CacheEntry entry("kernels", parts, ".so");
  if (auto cached = entry.read()) return std::move(*cached);
  PRISM_TRY(auto object, compile_now(units, flags));
  entry.write(object);
  return object;
}

}  // namespace

Result<std::vector<uint8_t>> compile_c(const std::vector<std::string>& units, rt::Isa isa) {
  return compile(units, std::string("-std=gnu17\n") + kCommonFlags + isa_flags(isa));
}

Result<std::vector<uint8_t>> compile_cxx(const std::string& unit, rt::Isa isa) {
  return compile({unit}, std::string("-x\nc++\n-std=c++17\n-fno-exceptions\n-fno-rtti\n") + kCommonFlags + isa_flags(isa));
}

}  // namespace prism::codegen
