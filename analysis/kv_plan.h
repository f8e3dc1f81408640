// Which layers of a compressed KV cache get how many bits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace prism::analysis {

/// What a layer's keys and values may become.
struct KvOption {
  std::string bits;      ///< "k4v3"
  double cost = 0;       ///< how far the model's predictions move if this layer alone has it, from any common start
  uint64_t bytes = 0;    ///< of the layer's cache
  double error = 0;      ///< standard error of the cost; 0: it is known
};

/// Moves costs measured with error towards the mean of the layers that have the same bits, each by its error's share of what costs vary: the best
/// guess of many numbers of which each is uncertain (empirical Bayes: Efron and Morris 1975). What would be chosen by chance is then
/// chosen less often.
void shrink_costs(std::vector<std::vector<KvOption>>& layers);

/// The option of each layer, by number (see choose()). Layers may have different options, at least one each. Error if the smallest cache is larger
/// than `budget`.
Result<std::vector<size_t>> choose_kv_options(const std::vector<std::vector<KvOption>>& layers, uint64_t budget);

/// "k4v3*2/k3v3": as the pass plan-kv-compression takes them.
std::string kv_plan_text(const std::vector<std::string>& bits);

}  // namespace prism::analysis
