#include <chrono>
#include <cstdio>
#include <fstream>

#include "ir/text.h"
#include "ir/verifier.h"
#include "llvm/ADT/StringExtras.h"
#include "passes/pass.h"

namespace prism::passes {

using ir::Level;

#define PASS(function, name, needs, makes, precision, options, summary) Status function(ir::Module&, const Options&);
#include "passes/passes.def"
#undef PASS

namespace {

constexpr PassInfo kPasses[] = {
#define PASS(function, name, needs, makes, precision, options, summary) \
  {name, Level::needs, Level::makes, Precision::precision, options, summary, function},
#include "passes/passes.def"
#undef PASS
};

size_t count_ops(const ir::Module& m) {
  size_t n = 0;
  for (const auto& g : m.graphs) n += g->ops.size();
  return n;
}

Status run_pass(ir::Module& m, const PipelineStep& step) {
  const PassInfo& pass = *step.pass;
  if (m.level > pass.needs)
    return error("found a module at level ", level_name(m.level), ", expected at most ", level_name(pass.needs));
  PRISM_CHECK(pass.run(m, step.options));
  m.level = std::max(m.level, pass.makes);
  return ok();
}

Status write_reproducer(const std::string& path, const std::string& text, const std::vector<PipelineStep>& rest) {
  std::ofstream out(path, std::ios::binary);
  out << "// RUN: prism opt %s --passes='" << print_pipeline(rest) << "'\n" << text;
  out.close();
  if (!out) return error(path, ": cannot write the reproducer");
  return ok();
}

}  // namespace

std::span<const PassInfo> all_passes() { return kPasses; }

const PassInfo* find_pass(std::string_view name) {
  for (const PassInfo& p : kPasses)
    if (p.name == name) return &p;
  return nullptr;
}

std::string Options::get(std::string_view key, std::string_view fallback) const {
  auto it = values_.find(key);
  return it == values_.end() ? std::string(fallback) : it->second;
}

int64_t Options::get_int(std::string_view key, int64_t fallback) const {
  int64_t value;
  auto it = values_.find(key);
  return it != values_.end() && llvm::to_integer(it->second, value, 10) ? value : fallback;
}

Status Manager::run(ir::Module& m, const std::vector<PipelineStep>& pipeline) {
  timings_.clear();
  auto print = [&](const char* when, const PassInfo& pass) {
    const std::string text = "// ----- " + std::string(when) + " " + std::string(pass.name) + "\n" + ir::print(m);
    if (options_.print) {
      options_.print(text);
    } else {
      std::fputs(text.c_str(), stderr);
    }
  };
  for (size_t i = 0; i < pipeline.size(); ++i) {
    const PipelineStep& step = pipeline[i];
    const std::string before = options_.reproducer.empty() ? "" : ir::print(m);
    if (options_.print_before_all) print("before", *step.pass);

    const size_t ops_before = count_ops(m);
    const auto start = std::chrono::steady_clock::now();
    Status status = run_pass(m, step);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    timings_.push_back({step.pass->name, took.count(), ops_before, count_ops(m)});

    if (status && (options_.print_after_all || llvm::is_contained(options_.print_after, step.pass->name)))
      print("after", *step.pass);
    if (status && (options_.verify_each || i + 1 == pipeline.size())) {
      status = ir::verify(m);
      if (!status) status = error("the module is invalid after it: ", status.message());
    }
    if (!status) {
      std::string message = "pass " + std::string(step.pass->name) + ": " + status.message();
      if (!options_.reproducer.empty()) {
        // Without verify_each an earlier pass may be to blame, so the rest of the pipeline goes into the file too.
        PRISM_CHECK(write_reproducer(options_.reproducer, before, {pipeline.begin() + i, pipeline.end()}));
        message += " (reproducer: " + options_.reproducer + ")";
      }
      return Error{message};
    }
    if (options_.after_pass) PRISM_CHECK(options_.after_pass(step, i, m));
  }
  return ok();
}

}  // namespace prism::passes
