#include "runtime/emu/mbarrier.h"

#include <algorithm>

namespace prism::rt::emu {

void KnownPhases::learn(int mbarrier, uint32_t phase) {
  if (ended_.size() <= size_t(mbarrier)) ended_.resize(size_t(mbarrier) + 1);
  ended_[size_t(mbarrier)] = std::max(ended_[size_t(mbarrier)], phase);
}

void KnownPhases::learn(const KnownPhases& other) {
  for (size_t m = 0; m < other.ended_.size(); ++m) learn(int(m), other.ended_[m]);
}

void KnownPhases::keep_common(const KnownPhases& other) {
  for (size_t m = 0; m < ended_.size(); ++m) ended_[m] = m < other.ended_.size() ? std::min(ended_[m], other.ended_[m]) : 0;
}

int Mbarriers::add(size_t at, int count) {
  if (find(at) >= 0) return -1;
  all_.push_back({at, count, count});
  return int(all_.size()) - 1;
}

int Mbarriers::find(size_t at) const {
  for (size_t i = 0; i < all_.size(); ++i)
    if (all_[i].at == at) return int(i);
  return -1;
}

std::string Mbarriers::arrive(int number, int64_t bytes) {
  Mbarrier& m = all_[size_t(number)];
  if (m.pending == 0) return "arrives, but all " + std::to_string(m.count) + " arrivals of the phase have been; " + state(number);
  m.expected += bytes;
  --m.pending;
  end_if_complete(m);
  return "";
}

void Mbarriers::begin(BulkCopy copy) {
  copy.phase = phase(copy.mbarrier);
  copies_.push_back(copy);
}

std::string Mbarriers::land(SharedMemory& shared, size_t i) {
  const BulkCopy copy = copies_[i];
  copies_.erase(copies_.begin() + ptrdiff_t(i));
  Mbarrier& m = all_[size_t(copy.mbarrier)];
  if (m.phase != copy.phase) return "the phase of its mbarrier ended before its " + std::to_string(copy.bytes) + " bytes came, fewer were expected";
  shared.land_bulk(copy.to, copy.from, copy.bytes, copy.mbarrier, copy.phase);
  m.came += int64_t(copy.bytes);
  end_if_complete(m);
  return "";
}

void Mbarriers::end_if_complete(Mbarrier& m) {
  if (m.pending > 0 || m.came != m.expected) return;
  ++m.phase;
  m.pending = m.count;
  m.came = m.expected = 0;
}

std::string Mbarriers::state(int number) const {
  const Mbarrier& m = all_[size_t(number)];
  return std::to_string(m.count - m.pending) + " of " + std::to_string(m.count) + " arrived, " + std::to_string(m.came) + " of " + std::to_string(m.expected) + " bytes came";
}

}  // namespace prism::rt::emu
