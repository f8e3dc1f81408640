// The subcommands of `prism`: each adds its options to the parser and says what to run.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace prism::tools {

using Action = std::function<Status()>;

/// On standard output; bytes of names and texts that are no UTF-8 are replaced.
void print_json(const nlohmann::json& value);
/// All of a file, or of standard input for "-".
Result<std::string> read_text(const std::string& path);

/// What a model's path may name.
inline constexpr char kModelHelp[] = "GGUF file, Hugging Face folder or synth:SHAPE";
inline constexpr char kModelOrPrxHelp[] = "GGUF or .prx file, Hugging Face folder or synth:SHAPE";

/// --isa: the instruction set to compile for.
inline void add_isa(CLI::App& command, std::string& isa) {
  command.add_option("--isa", isa, "Compile for this instruction set; default: this machine's best")
      ->check(CLI::IsMember({"generic", "avx2", "avx512", "amx"}));
}

/// "f32+k4v3" -> {"f32", "k4v3"}, the type of what is exact and bits; either may be missing.
std::pair<std::string, std::string> split_kv(const std::string& kv);
/// What to call a plan: without the letters after its colon.
std::string kv_label(const std::string& kv);

/// Checks what a KV cache may be; the pass plan-kv-compression checks bits.
inline std::string kv_type(const std::string& text) {
  const auto [type, bits] = split_kv(text);
  const bool known = type.empty() || type == "f16" || type == "bf16" || type == "f32";
  return known && (bits.empty() ? !type.empty() && text.back() != '+' : bits[0] == 'k' || bits[0] == 'e') ? std::string()
         : "found '" + text + "', expected f16, bf16, f32 or bits as in k4v3, or by layer as in k8v8/exact/k4v3*2, or both as in f32+k8v8";
}

/// --kv: the element type of the KV cache, a property of what is compiled.
inline void add_kv(CLI::App& command, std::string& kv) {
  command.add_option("--kv", kv, "Element type of the KV cache: f16, bf16 or f32, or the bits of keys and values that are no longer among the newest, "
                     "as in k8v8, k4v3 or by layer k8v8*2/exact*28 (docs/passes.md: plan-kv-compression), or both as in f32+k8v8, or what plan-kv prints; a .prx has it fixed; default: f16")
      ->check(kv_type);
}

/// --pipeline: the passes to run.
inline void add_pipeline(CLI::App& command, std::string& pipeline) {
  command.add_option("--pipeline", pipeline, "Passes to run, for example int8 or \"canonicalize,fuse-attention{tile_k=128},...\"; unless they end in plan-memory those of cpu, cpu-avx512, cpu-amx or gpu follow, by target and --isa");
}

/// --kv-evict: how many positions a cache keeps; 0: all.
inline void add_kv_evict(CLI::App& command, int64_t& positions) {
  command.add_option("--kv-evict", positions, "Positions that each KV cache keeps, the first 64 and the newest, a multiple of 64: for texts longer than the model's context. Not exact: "
                     "what is evicted is forgotten");
}
/// The passes of --pipeline, after that which evicts.
std::string with_eviction(const std::string& pipeline, int64_t positions);

/// -t: 0 = all cores.
inline void add_threads(CLI::App& command, unsigned& threads) {
  command.add_option("-t,--threads", threads, "Threads; 0 = all cores")->capture_default_str()->check(CLI::Range(0, 1024));
}

/// --target: see tools/target.h.
inline void add_target(CLI::App& command, std::string& target) {
  command.add_option("--target", target, "cpu, cuda (this machine's GPU), cuda:sm_80,sm_90a (named GPUs) or emu (a GPU emulated on the CPU, slow); default: cpu");
}

/// --profile: see tools/profile.h.
inline void add_profile(CLI::App& command, std::string& profile) {
  command.add_option("--profile", profile, "CPUs: write what each thread did when to this file (Chrome's trace format, for Perfetto) and a table to standard error");
}

/// An option that takes several values, separated by commas.
template <class T>
CLI::Option* add_list(CLI::App& command, const char* name, std::vector<T>& values, const char* description) {
  return command.add_option(name, values, description)->delimiter(',')->allow_extra_args(false)->capture_default_str();
}

/// Each adds the subcommand; its action is stored in `chosen` when the user picks it.
void add_run(CLI::App& app, Action& chosen);
void add_compile(CLI::App& app, Action& chosen);
void add_opt(CLI::App& app, Action& chosen);
void add_eval(CLI::App& app, Action& chosen);
void add_tokenize(CLI::App& app, Action& chosen);
void add_bench(CLI::App& app, Action& chosen);
void add_inspect(CLI::App& app, Action& chosen);
void add_synth(CLI::App& app, Action& chosen);
void add_quality(CLI::App& app, Action& chosen);
void add_calibrate(CLI::App& app, Action& chosen);
void add_quantize(CLI::App& app, Action& chosen);
void add_plan_kv(CLI::App& app, Action& chosen);
void add_roofline(CLI::App& app, Action& chosen);

}  // namespace prism::tools
