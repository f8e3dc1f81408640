#include "codegen/cuda/nvrtc.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "codegen/cache.h"

namespace prism::codegen {
namespace {

// No contraction: kernels call fma where they mean it, so that a result's bits do not hang on the compiler's choice.
constexpr const char* kOptions[] = {"-std=c++17", "--fmad=false", "--device-as-default-execution-space", "--ptxas-options=-v"};

/// The part of NVRTC's interface that is used, declared here so that building needs no toolkit.
struct Nvrtc {
  using Program = struct OpaqueProgram*;
  int (*version)(int*, int*) = nullptr;
  int (*arch_count)(int*) = nullptr;
  int (*archs)(int*) = nullptr;
  int (*create)(Program*, const char* source, const char* name, int headers, const char* const*, const char* const*) = nullptr;
  int (*destroy)(Program*) = nullptr;
  int (*compile)(Program, int options, const char* const*) = nullptr;
  int (*log_size)(Program, size_t*) = nullptr;
  int (*log)(Program, char*) = nullptr;
  int (*cubin_size)(Program, size_t*) = nullptr;
  int (*cubin)(Program, char*) = nullptr;
  const char* (*error_string)(int) = nullptr;
  std::string version_text, error;   ///< error: why it cannot be used, or ""
};

void* open_library(std::string& why) {
  std::vector<std::string> folders = {""};  // the loader's own first
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"})
    if (const char* home = std::getenv(variable); home && *home) folders.push_back(std::string(home) + "/lib64/");
  folders.push_back("/usr/local/cuda/lib64/");
  for (const std::string& folder : folders)
    for (const char* name : {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"}) {
      if (!folder.empty() && !std::filesystem::exists(folder + name)) continue;
      if (void* library = dlopen((folder + name).c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
      if (why.empty()) why = dlerror();
    }
  return nullptr;
}

Nvrtc load() {
  Nvrtc n;
  std::string why;
  void* library = open_library(why);
  if (!library) {
    n.error = error("the CUDA compiler cannot be loaded (", why, "); install the CUDA 12 or 13 toolkit or set CUDA_HOME to it").message;
    return n;
  }
  auto bind = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
    if (!function && n.error.empty()) n.error = error("libnvrtc: found no ", name, ", expected that of CUDA 12 or 13").message;
  };
  bind(n.version, "nvrtcVersion");
  bind(n.arch_count, "nvrtcGetNumSupportedArchs");
  bind(n.archs, "nvrtcGetSupportedArchs");
  bind(n.create, "nvrtcCreateProgram");
  bind(n.destroy, "nvrtcDestroyProgram");
  bind(n.compile, "nvrtcCompileProgram");
  bind(n.log_size, "nvrtcGetProgramLogSize");
  bind(n.log, "nvrtcGetProgramLog");
  bind(n.cubin_size, "nvrtcGetCUBINSize");
  bind(n.cubin, "nvrtcGetCUBIN");
  bind(n.error_string, "nvrtcGetErrorString");
  int major = 0, minor = 0;
  if (n.error.empty() && n.version(&major, &minor) == 0) n.version_text = std::to_string(major) + "." + std::to_string(minor);
  return n;
}

const Nvrtc& nvrtc() {
  static const Nvrtc loaded = load();
  return loaded;
}

struct Program {
  Nvrtc::Program handle = nullptr;
  ~Program() {
    if (handle) nvrtc().destroy(&handle);
  }
};

template <class F>
void for_each_line(std::string_view text, F&& f) {
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    f(line);
    text.remove_prefix(std::min(text.size(), line.size() + 1));
  }
}

std::string first_error(std::string_view log) {
  std::string found;
  for_each_line(log, [&](std::string_view line) {
    if (found.empty() && line.find("error") != line.npos) found = line;
  });
  return found.empty() ? std::string(log.substr(0, log.find('\n'))) : found;
}

/// "Compiling entry function 'k' for ...", "... 8 bytes spill stores, 4 bytes spill loads", "Used 18 registers, ..."
std::vector<KernelUsage> usage(std::string_view log) {
  std::vector<KernelUsage> kernels;
  auto number_before = [](std::string_view line, std::string_view words) {
    const size_t end = line.find(words);
    if (end == line.npos) return 0;
    size_t begin = end;
    while (begin > 0 && line[begin - 1] >= '0' && line[begin - 1] <= '9') --begin;
    return std::atoi(std::string(line.substr(begin, end - begin)).c_str());
  };
  for_each_line(log, [&](std::string_view line) {
    constexpr std::string_view entry = "Compiling entry function '";
    if (const size_t at = line.find(entry); at != line.npos) {
      line.remove_prefix(at + entry.size());
      kernels.push_back({std::string(line.substr(0, line.find('\''))), 0, 0});
    } else if (!kernels.empty()) {
      kernels.back().registers += number_before(line, " registers");
      kernels.back().spill_bytes += number_before(line, " bytes spill stores") + number_before(line, " bytes spill loads");
    }
  });
  return kernels;
}

// A cache entry: the cubin's size (8 bytes), the cubin, the log.
std::vector<uint8_t> entry_of(const std::string& cubin, const std::string& log) {
  const uint64_t size = cubin.size();
  std::vector<uint8_t> bytes(sizeof size + cubin.size() + log.size());
  std::memcpy(bytes.data(), &size, sizeof size);
  std::copy(log.begin(), log.end(), std::copy(cubin.begin(), cubin.end(), bytes.begin() + sizeof size));
  return bytes;
}

Cubin from_entry(const std::vector<uint8_t>& bytes) {
  uint64_t size = 0;
  std::memcpy(&size, bytes.data(), sizeof size);
  const auto begin = bytes.begin() + sizeof size, end = begin + ptrdiff_t(size);
  return {{begin, end}, usage(std::string(end, bytes.end()))};
}

}  // namespace

Result<Cubin> compile_cuda(const std::string& source, const std::string& arch) {
  const Nvrtc& n = nvrtc();
  if (!n.error.empty()) return Error{n.error};
  const std::string target = "--gpu-architecture=" + arch;
  std::vector<const char*> options(std::begin(kOptions), std::end(kOptions));
  options.push_back(target.c_str());
  std::vector<std::string_view> made_from = {n.version_text, source};
  made_from.insert(made_from.end(), options.begin(), options.end());
  const CacheEntry entry("cubins", made_from, ".cubin");
  if (auto cached = entry.read()) return from_entry(*cached);

  Program program;
  if (int code = n.create(&program.handle, source.c_str(), "kernels.cu", 0, nullptr, nullptr); code)
    return error("CUDA compiler: ", n.error_string(code));
  const int code = n.compile(program.handle, int(options.size()), options.data());
  auto text = [&](auto size_of, auto get) {
    size_t size = 0;
    if (size_of(program.handle, &size) != 0 || size == 0) return std::string();
    std::string bytes(size, '\0');
    return get(program.handle, bytes.data()) == 0 ? bytes : std::string();
  };
  std::string log = text(n.log_size, n.log);
  while (!log.empty() && (log.back() == '\0' || log.back() == '\n')) log.pop_back();
  if (code) return error("CUDA compiler for ", arch, ": ", log.empty() ? n.error_string(code) : first_error(log));
  const std::string cubin = text(n.cubin_size, n.cubin);
  if (cubin.empty()) return error("CUDA compiler for ", arch, ": found no cubin, expected one (is it a real architecture, sm_...?)");
  const auto bytes = entry_of(cubin, log);
  entry.write(bytes);
  return from_entry(bytes);
}

Result<std::vector<std::string>> cuda_architectures() {
  const Nvrtc& n = nvrtc();
  if (!n.error.empty()) return Error{n.error};
  int count = 0;
  if (int code = n.arch_count(&count); code) return error("CUDA compiler: ", n.error_string(code));
  std::vector<int> numbers(static_cast<size_t>(count));
  if (int code = n.archs(numbers.data()); code) return error("CUDA compiler: ", n.error_string(code));
  std::vector<std::string> names;
  for (int number : numbers) names.push_back("sm_" + std::to_string(number));
  return names;
}

}  // namespace prism::codegen
