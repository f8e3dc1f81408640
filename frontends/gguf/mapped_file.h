// A file of the disk as memory, read-only.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "runtime/base/result.h"

namespace prism::gguf {

class MappedFile {
 public:
  MappedFile() = default;
  /// `expected` is what the path should be, for the message if it is no file or empty.
  static Result<MappedFile> open(const std::string& path, std::string_view expected);
  MappedFile(MappedFile&& o) noexcept : bytes_(std::exchange(o.bytes_, {})) {}
  MappedFile& operator=(MappedFile&& o) noexcept {
    std::swap(bytes_, o.bytes_);
    return *this;
  }
  ~MappedFile();

  std::span<const uint8_t> bytes() const { return bytes_; }
  /// The pages that [p, p+bytes) touches may leave memory; they come back when read.
  void forget(const uint8_t* p, uint64_t bytes) const;

 private:
  std::span<const uint8_t> bytes_;
};

}  // namespace prism::gguf
