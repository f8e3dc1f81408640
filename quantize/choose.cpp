#include "quantize/choose.h"

#include <algorithm>

namespace prism::quantize {
namespace {

/// The step from one of a tensor's options that saves the most cost for a byte and takes at most `room` more; the option itself if there is none.
size_t best_step(const std::vector<Option>& options, size_t from, uint64_t room, double& rate) {
  size_t best = from;
  for (size_t i = 0; i < options.size(); ++i) {
    const Option &a = options[from], &b = options[i];
    if (b.bytes < a.bytes || b.cost >= a.cost || b.bytes - a.bytes > room) continue;
    const double saved = (a.cost - b.cost) / double(std::max<uint64_t>(1, b.bytes - a.bytes));
    if (best != from && saved <= rate) continue;
    best = i;
    rate = saved;
  }
  return best;
}

}  // namespace

Result<std::vector<size_t>> choose(std::span<const std::vector<Option>> tensors, uint64_t budget) {
  std::vector<size_t> chosen;
  uint64_t bytes = 0;
  for (const auto& options : tensors) {
    const auto smallest = std::ranges::min_element(options, {}, [](const Option& o) { return std::pair(o.bytes, o.cost); });
    chosen.push_back(size_t(smallest - options.begin()));
    bytes += smallest->bytes;
  }
  if (bytes > budget) return error("found room for ", budget, " bytes, expected at least the ", bytes, " of the smallest formats");
  for (;;) {
    size_t tensor = tensors.size(), step = 0;
    double best = 0;
    for (size_t t = 0; t < tensors.size(); ++t) {
      double rate = 0;
      const size_t to = best_step(tensors[t], chosen[t], budget - bytes, rate);
      if (to == chosen[t] || (tensor != tensors.size() && rate <= best)) continue;
      tensor = t;
      step = to;
      best = rate;
    }
    if (tensor == tensors.size()) return chosen;
    bytes += tensors[tensor][step].bytes - tensors[tensor][chosen[tensor]].bytes;
    chosen[tensor] = step;
  }
}

}  // namespace prism::quantize
