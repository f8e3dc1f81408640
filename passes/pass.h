// A pass rewrites a module. passes/passes.def lists them; the manager runs pipelines of them.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ir/module.h"

namespace prism::passes {

/// Options of one pass in a pipeline string: "fuse-attention{tile_k=64}".
class Options {
 public:
  Options() = default;
  explicit Options(std::map<std::string, std::string, std::less<>> values) : values_(std::move(values)) {}
  std::string get(std::string_view key, std::string_view fallback) const;
  int64_t get_int(std::string_view key, int64_t fallback) const;
  const std::map<std::string, std::string, std::less<>>& values() const { return values_; }

 private:
  std::map<std::string, std::string, std::less<>> values_;
};

using PassFn = Status (*)(ir::Module&, const Options&);

/// Whether a pass gives up precision on purpose. One that only rounds in another order keeps it.
enum class Precision { Keeps, Reduces };

struct PassInfo {
  std::string_view name;        ///< "fuse-attention"
  ir::Level needs, makes;       ///< highest level it runs at; lowest level afterwards (a pass may raise it)
  Precision precision;
  std::string_view options;     ///< "tile=int,layout=rows16|row_major": names, and what their values may be
  std::string_view summary;
  PassFn run;
};

std::span<const PassInfo> all_passes();
const PassInfo* find_pass(std::string_view name);

struct PipelineStep {
  const PassInfo* pass;
  Options options;
};
/// Parses "a,b{x=1,y=2},c" or a named pipeline (passes/pipelines.cpp). Unknown passes and options
/// are errors that suggest the nearest name.
Result<std::vector<PipelineStep>> parse_pipeline(std::string_view text);
std::string print_pipeline(const std::vector<PipelineStep>& steps);

struct ManagerOptions {
  bool verify_each = true;
  bool print_before_all = false, print_after_all = false;
  std::vector<std::string> print_after;          ///< pass names
  std::function<void(std::string_view)> print;   ///< receives printed IR; default stderr
  std::string reproducer;                        ///< path written when a pass fails or breaks the module; empty = none
  /// Called after each pass; used by bisect to compare numbers.
  std::function<Status(const PipelineStep&, size_t index, const ir::Module&)> after_pass;
};

struct PassTiming {
  std::string_view pass;
  double seconds;
  size_t ops_before, ops_after;
};

class Manager {
 public:
  explicit Manager(ManagerOptions options = {}) : options_(std::move(options)) {}
  Status run(ir::Module& m, const std::vector<PipelineStep>& pipeline);
  const std::vector<PassTiming>& timings() const { return timings_; }

 private:
  ManagerOptions options_;
  std::vector<PassTiming> timings_;
};

}  // namespace prism::passes
