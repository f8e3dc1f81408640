// prism bench: prefill and decode speed.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/commands.h"
#include "tools/model.h"
#include "tools/profile.h"

namespace prism::tools {

namespace {

struct Options {
  std::string model, isa, target, profile;
  int64_t prompt = 512, count = 128, depth = 0;
  unsigned threads = 2, repeats = 5;
  bool persistent = false, json = false;
};

struct Samples {
  std::vector<double> rates;
  double median() const {
    if (rates.empty()) return 0;
    auto s = rates;
    std::sort(s.begin(), s.end());
    return s.size() % 2 ? s[s.size() / 2] : 0.5 * (s[s.size() / 2 - 1] + s[s.size() / 2]);
  }
  nlohmann::json json(int64_t tokens) const {
    auto [lo, hi] = std::minmax_element(rates.begin(), rates.end());
    return {{"tokens", tokens}, {"median", median()}, {"min", rates.empty() ? 0 : *lo}, {"max", rates.empty() ? 0 : *hi}, {"samples", rates}};
  }
};

Status run(const Options& o) {
  using Clock = std::chrono::steady_clock;
  PRISM_TRY(auto model, load_model(o.model, {o.threads, {o.isa}, o.target}));
  const rt::Program& p = model.executable->program();
  rt::Profile profile;
  PRISM_TRY(auto session, about(o.model, rt::Session::create(model.executable, {o.threads, o.depth + std::max(o.prompt, o.count) + 1, o.persistent,
                                                                                o.profile.empty() ? nullptr : &profile})));
  // Any ids do; a fixed sequence that wanders over the vocabulary.
  auto ids = [&](int64_t n) {
    std::vector<int32_t> v;
    uint64_t x = 12345;
    for (int64_t i = 0; i < n; ++i) v.push_back(int32_t((x = x * 6364136223846793005ull + 1442695040888963407ull) >> 33) % int32_t(p.vocab));
    return v;
  };
  if (o.depth > 0) PRISM_CHECK(session->feed(ids(o.depth)));
  PRISM_TRY(auto greedy, rt::Sampler::create({}));
  Samples prefill, decode;
  auto timed = [&](Samples& out, int64_t n, bool one_by_one, bool count) -> Status {
    const auto list = ids(n);
    const auto start = Clock::now();
    if (one_by_one) {
      for (int32_t id : list) {
        PRISM_CHECK(session->step(id));
        PRISM_CHECK(session->sample(greedy));  // what generating a token takes
      }
    } else {
      PRISM_CHECK(session->feed(list));
      PRISM_CHECK(session->sample(greedy));
    }
    if (count) out.rates.push_back(double(n) / std::chrono::duration<double>(Clock::now() - start).count());
    session->rewind(o.depth);
    return ok();
  };
  for (unsigned r = 0; r <= o.repeats; ++r) {  // the first round warms up
    if (o.prompt > 0) PRISM_CHECK(timed(prefill, r ? o.prompt : o.prompt, false, r > 0));
    if (o.count > 0) PRISM_CHECK(timed(decode, r ? o.count : std::min<int64_t>(o.count, 8), true, r > 0));
    if (r == 0) profile.clear();
  }
  if (!o.profile.empty()) PRISM_CHECK(report_profile(profile, p, o.profile));
  PRISM_TRY(auto architecture, model.metadata->get_string("general.architecture", "unknown"));
  if (o.json) {
    const nlohmann::json out = {{"model", p.name}, {"architecture", architecture}, {"isa", p.codes.at(0).isa}, {"threads", o.threads}, {"depth", o.depth},
                                {"weight_bytes", p.weight_bytes}, {"load_ms", model.load_seconds * 1e3},
                                {"prefill", prefill.json(o.prompt)}, {"decode", decode.json(o.count)}};
    printf("%s\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return ok();
  }
  printf("%s (%s), %s, %u threads, depth %lld\n", p.name.c_str(), architecture.c_str(), p.codes.at(0).isa.c_str(), o.threads, (long long)o.depth);
  auto row = [&](const char* what, int64_t n, const Samples& s) {
    if (s.rates.empty()) return;
    auto [lo, hi] = std::minmax_element(s.rates.begin(), s.rates.end());
    printf("%-8s %6lld tokens  %9.1f tokens/s  (%.1f to %.1f)\n", what, (long long)n, s.median(), *lo, *hi);
  };
  row("prefill", o.prompt, prefill);
  row("decode", o.count, decode);
  return ok();
}

}  // namespace

void add_bench(CLI::App& app, Action& chosen) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("bench", "Measure prefill and decode speed: median and spread");
  c->add_option("model", o->model, "GGUF or .prx file, or synth:SHAPE")->required();
  c->add_option("-p,--prompt-tokens", o->prompt, "Tokens of prefill; 0 skips it")->capture_default_str()->check(CLI::NonNegativeNumber);
  c->add_option("-n,--count", o->count, "Tokens to decode; 0 skips it")->capture_default_str()->check(CLI::NonNegativeNumber);
  c->add_option("-t,--threads", o->threads, "Threads")->capture_default_str()->check(CLI::Range(1, 1024));
  c->add_option("-r,--repeats", o->repeats, "Counted rounds, after one to warm up")->capture_default_str()->check(CLI::Range(1, 1000));
  c->add_option("-d,--depth", o->depth, "Positions already in the cache")->capture_default_str()->check(CLI::NonNegativeNumber);
  add_target(*c, o->target);
  add_isa(*c, o->isa);
  add_profile(*c, o->profile);
  c->add_flag("--persistent", o->persistent, "GPUs: do a step in one launch of a kernel that stays, instead of a graph of launches");
  c->add_flag("--json", o->json, "Print JSON");
  c->callback([o, &chosen] { chosen = [o] { return run(*o); }; });
}

}  // namespace prism::tools
