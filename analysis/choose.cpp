#include "analysis/choose.h"

#include <algorithm>
#include <functional>
#include <numeric>

namespace prism::analysis {
namespace {

/// The step from one of a thing's options that saves the most cost for a byte and takes at most `room` more; the option itself if there is none.
size_t best_step(const std::vector<Price>& options, size_t from, uint64_t room, double& rate) {
  size_t best = from;
  for (size_t i = 0; i < options.size(); ++i) {
    const Price &a = options[from], &b = options[i];
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

Choice with(std::span<const std::vector<Price>> things, std::vector<size_t> chosen) {
  Choice c{std::move(chosen)};
  for (size_t t = 0; t < things.size(); ++t) {
    c.bytes += things[t][c.chosen[t]].bytes;
    c.cost += things[t][c.chosen[t]].cost;
  }
  return c;
}

/// From where it is, takes the step that saves the most for a byte as long as one fits; `fixed` things stay.
void climb(std::span<const std::vector<Price>> things, std::span<const size_t> fixed, uint64_t budget, Choice& c) {
  for (;;) {
    size_t thing = things.size(), step = 0;
    double best = 0;
    for (size_t t = 0; t < things.size(); ++t) {
      if (std::ranges::find(fixed, t) != fixed.end()) continue;
      double rate = 0;
      const size_t to = best_step(things[t], c.chosen[t], budget - c.bytes, rate);
      if (to == c.chosen[t] || (thing != things.size() && rate <= best)) continue;
      thing = t;
      step = to;
      best = rate;
    }
    if (thing == things.size()) return;
    const Price &from = things[thing][c.chosen[thing]], &to = things[thing][step];
    c.bytes += to.bytes - from.bytes;
    c.cost -= from.cost - to.cost;
    c.chosen[thing] = step;
  }
}

}  // namespace

Result<std::vector<size_t>> choose(std::span<const std::vector<Price>> things, uint64_t budget) {
  constexpr size_t kTried = 2;
  std::vector<size_t> smallest, largest(things.size());
  for (const auto& options : things) {
    const auto least = std::ranges::min_element(options, {}, [](const Price& o) { return std::pair(o.bytes, o.cost); });
    smallest.push_back(size_t(least - options.begin()));
  }
  const Choice least = with(things, smallest);
  if (least.bytes > budget) return error("found room for ", budget, " bytes, expected at least the ", least.bytes, " of the smallest formats");
  std::iota(largest.begin(), largest.end(), size_t(0));
  std::ranges::stable_sort(largest, std::greater(), [&](size_t t) { return things[t][smallest[t]].bytes; });
  largest.resize(std::min(largest.size(), kTried));
  Choice best = least;
  climb(things, {}, budget, best);
  std::vector<size_t> start = smallest;
  const std::function<void(size_t)> fix = [&](size_t i) {
    if (i < largest.size()) {
      for (start[largest[i]] = 0; start[largest[i]] < things[largest[i]].size(); ++start[largest[i]]) fix(i + 1);
      return;
    }
    Choice c = with(things, start);
    if (c.bytes > budget) return;
    climb(things, largest, budget, c);
    if (c.cost < best.cost) best = std::move(c);
  };
  fix(0);
  return best.chosen;
}

}  // namespace prism::analysis
