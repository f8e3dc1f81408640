// The fake libcuda (tests/fake_libcuda) as libcuda, and code objects for it.
#pragma once

#include <dlfcn.h>
#include <elf.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "runtime/gpu/driver.h"
#include "tests/fake_libcuda/fake_cuda.h"

namespace prism::gpu_test {

/// The folder of the fake libraries is that of the tests themselves.
inline std::string fake_library(const std::string& name) { return std::string(PRISM_BINARY_DIR) + "/lib" + name + ".so"; }

/// An environment variable for as long as this exists.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) { setenv(name, value.c_str(), 1); }
  ~Variable() { unsetenv(name_); }

 private:
  const char* name_;
};

/// A fresh fake libcuda; at its end nothing may be alive and nothing undefined may have been done.
class FakeGpu {
 public:
  FakeGpu() : chosen_("PRISM_LIBCUDA", fake_library("fake_libcuda")) {
    void* library = dlopen(fake_library("fake_libcuda").c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) ADD_FAILURE() << dlerror();
    get_ = reinterpret_cast<fake::Cuda* (*)()>(dlsym(library, "fake_cuda"));
    reset_ = reinterpret_cast<void (*)()>(dlsym(library, "fake_cuda_reset"));
    reset_();
  }
  ~FakeGpu() { expect_clean(); }

  fake::Cuda* operator->() const { return get_(); }
  void reset() { reset_(); }
  void expect_clean(const std::string& where = "") {
    for (const auto& [kind, count] : get_()->live) EXPECT_EQ(count, 0) << kind << " alive at the end " << where;
    for (const std::string& mistake : get_()->mistakes) ADD_FAILURE() << mistake << " " << where;
  }

 private:
  Variable chosen_;
  fake::Cuda* (*get_)() = nullptr;
  void (*reset_)() = nullptr;
};

/// An ELF file for CUDA with these kernels' names and nothing else.
inline std::vector<uint8_t> fake_cubin(const std::vector<std::string>& kernels) {
  std::string names(1, '\0');
  for (const std::string& kernel : kernels) names += kernel + '\0';
  Elf64_Ehdr header = {};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_machine = 190;  // EM_CUDA
  header.e_shoff = sizeof header + names.size();
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = 1;
  Elf64_Shdr strings = {};
  strings.sh_type = SHT_STRTAB;
  strings.sh_offset = sizeof header;
  strings.sh_size = names.size();
  std::vector<uint8_t> bytes(header.e_shoff + sizeof strings);
  std::memcpy(bytes.data(), &header, sizeof header);
  std::memcpy(bytes.data() + sizeof header, names.data(), names.size());
  std::memcpy(bytes.data() + header.e_shoff, &strings, sizeof strings);
  return bytes;
}

}  // namespace prism::gpu_test
