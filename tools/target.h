// --target: what a model is compiled for and runs on.
#pragma once

#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace prism::tools {

struct Target {
  std::string device = "cpu";        ///< "cpu", "cuda", "emu"
  std::vector<std::string> archs;    ///< cuda: "sm_90a", ...

  std::string text() const;
};

/// "cpu", "cuda" (the GPU of this machine), "cuda:sm_80,sm_90a", "emu" (the emulated device); "" is cpu.
Result<Target> parse_target(const std::string& text);

}  // namespace prism::tools
