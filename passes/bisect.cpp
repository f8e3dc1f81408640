#include "passes/bisect.h"

#include <cmath>
#include <limits>

namespace prism::passes {

using namespace ir;

namespace {

Result<const Graph*> graph_for(const Module& m, const BisectCase& c) {
  if (const Graph* g = m.graph(c.graph)) return g;
  auto seq = c.dims.find("seq"), out = c.dims.find("out");
  if (c.graph == "forward" && seq != c.dims.end() && out != c.dims.end()) {
    const char* entry = out->second == seq->second ? (out->second == 1 ? "decode" : "verify")
                        : out->second == 1         ? "prefill"
                                                   : "";
    if (const Graph* g = m.graph(entry)) return g;
  }
  return error("no graph @", c.graph, ", and no entry point that fits the dims");
}

}  // namespace

Result<std::vector<Tensor>> evaluate(const Module& m, const BisectCase& c) {
  PRISM_TRY(const Graph* g, graph_for(m, c));
  return Evaluator(m).run(*g, c.inputs, c.dims);
}

double relative_error(const Tensor& a, const Tensor& b) {
  constexpr double infinite = std::numeric_limits<double>::infinity();
  if (a.shape != b.shape || a.f.size() != b.f.size() || a.i != b.i) return infinite;
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.f.size(); ++i) {
    difference += (double(a.f[i]) - b.f[i]) * (double(a.f[i]) - b.f[i]);
    norm += double(a.f[i]) * a.f[i];
  }
  if (difference == 0) return 0;
  return std::isfinite(difference) && norm > 0 ? std::sqrt(difference / norm) : infinite;
}

Result<std::string> bisect(Module& m, const std::vector<PipelineStep>& pipeline, const std::vector<BisectCase>& cases,
                           double tolerance) {
  std::vector<std::vector<Tensor>> expected;
  for (const BisectCase& c : cases) {
    PRISM_TRY(auto results, evaluate(m, c));
    expected.push_back(std::move(results));
  }
  std::string guilty;
  ManagerOptions options;
  options.after_pass = [&](const PipelineStep& step, size_t index, const Module& now) -> Status {
    for (size_t i = 0; i < cases.size(); ++i) {
      PRISM_TRY(auto results, evaluate(now, cases[i]));
      bool same = results.size() == expected[i].size();
      for (size_t r = 0; same && r < results.size(); ++r)
        same = relative_error(expected[i][r], results[r]) <= tolerance;
      if (same) continue;
      guilty = std::to_string(index) + ": " + std::string(step.pass->name);
      return error(guilty);  // ends the run
    }
    return ok();
  };
  const Status status = Manager(std::move(options)).run(m, pipeline);
  if (!status && guilty.empty()) return status.err();
  return guilty;
}

}  // namespace prism::passes
