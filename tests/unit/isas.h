#pragma once

#include <vector>

#include "runtime/cpu.h"

namespace prism {

/// Instruction sets that this machine runs, its best last.
inline std::vector<rt::Isa> isas_here() {
  std::vector<rt::Isa> list;
  for (int i = 0; i <= int(rt::best_isa()); ++i) list.push_back(rt::Isa(i));
  return list;
}

}  // namespace prism
