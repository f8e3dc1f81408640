// A block's shared memory that knows who touched each byte and when.
#pragma once

#include <cstdint>
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

/// Accesses return what is wrong with them, or "".
class SharedMemory {
 public:
  void reset(size_t bytes);
  std::string read(size_t at, void* to, size_t bytes, const Moment& now);
  std::string write(size_t at, const void* from, size_t bytes, const Moment& now);
  std::string atomic(size_t at, size_t bytes, const Moment& now);       ///< the caller changes data(at)
  std::string begin_copy(size_t at, size_t bytes, const Moment& now);   ///< until land: nobody may touch the bytes
  void land_copy(size_t at, const void* from, size_t bytes, size_t zeros, const Moment& now);
  /// A product reads the bytes until its end. fenced: for each thread, how many of its fences lie before its last barrier.
  std::string begin_product(size_t at, size_t bytes, const Moment& now, const std::vector<uint32_t>& fenced);
  void end_product(size_t at, size_t bytes, const Moment& now);
  uint8_t* data(size_t at) { return data_.data() + at; }

 private:
  struct Byte {
    Moment writer;                 ///< thread -1: nobody yet
    Moment readers[2];             ///< the two last threads; random orders of other runs find the rest
    bool atomic = false;           ///< the last write was
    int copied_by = -1;            ///< the thread whose copy to it is under way
    int products = 0;              ///< that read it
  };
  std::string conflict(const Byte& b, const Moment& now, bool writes) const;

  std::vector<uint8_t> data_;
  std::vector<Byte> bytes_;
};

}  // namespace prism::rt::emu
