#include "codegen/cpu/compile.h"

#define XXH_INLINE_ALL
#include <dlfcn.h>
#include <fcntl.h>
#include <llvm/Config/llvm-config.h>
#include <pwd.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string_view>
#include <thread>

#include "codegen/cpu/jit.h"

namespace prism::codegen {
namespace {

namespace fs = std::filesystem;

constexpr char kLibrary[] = "libprism_cpu_jit.so";

// No contraction and no fast-math, so that the source alone decides every bit of a result, whatever the ISA: kernels
// call the fma builtins where they mean them.
constexpr char kCommonFlags[] =
    "-O3\n-std=gnu17\n-fPIC\n-nostdinc\n-w\n-ffp-contract=off\n-fno-math-errno\n-fno-trapping-math\n"
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

// --- the cache -------------------------------------------------------------------------------------------------------
// One file per entry, named by the key: the XXH3-128 of the content, then the content.

using Hash = std::array<uint8_t, 16>;

Hash canonical(XXH128_hash_t hash) {
  XXH128_canonical_t big_endian;
  XXH128_canonicalFromHash(&big_endian, hash);
  return std::to_array(big_endian.digest);
}

/// Every part goes in with its length: {"ab", "c"} and {"a", "bc"} are different programs. The compiler's version is
/// the one this program was built with: asking the library would mean loading it, 30 ms even where nothing is compiled.
Hash cache_key(const std::vector<std::string>& units, const std::string& flags) {
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  XXH3_128bits_reset(state.get());
  auto add = [&](std::string_view part) {
    const uint64_t size = part.size();
    XXH3_128bits_update(state.get(), &size, sizeof size);
    XXH3_128bits_update(state.get(), part.data(), part.size());
  };
  add(LLVM_VERSION_STRING);
  add(flags);
  for (const std::string& unit : units) add(unit);
  return canonical(XXH3_128bits_digest(state.get()));
}

fs::path cache_file(const fs::path& directory, const Hash& key) {
  std::string name;
  for (uint8_t byte : key) {
    name += "0123456789abcdef"[byte >> 4];
    name += "0123456789abcdef"[byte & 15];
  }
  return directory / (name + ".so");
}

std::optional<std::vector<uint8_t>> read_cached(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(file), {}};
  Hash stored;
  if (bytes.size() <= stored.size()) return std::nullopt;
  std::copy_n(bytes.begin(), stored.size(), stored.begin());
  bytes.erase(bytes.begin(), bytes.begin() + stored.size());
  if (canonical(XXH3_128bits(bytes.data(), bytes.size())) != stored) return std::nullopt;
  return bytes;
}

/// A cache that cannot be written costs time, not correctness: failures are not reported.
void write_cached(const fs::path& path, const std::vector<uint8_t>& bytes) {
  std::string temporary = path.string() + ".XXXXXX";
  const int descriptor = mkstemp(temporary.data());
  if (descriptor < 0) return;
  const Hash hash = canonical(XXH3_128bits(bytes.data(), bytes.size()));
  std::unique_ptr<FILE, decltype(&std::fclose)> file(fdopen(descriptor, "wb"), &std::fclose);
  const bool written = file && std::fwrite(hash.data(), 1, hash.size(), file.get()) == hash.size() &&
                       std::fwrite(bytes.data(), 1, bytes.size(), file.get()) == bytes.size() &&
                       std::fflush(file.get()) == 0;
  if (!written || std::rename(temporary.c_str(), path.c_str()) != 0) unlink(temporary.c_str());
}

}  // namespace

std::string cache_directory() {
  fs::path path;
  if (const char* own = std::getenv("PRISM_CACHE"); own && *own) {
    path = own;
  } else if (const char* shared = std::getenv("XDG_CACHE_HOME"); shared && *shared) {
    path = fs::path(shared) / "prism";
  } else {
    const char* home = std::getenv("HOME");
    const passwd* user = home && *home ? nullptr : getpwuid(getuid());
    path = fs::path(user ? user->pw_dir : home ? home : ".") / ".cache" / "prism";
  }
  std::error_code ignored;  // whoever writes there reports what fails
  fs::create_directories(path, ignored);
  return path.string();
}

Result<std::vector<uint8_t>> compile_c(const std::vector<std::string>& units, rt::Isa isa) {
  const std::string flags = std::string(kCommonFlags) + isa_flags(isa);
  const fs::path directory = fs::path(cache_directory()) / "kernels";
  const fs::path path = cache_file(directory, cache_key(units, flags));
  if (auto cached = read_cached(path)) return std::move(*cached);
  PRISM_TRY(auto object, compile_now(units, flags));
  std::error_code ignored;
  fs::create_directories(directory, ignored);
  write_cached(path, object);
  return object;
}

}  // namespace prism::codegen
