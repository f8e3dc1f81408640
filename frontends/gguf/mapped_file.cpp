#include "frontends/gguf/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace prism::gguf {

Result<MappedFile> MappedFile::open(const std::string& path, std::string_view expected) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return error(path, ": cannot open: ", std::strerror(errno));
  struct stat st;
  const bool regular = ::fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
  void* mapping = MAP_FAILED;
  if (regular && st.st_size > 0) mapping = ::mmap(nullptr, size_t(st.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
  const int map_errno = errno;
  ::close(fd);
  if (!regular) return error(path, ": found something that is not a regular file, expected ", expected);
  if (st.st_size == 0) return error(path, ": found an empty file, expected ", expected);
  if (mapping == MAP_FAILED) return error(path, ": cannot map: ", std::strerror(map_errno));
  MappedFile file;
  file.bytes_ = {static_cast<const uint8_t*>(mapping), size_t(st.st_size)};
  return file;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<uint8_t*>(bytes_.data()), bytes_.size());
}

void MappedFile::forget(const uint8_t* p, uint64_t bytes) const {
  if (bytes_.empty()) return;
  const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE)), begin = uintptr_t(p) / page * page;
  madvise(reinterpret_cast<void*>(begin), uintptr_t(p) + bytes - begin, MADV_DONTNEED);
}

}  // namespace prism::gguf
