#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "runtime/executable.h"
#include "runtime/fill.h"
#include "runtime/prx_format.h"
#include "runtime/temporary_file.h"

namespace prism::rt {
namespace {

/// Tells the kernel that the pages wholly inside are no longer needed in this process.
void drop_pages(std::span<const uint8_t> bytes) {
  const uint64_t page = uint64_t(sysconf(_SC_PAGESIZE));
  const uint64_t begin = round_up(reinterpret_cast<uintptr_t>(bytes.data()), page);
  const uint64_t end = reinterpret_cast<uintptr_t>(bytes.data() + bytes.size()) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

/// Fills the weight segment of the file in place, through the page cache: memory in use stays at the weights being
/// filled. Returns their hashes.
Result<std::vector<uint64_t>> write_weights(const Program& p, TemporaryFile& file, uint64_t offset, const std::string& path,
                                            const WeightFiller& fill, const Progress& progress) {
  std::vector<uint64_t> hashes(hash_count(p.weight_bytes));
  if (hashes.empty()) return hashes;
  // Space is reserved first: a full disk is an error here, a signal when a mapped page is written.
  PRISM_CHECK(file.reserve(offset + p.weight_bytes));
  PRISM_TRY(const Mapping segment, Mapping::shared(file.fd(), offset, p.weight_bytes, path));
  const WeightFiller fill_and_drop = [&](const Weight& w, std::span<uint8_t> dst) {
    Status status = fill_weight(w, dst, fill);
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
    PRISM_TRY(hashes, write_weights(p, file, offset, path, fill, progress));
    metadata = encode_program(p, embedded, hashes);
  }
  PRISM_CHECK(file.write(frame_metadata(metadata, embedded ? p.weight_bytes : 0)));
  return file.commit();
}

}  // namespace prism::rt
