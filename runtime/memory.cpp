#include "runtime/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace prism::rt {

std::string format_bytes(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = double(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  char text[32];
  std::snprintf(text, sizeof text, unit ? "%.1f %s" : "%.0f %s", value, kUnits[unit]);
  return text;
}

Mapping::~Mapping() {
  if (data_) munmap(data_, bytes_);
}

Result<Mapping> Mapping::anonymous(uint64_t bytes, const std::string& what, bool huge_pages) {
  if (bytes == 0) return Mapping();
  const uint64_t memory = uint64_t(sysconf(_SC_PHYS_PAGES)) * uint64_t(sysconf(_SC_PAGESIZE));
  if (bytes > memory) return error(what, ": needs ", format_bytes(bytes), ", this machine has ", format_bytes(memory));
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return error(what, ": cannot allocate ", format_bytes(bytes), ": ", std::strerror(errno));
  if (huge_pages) madvise(p, bytes, MADV_HUGEPAGE);  // advice: a system without them works too
  return Mapping(static_cast<uint8_t*>(p), bytes);
}

Result<Mapping> Mapping::file(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return error(path, ": cannot open: ", std::strerror(errno));
  struct stat st;
  void* p = nullptr;
  int failure = 0;
  if (fstat(fd, &st) != 0) {
    failure = errno;
  } else if (!S_ISREG(st.st_mode)) {
    failure = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
  } else if (st.st_size > 0) {
    p = mmap(nullptr, size_t(st.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) failure = errno;
  }
  close(fd);
  if (failure) return error(path, ": cannot map: ", std::strerror(failure));
  return Mapping(static_cast<uint8_t*>(p), uint64_t(st.st_size));
}

Result<Mapping> Mapping::shared(int fd, uint64_t offset, uint64_t bytes, const std::string& path) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, off_t(offset));
  if (p == MAP_FAILED) return error(path, ": cannot map ", format_bytes(bytes), ": ", std::strerror(errno));
  return Mapping(static_cast<uint8_t*>(p), bytes);
}

}  // namespace prism::rt
