// prism calibrate: what a model's matrices read, measured over a text.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "runtime/temporary_file.h"
#include "tools/commands.h"
#include "tools/model.h"
#include "tools/quantize/calibration.h"
#include "tools/sensitivity.h"

namespace prism::tools {

namespace {

using nlohmann::json;

struct Options {
  std::string model, text, out;
  int64_t tokens = 4096, window = 512, sensitivity = 0;
  unsigned threads = 0;
  bool allow_constant = false, json = false;
};

/// The text's first tokens; where the model expects it, every window begins with BOS.
Result<std::vector<int32_t>> read_ids(const gguf::File& file, const Options& o) {
  PRISM_TRY(const std::string text, read_text(o.text));
  PRISM_TRY(const auto tokenizer, gguf::Tokenizer::create(file));
  PRISM_TRY(const auto all, about(o.text, tokenizer->encode(text, /*parse_special=*/false)));
  std::vector<int32_t> ids;
  for (int32_t id : all) {
    if (ids.size() >= size_t(o.tokens)) break;
    if (tokenizer->add_bos() && ids.size() % size_t(o.window) == 0) ids.push_back(tokenizer->bos());
    ids.push_back(id);
  }
  if (ids.size() < 2) return error(o.text, ": found ", ids.size(), " tokens, expected at least 2: a range needs two values");
  return ids;
}

/// Reads the ids in pieces that each begin an empty context.
Result<std::map<std::string, quantize::Inputs, std::less<>>> collect(const Options& o, const std::vector<int32_t>& ids) {
  quantize::Collector collector;
  PRISM_TRY(const auto session, reference_session(o.model, "", [&](const ir::Operation& op, const auto& in, const auto&) { collector.observe(op, in); }));
  const rt::Progress progress = stderr_progress();
  for (size_t at = 0; at < ids.size(); at += size_t(o.window)) {
    progress("reading the text", double(at) / double(ids.size()));
    session->rewind(0);
    const auto piece = std::span(ids).subspan(at, std::min(size_t(o.window), ids.size() - at));
    PRISM_CHECK(about(o.model, session->score(piece, [](size_t, std::span<const float>) {})));
  }
  progress("reading the text", 1);
  return about(o.model, collector.finish(o.allow_constant));
}

Status run(Options o) {
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  PRISM_TRY(const auto file, gguf::File::open(o.model));
  quantize::Calibration c;
  PRISM_TRY(const std::string architecture, file->get_string("general.architecture"));
  PRISM_TRY(const int64_t context, file->get_int(architecture + ".context_length", o.window));
  o.window = std::min(o.window, context);
  PRISM_TRY(c.name, file->get_string("general.name", ""));
  PRISM_TRY(c.model, reference_to(*file, o.threads));
  PRISM_TRY(c.ids, read_ids(*file, o));
  c.allow_constant = o.allow_constant;
  c.window = o.window;
  PRISM_TRY(auto out, rt::TemporaryFile::create(o.out));  // a long run should not fail at its end
  PRISM_TRY(c.inputs, collect(o, c.ids));
  const double collected = seconds();
  if (o.sensitivity) PRISM_CHECK(measure_sensitivities(file, c, o.sensitivity, o.threads));
  const std::string bytes = quantize::calibration_bytes(c);
  PRISM_CHECK(out.write({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}));
  PRISM_CHECK(out.commit());
  if (o.json) {
    json matrices = json::array();
    for (const auto& [name, in] : c.inputs) {
      json row = {{"name", name}, {"channels", in.mean_square.size()}};
      for (const auto& [key, p] : {std::pair{"p0.1", 0.001}, {"p1", 0.01}, {"p50", 0.5}, {"p99", 0.99}, {"p99.9", 0.999}}) row[key] = in.histogram.percentile(p);
      if (!in.minimum.empty()) {
        row["minimum"] = *std::ranges::min_element(in.minimum);
        row["maximum"] = *std::ranges::max_element(in.maximum);
      }
      if (in.sensitivity) row["sensitivity"] = *in.sensitivity;
      matrices.push_back(row);
    }
    print_json({{"file", o.out}, {"tokens", c.ids.size()}, {"seconds", seconds()}, {"matrices", matrices}});
    return ok();
  }
  fprintf(stderr, "%s: inputs of %zu matrices over %zu tokens in %.1f s", o.out.c_str(), c.inputs.size(), c.ids.size(), collected);
  if (o.sensitivity) fprintf(stderr, ", sensitivities in %.1f s", seconds() - collected);
  fprintf(stderr, "\n");
  return ok();
}

}  // namespace

void add_calibrate(CLI::App& app, Action& chosen) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("calibrate", "Measure what a model's matrices read over a text, for prism quantize");
  c->footer("Records, for the inputs of every matrix, each channel's mean square, minimum and maximum and a histogram of all, as evaluated op by\n"
            "op in f32. With --sensitivity also how far the model's predictions move (KL divergence) when that matrix alone is quantized:\n"
            "prism quantize --auto chooses formats by it.");
  c->add_option("model", o->model, kModelHelp)->required();
  c->add_option("--text", o->text, "Text of the kind that the model will read, - for standard input")->required();
  c->add_option("-o,--output", o->out, "The calibration file to write")->required();
  c->add_option("--tokens", o->tokens, "Tokens of the text to read at most")->capture_default_str()->check(CLI::Range(2, 1 << 24));
  c->add_option("--window", o->window, "Tokens that are read in one context, at most the model's")->capture_default_str()->check(CLI::Range(2, 1 << 20));
  c->add_option("--sensitivity", o->sensitivity, "Measure sensitivities too, over as many of the tokens (128 are a good start); default: none")
      ->check(CLI::Range(0, 1 << 20));
  c->add_flag("--allow-constant", o->allow_constant, "Take channels that are the same for all tokens, as where a norm has weights of 0");
  add_threads(*c, o->threads);
  c->add_flag("--json", o->json, "Print one JSON object with every matrix' ranges, percentiles and sensitivity");
  c->callback([o, &chosen] { chosen = [o] { return run(*o); }; });
}

}  // namespace prism::tools
