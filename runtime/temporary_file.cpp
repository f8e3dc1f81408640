#include "runtime/temporary_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "runtime/memory.h"

namespace prism::rt {

Result<TemporaryFile> TemporaryFile::create(const std::string& path) {
  static std::atomic<unsigned> counter{0};
  for (;;) {
    std::string name = path + ".tmp" + std::to_string(getpid()) + "-" + std::to_string(counter++);
    const int fd = open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) return TemporaryFile(fd, path, std::move(name));
    if (errno != EEXIST) return error(path, ": cannot create ", name, ": ", std::strerror(errno));
  }
}

TemporaryFile::~TemporaryFile() {
  if (fd_ >= 0) close(fd_);
  if (!name_.empty()) unlink(name_.c_str());
}

Status TemporaryFile::reserve(uint64_t bytes) {
  if (const int failure = posix_fallocate(fd_, 0, off_t(bytes)))
    return error(path_, ": cannot reserve ", format_bytes(bytes), ": ", std::strerror(failure));
  return ok();
}

Status TemporaryFile::write(std::span<const uint8_t> data, uint64_t offset) {
  for (size_t done = 0; done < data.size();) {
    const ssize_t n = pwrite(fd_, data.data() + done, data.size() - done, off_t(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return error(path_, ": cannot write: ", std::strerror(errno));
    done += size_t(n);
  }
  return ok();
}

Status TemporaryFile::commit(bool durable) {
  if ((durable && fsync(fd_) != 0) || close(std::exchange(fd_, -1)) != 0)
    return error(path_, ": cannot write: ", std::strerror(errno));
  if (std::rename(name_.c_str(), path_.c_str()) != 0) return error(path_, ": cannot replace: ", std::strerror(errno));
  name_.clear();
  if (!durable) return ok();
  const size_t slash = path_.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  if (const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); fd >= 0) {
    fsync(fd);  // makes the new name durable; the file itself already is
    close(fd);
  }
  return ok();
}

}  // namespace prism::rt
