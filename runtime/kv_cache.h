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
  KvStats stats(int64_t positions, int64_t capacity) const;

 private:
  std::string dtype_;
  std::vector<uint64_t> planes_;  // offsets of K and V of each layer
  uint64_t bytes_ = 0, f32_bytes_per_position_ = 0;
  uint64_t bytes_per_position_ = 0;               // of layers that are not compressed
  uint64_t exact_bytes_ = 0, page_bytes_ = 0;     // of those that are: of the exact positions, of a page
};

/// "llama: KV cache of 4096 positions (see --ctx)": begins error messages about its memory.
std::string kv_cache_name(const std::string& model, int64_t capacity);

}  // namespace prism::rt
