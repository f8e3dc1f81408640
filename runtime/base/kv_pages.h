// Where a compressed KV cache keeps what: the newest positions exactly, older ones in pages of few bits.
//
// The query at position p reads positions below 64 * demoted_pages(p + 1) from pages, except the first 16 (attention sinks: StreamingLLM,
// Xiao et al. 2023), and the others, 128 to 191 of them, as they were appended. What a query reads depends on its position alone, so
// neither chunks nor drafts that are taken back change it.
//
// A plane (a layer's K or V) is, one after the other:
//   exact   [heads][1 + 13 groups of 16 positions][16 * size]: the sinks, then a ring. K: [size][16] in a group, V: [16][size]
//   codes   [capacity/64][heads][size] vectors of 64 bytes in bit planes, see kv_planes()
//   scales  [capacity/64][heads] of kv_scale_bytes()
// A value is scale * (code - middle), middle = (2^bits - 1) / 2, for K plus the page's mean of its channel. A scale is shared by
// kv_scale_group() channels of a position; it is base * byte^2.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace prism::rt {

constexpr int64_t kKvPage = 64;           ///< positions of a page
constexpr int64_t kKvGroup = 16;          ///< positions of a group, the lanes of a vector
constexpr int64_t kKvSinks = kKvGroup;    ///< first positions, never demoted
constexpr int64_t kKvRecentPages = 2;     ///< never demoted, beside the page that is not full
constexpr int64_t kKvRollback = 16;       ///< positions that may be appended, and taken back, beyond what is kept
constexpr int64_t kKvRing = (kKvPage * (kKvRecentPages + 1) + kKvRollback) / kKvGroup;  ///< groups
constexpr int64_t kKvExactGroups = 1 + kKvRing;

/// Pages that the last of `positions` positions reads demoted.
constexpr int64_t demoted_pages(int64_t positions) { return std::max<int64_t>(positions / kKvPage - kKvRecentPages, 0); }

/// Channels of a position that share a scale.
constexpr int64_t kv_scale_group(int64_t size) { return size % 128 == 0 ? 128 : size % 64 ? 32 : 64; }  ///< size: a multiple of 32
constexpr int64_t kv_scales(int64_t size) { return size / kv_scale_group(size); }  ///< of a position

/// Bits of a code by plane, the low bits first; widths that divide a byte.
struct KvPlanes {
  int count = 0;
  std::array<int, 3> width{};
};
constexpr KvPlanes kv_planes(int bits) {
  KvPlanes p;
  for (int width : {8, 4, 2, 1})
    if (bits & width) p.width[size_t(p.count++)] = width;
  return p;
}

/// What `bits` must be.
constexpr int kKvLeastBits = 2, kKvMostBits = 8;

constexpr int64_t kv_code_bytes(int64_t size, int bits) { return kKvPage * size * bits / 8; }
/// Bytes of scales by channel group and position, for K the means of the channels (i8), then two f32: base of the scales and of the means.
constexpr int64_t kv_scale_bytes(int64_t size, bool keys) { return kKvPage * kv_scales(size) + (keys ? size : 0) + 8; }

/// Bytes from the beginning of a plane; `element`: bytes of an exact value.
struct KvPlane {
  int64_t heads = 0, size = 0, element = 2;
  int bits = 4;
  bool keys = false;

  int64_t group_bytes() const { return kKvGroup * size * element; }
  int64_t exact_bytes() const { return heads * kKvExactGroups * group_bytes(); }
  int64_t page_bytes() const { return heads * (kv_code_bytes(size, bits) + kv_scale_bytes(size, keys)); }  ///< of all heads
  int64_t bytes(int64_t capacity) const { return exact_bytes() + capacity / kKvPage * page_bytes(); }
};

}  // namespace prism::rt
