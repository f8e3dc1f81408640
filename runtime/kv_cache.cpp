#include "runtime/kv_cache.h"

#include "runtime/base/checked.h"

namespace prism::rt {

Result<KvCache> KvCache::create(const std::vector<KvLayer>& layers, int64_t capacity, const std::string& name) {
  KvCache cache;
  const std::string what = name + ": KV cache of " + std::to_string(capacity) + " positions (see --ctx)";
  uint64_t total = 0;
  for (const KvLayer& l : layers) {
    const uint64_t values = uint64_t(l.heads) * uint64_t(l.head_size);  // of one position in one plane; validated small
    const uint64_t per_position = values * (l.dtype == "f32" ? 4 : 2);
    cache.bytes_per_position_ += 2 * per_position;
    cache.f32_bytes_per_position_ += 2 * values * 4;
    const auto plane = checked_mul(per_position, uint64_t(capacity));
    for (int i = 0; i < 2; ++i) {
      cache.planes_.push_back(total);
      const auto end = plane ? checked_add(total, *plane) : std::nullopt;
      if (!end) return error(what, ": needs more than ", format_bytes(UINT64_MAX));
      total = *end;
    }
  }
  // No huge pages: heads lie far apart, and the first position would bring all of the cache into memory.
  PRISM_TRY(cache.memory_, Mapping::anonymous(total, what, /*huge_pages=*/false));
  return cache;
}

KvStats KvCache::stats(int64_t positions, int64_t capacity) const {
  return {.positions = positions,
          .capacity = capacity,
          .bytes_used = uint64_t(positions) * bytes_per_position_,
          .bytes_allocated = memory_.bytes(),
          .bytes_per_position = bytes_per_position_,
          .bytes_f32 = uint64_t(positions) * f32_bytes_per_position_};
}

}  // namespace prism::rt
