#include "tools/target.h"

#include <algorithm>
#include <sstream>

#include "runtime/gpu/driver.h"

namespace prism::tools {

std::string Target::text() const {
  std::string s = device;
  for (const std::string& a : archs) s += (&a == &archs[0] ? ":" : ",") + a;
  return s;
}

Result<Target> parse_target(const std::string& text) {
  if (text.empty() || text == "cpu") return Target{};
  if (text == "emu") return Target{"emu", {}};
  const bool cuda = text == "cuda" || text.starts_with("cuda:");
  Target t{"cuda", {}};
  if (text == "cuda") {
    auto driver = rt::gpu::open_cuda();
    if (!driver) return error(driver.message(), "; to compile for a GPU elsewhere name it: --target cuda:sm_90a");
    t.archs.push_back((*driver)->info().arch);
    return t;
  }
  std::istringstream list(cuda ? text.substr(5) : "");
  for (std::string arch; std::getline(list, arch, ',');) t.archs.push_back(arch);
  const bool named = std::all_of(t.archs.begin(), t.archs.end(), [](const std::string& a) { return a.starts_with("sm_") && a.size() > 4; });
  if (cuda && named && !t.archs.empty()) return t;
  return error("--target: found '", text, "', expected cpu, cuda, cuda:sm_80,sm_90a or emu");
}

}  // namespace prism::tools
