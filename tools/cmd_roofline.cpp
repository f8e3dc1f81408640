// prism roofline: what a GPU allows a model at most, kernel by kernel, as markdown. No GPU is needed.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "codegen/roofline.h"
#include "tools/commands.h"
#include "tools/model.h"

namespace prism::tools {

namespace {

using codegen::KernelBound;
using codegen::KernelReport;
using codegen::StepBound;
using nlohmann::json;

struct Options {
  std::string model, target = "cuda:sm_90a", kv, pipeline;
  std::vector<int64_t> prompts = {2048}, depths = {0, 4096};
  int64_t evict = 0;
  bool json = false;
};

const char* unit_name(codegen::MathUnit unit) { return unit == codegen::MathUnit::Wgmma ? "wgmma" : unit == codegen::MathUnit::Mma ? "mma" : "cores"; }

/// What a step's tokens take per second where nothing is lost, and where it is.
double ideal_rate(const StepBound& s) { return double(s.tokens) / s.all.limit; }
double rate(const StepBound& s) { return double(s.tokens) / s.seconds(); }

std::string step_name(const StepBound& s) {
  return (s.decode ? std::string("decode") : "prefill of " + std::to_string(s.tokens)) + (s.depth ? " at " + std::to_string(s.depth) : "");
}

void print_resources(const std::vector<KernelReport>& kernels, const codegen::Gpu& gpu) {
  printf("\n| kernel | computes | products by | threads | shared bytes | registers | spilled bytes | blocks on a multiprocessor |\n|---|---|---|---:|---:|---:|---:|---:|\n");
  for (const KernelReport& k : kernels) {
    const codegen::KernelUsage usage = k.usage_on(gpu.arch);
    printf("| %s | `%s` | %s | %lld | %lld | %d | %d | %lld |\n", k.symbol.c_str(), k.computes.c_str(), unit_name(k.unit), (long long)k.threads, (long long)k.shared_bytes, usage.registers,
          usage.spill_bytes, (long long)codegen::resident_blocks(k, gpu));
  }
}

void print_step(const StepBound& step, const std::vector<KernelReport>& kernels, const codegen::Gpu& gpu) {
  printf("\n%s:\n\n| kernel | launches | blocks of one | in turns | MB | GFLOP | limit, us | uneven, us | boundaries, us | lost |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n", step_name(step).c_str());
  for (const KernelBound& k : step.kernels) {
    const int64_t blocks = k.blocks / k.launches;
    printf("| %s | %lld | %lld | %.1f | %.2f | %.2f | %.1f | %.1f | %.1f | %.1f %% |\n", kernels[k.kernel].symbol.c_str(), (long long)k.launches, (long long)blocks,
          double(blocks) / double(gpu.multiprocessors * std::max<int64_t>(codegen::resident_blocks(kernels[k.kernel], gpu), 1)), 1e-6 * double(k.amounts.bytes()),
          1e-9 * double(k.amounts.operations), 1e6 * k.limit, 1e6 * k.uneven, 1e6 * k.boundaries, 100 * k.lost() / step.seconds());
  }
}

void print_summary(const std::vector<StepBound>& steps) {
  printf("\n| | launches | MB | GFLOP | limit, us | uneven, us | boundaries, us | bound, tokens/s | without losses |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n");
  for (const StepBound& s : steps)
    printf("| %s | %lld | %.1f | %.1f | %.0f | %.0f | %.0f | %.0f | %.0f |\n", step_name(s).c_str(), (long long)s.all.launches, 1e-6 * double(s.all.amounts.bytes()), 1e-9 * double(s.all.amounts.operations),
          1e6 * s.all.limit, 1e6 * s.all.uneven, 1e6 * s.all.boundaries, rate(s), ideal_rate(s));
}

json to_json(const KernelBound& k) {
  return {{"launches", k.launches}, {"blocks", k.blocks}, {"weight_bytes", k.amounts.weights}, {"kv_bytes", k.amounts.kv}, {"activation_bytes", k.amounts.activations},
          {"operations", k.amounts.operations}, {"limit_seconds", k.limit}, {"uneven_seconds", k.uneven}, {"boundary_seconds", k.boundaries}};
}

json to_json(const StepBound& s, const std::vector<KernelReport>& kernels, const codegen::Gpu& gpu) {
  json out = to_json(s.all);
  out.update({{"step", step_name(s)}, {"tokens", s.tokens}, {"depth", s.depth}, {"bound_tokens_per_second", rate(s)}, {"without_losses", ideal_rate(s)}, {"kernels", json::array()}});
  for (const KernelBound& k : s.kernels) {
    const KernelReport& report = kernels[k.kernel];
    json row = to_json(k);
    const codegen::KernelUsage usage = report.usage_on(gpu.arch);
    row.update({{"kernel", report.symbol}, {"computes", report.computes}, {"products_by", unit_name(report.unit)}, {"threads", report.threads}, {"shared_bytes", report.shared_bytes},
                {"registers", usage.registers}, {"spilled_bytes", usage.spill_bytes}, {"resident_blocks", codegen::resident_blocks(report, gpu)}});
    out["kernels"].push_back(std::move(row));
  }
  return out;
}

Status run(const Options& o) {
  CompileOptions compile;
  PRISM_TRY(compile.target, parse_target(o.target));
  if (compile.target.device != "cuda" || compile.target.archs.size() != 1) return error("--target: found ", o.target, ", expected one GPU, as in cuda:sm_90a");
  PRISM_TRY(const codegen::Gpu gpu, codegen::gpu_of(compile.target.archs[0]));
  compile.kv = parse_kv(o.kv);
  compile.pipeline = with_eviction(o.pipeline, o.evict);
  std::vector<KernelReport> kernels;
  compile.kernels = &kernels;
  PRISM_TRY(auto file, gguf::File::open(o.model));
  PRISM_TRY(const auto compiled, compile_gguf(file, compile));
  const rt::Program& p = compiled.program;
  std::vector<StepBound> steps;
  for (const int64_t depth : o.depths) {
    PRISM_TRY(StepBound step, codegen::bound_of(p, kernels, gpu, /*decode=*/true, 1, depth));
    steps.push_back(std::move(step));
  }
  for (const int64_t tokens : o.prompts) {
    if (!tokens) continue;
    PRISM_TRY(StepBound step, codegen::bound_of(p, kernels, gpu, /*decode=*/false, tokens, 0));
    steps.push_back(std::move(step));
  }
  const std::string kv = p.kv.empty() ? "none" : p.kv[0].name();
  if (o.json) {
    json out = {{"model", p.name}, {"kv_cache", kv}, {"gpu", gpu.name}, {"arch", gpu.arch}, {"steps", json::array()}};
    for (const StepBound& s : steps) out["steps"].push_back(to_json(s, kernels, gpu));
    print_json(out);
    return ok();
  }
  printf("%s, KV cache in %s, on %s (%s, %d multiprocessors, %.2f TB/s):\n", o.model.c_str(), kv.c_str(), gpu.name.c_str(), gpu.arch.c_str(), gpu.multiprocessors, 1e-12 * gpu.memory);
  print_summary(steps);
  print_resources(kernels, gpu);
  for (const StepBound& s : steps) print_step(s, kernels, gpu);
  return ok();
}

}  // namespace

void add_roofline(CLI::App& app, Action& chosen) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("roofline", "Say what a GPU allows a model at most, kernel by kernel; needs NVRTC and no GPU");
  c->add_option("model", o->model, kModelHelp)->required();
  c->add_option("--target", o->target, "The GPU, cuda:sm_80 or cuda:sm_90a")->capture_default_str();
  const CLI::Range positions(int64_t(0), int64_t(1) << 24);
  add_list(*c, "-p,--prompt-tokens", o->prompts, "Tokens of prefill, for example 512,2048; 0 skips it")->check(positions);
  add_list(*c, "-d,--depth", o->depths, "Positions already in the cache when a token is decoded")->check(positions);
  add_pipeline(*c, o->pipeline);
  add_kv(*c, o->kv);
  add_kv_evict(*c, o->evict);
  c->add_flag("--json", o->json, "Print JSON");
  c->footer("Of each kernel: what its bytes take of the memory's speed or its operations of the multiprocessors', whichever is more (limit), what multiprocessors\n"
            "with more blocks than others add (uneven) and 1.3 us for each launch (boundaries). \"In turns\": how often all multiprocessors are filled.\n"
            "Most is lost in the first kernel of a table.");
  c->callback([o, &chosen] { chosen = [o] { return run(*o); }; });
}

}  // namespace prism::tools
