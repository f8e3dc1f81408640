// prism plan-kv: bits of the KV cache by layer, from what each costs the model's predictions, within a budget.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "analysis/kv_plan.h"
#include "analysis/lockstep.h"
#include "ir/kv_pages.h"
#include "runtime/base/checked.h"
#include "runtime/kv_cache.h"
#include "tools/commands.h"
#include "tools/key_balance.h"
#include "tools/model.h"

namespace prism::tools {

namespace {

using analysis::KvOption;
using analysis::Runner;
using nlohmann::json;

constexpr size_t kAtOnce = 8;   // variants that are compared side by side: each has its own cache

struct Options {
  std::string model, text, isa;
  std::vector<std::string> bits = {"k5v4", "k4v4", "k4v3", "k3v3", "k3v2"};
  double ratio = 0;
  uint64_t budget = 0;
  int64_t positions = 8192, tokens = 1024, context = 1024, from = 192, balance = 512;
  unsigned threads = 0;
  bool json = false;
};

/// Of a plan against the same model with an f16 cache.
struct Quality {
  double kl = 0, same_top = 0, perplexity_change = 0;
  std::vector<float> kls;   ///< by position
};

class Planner {
 public:
  Planner(const Options& o, std::shared_ptr<gguf::File> file, Tokens tokens) : o_(o), file_(std::move(file)), tokens_(std::move(tokens)) {}

  Status run() {
    const std::string& start = o_.bits[(o_.bits.size() - 1) / 2];   // costs are measured around the middle
    PRISM_TRY(const auto compiled, compile(start));
    layers_ = compiled.program.kv;
    if (std::ranges::none_of(layers_, &rt::KvLayer::compressed)) return error(o_.model, ": found no layer whose cache can be compressed");
    PRISM_CHECK(prepare(start));
    const uint64_t budget = o_.budget ? o_.budget : uint64_t(std::floor(double(f16_bytes_) / o_.ratio));
    PRISM_CHECK(analysis::choose_kv_options(options_, budget));  // refused before anything is measured
    PRISM_CHECK(find_balance());
    PRISM_TRY(const auto base, executable(""));
    PRISM_CHECK(measure(base, start));
    PRISM_TRY(const auto chosen, analysis::choose_kv_options(options_, budget));

    std::vector<std::string> bits;
    uint64_t bytes = 0;
    for (size_t l = 0; l < layers_.size(); ++l) {
      const KvOption& option = options_[l][chosen[l]];
      bits.push_back(option.bits);
      bytes += option.bytes;
    }
    KvChoice plan(ir::DType::F16, analysis::kv_plan_text(bits));
    PRISM_TRY(const auto measured, compare(base, {plan.bits}));
    plan.balance = balance_;
    return report(plan.plan(), bytes, start, measured[0]);
  }

 private:
  /// The model with a cache of these bits, "" for f16. Nothing of it is kept on disk.
  Result<CompiledModel> compile(const std::string& bits) {
    KvChoice kv(ir::DType::F16, bits);
    if (!bits.empty()) kv.balance = balance_;
    return compile_gguf(file_, {.isa = o_.isa, .kv = kv});
  }

  /// From the text's first tokens, which are evaluated op by op.
  Status find_balance() {
    if (!o_.balance) return ok();
    progress_("balancing keys and queries", 0);
    KeyStatistics statistics;
    PRISM_TRY(const auto session, reference_session(o_.model, "", [&](const ir::Operation& op, const auto& in, const auto&) { statistics.observe(op, in); }));
    std::vector<int32_t> ids = tokens_.ids;
    if (tokens_.bos >= 0) ids.insert(ids.begin(), tokens_.bos);
    ids.resize(std::min({ids.size(), size_t(o_.balance), size_t(o_.context)}));
    PRISM_CHECK(about(o_.model, session->feed(ids)));
    PRISM_TRY(balance_, about(o_.model, statistics.balance()));
    return ok();
  }

  Result<std::shared_ptr<rt::Executable>> executable(const std::string& bits, std::shared_ptr<rt::Executable> like = {}) {
    PRISM_TRY(auto compiled, compile(bits));
    return rt::Executable::from_program(std::move(compiled.program), {o_.threads, compiled.fill, {}, std::move(like)});
  }

