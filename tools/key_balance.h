// What a model's keys and queries are like, from which their balance in a compressed cache follows (ir/key_balance.h).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "ir/eval.h"

namespace prism::tools {

/// Adds up mean squares while the frontend's graph is evaluated over a text from position 0.
class KeyStatistics {
 public:
  /// To be called for every operation: ir::Evaluator::observe.
  void observe(const ir::Operation& op, const std::vector<const ir::Tensor*>& in);
  /// As the pass plan-kv-compression takes it. Error if something was not finite.
  Result<std::string> balance() const;

 private:
  struct Layer {
    int64_t heads = 0, size = 0;               // of keys
    std::vector<double> keys, queries;         // sums of squares, by KV head and channel
  };
  Layer& layer(const ir::Value* cache);

  std::vector<Layer> layers_;                  // in the graph's order
  std::map<std::string, size_t, std::less<>> index_;   // by the cache's name
};

}  // namespace prism::tools
