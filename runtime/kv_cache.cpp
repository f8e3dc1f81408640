#include "runtime/kv_cache.h"

#include "runtime/base/checked.h"
#include "runtime/memory.h"

namespace prism::rt {

Result<KvLayout> KvLayout::create(const std::vector<KvLayer>& layers, int64_t capacity, const std::string& what) {
  KvLayout kv;
  if (!layers.empty()) kv.dtype_ = layers[0].dtype;
  for (const KvLayer& l : layers) {
    const uint64_t values = uint64_t(l.heads) * uint64_t(l.head_size);  // of one position in one plane; validated small
    const uint64_t per_position = values * (l.dtype == "f32" ? 4 : 2);
    kv.bytes_per_position_ += 2 * per_position;
    kv.f32_bytes_per_position_ += 2 * values * 4;
    const auto plane = checked_mul(per_position, uint64_t(capacity));
    for (int i = 0; i < 2; ++i) {
      kv.planes_.push_back(kv.bytes_);
      const auto end = plane ? checked_add(kv.bytes_, *plane) : std::nullopt;
      if (!end) return error(what, ": needs more than ", format_bytes(UINT64_MAX));
      kv.bytes_ = *end;
    }
  }
  return kv;
}

KvStats KvLayout::stats(int64_t positions, int64_t capacity) const {
  return {.dtype = dtype_,
          .positions = positions,
          .capacity = capacity,
          .bytes_used = uint64_t(positions) * bytes_per_position_,
          .bytes_allocated = bytes_,
          .bytes_per_position = bytes_per_position_,
          .bytes_f32 = uint64_t(positions) * f32_bytes_per_position_};
}

std::string kv_cache_name(const std::string& model, int64_t capacity) {
  return model + ": KV cache of " + std::to_string(capacity) + " positions (see --ctx)";
}

}  // namespace prism::rt