  Result<std::vector<Quality>> compare(const std::shared_ptr<rt::Executable>& base, const std::vector<std::string>& plans) {
    std::vector<Quality> all;
    for (size_t at = 0; at < plans.size(); at += kAtOnce) {
      const size_t count = std::min(kAtOnce, plans.size() - at);
      progress_("measuring", double(done_) / double(total_));
      std::vector<Runner> runners;
      const auto add = [&](const std::string& name, std::shared_ptr<rt::Executable> e) -> Status {
        PRISM_TRY(auto session, about(o_.model, rt::Session::create(std::move(e), {o_.threads, o_.context})));
        runners.push_back({o_.model + " (" + name + ")", std::move(session)});
        return ok();
      };
      PRISM_CHECK(add("KV cache in f16", base));
      for (size_t i = 0; i < count; ++i) {
        PRISM_TRY(auto variant, executable(plans[at + i], base));
        PRISM_CHECK(add("KV cache in " + plans[at + i], std::move(variant)));
      }
      PRISM_TRY(const auto result, analysis::run_in_lockstep(runners[0], std::span(runners).subspan(1), tokens_.ids, {o_.context, 128, o_.from, tokens_.bos, o_.threads, {}}));
      for (const auto& v : result.variants) {
        const analysis::Summary& s = v.summaries.all();
        all.push_back({s.kl().value, s.same_top().value, s.perplexity_change().value, s.kls()});
      }
      done_ += count;
    }
    return all;
  }

  /// Of one layer at the budget's positions.
  Result<rt::KvStats> stats(const rt::KvLayer& layer) const {
    const int64_t capacity = ceil_div(o_.positions, rt::kKvCapacityMultiple) * rt::kKvCapacityMultiple;
    PRISM_TRY(const auto layout, rt::KvLayout::create({layer}, capacity, "plan"));
    return layout.stats(o_.positions, capacity);
  }

  /// Options with bytes, without costs; of a layer that is left as it is any bits do.
  Status prepare(const std::string& start) {
    for (rt::KvLayer layer : layers_) {
      auto& options = options_.emplace_back();
      std::vector<std::string> choices{start};   // of a layer that is left as it is
      if (layer.compressed()) choices = o_.bits;
      if (layer.compressed() && layer.ring) choices.emplace_back(ir::kKvExact);   // what its window reads may be few
      for (const std::string& bits : choices) {
        if (bits == ir::kKvExact) {
          layer.key_bits = layer.value_bits = 0;
        } else if (layer.compressed()) {
          PRISM_TRY(const auto parsed, ir::KvBits::parse(bits));
          layer.key_bits = parsed.key;
          layer.value_bits = parsed.value;
        }
        PRISM_TRY(const auto found, stats(layer));
        options.push_back({bits, 0, found.bytes_used});
        if (options.size() == 1) f16_bytes_ += found.bytes_f16;
      }
    }
    return ok();
  }

  /// Costs: of a layer with other bits, where all others have `start`, less that of `start`.
  Status measure(const std::shared_ptr<rt::Executable>& base, const std::string& start) {
    std::vector<std::string> plans = {start};
    std::vector<KvOption*> measured;
    for (size_t l = 0; l < layers_.size(); ++l)
      for (KvOption& option : options_[l]) {
        if (option.bits == start) continue;
        std::vector<std::string> bits(layers_.size(), start);
        bits[l] = option.bits;
        plans.push_back(analysis::kv_plan_text(bits));
        measured.push_back(&option);
      }
    total_ = plans.size() + 1;
    PRISM_TRY(const auto found, compare(base, plans));
    start_ = found[0];
    for (size_t i = 0; i < measured.size(); ++i) {   // by position: most of what a position's divergence is, all variants share
      analysis::Mean change;
      for (size_t p = 0; p < start_.kls.size(); ++p) change.add(double(found[i + 1].kls[p]) - double(start_.kls[p]));
      measured[i]->cost = change.estimate().value;
      measured[i]->error = change.estimate().error;
    }
    analysis::shrink_costs(options_);
    return ok();
  }

  Status report(const std::string& plan, uint64_t bytes, const std::string& start, const Quality& measured) const {
    const double ratio = double(f16_bytes_) / double(bytes);
    if (o_.json) {
      json out = {{"model", o_.model}, {"plan", plan}, {"positions", o_.positions}, {"bytes", bytes}, {"f16_bytes", f16_bytes_}, {"ratio", ratio},
                  {"kl", measured.kl}, {"same_top", measured.same_top}, {"perplexity_change", measured.perplexity_change}, {"start", {{"bits", start}, {"kl", start_.kl}}},
                  {"layers", json::array()}};
      for (size_t l = 0; l < layers_.size(); ++l) {
        if (!layers_[l].compressed()) continue;
        json row = {{"layer", l}, {"options", json::array()}};
        for (const KvOption& option : options_[l]) row["options"].push_back({{"bits", option.bits}, {"bytes", option.bytes}, {"kl_change", option.cost}, {"kl_change_error", option.error}});
        out["layers"].push_back(row);
      }
      print_json(out);
      return ok();
    }
    fprintf(stderr, "at %lld positions %.2f MiB, %.2f times less than f16; mean KL divergence %.5f, likeliest token the same %.2f %%, perplexity %+.2f %%\n",
            (long long)o_.positions, double(bytes) / 1048576, ratio, measured.kl, 100 * measured.same_top, 100 * measured.perplexity_change);
    printf("%s\n", plan.c_str());
    return ok();
  }

