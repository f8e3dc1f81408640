// Runs a model and variants of it over the same ids side by side and compares what they say after each. No more than a few rows of
// logits are kept.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "analysis/quality.h"
#include "runtime/session.h"

namespace prism::analysis {

/// A model at work.
struct Runner {
  std::string name;                       ///< in errors
  std::unique_ptr<rt::Session> session;
  bool fed = false;   ///< the kernels of prompts read the context, not those that generate; logits come from the latter in any case
};

struct LockstepOptions {
  int64_t context = 2048;  ///< positions of a context
  int64_t chunk = 128;     ///< ids that a `fed` runner reads at once
  int64_t from = 0;        ///< positions of a context before this one are not counted
  int32_t bos = -1;        ///< begins every context; -1: nothing does
  unsigned threads = 0;    ///< that compare; 0 = all cores
  /// Told how many of the positions are done; may be empty.
  std::function<void(int64_t done, int64_t total)> progress;
};

struct VariantResult {
  PositionSummaries summaries;
  double seconds = 0;      ///< that its session took
};
struct LockstepResult {
  int64_t contexts = 0, positions = 0;          ///< `positions`: BOS included, counted or not
  double base_seconds = 0, comparison_seconds = 0;
  std::vector<VariantResult> variants;          ///< as `variants`
};

/// Cuts `ids` into contexts, each of which begins in an empty cache; the id after a context's last position counts as unknown. Error if
/// an option is out of range, a session's, or one naming context, position and id of a logit that is not finite.
Result<LockstepResult> run_in_lockstep(Runner& base, std::span<Runner> variants, std::span<const int32_t> ids, const LockstepOptions& options);

}  // namespace prism::analysis
