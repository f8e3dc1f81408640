// prism synth: a model of random weights in the shape of a public one, as a GGUF file.
#include <chrono>
#include <cstdio>

#include "frontends/gguf/synth.h"
#include "tools/commands.h"
#include "tools/write_model.h"

namespace prism::tools {

namespace {

struct Options {
  std::string shape, out, type, seed, layers, vocab, context;
  unsigned threads = 0;
  bool list = false;
};

void list() {
  printf("%-14s %-12s %6s %7s %15s   gigabytes as", "shape", "architecture", "layers", "vocab", "parameters");
  for (std::string_view type : gguf::synth_types()) printf(" %6s", std::string(type).c_str());
  for (const gguf::Shape& shape : gguf::shapes()) {
    const uint64_t parameters = gguf::Synth{.shape = shape}.parameters();
    printf("\n%-14s %-12s %6lld %7lld %15llu               ", std::string(shape.name).c_str(), std::string(shape.architecture).c_str(),
           (long long)shape.layers, (long long)shape.vocab, (unsigned long long)parameters);
    for (std::string_view type : gguf::synth_types()) {
      uint64_t bytes = 0;
      for (const gguf::TensorInfo& t : gguf::Synth{.shape = shape, .type = type}.tensors()) bytes += t.bytes;
      printf(" %6.*f", bytes < 100'000'000 ? 4 : 2, 1e-9 * double(bytes));
    }
  }
  printf("\n");
}

Status run(const Options& o) {
  if (o.list) {
    list();
    return ok();
  }
  std::string name = "synth:" + o.shape + (o.type.empty() ? "" : ":" + o.type);
  for (const auto& [key, value] : {std::pair{"seed", o.seed}, {"layers", o.layers}, {"vocab", o.vocab}, {"ctx", o.context}})
    if (!value.empty()) name += std::string(":") + key + "=" + value;
  const auto start = std::chrono::steady_clock::now();
  PRISM_TRY(const auto synth, gguf::parse_synth(name));
  PRISM_TRY(const auto model, gguf::File::open(name));
  PRISM_CHECK(write_model(*model, o.out, "writing", o.threads));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fprintf(stderr, "%s: %s, %llu parameters, %.1f MiB in %.2f s (%.2f GB/s)\n", o.out.c_str(), synth.path().c_str(),
          (unsigned long long)synth.parameters(), double(model->size()) / 1048576, seconds, 1e-9 * double(model->size()) / seconds);
  return ok();
}

}  // namespace

void add_synth(CLI::App& app, Action& chosen) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("synth", "Make a model of random weights in the shape of a public one, to measure speed with");
  c->footer("The other commands take synth:SHAPE[:TYPE][:seed=N][:layers=N][:vocab=N][:ctx=N] in place of a GGUF file and make the\n"
            "weights in memory: prism bench synth:llama-3.2-1b:q4_k_m");
  std::string types;
  for (std::string_view t : gguf::synth_types()) types += (types.empty() ? "" : ", ") + std::string(t);
  c->add_option("shape", o->shape, "A shape that --list shows");
  c->add_option("-o,--output", o->out, "The GGUF file to write");
  c->add_option("--type", o->type, "Type of the matrices: " + types + "; default: q4_k_m");
  c->add_option("--seed", o->seed, "The weights are a function of it and the tensors' names; default: 1");
  c->add_option("--layers", o->layers, "Layers; default: the shape's");
  c->add_option("--vocab", o->vocab, "Tokens; default: the shape's");
  c->add_option("--ctx", o->context, "Positions of the context; default: the shape's");
  add_threads(*c, o->threads);
  c->add_flag("--list", o->list, "List the shapes, their parameters and sizes");
  c->callback([o, &chosen] {
    if (!o->list && o->shape.empty()) throw CLI::RequiredError("shape");
    if (!o->list && o->out.empty()) throw CLI::RequiredError("--output");
    chosen = [o] { return run(*o); };
  });
}

}  // namespace prism::tools
