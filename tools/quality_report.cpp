#include "tools/quality_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/commands.h"

namespace prism::tools {

namespace {

using analysis::Estimate;
using analysis::Summary;
using nlohmann::json;

std::string number(const char* format, double value) {
  char text[32];
  snprintf(text, sizeof text, format, value);
  return std::isnan(value) ? "-" : text;
}

/// Right-aligned in so many columns, the first of them empty; "±" has two bytes and takes one.
std::string cell(const std::string& text, size_t columns) {
  const auto shown = size_t(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
  return std::string(columns > shown ? columns - shown : 1, ' ') + text;
}

std::string cell(const Estimate& e, double scale, const char* format, const char* error_format, size_t columns) {
  return cell(number(format, scale * e.value) + " ± " + number(error_format, scale * e.error), columns);
}

void print_row(const std::string& positions, const Summary& s) {
  const Estimate base = s.base_perplexity(), variant = s.variant_perplexity(), change = s.perplexity_change(), kl = s.kl(), top = s.same_top();
  std::string line = cell(positions, 13) + cell(std::to_string(s.positions()), 9);
  line += cell(base, 1, "%.3f", "%.3f", 20) + cell(variant, 1, "%.3f", "%.3f", 20) + cell(change, 100, "%+.4f", "%.4f", 20) + cell(kl, 1, "%.3g", "%.2g", 22);
  for (const double q : {0.5, 0.999, 1.0}) line += cell(number("%.3g", s.kl_quantile(q)), 11);
  printf("%s%s\n", line.c_str(), cell(top, 100, "%.2f", "%.2f", 16).c_str());
}

json to_json(const Estimate& e) { return {{"value", e.value}, {"error", e.error}}; }  // NaN becomes null

json to_json(const Summary& s) {
  const Estimate kl = s.kl();
  return {{"positions", s.positions()}, {"predictions", s.predictions()}, {"base_perplexity", to_json(s.base_perplexity())},
          {"variant_perplexity", to_json(s.variant_perplexity())}, {"perplexity_change", to_json(s.perplexity_change())},
          {"kl", {{"mean", kl.value}, {"error", kl.error}, {"median", s.kl_quantile(0.5)}, {"p99_9", s.kl_quantile(0.999)}, {"max", s.kl_quantile(1)}}},
          {"same_top", to_json(s.same_top())}};
}

json to_json(const std::string& name, const analysis::VariantResult& v) {
  json out = {{"name", name}, {"seconds", v.seconds}, {"all", to_json(v.summaries.all())}, {"by_position", json::array()}};
  for (const auto& b : v.summaries.buckets())
    if (b.summary.positions() > 0) out["by_position"].push_back({{"begin", b.begin}, {"end", b.end}, {"summary", to_json(b.summary)}});
  return out;
}

constexpr size_t kMostDetailed = 16;   // variants whose parts are listed

}  // namespace

void print_table(const QualityReport& r) {
  printf("%s (%s), %s, base: %s; %lld ids in %lld context%s of up to %lld\n", r.model.c_str(), r.architecture.c_str(), r.isa.c_str(), r.base.c_str(),
         (long long)r.ids, (long long)r.result.contexts, r.result.contexts == 1 ? "" : "s", (long long)r.context);
  for (const auto& [text, columns] : {std::pair("positions", 13), {"count", 9}, {"base perplexity", 20}, {"perplexity", 20}, {"change, %", 20}, {"mean KL", 22},
                                      {"median", 11}, {"99.9 %", 11}, {"most", 11}, {"same top, %", 16}})
    printf("%*s", columns, text);
  printf("\n");
  for (size_t v = 0; v < r.variants.size(); ++v) {
    const auto& summaries = r.result.variants[v].summaries;
    if (r.noise && v + 1 == r.variants.size()) printf("noise: the base again, its context read by the kernels %s\n", r.prompt ? "that generate" : "of prompts");
    else printf("%s\n", r.variants[v].c_str());
    print_row("all", summaries.all());
    const auto& buckets = summaries.buckets();
    if (buckets.size() < 2 || r.variants.size() > kMostDetailed) continue;
    for (const auto& b : buckets)
      if (b.summary.positions() > 0) print_row(std::to_string(b.begin) + "-" + std::to_string(b.end - 1), b.summary);
  }
  double variants = 0;
  for (const auto& v : r.result.variants) variants += v.seconds;
  fflush(stdout);
  fprintf(stderr, "%lld tokens in %.2f s, %.0f tokens/s: base %.0f %%, variants %.0f %%, comparing %.1f %%\n", (long long)r.result.positions, r.seconds,
          double(r.result.positions) / r.seconds, 100 * r.result.base_seconds / r.seconds, 100 * variants / r.seconds, 100 * r.result.comparison_seconds / r.seconds);
}

void print_json(const QualityReport& r) {
  json out = {{"model", r.model}, {"architecture", r.architecture}, {"isa", r.isa}, {"base", r.base}, {"context", r.context}, {"chunk", r.chunk},
              {"from", r.from}, {"prompt", r.prompt}, {"ids", r.ids}, {"contexts", r.result.contexts}, {"variants", json::array()}, {"noise", nullptr},
              {"timings", {{"tokens", r.result.positions}, {"seconds", r.seconds}, {"tokens_per_second", double(r.result.positions) / r.seconds},
                           {"base_seconds", r.result.base_seconds}, {"comparison_seconds", r.result.comparison_seconds}}}};
  for (size_t v = 0; v < r.variants.size(); ++v) {
    json variant = to_json(r.variants[v], r.result.variants[v]);
    if (r.noise && v + 1 == r.variants.size()) out["noise"] = std::move(variant);
    else out["variants"].push_back(std::move(variant));
  }
  print_json(out);
}

}  // namespace prism::tools
