#include "analysis/kv_plan.h"

#include <algorithm>
#include <map>

#include "analysis/choose.h"
#include "analysis/quality.h"
#include "runtime/memory.h"

namespace prism::analysis {

void shrink_costs(std::vector<std::vector<KvOption>>& layers) {
  std::map<std::string, std::vector<KvOption*>> by_bits;
  for (auto& options : layers)
    for (KvOption& o : options)
      if (o.error > 0) by_bits[o.bits].push_back(&o);
  for (auto& [bits, options] : by_bits) {
    Mean costs, noise;
    for (const KvOption* o : options) {
      costs.add(o->cost);
      noise.add(o->error * o->error);
    }
    if (costs.count() < 3) continue;
    const Estimate mean = costs.estimate();
    const double seen = mean.error * mean.error * double(costs.count()), real = std::max(0.0, seen - noise.estimate().value);   // variances
    for (KvOption* o : options) o->cost = mean.value + real / (real + o->error * o->error) * (o->cost - mean.value);
  }
}

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
