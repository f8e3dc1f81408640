#include "tools/quantize/choose.h"

#include <algorithm>
#include <functional>
#include <numeric>

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

struct Choice {
  std::vector<size_t> chosen;
  uint64_t bytes = 0;
  double cost = 0;
};

Choice with(std::span<const std::vector<Option>> tensors, std::vector<size_t> chosen) {
  Choice c{std::move(chosen)};
  for (size_t t = 0; t < tensors.size(); ++t) {
    c.bytes += tensors[t][c.chosen[t]].bytes;
    c.cost += tensors[t][c.chosen[t]].cost;
  }
  return c;
}

/// From where it is, takes the step that saves the most for a byte as long as one fits; `fixed` tensors stay.
void climb(std::span<const std::vector<Option>> tensors, std::span<const size_t> fixed, uint64_t budget, Choice& c) {
  for (;;) {
    size_t tensor = tensors.size(), step = 0;
    double best = 0;
    for (size_t t = 0; t < tensors.size(); ++t) {
      if (std::ranges::find(fixed, t) != fixed.end()) continue;
      double rate = 0;
      const size_t to = best_step(tensors[t], c.chosen[t], budget - c.bytes, rate);
      if (to == c.chosen[t] || (tensor != tensors.size() && rate <= best)) continue;
      tensor = t;
      step = to;
      best = rate;
    }
    if (tensor == tensors.size()) return;
    const Option &from = tensors[tensor][c.chosen[tensor]], &to = tensors[tensor][step];
    c.bytes += to.bytes - from.bytes;
    c.cost -= from.cost - to.cost;
    c.chosen[tensor] = step;
  }
}

}  // namespace

Result<std::vector<size_t>> choose(std::span<const std::vector<Option>> tensors, uint64_t budget) {
  constexpr size_t kTried = 2;
  std::vector<size_t> smallest, largest(tensors.size());
  for (const auto& options : tensors) {
    const auto least = std::ranges::min_element(options, {}, [](const Option& o) { return std::pair(o.bytes, o.cost); });
    smallest.push_back(size_t(least - options.begin()));
  }
  const Choice least = with(tensors, smallest);
  if (least.bytes > budget) return error("found room for ", budget, " bytes, expected at least the ", least.bytes, " of the smallest formats");
  std::iota(largest.begin(), largest.end(), size_t(0));
  std::ranges::stable_sort(largest, std::greater(), [&](size_t t) { return tensors[t][smallest[t]].bytes; });
  largest.resize(std::min(largest.size(), kTried));
  Choice best = least;
  climb(tensors, {}, budget, best);
  std::vector<size_t> start = smallest;
  const std::function<void(size_t)> fix = [&](size_t i) {
    if (i < largest.size()) {
      for (start[largest[i]] = 0; start[largest[i]] < tensors[largest[i]].size(); ++start[largest[i]]) fix(i + 1);
      return;
    }
    Choice c = with(tensors, start);
    if (c.bytes > budget) return;
    climb(tensors, largest, budget, c);
    if (c.cost < best.cost) best = std::move(c);
  };
  fix(0);
  return best.chosen;
}

}  // namespace prism::quantize