  const Options& o_;
  const std::shared_ptr<gguf::File> file_;
  const Tokens tokens_;
  const rt::Progress progress_ = stderr_progress();
  std::vector<rt::KvLayer> layers_;               // compressed if they can be
  std::vector<std::vector<KvOption>> options_;    // as layers_
  std::string balance_;                           // of keys; empty: none
  uint64_t f16_bytes_ = 0;
  Quality start_;
  size_t done_ = 0, total_ = 1;                   // plans
};

Status run(Options o) {
  if (!o.ratio && !o.budget) return error("found neither --ratio nor --budget, expected one of them");
  for (size_t i = 0; i < o.bits.size(); ++i) {
    const auto parsed = ir::KvBits::parse(o.bits[i]);
    if (!parsed) return error("--bits: expected ", parsed.message());
    if (std::count(o.bits.begin(), o.bits.end(), o.bits[i]) > 1) return error("--bits: found ", o.bits[i], " twice");
  }
  PRISM_TRY(const auto file, gguf::File::open(o.model));
  PRISM_TRY(const std::string text, read_text(o.text));
  PRISM_TRY(auto tokens, about(o.text, tokenize(o.model, text)));
  tokens.ids.resize(std::min(tokens.ids.size(), size_t(o.tokens)));
  PRISM_TRY(const std::string architecture, file->get_string("general.architecture"));
  PRISM_TRY(const int64_t has, file->get_int(architecture + ".context_length", o.context));
  o.context = std::min(o.context, has);
  if (int64_t(tokens.ids.size()) <= o.from || o.context <= o.from)
    return error(o.text, ": found ", tokens.ids.size(), " tokens in contexts of ", o.context, ", expected more than ", o.from, ": before that (see --from) nothing is demoted");
  return Planner(o, file, std::move(tokens)).run();
}

}  // namespace

void add_plan_kv(CLI::App& app, Action& chosen) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("plan-kv", "Choose the bits of a compressed KV cache layer by layer, within a budget, by what they cost over a text");
  c->footer("Prints a plan that --kv takes: prism run model.gguf --kv \"$(prism plan-kv model.gguf --text text.txt --ratio 4)\"\n"
            "Every layer is measured with every choice of bits while the others have the middle one of --bits. Channels of keys are first made larger or\n"
            "smaller, and those of queries the other way, so that rounding keys changes scores least: the letters after the plan's colon say by how much.");
  c->add_option("model", o->model, std::string(kModelHelp) + "; best with f16 weights: int8 activations hide small losses")->required();
  c->add_option("--text", o->text, "Text of the kind that the model will read, - for standard input")->required();
  auto* ratio = c->add_option("--ratio", o->ratio, "How many times smaller than in f16 the cache is to be")->check(CLI::Range(1.0, 16.0));
  c->add_option("--budget", o->budget, "Bytes that the cache may have, for example 60MB")->transform(CLI::AsSizeValue(true))->check(CLI::PositiveNumber)->excludes(ratio);
  c->add_option("--positions", o->positions, "Positions in the cache that the budget is for")->capture_default_str()->check(CLI::Range(int64_t(256), int64_t(1) << 24));
  c->add_option("--bits", o->bits, "What layers may have")->delimiter(',')->allow_extra_args(false)->capture_default_str();
  c->add_option("--tokens", o->tokens, "Tokens of the text to read at most")->capture_default_str()->check(CLI::Range(2, 1 << 24));
  c->add_option("--ctx", o->context, "Tokens that are read in one context, at most the model's")->capture_default_str()->check(CLI::Range(2, 1 << 20));
  c->add_option("--balance", o->balance, "Tokens of the text from which keys are balanced against queries; 0: they are not")->capture_default_str()->check(CLI::Range(0, 1 << 20));
  c->add_option("--from", o->from, "Count only this position of each context and those after it")->capture_default_str()->check(CLI::NonNegativeNumber);
  add_threads(*c, o->threads);
  add_isa(*c, o->isa);
  c->add_flag("--json", o->json, "Print JSON, with the loss of every choice");
  c->callback([o, &chosen] { chosen = [o] { return run(*o); }; });
}

}  // namespace prism::tools
