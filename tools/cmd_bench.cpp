// prism bench: prefill and decode speed, and how far from what the machine can do.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "codegen/limits.h"
#include "tools/commands.h"
#include "tools/model.h"
#include "tools/profile.h"

namespace prism::tools {

namespace {

using nlohmann::json;

struct Options {
  std::string model, isa, target, kv, pipeline, profile;
  std::vector<int64_t> prompts = {512}, counts = {128}, scores, depths = {0};
  std::vector<unsigned> threads = {2};
  unsigned repeats = 5;
  int64_t evict = 0;
  bool persistent = false, json = false, limits = true;
};

using How = rt::Session::How;

const char* phase_name(How how) { return how == How::Feed ? "prefill" : how == How::Step ? "decode" : "verify"; }

/// A thing to measure.
struct Row {
  How how = How::Feed;
  int64_t tokens = 0, depth = 0;
  unsigned threads = 0;
  rt::Amounts amounts;          ///< of all its tokens
  std::vector<double> rates;    ///< tokens per second

  double median() const {
    auto s = rates;
    std::sort(s.begin(), s.end());
    return s.size() % 2 ? s[s.size() / 2] : 0.5 * (s[s.size() / 2 - 1] + s[s.size() / 2]);
  }
  double least() const { return *std::min_element(rates.begin(), rates.end()); }
  double most() const { return *std::max_element(rates.begin(), rates.end()); }
  /// What must come from memory: the weights and the cache. What is between the kernels stays in the processor.
  double bytes_per_token() const { return double(amounts.weights + amounts.kv) / double(tokens); }
  double bytes_per_second() const { return bytes_per_token() * median(); }
  double operations_per_second() const { return double(amounts.operations) / double(tokens) * median(); }
};

using LimitsByThreads = std::map<unsigned, codegen::Limits>;

/// Any ids do; a fixed sequence that wanders over the vocabulary.
std::vector<int32_t> some_ids(int64_t n, int64_t vocab) {
  std::vector<int32_t> v;
  uint64_t x = 12345;
  for (int64_t i = 0; i < n; ++i) v.push_back(int32_t((x = x * 6364136223846793005ull + 1442695040888963407ull) >> 33) % int32_t(vocab));
  return v;
}

/// As many positions as `depth`; a compressed cache may have to begin anew.
Status stand_at(rt::Session& session, int64_t depth, int64_t vocab) {
  const int64_t left = session.rewind(depth);
  return left < depth ? session.feed(some_ids(depth - left, vocab)) : ok();
}

/// One round of a row; the session stands at its depth before and after.
Status measure(rt::Session& session, rt::Sampler& greedy, Row& row, int64_t tokens, int64_t vocab, bool count) {
  const std::vector<int32_t> ids = some_ids(tokens, vocab);
  const auto start = std::chrono::steady_clock::now();
  switch (row.how) {
    case How::Feed:
      PRISM_CHECK(session.feed(ids));
      PRISM_CHECK(session.sample(greedy));
      break;
    case How::Step:
      for (int32_t id : ids) {
        PRISM_CHECK(session.step(id));
        PRISM_CHECK(session.sample(greedy));  // what generating a token takes
      }
      break;
    case How::Score: PRISM_CHECK(session.score(ids, [](size_t, std::span<const float>) {})); break;
  }
  if (count) row.rates.push_back(double(ids.size()) / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return stand_at(session, row.depth, vocab);
}

/// All rows of some threads; those of a depth take turns.
Status measure_rows(const Options& o, const std::shared_ptr<rt::Executable>& executable, unsigned threads, rt::Profile* profile, std::vector<Row>& rows) {
  const auto most = [](const std::vector<int64_t>& v) { return v.empty() ? 0 : *std::max_element(v.begin(), v.end()); };
  PRISM_TRY(auto session, about(o.model, rt::Session::create(executable, {threads, most(o.depths) + std::max({most(o.prompts), most(o.counts), most(o.scores)}) + 1, o.persistent, profile})));
  PRISM_TRY(auto greedy, rt::Sampler::create({}));
  const int64_t vocab = executable->program().vocab;
  for (const int64_t depth : o.depths) {
    session->rewind(0);
    PRISM_CHECK(stand_at(*session, depth, vocab));
    std::vector<Row> here;
    for (const int64_t n : o.prompts)
      if (n > 0) here.push_back({How::Feed, n, depth, threads});
    for (const int64_t n : o.counts)
      if (n > 0) here.push_back({How::Step, n, depth, threads});
    for (const int64_t n : o.scores)
      if (n > 0) here.push_back({How::Score, n, depth, threads});
    for (Row& row : here) {
      PRISM_TRY(row.amounts, session->amounts(depth, row.tokens, row.how));
      const int64_t warm_up = row.how == How::Step ? std::min<int64_t>(row.tokens, 8) : row.tokens;  // a prompt's cache is in memory then
      PRISM_CHECK(measure(*session, greedy, row, warm_up, vocab, false));
    }
    if (profile) profile->clear();
    for (unsigned r = 0; r < o.repeats; ++r)
      for (Row& row : here) PRISM_CHECK(measure(*session, greedy, row, row.tokens, vocab, true));
    rows.insert(rows.end(), here.begin(), here.end());
  }
  return ok();
}

/// What each further token of a scored row costs, as a fraction of a decoded one; nullopt without a row to compare with.
std::optional<double> extra_row(const Row& r, const std::vector<Row>& rows) {
  if (r.how != How::Score || r.tokens < 2) return std::nullopt;
  const auto step = std::find_if(rows.begin(), rows.end(), [&](const Row& s) { return s.how == How::Step && s.depth == r.depth && s.threads == r.threads; });
  if (step == rows.end()) return std::nullopt;
  return (double(r.tokens) / r.median() * step->median() - 1) / double(r.tokens - 1);
}

json to_json(const codegen::Limits& l, unsigned threads) {
  return {{"threads", threads}, {"read_bytes_per_second", l.read}, {"int8_operations_per_second", l.int8}, {"bf16_operations_per_second", l.bf16},
          {"f32_operations_per_second", l.f32}};
}

json to_json(const Row& r, const std::vector<Row>& rows, const LimitsByThreads& limits) {
  json out = {{"phase", phase_name(r.how)}, {"tokens", r.tokens}, {"depth", r.depth}, {"threads", r.threads}, {"median", r.median()},
              {"min", r.least()}, {"max", r.most()}, {"samples", r.rates}, {"bytes_per_token", r.bytes_per_token()},
              {"operations_per_token", double(r.amounts.operations) / double(r.tokens)}, {"bytes_per_second", r.bytes_per_second()},
              {"operations_per_second", r.operations_per_second()}};
  if (const auto extra = extra_row(r, rows)) out["extra_row"] = *extra;
  if (const auto l = limits.find(r.threads); l != limits.end()) {
    out["of_limits"] = {{"read", r.bytes_per_second() / l->second.read}, {"int8", r.operations_per_second() / l->second.int8},
                        {"f32", r.operations_per_second() / l->second.f32}};
    if (l->second.bf16 > 0) out["of_limits"]["bf16"] = r.operations_per_second() / l->second.bf16;
  }
  return out;
}

/// A fraction as a cell of 7 characters; "" without a limit.
std::string of(double value, double limit) {
  char text[16] = "";
  if (limit > 0) snprintf(text, sizeof text, "%.1f %%", 100 * value / limit);
  return text;
}

void print_table(const std::vector<Row>& rows, const LimitsByThreads& limits) {
  for (const auto& [threads, l] : limits) {
    printf("limits of %u thread%s: read %.1f GB/s, int8 %.0f GOP/s, ", threads, threads == 1 ? "" : "s", 1e-9 * l.read, 1e-9 * l.int8);
    if (l.bf16 > 0) printf("bf16 %.0f GOP/s, ", 1e-9 * l.bf16);
    printf("f32 %.0f GOP/s\n", 1e-9 * l.f32);
  }
  printf("%-8s %6s %6s %7s %10s  %-20s %9s %8s %7s %9s %7s %7s %7s\n", "phase", "tokens", "depth", "threads", "tokens/s", "(min to max)", "MB/token", "GB/s", "of read",
         "GOP/s", "of int8", "of bf16", "of f32");
  for (const Row& r : rows) {
    char spread[48];
    snprintf(spread, sizeof spread, "(%.1f to %.1f)", r.least(), r.most());
    const auto found = limits.find(r.threads);
    const codegen::Limits l = found == limits.end() ? codegen::Limits() : found->second;
    const double bytes = r.bytes_per_second(), operations = r.operations_per_second();
    printf("%-8s %6lld %6lld %7u %10.1f  %-20s %9.3f %8.2f %7s %9.1f %7s %7s %7s\n", phase_name(r.how), (long long)r.tokens, (long long)r.depth, r.threads,
           r.median(), spread, 1e-6 * r.bytes_per_token(), 1e-9 * bytes, of(bytes, l.read).c_str(), 1e-9 * operations, of(operations, l.int8).c_str(),
           of(operations, l.bf16).c_str(), of(operations, l.f32).c_str());
  }
  for (const Row& r : rows)
    if (const auto extra = extra_row(r, rows))
      printf("verify of %lld, depth %lld, %u threads: a further token costs %.3f of a decoded one\n", (long long)r.tokens, (long long)r.depth, r.threads, *extra);
}

Status run(const Options& o) {
  if (!o.profile.empty() && (o.threads.size() != 1 || o.depths.size() != 1))
    return error("--profile: found ", o.threads.size(), " numbers of threads and ", o.depths.size(), " depths, expected one of each");
  PRISM_TRY(auto model, load_model(o.model, {*std::max_element(o.threads.begin(), o.threads.end()), {o.isa, with_eviction(o.pipeline, o.evict)}, o.target, o.kv}));
  const rt::Program& p = model.executable->program();
  LimitsByThreads limits;
  if (o.limits && !model.executable->gpu()) {  // a GPU has others
    const auto isa = rt::isa_from_name(p.codes.at(0).isa);
    for (const unsigned threads : o.threads) {
      PRISM_TRY(limits[threads], codegen::measure_limits(*isa, threads));
    }
  }
  std::vector<Row> rows;
  rt::Profile profile;
  for (const unsigned threads : o.threads) PRISM_CHECK(measure_rows(o, model.executable, threads, o.profile.empty() ? nullptr : &profile, rows));
  if (!o.profile.empty()) PRISM_CHECK(report_profile(profile, p, o.profile));
  PRISM_TRY(auto architecture, model.metadata->get_string("general.architecture", "unknown"));
  const std::string kv = p.kv.empty() ? "" : p.kv[0].name();
  if (o.json) {
    json out = {{"model", p.name}, {"architecture", architecture}, {"isa", p.codes.at(0).isa}, {"kv_dtype", kv}, {"weight_bytes", p.weight_bytes}, {"load_ms", model.load_seconds * 1e3},
                {"limits", json::array()}, {"rows", json::array()}};
    for (const auto& [threads, l] : limits) out["limits"].push_back(to_json(l, threads));
    for (const Row& r : rows) out["rows"].push_back(to_json(r, rows, limits));
    print_json(out);
    return ok();
  }
  printf("%s (%s), %s, KV cache in %s\n", p.name.c_str(), architecture.c_str(), p.codes.at(0).isa.c_str(), kv.c_str());
  print_table(rows, limits);
  return ok();
}

}  // namespace

void add_bench(CLI::App& app, Action& chosen) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("bench", "Measure prefill and decode speed: median and spread, and fractions of what the machine can do");
  c->add_option("model", o->model, kModelOrPrxHelp)->required();
  const CLI::Range positions(int64_t(0), int64_t(1) << 30);
  add_list(*c, "-p,--prompt-tokens", o->prompts, "Tokens of prefill, for example 512,4096; 0 skips it")->check(positions);
  add_list(*c, "-n,--count", o->counts, "Tokens to decode; 0 skips it")->check(positions);
  add_list(*c, "--verify", o->scores, "Tokens scored at once, as drafts of others are: their cost beside a decoded one's")->check(positions);
  add_list(*c, "-d,--depth", o->depths, "Positions already in the cache")->check(positions);
  add_list(*c, "-t,--threads", o->threads, "Threads")->check(CLI::Range(1, 1024));
  c->add_option("-r,--repeats", o->repeats, "Counted rounds, after one to warm up")->capture_default_str()->check(CLI::Range(1, 1000));
  add_target(*c, o->target);
  add_isa(*c, o->isa);
  add_pipeline(*c, o->pipeline);
  add_kv(*c, o->kv);
  add_kv_evict(*c, o->evict);
  c->add_flag("!--no-limits", o->limits, "Do not measure what the machine can do");
  add_profile(*c, o->profile);
  c->add_flag("--persistent", o->persistent, "GPUs: do a step in one launch of a kernel that stays, instead of a graph of launches");
  c->add_flag("--json", o->json, "Print JSON");
  c->callback([o, &chosen] { chosen = [o] { return run(*o); }; });
}

}  // namespace prism::tools
