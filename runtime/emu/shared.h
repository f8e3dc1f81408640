// A block's shared memory that knows who touched each byte and when.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace prism::rt::emu {

/// Who accesses, and how often its block and its warp have synchronized so far: two accesses of different threads are
/// ordered if a barrier lies between, or, within a warp, a warp's synchronization.
struct Moment {
  int thread = -1;
  uint32_t block_epoch = 0, warp_epoch = 0;
  uint32_t fences = 0;           ///< async_fences of the thread so far
};

/// A moment and what its thread knows: for each mbarrier, how many phases have ended. That orders it after the bulk copies of these.
struct Access : Moment {
  std::span<const uint32_t> ended;
};

/// Accesses return what is wrong with them, or "".
class SharedMemory {
 public:
  void reset(size_t bytes);
  std::string read(size_t at, void* to, size_t bytes, const Access& now);
  std::string write(size_t at, const void* from, size_t bytes, const Access& now);
  std::string atomic(size_t at, size_t bytes, const Access& now);       ///< the caller changes data(at)
  std::string begin_copy(size_t at, size_t bytes, const Access& now);   ///< until land: nobody may touch the bytes
  void land_copy(size_t at, const void* from, size_t bytes, size_t zeros, const Access& now);
  /// The same for a bulk copy, whose writes and those of threads a fence must keep apart. fenced: for each thread, how many of its fences
  /// lie before its last barrier.
  std::string begin_bulk(size_t at, size_t bytes, const Access& now, const std::vector<uint32_t>& fenced);
  void land_bulk(size_t at, const void* from, size_t bytes, int mbarrier, uint32_t phase);
  /// A product reads the bytes until its end. fenced: as above.
  std::string begin_product(size_t at, size_t bytes, const Access& now, const std::vector<uint32_t>& fenced);
  void end_product(size_t at, size_t bytes, const Access& now);
  uint8_t* data(size_t at) { return data_.data() + at; }

 private:
  struct Byte {
    Moment writer;                 ///< thread -1: nobody yet
    Moment readers[2];             ///< the two last threads; random orders of other runs find the rest
    bool atomic = false;           ///< the last write was
    int copied_by = -1;            ///< the thread whose copy to it is under way
    int products = 0;              ///< that read it
    int mbarrier = -1;             ///< the last write was a bulk copy's, counted by that mbarrier in that phase
    uint32_t phase = 0;
    bool written() const { return writer.thread >= 0 || mbarrier >= 0; }
  };
  static bool fences(const Byte& b, const Access& now, const std::vector<uint32_t>& fenced);
  struct Problem {
    const char* what = nullptr;   ///< nullptr: none. % stands for the thread
    int thread = -1;
    std::string text() const;
  };
  static Problem conflict(const Byte& b, const Access& now, bool writes);

  std::vector<uint8_t> data_;
  std::vector<Byte> bytes_;
};

}  // namespace prism::rt::emu
