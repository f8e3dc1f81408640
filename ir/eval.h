// The reference evaluator: plain loops in float, sums in double. It is the truth targets and passes are compared
// with, and is never optimised beyond what keeps a 1.5B model usable.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "ir/module.h"

namespace prism::ir {

/// A tensor of concrete shape. Floats (any float dtype) are held as f32 in `f`, integers in `i`, q8a in `f`
/// (its dequantized values: quantize rounds, dequantize copies). A KV cache is two [positions,heads,size] planes in `f`: all K, then all V,
/// already rounded to the cache's element type.
struct Tensor {
  std::vector<int64_t> shape;
  std::vector<float> f;
  std::vector<int64_t> i;
  int64_t elements() const;
};

class Evaluator {
 public:
  explicit Evaluator(const Module& m) : module_(m) {}
  /// Dims not found from the inputs' shapes (for example ?past, ?out) are given in `dims`; inputs by argument name.
  /// Kv arguments start empty when absent. Returns the graph's results in order.
  Result<std::vector<Tensor>> run(const Graph& g, const std::map<std::string, Tensor>& inputs,
                                  const std::map<std::string, int64_t>& dims);
  /// Called with every operation's operands and results when set (taps, calibration).
  std::function<void(const Operation&, const std::vector<const Tensor*>& in, const std::vector<Tensor>& out)> observe;
  /// f32 values of a weight, dequantized once and kept.
  Result<const Tensor*> weight(const Value* w);

 private:
  friend struct EvalContext;
  const Module& module_;
  std::map<const Value*, Tensor> weights_;
};

/// What an op's evaluation sees. Each op implements `Status eval_<Name>(EvalContext&)` in ir/ops/<family>.cpp.
struct EvalContext {
  const Operation& op;
  std::vector<const Tensor*> in;
  std::vector<Tensor> out;             ///< sized to the number of results, shapes already set
  std::function<std::optional<int64_t>(std::string_view)> dims;
  Evaluator& evaluator;
  std::function<Result<std::vector<Tensor>>(const Graph&, const std::vector<const Tensor*>&)> run_body;
};

#define OP(id, Name, mnemonic, signature, attrs, traits, from, to, tolerance) Status eval_##Name(EvalContext& c);
#include "ir/ops.def"

}  // namespace prism::ir
