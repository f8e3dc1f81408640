#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringRef.h"
#include "passes/pass.h"
#include "passes/util.h"

namespace prism::passes {

namespace {

struct Named {
  std::string_view name, steps;
};

// canonicalize comes again after specialize-entry-points because `tail` of all rows goes away there.
#define BEFORE_TYPES(prefill) \
  "canonicalize,constant-fold,cse,dce,specialize-entry-points{prefill=" prefill "},canonicalize,cse,bound-kv-caches,fuse-attention,fuse-projections,"
#define AFTER_TYPES(dense, fuse_options) ",pack-weights{dense=" dense "},dce,fuse-epilogues" fuse_options ",plan-memory"
constexpr Named kPipelines[] = {
    {"int8", "insert-quantization,fold-quantization"},
    {"fp16", "insert-quantization{type=f16},fold-quantization"},
    {"cpu", BEFORE_TYPES("512") "quantize-activations" AFTER_TYPES("rows16", "")},
    // bf16 is for more rows than @verify has, whose bits are those of @decode.
    {"cpu-avx512", BEFORE_TYPES("512") "quantize-activations{bf16_rows=17,bf16_layout=row_major,bf16_linears=dense,bf16_f32=yes,bf16_queries=yes}" AFTER_TYPES("rows16", "")},
    {"cpu-amx", BEFORE_TYPES("512") "quantize-activations{bf16_rows=17,bf16_f32=yes,bf16_queries=yes}" AFTER_TYPES("rows16", "")},
    {"gpu", BEFORE_TYPES("2048") "quantize-activations{bf16_rows=17,bf16_layout=row_major}" AFTER_TYPES("mixed", "{norms=linear,appends=joined}")},
};
#undef BEFORE_TYPES
#undef AFTER_TYPES

using Values = std::map<std::string, std::string, std::less<>>;

/// Checks `value` against what PassInfo::options says about `key`.
Status check_option(const PassInfo& pass, llvm::StringRef key, llvm::StringRef value) {
  llvm::SmallVector<llvm::StringRef> known;
  llvm::StringRef(pass.options).split(known, ',', -1, false);
  std::vector<std::string_view> names;
  for (llvm::StringRef option : known) {
    auto [name, kinds] = option.split('=');
    names.push_back(name);
    if (name != key) continue;
    int64_t number;
    if (kinds == "int") {
      if (!llvm::to_integer(value, number, 10) || number < 1)
        return error("pipeline: pass ", pass.name, ", option ", key.str(), ": found '", value.str(),
                     "', expected a positive integer");
      return ok();
    }
    if (kinds == "text") return ok();  // the pass checks it
    llvm::SmallVector<llvm::StringRef> words;
    kinds.split(words, '|');
    if (!llvm::is_contained(words, value))
      return error("pipeline: pass ", pass.name, ", option ", key.str(), ": found '", value.str(), "', expected ",
                   kinds.str());
    return ok();
  }
  if (names.empty()) return error("pipeline: pass ", pass.name, ": found option '", key.str(), "', expected none");
  return error("pipeline: pass ", pass.name, ": unknown option '", key.str(), "', did you mean '", nearest(key, names),
               "'?");
}

Result<Options> parse_options(const PassInfo& pass, llvm::StringRef text) {
  Values values;
  llvm::SmallVector<llvm::StringRef> items;
  text.split(items, ',', -1, false);
  for (llvm::StringRef item : items) {
    auto [key, value] = item.split('=');
    key = key.trim();
    value = value.trim();
    PRISM_CHECK(check_option(pass, key, value));
    if (!values.emplace(key.str(), value.str()).second)
      return error("pipeline: pass ", pass.name, ": option '", key.str(), "' is given twice");
  }
  return Options(std::move(values));
}

Error unknown_pass(llvm::StringRef name) {
  std::vector<std::string_view> names;
  for (const PassInfo& p : all_passes()) names.push_back(p.name);
  for (const Named& p : kPipelines) names.push_back(p.name);
  return error("pipeline: unknown pass '", name.str(), "', did you mean '", nearest(name, names), "'?");
}

}  // namespace

Result<std::vector<PipelineStep>> parse_pipeline(std::string_view text) {
  std::vector<PipelineStep> steps;
  llvm::StringRef rest = llvm::StringRef(text).trim();
  while (!rest.empty()) {
    const llvm::StringRef name = rest.take_until([](char c) { return c == ',' || c == '{'; });
    rest = rest.drop_front(name.size());
    llvm::StringRef options;
    const bool has_options = rest.consume_front("{");
    if (has_options) {
      const size_t close = rest.find('}');
      if (close == rest.npos) return error("pipeline: pass ", name.trim().str(), ": found no '}' after its options");
      options = rest.take_front(close);
      rest = rest.drop_front(close + 1).ltrim();
    }
    const bool more = rest.consume_front(",");
    if (!more && !rest.empty())
      return error("pipeline: found '", rest.str(), "' after pass ", name.trim().str(), ", expected ','");
    rest = rest.ltrim();
    if (more && rest.empty()) return error("pipeline: found the end after ',', expected a pass");

    if (const PassInfo* pass = find_pass(name.trim())) {
      PRISM_TRY(Options parsed, parse_options(*pass, options));
      steps.push_back({pass, std::move(parsed)});
      continue;
    }
    const Named* named =
        llvm::find_if(kPipelines, [&](const Named& p) { return name.trim() == llvm::StringRef(p.name); });
    if (named == std::end(kPipelines)) return unknown_pass(name.trim());
    if (has_options) return error("pipeline: '", named->name, "' is a pipeline and takes no options");
    PRISM_TRY(auto expanded, parse_pipeline(named->steps));
    steps.insert(steps.end(), expanded.begin(), expanded.end());
  }
  return steps;
}

std::string print_pipeline(const std::vector<PipelineStep>& steps) {
  std::string text;
  for (const PipelineStep& s : steps) {
    text += (text.empty() ? "" : ",") + std::string(s.pass->name);
    std::string options;
    for (const auto& [key, value] : s.options.values()) options += (options.empty() ? "" : ",") + key + "=" + value;
    if (!options.empty()) text += "{" + options + "}";
  }
  return text;
}

}  // namespace prism::passes
