#include "runtime/emu/shared.h"

#include <cstring>

namespace prism::rt::emu {

namespace {

bool ordered(const Moment& before, const Moment& now) {
  if (before.thread < 0 || before.thread == now.thread || before.block_epoch != now.block_epoch) return true;
  return before.thread / 32 == now.thread / 32 && before.warp_epoch != now.warp_epoch;
}

}  // namespace

void SharedMemory::reset(size_t bytes) {
  data_.assign(bytes, 0);
  bytes_.assign(bytes, {});
}

std::string SharedMemory::Problem::text() const {
  std::string all = what;
  if (const size_t at = all.find('%'); at != all.npos) all.replace(at, 1, std::to_string(thread));
  return all;
}

inline SharedMemory::Problem SharedMemory::conflict(const Byte& b, const Access& now, bool writes) {
  if (b.copied_by >= 0) return {"an asynchronous copy of thread % to it is under way", b.copied_by};
  if (writes && b.products > 0) return {"a matrix product that was not waited for reads it"};
  if (b.mbarrier >= 0) {
    if (size_t(b.mbarrier) >= now.ended.size() || now.ended[size_t(b.mbarrier)] <= b.phase) return {"a bulk copy wrote it, whose mbarrier was not waited for"};
  } else if (!ordered(b.writer, now)) return {"thread % wrote it with no barrier between", b.writer.thread};
  if (writes)
    for (const Moment& r : b.readers)
      if (!ordered(r, now)) return {"thread % read it with no barrier between", r.thread};
  return {};
}

std::string SharedMemory::read(size_t at, void* to, size_t bytes, const Access& now) {
  for (size_t i = at; i < at + bytes; ++i) {
    Byte& b = bytes_[i];
    if (const Problem problem = conflict(b, now, false); problem.what) return problem.text();
    if (!b.written()) return "nobody wrote it";
    if (b.readers[0].thread != now.thread) b.readers[1] = b.readers[0];
    b.readers[0] = now;
  }
  std::memcpy(to, data(at), bytes);
  return "";
}

/// Whether the thread that wrote the byte has fenced that from the asynchronous ones that follow.
bool SharedMemory::fences(const Byte& b, const Access& now, const std::vector<uint32_t>& fenced) {
  if (b.mbarrier >= 0 || b.writer.thread < 0) return true;
  return (b.writer.thread == now.thread ? now.fences : fenced[size_t(b.writer.thread)]) > b.writer.fences;
}

std::string SharedMemory::begin_product(size_t at, size_t bytes, const Access& now, const std::vector<uint32_t>& fenced) {
  for (size_t i = at; i < at + bytes; ++i) {
    const Byte& b = bytes_[i];
    if (const Problem problem = conflict(b, now, false); problem.what) return problem.text();
    if (!b.written()) return "nobody wrote it";
    if (!fences(b, now, fenced))
      return "thread " + std::to_string(b.writer.thread) + " wrote it with no async_fence before the barrier";
  }
  for (size_t i = at; i < at + bytes; ++i) ++bytes_[i].products;
  return "";
}

void SharedMemory::end_product(size_t at, size_t bytes, const Access& now) {
  for (size_t i = at; i < at + bytes; ++i) {
    Byte& b = bytes_[i];
    --b.products;
    if (b.readers[0].thread != now.thread) b.readers[1] = b.readers[0];
    b.readers[0] = now;
  }
}

std::string SharedMemory::write(size_t at, const void* from, size_t bytes, const Access& now) {
  for (size_t i = at; i < at + bytes; ++i) {
    Byte& b = bytes_[i];
    if (const Problem problem = conflict(b, now, true); problem.what) return problem.text();
    b.writer = now;
    b.mbarrier = -1;
    b.atomic = false;
  }
  std::memcpy(data(at), from, bytes);
  return "";
}

std::string SharedMemory::atomic(size_t at, size_t bytes, const Access& now) {
  for (size_t i = at; i < at + bytes; ++i) {
    Byte& b = bytes_[i];
    if (!b.written()) return "nobody wrote it";
    if (!b.atomic || b.copied_by >= 0)
      if (const Problem problem = conflict(b, now, true); problem.what) return problem.text();
    b.writer = now;
    b.mbarrier = -1;
    b.atomic = true;
  }
  return "";
}

std::string SharedMemory::begin_copy(size_t at, size_t bytes, const Access& now) {
  for (size_t i = at; i < at + bytes; ++i)
    if (const Problem problem = conflict(bytes_[i], now, true); problem.what) return problem.text();
  for (size_t i = at; i < at + bytes; ++i) bytes_[i].copied_by = now.thread;
  return "";
}

void SharedMemory::land_copy(size_t at, const void* from, size_t bytes, size_t zeros, const Access& now) {
  if (bytes) std::memcpy(data(at), from, bytes);
  std::memset(data(at + bytes), 0, zeros);
  for (size_t i = at; i < at + bytes + zeros; ++i) {
    bytes_[i].copied_by = bytes_[i].mbarrier = -1;
    bytes_[i].atomic = false;
    bytes_[i].writer = now;
  }
}

std::string SharedMemory::begin_bulk(size_t at, size_t bytes, const Access& now, const std::vector<uint32_t>& fenced) {
  for (size_t i = at; i < at + bytes; ++i) {
    if (const Problem problem = conflict(bytes_[i], now, true); problem.what) return problem.text();
    if (!fences(bytes_[i], now, fenced)) return "thread " + std::to_string(bytes_[i].writer.thread) + " wrote it with no async_fence before the barrier";
  }
  for (size_t i = at; i < at + bytes; ++i) bytes_[i].copied_by = now.thread;
  return "";
}

void SharedMemory::land_bulk(size_t at, const void* from, size_t bytes, int mbarrier, uint32_t phase) {
  std::memcpy(data(at), from, bytes);
  for (size_t i = at; i < at + bytes; ++i) {
    bytes_[i].copied_by = -1;
    bytes_[i].atomic = false;
    bytes_[i].writer = {};
    bytes_[i].mbarrier = mbarrier;
    bytes_[i].phase = phase;
  }
}

}  // namespace prism::rt::emu
