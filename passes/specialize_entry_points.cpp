// specialize-entry-points: @forward(ids[?seq], ...) -> logits of the last ?out ids becomes
//   @prefill  ?out = 1: a chunk of the prompt, only the last logits
//   @decode   ?seq = ?out = 1
//   @verify   ?out = ?seq: logits of every id
// Module attributes "<entry>.seq.max" hold the largest ?seq of each; the range of ?seq covers them all.

#include "passes/util.h"

namespace prism::passes {

using namespace ir;

namespace {

Status add_entry(Module& m, const Graph& forward, llvm::StringRef name, std::optional<Dim> seq, Dim out, int64_t max) {
  if (m.graph(name)) return error("graph @", name.str(), " exists already beside @forward");
  auto subst = [=](std::string_view symbol) -> std::optional<Dim> {
    if (symbol == "out") return out;
    if (symbol == "seq") return seq;
    return std::nullopt;
  };
  std::unique_ptr<Graph> g = clone_graph(forward, m, subst);
  g->name = name;
  m.graphs.push_back(std::move(g));
  set_module_attr(m, name.str() + ".seq.max", max);
  return ok();
}

}  // namespace

Status specialize_entry_points(Module& m, const Options& options) {
  const Graph* forward = m.graph("forward");
  if (!forward) return ok();
  auto seq = m.dims.find("seq"), out = m.dims.find("out");
  if (seq == m.dims.end() || out == m.dims.end()) return error("graph @forward: found no dims ?seq and ?out");

  const int64_t prefill = std::min(options.get_int("prefill", 512), seq->second.hi);
  const int64_t verify = std::min(options.get_int("verify", 16), seq->second.hi);
  const Dim seq_symbol = Dim::symbol("seq");
  PRISM_CHECK(add_entry(m, *forward, "prefill", std::nullopt, 1, prefill));
  PRISM_CHECK(add_entry(m, *forward, "decode", 1, 1, 1));
  PRISM_CHECK(add_entry(m, *forward, "verify", std::nullopt, seq_symbol, verify));
  seq->second = {1, std::max(prefill, verify)};
  m.dims.erase(out);
  llvm::erase_if(m.graphs, [&](const auto& g) { return g.get() == forward; });
  return ok();
}

}  // namespace prism::passes
