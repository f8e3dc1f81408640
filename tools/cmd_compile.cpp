// prism compile: model file -> .prx
#include <chrono>
#include <cstdio>

#include "tools/commands.h"
#include "tools/model.h"

namespace prism::tools {

namespace {

struct Options {
  std::string model, out, target, kv;
  CompileOptions compile;
  bool embed = false;
  int64_t evict = 0;
};

Status run(Options o) {
  const auto start = std::chrono::steady_clock::now();
  PRISM_TRY(o.compile.target, parse_target(o.target));
  o.compile.kv = parse_kv(o.kv);
  o.compile.pipeline = with_eviction(o.compile.pipeline, o.evict);
  PRISM_TRY(auto file, gguf::File::open(o.model));
  auto progress = stderr_progress();
  PRISM_TRY(auto compiled, compile_gguf(file, o.compile));
  if (!o.embed) {
    PRISM_TRY(compiled.program.model, reference_to(*file));
  }
  const double compiled_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  PRISM_CHECK(rt::write_executable(compiled.program, o.out, o.embed ? compiled.fill : rt::WeightFiller(), progress));
  std::string isas;
  for (const rt::Code& c : compiled.program.codes)
    if (isas.find(c.isa) == isas.npos) isas += (isas.empty() ? "" : ", ") + c.isa;
  fprintf(stderr, "%s: %zu kernels for %s in %.2f s, %s\n", o.out.c_str(), compiled.program.kernels.size(), isas.c_str(), compiled_s,
          o.embed ? "weights embedded" : ("weights stay in " + compiled.program.model.path).c_str());
  return ok();
}

}  // namespace

void add_compile(CLI::App& app, Action& chosen) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("compile", "Compile a model into an executable (.prx)");
  c->add_option("model", o->model, kModelHelp)->required();
  c->add_option("-o,--output", o->out, "The .prx to write")->required();
  add_target(*c, o->target);
  add_isa(*c, o->compile.isa);
  add_kv(*c, o->kv);
  add_kv_evict(*c, o->evict);
  add_pipeline(*c, o->compile.pipeline);
  c->add_flag("--embed-weights", o->embed, "Put the packed weights into the .prx; otherwise it refers to the model");
  c->add_option("--dump-ir", o->compile.dump_ir, "Folder for the IR after each pass and the kernels' text");
  c->callback([o, &chosen] { chosen = [o] { return run(*o); }; });
}

}  // namespace prism::tools
