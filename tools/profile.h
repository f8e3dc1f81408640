// --profile: what a session's kernels took, as a file for Perfetto and as a table.
#pragma once

#include <string>
#include <vector>

#include "runtime/executable.h"
#include "runtime/profile.h"

namespace prism::tools {

/// What a kernel did in all its launches from one entry point.
struct KernelTotal {
  size_t entry = 0, kernel = 0;
  int64_t calls = 0, ns = 0, busy_ns = 0, bytes = 0, operations = 0;
};
/// The one that took longest first.
Result<std::vector<KernelTotal>> kernel_totals(const rt::Profile& profile, const rt::Program& p);

/// Chrome's trace format: a row of steps, one of launches, and one for each thread, with the times it waited.
Status write_trace(const rt::Profile& profile, const rt::Program& p, const std::string& path);
/// A row for each kernel of each entry point, on standard error.
Status print_profile(const rt::Profile& profile, const rt::Program& p);
/// Both.
Status report_profile(const rt::Profile& profile, const rt::Program& p, const std::string& path);

}  // namespace prism::tools
