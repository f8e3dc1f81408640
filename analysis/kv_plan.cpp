#include "analysis/kv_plan.h"

#include <algorithm>

#include "runtime/memory.h"

namespace prism::analysis {

Result<std::vector<size_t>> choose_kv_options(const std::vector<std::vector<KvOption>>& layers, uint64_t budget) {
  std::vector<size_t> chosen;
  uint64_t bytes = 0;
  for (const auto& options : layers) {
    const auto smallest = std::min_element(options.begin(), options.end(), [](const KvOption& a, const KvOption& b) {
      return a.bytes != b.bytes ? a.bytes < b.bytes : a.loss < b.loss;
    });
    chosen.push_back(size_t(smallest - options.begin()));
    bytes += smallest->bytes;
  }
  if (bytes > budget)
    return error("found a budget of ", rt::format_bytes(budget), " for the KV cache, expected at least ", rt::format_bytes(bytes),
                 ", what it takes with the fewest of the bits offered (see --bits)");
  for (;;) {
    double best = 0;
    size_t layer = 0, option = 0;
    for (size_t l = 0; l < layers.size(); ++l) {
      const KvOption& now = layers[l][chosen[l]];
      for (size_t o = 0; o < layers[l].size(); ++o) {
        const KvOption& other = layers[l][o];
        if (other.loss >= now.loss || other.bytes <= now.bytes || bytes - now.bytes + other.bytes > budget) continue;
        const double saved = (now.loss - other.loss) / double(other.bytes - now.bytes);
        if (saved > best) {
          best = saved;
          layer = l;
          option = o;
        }
      }
    }
    if (best == 0) return chosen;
    bytes += layers[layer][option].bytes - layers[layer][chosen[layer]].bytes;
    chosen[layer] = option;
  }
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
