// What demotion does to a page of a compressed KV cache (runtime/base/kv_pages.h): the reference that kernels are compared with.
//
// Scales by search and least squares: of a few clip fractions of the largest magnitude the best, refit as sum(x*level) / sum(level^2).
// Means of keys by page: adding a vector to all keys moves all scores of a query alike, and some models have channels whose mean is
// far larger than what varies (Qwen2.5).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "ir/type.h"
#include "runtime/base/kv_pages.h"

namespace prism::ir {

/// "k4v3": bits of keys and values.
struct KvBits {
  uint8_t key = 0, value = 0;
  static Result<KvBits> parse(std::string_view text);
  std::string str() const { return "k" + std::to_string(key) + "v" + std::to_string(value); }
};

/// In place of bits: no position of the layer is ever demoted.
inline constexpr std::string_view kKvExact = "exact";

/// How K or V of a compressed cache is laid out.
rt::KvPlane kv_plane(const Type& kv, bool keys);

/// Fractions of the largest magnitude at which the outermost level may be.
inline constexpr float kKvClips[] = {1.0f, 0.92f, 0.84f, 0.76f};

/// Replaces a page by what is left of it. `page`: 64 rows of `size` values, `stride` apart.
void demote_page(float* page, int64_t stride, int64_t size, int bits, bool keys);

}  // namespace prism::ir
