// Finds the pass that changed the numbers, with the reference evaluator.
#pragma once

#include "ir/eval.h"
#include "passes/pass.h"

namespace prism::passes {

/// One call of a graph. After specialize-entry-points a call of @forward goes to the entry point that fits its dims.
struct BisectCase {
  std::string graph = "forward";
  std::map<std::string, ir::Tensor> inputs;
  std::map<std::string, int64_t> dims;  ///< also "seq" and "out"
};

/// Results of a case on the module as it is now.
Result<std::vector<ir::Tensor>> evaluate(const ir::Module& m, const BisectCase& c);

/// sqrt(sum (a-b)^2 / sum a^2); infinite if shapes differ, b is not finite, or integers differ.
double relative_error(const ir::Tensor& a, const ir::Tensor& b);

/// Runs the pipeline on `m` pass by pass and compares every case with its results before. Returns the first pass that
/// moves a result by more than `tolerance` (relative_error), as "index: name"; empty if none does.
Result<std::string> bisect(ir::Module& m, const std::vector<PipelineStep>& pipeline,
                           const std::vector<BisectCase>& cases, double tolerance);

}  // namespace prism::passes
