#include "runtime/kv_cache.h"

#include "runtime/base/checked.h"
#include "runtime/base/kv_pages.h"
#include "runtime/memory.h"

namespace prism::rt {
namespace {

constexpr uint64_t kPlaneAlignment = 64;  // a cache line

int64_t element_bytes(const KvLayer& l) { return l.dtype == "f32" ? 4 : 2; }
uint64_t position_values(const KvLayer& l) { return uint64_t(l.heads) * uint64_t(l.head_size); }   // in one plane; validated small
KvPlane plane_of(const KvLayer& l, bool keys) { return {l.heads, l.head_size, element_bytes(l), int(keys ? l.key_bits : l.value_bits), keys}; }

}  // namespace

Result<KvLayout> KvLayout::create(const std::vector<KvLayer>& layers, int64_t capacity, const std::string& what) {
  KvLayout kv;
  kv.layers_ = layers;
  for (const KvLayer& l : layers) {
    const auto room = uint64_t(l.room(capacity));
    for (const bool keys : {true, false}) {
      std::optional<uint64_t> bytes;
      if (l.compressed()) {
        const KvPlane plane = plane_of(l, keys);
        bytes = checked_mul(uint64_t(plane.page_bytes()), room / kKvPage);
        if (bytes) bytes = checked_add(*bytes, uint64_t(plane.exact_bytes()));
      } else {
        bytes = checked_mul(position_values(l) * uint64_t(element_bytes(l)), room);
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
  KvStats s{.dtype = layers_.empty() ? "" : layers_[0].name(), .positions = positions, .capacity = capacity, .bytes_allocated = bytes_};
  for (const KvLayer& l : layers_) {
    const int64_t kept = std::min(positions, l.room(capacity));
    s.evicted += positions - kept;
    s.bytes_f32 += 2 * position_values(l) * 4 * uint64_t(positions);
    if (!l.compressed()) {
      s.bytes_exact += 2 * position_values(l) * uint64_t(element_bytes(l) * kept);
      continue;
    }
    const int64_t pages = std::min(demoted_pages(positions), l.room(capacity) / kKvPage);
    s.demoted = std::max(s.demoted, pages * kKvPage);
    for (const bool keys : {true, false}) {
      const KvPlane plane = plane_of(l, keys);
      s.bytes_exact += uint64_t(plane.exact_bytes());
      s.bytes_used += uint64_t(pages * plane.page_bytes());
    }
  }
  s.bytes_used += s.bytes_exact;
  s.bytes_f16 = s.bytes_f32 / 2;
  return s;
}

std::string kv_cache_name(const std::string& model, int64_t capacity) {
  return model + ": KV cache of " + std::to_string(capacity) + " positions (see --ctx)";
}

}  // namespace prism::rt
