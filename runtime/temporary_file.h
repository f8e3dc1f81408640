// A new file beside `path` that takes its place on commit() and is removed otherwise.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "runtime/base/result.h"

namespace prism::rt {

class TemporaryFile {
 public:
  static Result<TemporaryFile> create(const std::string& path);
  TemporaryFile(TemporaryFile&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)), name_(std::exchange(other.name_, "")) {}
  ~TemporaryFile();

  int fd() const { return fd_; }
  /// Takes the space on the disk; an error if there is not as much.
  Status reserve(uint64_t bytes);
  /// May be called by several threads.
  Status write(std::span<const uint8_t> data, uint64_t offset = 0);
  /// `durable`: also after a power cut, which takes as long as the disk does.
  Status commit(bool durable = true);

 private:
  TemporaryFile(int fd, std::string path, std::string name) : fd_(fd), path_(std::move(path)), name_(std::move(name)) {}
  int fd_;
  std::string path_, name_;
};

}  // namespace prism::rt
