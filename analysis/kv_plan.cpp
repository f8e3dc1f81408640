#include "analysis/kv_plan.h"

#include <algorithm>

#include "analysis/choose.h"
#include "runtime/memory.h"

namespace prism::analysis {

Result<std::vector<size_t>> choose_kv_options(const std::vector<std::vector<KvOption>>& layers, uint64_t budget) {
  uint64_t least = 0;
  for (const auto& options : layers) least += std::ranges::min_element(options, {}, &KvOption::bytes)->bytes;
  if (least > budget)
    return error("found a budget of ", rt::format_bytes(budget), " for the KV cache, expected at least ", rt::format_bytes(least),
                 ", what it takes with the fewest of the bits offered (see --bits)");
  return choose_option<KvOption>(layers, budget);
}

std::string kv_plan_text(const std::vector<std::string>& bits) {
  std::string text;
  for (size_t i = 0; i < bits.size();) {
    size_t end = i;
    while (end < bits.size() && bits[end] == bits[i]) ++end;
    text += (i ? "/" : "") + bits[i] + (end - i > 1 ? "*" + std::to_string(end - i) : "");
    i = end;
  }
  return text;
}

}  // namespace prism::analysis
