// What `prism quality` says.
#pragma once

#include <string>
#include <vector>

#include "analysis/lockstep.h"

namespace prism::tools {

struct QualityReport {
  std::string model, architecture, isa, base;
  std::vector<std::string> variants;   ///< as in `result`; the last is the noise if there is some
  bool noise = false, prompt = false;
  int64_t context = 0, chunk = 0, from = 0, ids = 0;
  double seconds = 0;
  analysis::LockstepResult result;
};

/// On standard output; the times on standard error.
void print_table(const QualityReport& report);
void print_json(const QualityReport& report);

}  // namespace prism::tools
