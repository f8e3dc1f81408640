// Mapped memory: anonymous and zeroed, or a file. Unmapped when it goes out of scope.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "runtime/base/result.h"

namespace prism::rt {

class Mapping {
 public:
  /// Zeroed pages, none of which costs memory until touched. `what` names them in the error when `bytes` is more than
  /// the machine's memory.
  static Result<Mapping> anonymous(uint64_t bytes, const std::string& what, bool huge_pages);
  /// All of a file, read-only.
  static Result<Mapping> file(const std::string& path);
  /// A part of an open file; what is written goes to the file. `offset` is a multiple of the page size.
  static Result<Mapping> shared(int fd, uint64_t offset, uint64_t bytes, const std::string& path);

  Mapping() = default;
  Mapping(Mapping&& other) noexcept { *this = std::move(other); }
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Mapping();

  uint8_t* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

 private:
  Mapping(uint8_t* data, uint64_t bytes) : data_(data), bytes_(bytes) {}
  uint8_t* data_ = nullptr;
  uint64_t bytes_ = 0;
};

/// "96.0 MiB"
std::string format_bytes(uint64_t bytes);

}  // namespace prism::rt
