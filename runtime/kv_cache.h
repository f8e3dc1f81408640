// Where the KV cache of one session has its planes, a K and a V for each layer (runtime/program.h says how they are laid
// out), in one piece of memory of its device.
#pragma once

#include <string>
#include <vector>

#include "runtime/program.h"
#include "runtime/session.h"

namespace prism::rt {

class KvLayout {
 public:
  KvLayout() = default;
  /// `capacity` in positions, a multiple of kKvCapacityMultiple.
  static Result<KvLayout> create(const std::vector<KvLayer>& layers, int64_t capacity, const std::string& what);

  uint64_t bytes() const { return bytes_; }
  uint64_t k(size_t layer) const { return planes_[2 * layer]; }
  uint64_t v(size_t layer) const { return planes_[2 * layer + 1]; }
  /// Of a cache in use: what a ring has written over is not counted.
  KvStats stats(int64_t positions, int64_t capacity) const;

 private:
  std::vector<KvLayer> layers_;
  std::vector<uint64_t> planes_;  // offsets of K and V of each layer
  uint64_t bytes_ = 0;
};

/// "llama: KV cache of 4096 positions (see --ctx)": begins error messages about its memory.
std::string kv_cache_name(const std::string& model, int64_t capacity);

}  // namespace prism::rt
