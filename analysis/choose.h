// One option for each of several things, so that all fit a number of bytes and the sum of what they cost is small.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/base/result.h"

namespace prism::analysis {

struct Price {
  uint64_t bytes;
  double cost;   ///< what the thing adds to the divergence with this option
};

/// The position of the option chosen for each thing: first the smallest everywhere, then the step that saves the most for a byte, as long as
/// one fits. The two largest things are tried with every option: a step of an embedding may be more than all that is left. Error if the
/// smallest do not fit.
Result<std::vector<size_t>> choose(std::span<const std::vector<Price>> things, uint64_t budget);

/// The same of options that have `bytes` and `cost` and say what they are.
template <class Option>
Result<std::vector<size_t>> choose_option(std::span<const std::vector<Option>> things, uint64_t budget) {
  std::vector<std::vector<Price>> prices(things.size());
  for (size_t t = 0; t < things.size(); ++t)
    for (const Option& o : things[t]) prices[t].push_back({o.bytes, o.cost});
  return choose(prices, budget);
}

}  // namespace prism::analysis
