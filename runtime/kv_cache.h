// The KV cache of one session: a K and a V plane for each layer (runtime/program.h says how they are laid out), zeroed,
// their pages not in memory until a position in them is written.
#pragma once

#include <string>
#include <vector>

#include "runtime/memory.h"
#include "runtime/program.h"
#include "runtime/session.h"

namespace prism::rt {

class KvCache {
 public:
  /// `capacity` in positions, a multiple of 64.
  static Result<KvCache> create(const std::vector<KvLayer>& layers, int64_t capacity, const std::string& name);

  uint8_t* k(size_t layer) const { return memory_.data() + planes_[2 * layer]; }
  uint8_t* v(size_t layer) const { return memory_.data() + planes_[2 * layer + 1]; }
  KvStats stats(int64_t positions, int64_t capacity) const;

 private:
  Mapping memory_;
  std::vector<uint64_t> planes_;  // offsets of K and V of each layer
  uint64_t bytes_per_position_ = 0, f32_bytes_per_position_ = 0;
};

}  // namespace prism::rt
