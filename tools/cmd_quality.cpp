// prism quality: by how much a variant of a model differs from the model.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>

#include "analysis/lockstep.h"
#include "frontends/gguf/model.h"
#include "frontends/gguf/synth.h"
#include "passes/util.h"
#include "tools/commands.h"
#include "tools/model.h"
#include "tools/quality_report.h"

namespace prism::tools {

namespace {

using analysis::Runner;
using passes::PipelineStep;

constexpr int64_t kDefaultContext = 2048;

struct Options {
  std::string model, text, against, isa, target, kv, pipeline;
  std::vector<std::string> against_kv;
  int64_t context = 0, chunk = 128, limit = 0, from = 0;
  unsigned threads = 0;
  std::string each_layer;   // a type of insert-quantization
  bool prompt = false, noise_only = false, no_noise = false, reference = false, each_pass = false, json = false;
};

/// A model that takes part. One without an executable is the reference evaluator.
struct Side {
  std::string name;   ///< what makes it a variant
  std::string path;
  Model model;
  bool fed = false;
};

/// `like`: a side of the same file; equal weights are in memory once.
Result<Side> load(const Options& o, const std::string& name, const std::string& path, const std::string& kv, const std::string& pipeline, const Side* like = nullptr) {
  PRISM_TRY(const FileKind kind, file_kind(path));
  if (kind == FileKind::Prx && !pipeline.empty())
    return error(path, ": found a pipeline for a .prx, whose passes have run; give the model file it was compiled from");
  PRISM_TRY(Model model, load_model(path, {o.threads, {o.isa, pipeline}, o.target, kv, like && like->path == path ? like->model.executable : nullptr}));
  return Side{name, path, std::move(model), o.prompt};
}

/// --against names passes, not a file.
bool is_pipeline(const std::string& against) {
  const bool file = gguf::is_synth(against) || against.ends_with(".gguf") || against.ends_with(".prx") || std::filesystem::exists(against);
  return !file || passes::parse_pipeline(against);
}

std::string variant_path(const Options& o) { return o.against.empty() || is_pipeline(o.against) ? o.model : o.against; }

/// What --against and one of --against-kv, or "", name.
Result<Side> load_variant(const Options& o, const std::string& against_kv, const Side* base) {
  std::string name = o.against;
  if (!against_kv.empty()) name += (name.empty() ? "" : ", ") + ("KV cache in " + kv_label(against_kv));
  if (name.empty()) name = "compiled";  // beside the reference
  const bool passes = !o.against.empty() && is_pipeline(o.against);
  return load(o, name, variant_path(o), against_kv.empty() ? o.kv : against_kv, passes ? o.against : o.pipeline, base);
}

/// Without the passes that reduce precision, but for the first `kept` of them.
std::string without_reducing(const std::vector<PipelineStep>& pipeline, size_t kept) {
  std::vector<PipelineStep> left;
  size_t reducing = 0;
  for (const PipelineStep& step : pipeline)
    if (step.pass->precision == passes::Precision::Keeps || reducing++ < kept) left.push_back(step);
  return passes::print_pipeline(left);
}

/// The pipeline with more and more of the passes that reduce precision, from none, unless the reference is the base, to all.
Result<std::vector<Side>> load_each_pass(const Options& o) {
  CompileOptions compile{o.isa, o.pipeline};
  PRISM_TRY(compile.target, parse_target(o.target));
  PRISM_TRY(const auto pipeline, pipeline_of(compile));
  std::vector<std::string> reducing;
  for (const PipelineStep& step : pipeline)
    if (step.pass->precision == passes::Precision::Reduces) reducing.emplace_back(step.pass->name);
  if (reducing.empty()) return error("--each-pass: found no pass in the pipeline that reduces precision, expected at least one");
  std::vector<Side> sides;
  if (!o.reference) {
    auto base = load(o, "base", o.model, o.kv, without_reducing(pipeline, 0));
    if (!base) return error("--each-pass: without ", reducing[0], ": ", base.message(), "; --reference compares with the reference evaluator instead");
    sides.push_back(*std::move(base));
  }
  for (size_t kept = 1; kept <= reducing.size(); ++kept) {
    PRISM_TRY(auto side, load(o, (kept > 1 ? "and " : "") + reducing[kept - 1], o.model, o.kv, without_reducing(pipeline, kept), sides.empty() ? nullptr : &sides[0]));
    sides.push_back(std::move(side));
  }
  return sides;
}

/// The base, unless it is the reference, and the variants.
Result<std::vector<Side>> load_sides(const Options& o) {
  if (o.each_pass) return load_each_pass(o);
  std::vector<Side> sides;
  if (!o.reference) {
    PRISM_TRY(auto base, load(o, "base", o.model, o.kv, o.pipeline));
    sides.push_back(std::move(base));
  }
  if (o.noise_only || !o.each_layer.empty()) return sides;
  for (const std::string& kv : o.against_kv.empty() ? std::vector<std::string>{""} : o.against_kv) {
    PRISM_TRY(auto variant, load_variant(o, kv, sides.empty() ? nullptr : &sides[0]));
    sides.push_back(std::move(variant));
  }
  return sides;
}

/// The layers that have linears, as texts that the names of their weights contain.
Result<std::vector<std::string>> layers_of(const Options& o) {
  PRISM_TRY(const auto file, gguf::File::open(o.model));
  PRISM_TRY(const auto module, gguf::build_module(file, {.weights = false}));
  std::vector<std::string> layers;
  for (const auto& g : module->graphs)
    for (const ir::Operation& op : g->ops) {
      if (op.op != ir::Op::Linear || !ir::is_float(op.operand(1)->type.dtype)) continue;
      const std::string& name = op.operand(1)->name;
      const std::string layer(passes::layer_of(name));
      const std::string text = layer == name ? layer : layer + ".";
      if (std::ranges::find(layers, text) == layers.end()) layers.push_back(text);
    }
  if (layers.empty()) return error(o.model, ": --each-layer: found no linear with weights of f32, f16 or bf16, expected at least one");
  return layers;
}

/// The ids of the text, for both models the same.
Result<Tokens> common_tokens(const std::string& model, const std::string& variant, const std::string& text) {
  PRISM_TRY(Tokens tokens, tokenize(model, text));
  if (variant == model) return tokens;
  PRISM_TRY(const Tokens other, tokenize(variant, text));
  if (other.bos != tokens.bos) return error(variant, ": BOS: found ", other.bos, ", expected ", tokens.bos, ", that of ", model);
  const auto &a = tokens.ids, &b = other.ids;
  if (a == b) return tokens;
  const auto same = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
  return error(variant, ": found a tokenizer whose ids of the text differ from the one at ", same, " on, expected that of ", model);
}

/// The positions of a context: as asked for, or what all models have, up to 2048.
int64_t choose_context(const Options& o, const std::vector<Side>& sides) {
  if (o.context) return o.context;
  int64_t context = kDefaultContext;
  for (const Side& s : sides)
    if (const int64_t has = s.model.executable->program().context_length; has > 0) context = std::min(context, has);
  return context;
}

Result<Runner> start(const Options& o, const Side& side, int64_t context) {
  PRISM_TRY(auto session, about(side.path, rt::Session::create(side.model.executable, {o.threads, context})));
  return Runner{side.path + " (" + side.name + ")", std::move(session), side.fed};
}

/// How far it is and how fast: now and then on a terminal, every tenth otherwise, once a second has passed.
std::function<void(int64_t, int64_t)> lockstep_progress() {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const bool terminal = isatty(2);
  return [=, next = start + std::chrono::seconds(1), tenth = int64_t(0)](int64_t done, int64_t total) mutable {
    const auto now = Clock::now();
    if (now < next || (!terminal && done != total && 10 * done / total == tenth)) return;
    tenth = 10 * done / total;
    if (terminal) next = now + std::chrono::milliseconds(100);
    const double rate = double(done) / std::chrono::duration<double>(now - start).count();
    fprintf(stderr, "%scomparing %3d%%, %.0f tokens/s%s", terminal ? "\r" : "", int(100 * done / total), rate, terminal && done != total ? "  " : "\n");
  };
}

Status run(const Options& o) {
  if (o.against.empty() && o.against_kv.empty() && !o.noise_only && !o.reference && !o.each_pass && o.each_layer.empty())
    return error("found no variant, expected --against, --against-kv, --each-pass, --each-layer, --reference or --noise-only");
  PRISM_TRY(const std::string text, read_text(o.text));
  PRISM_TRY(const auto tokens, common_tokens(o.model, variant_path(o), text));
  const size_t ids = o.limit ? std::min(tokens.ids.size(), size_t(o.limit)) : tokens.ids.size();
  if (ids == 0) return error(o.text, ": found no text, expected at least one id");
  std::unique_ptr<rt::Session> reference;
  if (o.reference) {
    PRISM_TRY(reference, reference_session(o.model, o.kv));
  }
  PRISM_TRY(auto sides, load_sides(o));
  const bool noise = !o.no_noise && !o.reference && o.each_layer.empty();
  if (noise) {
    sides.push_back(sides[0]);
    sides.back().fed = !o.prompt;
    sides.back().name = "noise";
  }
  const int64_t context = choose_context(o, sides);
  std::vector<Runner> runners;
  if (reference) runners.push_back({o.model + " (reference)", std::move(reference), o.prompt});
  for (const Side& s : sides) {
    PRISM_TRY(auto runner, start(o, s, context));
    runners.push_back(std::move(runner));
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto compare = [&] {
    const analysis::LockstepOptions lockstep{context, o.chunk, o.from, tokens.bos, o.threads, lockstep_progress()};
    return analysis::run_in_lockstep(runners[0], std::span(runners).subspan(1), std::span(tokens.ids).first(ids), lockstep);
  };
  QualityReport report;
  analysis::LockstepResult result;
  if (o.each_layer.empty()) {
    PRISM_TRY(result, compare());
  } else {
    PRISM_TRY(const auto layers, layers_of(o));
    const std::string then = o.pipeline.empty() ? "" : "," + o.pipeline;   // as the base
    for (const std::string& layer : layers) {
      fprintf(stderr, "%s (%zu of %zu)\n", layer.c_str(), report.variants.size() + 1, layers.size());
      runners.resize(1);
      PRISM_TRY(const Side side, load(o, layer, o.model, o.kv, "insert-quantization{type=" + o.each_layer + ",protect=none,only=" + layer + "},fold-quantization" + then, &sides[0]));
      PRISM_TRY(runners.emplace_back(), start(o, side, context));
      PRISM_TRY(auto one, compare());
      one.variants.insert(one.variants.begin(), std::make_move_iterator(result.variants.begin()), std::make_move_iterator(result.variants.end()));
      one.base_seconds += result.base_seconds;
      one.comparison_seconds += result.comparison_seconds;
      result = std::move(one);
      report.variants.push_back(layer);
    }
  }

  const rt::Program& p = sides[0].model.executable->program();
  report.model = p.name;
  PRISM_TRY(report.architecture, sides[0].model.metadata->get_string("general.architecture", "unknown"));
  report.isa = p.codes.at(0).isa;
  report.base = o.reference ? "reference evaluator in f32" : "KV cache in " + (p.kv.empty() ? std::string("nothing") : p.kv[0].name());
  for (size_t i = o.reference ? 0 : 1; i < sides.size(); ++i) report.variants.push_back(sides[i].name);
  report.noise = noise;
  report.context = context;
  report.chunk = o.chunk;
  report.from = o.from;
  report.prompt = o.prompt;
  report.ids = int64_t(ids);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  report.result = std::move(result);
  if (o.json) print_json(report);
  else print_table(report);
  return ok();
}

}  // namespace

void add_quality(CLI::App& app, Action& chosen) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("quality", "Compare a model with a variant of it over a text: perplexity, KL divergence, agreement on the likeliest token");
  c->add_option("model", o->model, kModelOrPrxHelp)->required();
  c->add_option("--text", o->text, "File of UTF-8 text, - for standard input")->required();
  auto* against = c->add_option("--against", o->against, "The variant: passes as --pipeline takes them, or another model with the same tokenizer");
  c->add_option("--against-kv", o->against_kv, "Element type of the variant's KV cache, or what --kv takes; for several variants several, for example bf16,k8v8,k4v3")
      ->delimiter(',')->allow_extra_args(false)->check(kv_type);
  auto* each_pass = c->add_flag("--each-pass", o->each_pass, "The variants: the pipeline with the passes that reduce precision switched on one after the other, against none of them");
  auto* each_layer = c->add_option("--each-layer", o->each_layer, "The variants: one layer after the other rounded to this, to see which to name in insert-quantization{keep=...}")->check(CLI::IsMember({"int8", "f16", "bf16"}));
  auto* reference = c->add_flag("--reference", o->reference, "Compare with the reference evaluator (f32, slow); without --against, the compiled model is the variant");
  auto* noise_only = c->add_flag("--noise-only", o->noise_only, "No variant, only the noise: the model against itself, its context read the other way (see --prompt)");
  auto* no_noise = c->add_flag("--no-noise", o->no_noise, "Leave the noise out");
  c->add_option("--ctx", o->context, "Ids of a context, each of which begins with an empty cache; 0 = 2048 or what the models have")->check(CLI::NonNegativeNumber);
  c->add_option("--chunk", o->chunk, "Ids that the kernels of prompts read at once")->capture_default_str()->check(CLI::Range(int64_t(1), int64_t(1) << 30));
  c->add_flag("--prompt", o->prompt, "The kernels of prompts read the contexts of model and variant, not those that generate");
  c->add_option("--limit", o->limit, "Ids of the text at most; 0 = all")->check(CLI::NonNegativeNumber);
  c->add_option("--from", o->from, "Count only this position of each context and those after it")->check(CLI::NonNegativeNumber);
  add_threads(*c, o->threads);
  add_target(*c, o->target);
  add_isa(*c, o->isa);
  add_kv(*c, o->kv);
  add_pipeline(*c, o->pipeline);
  c->add_flag("--json", o->json, "Print JSON");
  each_pass->excludes(against)->excludes("--against-kv")->excludes(noise_only);
  each_layer->excludes(against)->excludes("--against-kv")->excludes(noise_only)->excludes(each_pass)->excludes(reference);
  noise_only->excludes(against)->excludes("--against-kv")->excludes(no_noise)->excludes(reference);
  c->callback([o, &chosen] { chosen = [o] { return run(*o); }; });
}

}  // namespace prism::tools
