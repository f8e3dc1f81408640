// prism run: text in, text out, streamed.
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "runtime/sampler.h"
#include "tools/commands.h"
#include "tools/model.h"
#include "tools/profile.h"

namespace prism::tools {

namespace {

using Clock = std::chrono::steady_clock;
double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

struct RunOptions {
  std::string model, prompt, file, isa, target, kv, pipeline, profile;
  int64_t count = 128, context = 0, evict = 0;
  unsigned threads = 0;
  bool persistent = false, json = false, reference = false, ignore_end = false;
  rt::SamplerOptions sampler;
};

Status run(RunOptions o) {
  if (!o.file.empty()) {
    PRISM_TRY(o.prompt, read_text(o.file));
  }
  PRISM_TRY(auto sampler, rt::Sampler::create(o.sampler));
  if (o.reference && !o.profile.empty()) return error("--profile: found --reference, expected kernels to measure");
  rt::Profile profile;
  Model model;
  std::unique_ptr<rt::Session> session;
  std::unique_ptr<gguf::Tokenizer> tokenizer;
  const auto load_start = Clock::now();
  if (o.reference) {
    PRISM_TRY(session, reference_session(o.model, o.kv));
    PRISM_TRY(tokenizer, load_tokenizer(o.model));
  } else {
    PRISM_TRY(model, load_model(o.model, {o.threads, {o.isa, with_eviction(o.pipeline, o.evict)}, o.target, o.kv}));
    PRISM_TRY(tokenizer, gguf::Tokenizer::create(*model.metadata));
  }
  PRISM_TRY(auto encoded, tokenizer->encode(o.prompt));
  std::vector<int32_t> ids;
  if (tokenizer->add_bos() && tokenizer->bos() >= 0) ids.push_back(tokenizer->bos());
  ids.insert(ids.end(), encoded.begin(), encoded.end());
  if (ids.empty()) return error("the prompt is empty and the model adds no BOS token; give some text with -p");
  if (!session) {
    const int64_t trained = model.executable->program().context_length, wanted = int64_t(ids.size()) + o.count;
    const int64_t context = o.context ? o.context : std::min(trained, std::max<int64_t>(4096, wanted));
    PRISM_TRY(session, about(o.model, rt::Session::create(model.executable, {o.threads, context, o.persistent, o.profile.empty() ? nullptr : &profile})));
  }
  const double load_ms = 1e3 * seconds(Clock::now() - load_start);

  const auto start = Clock::now();
  PRISM_CHECK(about(o.model, session->feed(ids)));
  for (int32_t id : ids) sampler.accept(id);
  gguf::StreamDecoder stream(*tokenizer);
  std::vector<int32_t> made;
  std::string text;
  double first_token_ms = 0, since_start_ms = 0;
  std::string stop = "length";
  auto first_at = start;
  auto emit = [&](const std::string& piece) -> Status {
    text += piece;
    if (o.json || piece.empty()) return ok();
    if (fwrite(piece.data(), 1, piece.size(), stdout) == piece.size() && fflush(stdout) == 0) return ok();
    return error("standard output: cannot write: ", strerror(errno));
  };
  if (!o.json) PRISM_CHECK(emit(o.prompt));
  for (int64_t i = 0; i < o.count; ++i) {
    PRISM_TRY(const int32_t id, about(o.model, session->sample(sampler)));
    if (i == 0) {
      first_at = Clock::now();
      first_token_ms = 1e3 * seconds(first_at - start);
      since_start_ms = 1e3 * seconds_since_process_start();
    }
    if (tokenizer->is_end(id) && !o.ignore_end) {
      stop = "end";
      break;
    }
    sampler.accept(id);
    made.push_back(id);
    PRISM_CHECK(emit(stream.push(id)));
    if (i + 1 == o.count) break;
    if (session->position() >= session->kv_stats().capacity) {
      stop = "context";
      break;
    }
    PRISM_CHECK(about(o.model, session->step(id)));
  }
  PRISM_CHECK(emit(stream.flush()));
  const double decode_seconds = seconds(Clock::now() - first_at);
  const double rate = made.size() > 1 ? double(made.size() - 1) / decode_seconds : 0;
  const rt::KvStats kv = session->kv_stats();
  if (o.json) {
    const nlohmann::json out = {
        {"text", text}, {"prompt_ids", ids}, {"ids", made}, {"stop", stop}, {"load_ms", load_ms}, {"compiled", model.compiled_now},
        {"first_token_ms", first_token_ms}, {"first_token_since_start_ms", since_start_ms}, {"tokens_per_second", rate},
        {"prompt_tokens_per_second", double(ids.size()) / (1e-3 * first_token_ms)},
        {"kv", {{"dtype", kv.dtype}, {"positions", kv.positions}, {"demoted", kv.demoted}, {"evicted", kv.evicted}, {"compressing_ms", 1e3 * kv.compressing_seconds}, {"capacity", kv.capacity}, {"bytes_used", kv.bytes_used},
                {"bytes_exact", kv.bytes_exact}, {"bytes_allocated", kv.bytes_allocated}, {"bytes_f16", kv.bytes_f16}, {"bytes_f32", kv.bytes_f32}}}};
    print_json(out);
  } else {
    printf("\n");
    fflush(stdout);
    const std::string evicted = kv.evicted ? std::to_string(kv.evicted) + " evicted, added up over layers, " : "";
    fprintf(stderr,
            "\nload          %.0f ms%s\nfirst token   %.1f ms after the prompt (%zu tokens, %.0f tokens/s), %.0f ms after process start\n"
            "decode        %zu tokens, %.1f tokens/s (stopped: %s)\n"
            "kv cache      %s: %lld of %lld positions, %lld of them demoted, %s%.2f MiB used of %.2f MiB (f16 would take %.2f MiB, f32 %.2f MiB)\n",
            load_ms, model.compiled_now ? " (compiled; the next run uses the cache)" : "", first_token_ms, ids.size(),
            double(ids.size()) / (1e-3 * first_token_ms), since_start_ms, made.size(), rate, stop.c_str(), kv.dtype.c_str(),
            (long long)kv.positions, (long long)kv.capacity, (long long)kv.demoted, evicted.c_str(), double(kv.bytes_used) / 1048576, double(kv.bytes_allocated) / 1048576,
            double(kv.bytes_f16) / 1048576, double(kv.bytes_f32) / 1048576);
    if (kv.compressing_seconds > 0) fprintf(stderr, "              demoting took %.1f ms of all threads\n", 1e3 * kv.compressing_seconds);
  }
  if (o.profile.empty()) return ok();
  fflush(stdout);
  return report_profile(profile, model.executable->program(), o.profile);
}

}  // namespace

void add_run(CLI::App& app, Action& chosen) {
  auto o = std::make_shared<RunOptions>();
  CLI::App* c = app.add_subcommand("run", "Generate text with a model (compiled once and cached; a .prx runs as it is)");
  c->add_option("model", o->model, kModelOrPrxHelp)->required();
  auto* prompt = c->add_option_group("prompt")->require_option(1);
  prompt->add_option("-p,--prompt", o->prompt, "Text to continue");
  prompt->add_option("-f,--file", o->file, "File of text to continue, - for standard input");
  c->add_option("-n,--count", o->count, "Tokens to generate at most")->capture_default_str()->check(CLI::Range(int64_t(1), int64_t(1) << 30));
  c->add_option("--temp", o->sampler.temperature, "Temperature; 0 picks the likeliest token")->capture_default_str();
  c->add_option("--top-k", o->sampler.top_k, "Keep the k likeliest tokens; 0 keeps all")->capture_default_str();
  c->add_option("--top-p", o->sampler.top_p, "Keep the likeliest tokens that sum to p")->capture_default_str();
  c->add_option("--min-p", o->sampler.min_p, "Drop tokens below this fraction of the likeliest")->capture_default_str();
  c->add_option("--repeat-penalty", o->sampler.repeat_penalty, "Divide the logits of recent tokens")->capture_default_str();
  c->add_option("--seed", o->sampler.seed, "Seed of the random draw")->capture_default_str();
  add_threads(*c, o->threads);
  c->add_option("--ctx", o->context, "Positions the KV cache holds; 0 = 4096 or what the run needs")->check(CLI::NonNegativeNumber);
  add_target(*c, o->target);
  add_isa(*c, o->isa);
  add_pipeline(*c, o->pipeline);
  add_kv(*c, o->kv);
  add_kv_evict(*c, o->evict);
  c->add_flag("--persistent", o->persistent, "GPUs: do a step in one launch of a kernel that stays, instead of a graph of launches");
  add_profile(*c, o->profile);
  c->add_flag("--ignore-eos", o->ignore_end, "Go on after the model's end-of-text token");
  c->add_flag("--reference", o->reference, "Use the reference evaluator (f32, slow)");
  c->add_flag("--json", o->json, "Print one JSON object with text, ids and timings");
  c->callback([o, &chosen] { chosen = [o] { return run(*o); }; });
}

}  // namespace prism::tools
