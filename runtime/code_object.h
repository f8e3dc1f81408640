// Machine code from memory, loaded into the process.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "runtime/base/result.h"
#include "runtime/cpu.h"
#include "runtime/gpu/driver.h"
#include "runtime/program.h"

namespace prism::rt {

/// The index of the best code for CPUs that runs on a machine that has `machine`.
Result<size_t> choose_code(const std::vector<Code>& codes, Isa machine, const std::string& name);

/// The indices of the codes for a GPU: all of its architecture.
Result<std::vector<size_t>> choose_gpu_codes(const std::vector<Code>& codes, const gpu::DeviceInfo& device, const std::string& name);

class CodeObject {
 public:
  /// `name` begins the error message.
  static Result<CodeObject> load(std::span<const uint8_t> elf, const std::string& name);

  CodeObject() = default;
  CodeObject(CodeObject&& other) noexcept { *this = std::move(other); }
  CodeObject& operator=(CodeObject&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~CodeObject();

  void* symbol(const std::string& name) const;  ///< nullptr if there is none

 private:
  int fd_ = -1;
  void* handle_ = nullptr;
};

}  // namespace prism::rt
