#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "runtime/executable.h"
#include "runtime/fill.h"
#include "runtime/prx_format.h"

namespace prism::rt {
namespace {

/// A new file beside `path` that takes its place on commit() and is removed otherwise.
class TemporaryFile {
 public:
  static Result<TemporaryFile> create(const std::string& path) {
    static std::atomic<unsigned> counter{0};
    for (;;) {
      std::string name = path + ".tmp" + std::to_string(getpid()) + "-" + std::to_string(counter++);
      const int fd = open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (fd >= 0) return TemporaryFile(fd, path, std::move(name));
      if (errno != EEXIST) return error(path, ": cannot create ", name, ": ", std::strerror(errno));
    }
  }
  TemporaryFile(TemporaryFile&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)), name_(std::exchange(other.name_, "")) {}
  ~TemporaryFile() {
    if (fd_ >= 0) close(fd_);
    if (!name_.empty()) unlink(name_.c_str());
  }

  int fd() const { return fd_; }

  Status write(std::span<const uint8_t> data) {
    for (size_t done = 0; done < data.size();) {
      const ssize_t n = pwrite(fd_, data.data() + done, data.size() - done, off_t(done));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return error(path_, ": cannot write: ", std::strerror(errno));
      done += size_t(n);
    }
    return ok();
  }

  Status commit() {
    if (fsync(fd_) != 0 || close(std::exchange(fd_, -1)) != 0)
      return error(path_, ": cannot write: ", std::strerror(errno));
    if (std::rename(name_.c_str(), path_.c_str()) != 0) return error(path_, ": cannot replace: ", std::strerror(errno));
    name_.clear();
    const size_t slash = path_.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
    if (const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); fd >= 0) {
      fsync(fd);  // makes the new name durable; the file itself already is
      close(fd);
    }
    return ok();
  }

 private:
  TemporaryFile(int fd, std::string path, std::string name) : fd_(fd), path_(std::move(path)), name_(std::move(name)) {}
  int fd_;
  std::string path_, name_;
};

/// Tells the kernel that the pages wholly inside are no longer needed in this process.
void drop_pages(std::span<const uint8_t> bytes) {
  const uint64_t page = uint64_t(sysconf(_SC_PAGESIZE));
  const uint64_t begin = round_up(reinterpret_cast<uintptr_t>(bytes.data()), page);
  const uint64_t end = reinterpret_cast<uintptr_t>(bytes.data() + bytes.size()) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

/// Fills the weight segment of the file in place, through the page cache: memory in use stays at the weights being
/// filled. Returns their hashes.
Result<std::vector<uint64_t>> write_weights(const Program& p, int fd, uint64_t offset, const std::string& path,
                                            const WeightFiller& fill, const Progress& progress) {
  std::vector<uint64_t> hashes(hash_count(p.weight_bytes));
  if (hashes.empty()) return hashes;
  // Space is reserved first: a full disk is an error here, a signal when a mapped page is written.
  if (const int failure = posix_fallocate(fd, 0, off_t(offset + p.weight_bytes)))
    return error(path, ": cannot reserve ", format_bytes(offset + p.weight_bytes), ": ", std::strerror(failure));
  PRISM_TRY(const Mapping segment, Mapping::shared(fd, offset, p.weight_bytes, path));
  const WeightFiller fill_and_drop = [&](const Weight& w, std::span<uint8_t> dst) {
    Status status = fill(w, dst);
    drop_pages(dst);
    return status;
  };
  PRISM_CHECK(fill_weights(p, segment.data(), 0, fill_and_drop, progress));
  for (size_t i = 0; i < hashes.size(); ++i) {
    const uint64_t begin = i * kHashedBytes, bytes = std::min(kHashedBytes, p.weight_bytes - begin);
    hashes[i] = xxh3(segment.data() + begin, bytes);
    drop_pages({segment.data() + begin, bytes});
  }
  return hashes;
}

}  // namespace

Status write_executable(const Program& p, const std::string& path, const WeightFiller& fill, const Progress& progress) {
  PRISM_CHECK(validate(p, path));
  uint64_t large = p.metadata.size() + p.ir.size();
  for (const Code& c : p.codes) large += c.data.size();
  if (large > kMaxMetadata / 2)
    return error(path, ": metadata, code and IR: found ", large, " bytes, expected at most ", kMaxMetadata / 2);
  const bool embedded = bool(fill);
  PRISM_TRY(TemporaryFile file, TemporaryFile::create(path));
  std::vector<uint64_t> hashes(embedded ? hash_count(p.weight_bytes) : 0);
  std::vector<uint8_t> metadata = encode_program(p, embedded, hashes);
  if (embedded) {
    // The hashes stand before what they hash. Their number fixes the size of the metadata, so it is encoded once for
    // its size and again when they are known.
    const uint64_t offset = round_up(sizeof(PrxHeader) + metadata.size(), kSegmentAlignment);
    PRISM_TRY(hashes, write_weights(p, file.fd(), offset, path, fill, progress));
    metadata = encode_program(p, embedded, hashes);
  }
  PRISM_CHECK(file.write(frame_metadata(metadata, embedded ? p.weight_bytes : 0)));
  return file.commit();
}

}  // namespace prism::rt
