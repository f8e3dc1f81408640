#include "runtime/kv_cache.h"

#include "runtime/base/checked.h"
#include "runtime/base/kv_pages.h"
#include "runtime/memory.h"

namespace prism::rt {
namespace {

constexpr uint64_t kPlaneAlignment = 64;  // a cache line

}  // namespace

Result<KvLayout> KvLayout::create(const std::vector<KvLayer>& layers, int64_t capacity, const std::string& what) {
  KvLayout kv;
  if (!layers.empty()) kv.dtype_ = layers[0].name();
  for (const KvLayer& l : layers) {
    const uint64_t values = uint64_t(l.heads) * uint64_t(l.head_size);  // of one position in one plane; validated small
    const int64_t element = l.dtype == "f32" ? 4 : 2;
    kv.f32_bytes_per_position_ += 2 * values * 4;
    for (const bool keys : {true, false}) {
      std::optional<uint64_t> bytes;
      if (l.compressed()) {
        const KvPlane plane{l.heads, l.head_size, element, int(keys ? l.key_bits : l.value_bits), keys};
        kv.page_bytes_ += uint64_t(plane.page_bytes());
        kv.exact_bytes_ += uint64_t(plane.exact_bytes());
        bytes = checked_mul(uint64_t(plane.page_bytes()), uint64_t(capacity / kKvPage));
        if (bytes) bytes = checked_add(*bytes, uint64_t(plane.exact_bytes()));
      } else {
        kv.bytes_per_position_ += values * uint64_t(element);
        bytes = checked_mul(values * uint64_t(element), uint64_t(capacity));
      }
      kv.planes_.push_back(kv.bytes_);
      const auto end = bytes ? checked_add(kv.bytes_, round_up(*bytes, kPlaneAlignment)) : std::nullopt;
      if (!end) return error(what, ": needs more than ", format_bytes(UINT64_MAX));
      kv.bytes_ = *end;
    }
  }
  return kv;
}

KvStats KvLayout::stats(int64_t positions, int64_t capacity) const {
  const int64_t pages = page_bytes_ ? demoted_pages(positions) : 0;
  return {.dtype = dtype_,
          .positions = positions,
          .capacity = capacity,
          .demoted = pages * kKvPage,
          .bytes_used = uint64_t(positions) * bytes_per_position_ + exact_bytes_ + uint64_t(pages) * page_bytes_,
          .bytes_allocated = bytes_,
          .bytes_per_position = bytes_per_position_,
          .bytes_f32 = uint64_t(positions) * f32_bytes_per_position_};
}

std::string kv_cache_name(const std::string& model, int64_t capacity) {
  return model + ": KV cache of " + std::to_string(capacity) + " positions (see --ctx)";
}

}  // namespace prism::rt
