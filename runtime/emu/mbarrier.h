// A block's mbarriers and the bulk copies that they count.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/emu/shared.h"

namespace prism::rt::emu {

/// How many phases of each mbarrier a thread knows to have ended.
class KnownPhases {
 public:
  std::span<const uint32_t> ended() const { return ended_; }
  void learn(int mbarrier, uint32_t phase);
  void learn(const KnownPhases& other);
  void keep_common(const KnownPhases& other);   ///< forgets what `other` does not know

 private:
  std::vector<uint32_t> ended_;
};

struct BulkCopy {
  size_t to;
  const uint8_t* from;
  size_t bytes;
  int mbarrier;                  ///< its number
  uint32_t phase;                ///< of the mbarrier when it began
  int thread, line;              ///< who began it
};

class Mbarriers {
 public:
  bool empty() const { return all_.empty(); }
  const std::vector<BulkCopy>& copies() const { return copies_; }   ///< under way
  /// Makes one at byte `at`; its number, or -1 if there is one already.
  int add(size_t at, int count);
  int find(size_t at) const;     ///< its number, or -1
  std::string arrive(int number, int64_t bytes);                     ///< "" or what is wrong
  void begin(BulkCopy copy);
  /// Copy i of those under way comes: "" or what is wrong with it.
  std::string land(SharedMemory& shared, size_t i);
  bool ended(int number, int parity) const { return int(all_[size_t(number)].phase & 1) != parity; }
  uint32_t phase(int number) const { return all_[size_t(number)].phase; }
  std::string state(int number) const;                               ///< what a phase still waits for

 private:
  struct Mbarrier {
    size_t at;
    int count, pending;          ///< arrivals: of a phase, still to come
    uint32_t phase = 0;          ///< how many have ended
    int64_t expected = 0, came = 0;   ///< bytes of this phase
  };
  void end_if_complete(Mbarrier& m);

  std::vector<Mbarrier> all_;
  std::vector<BulkCopy> copies_;
};

}  // namespace prism::rt::emu
