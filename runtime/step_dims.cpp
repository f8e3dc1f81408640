#include "runtime/step_dims.h"

#include "runtime/base/kv_pages.h"
#include "runtime/prx_format.h"

namespace prism::rt {

Result<StepDims> StepDims::of(const Program& p, const std::string& name) {
  StepDims found;
  for (size_t i = 0; i < p.dims.size(); ++i) {
    if (p.dims[i] == "seq") found.seq = i;
    else if (p.dims[i] == "past") found.past = i;
    else if (p.dims[i] == "out") found.out = i;
    else if (p.dims[i] == "ctx") found.ctx = i;
    else if (p.dims[i] == kDemotedDim) found.demoted = i;
    else if (p.dims[i] == kDemoteDim) found.demote = i;
    else return error(name, ": dims: found ", quoted(p.dims[i]), ", expected only seq, past, out, ctx, ", kDemotedDim, " and ", kDemoteDim);
  }
  return found;
}

void StepDims::set(std::vector<int64_t>& dims, int64_t tokens, int64_t before, int64_t outputs, int64_t capacity) const {
  const auto put = [&](std::optional<size_t> at, int64_t value) {
    if (at) dims[*at] = value;
  };
  put(seq, tokens);
  put(past, before);
  put(out, outputs);
  put(ctx, capacity);
  put(demoted, demoted_pages(before));
  put(demote, demoted_pages(before + tokens) - demoted_pages(before));
}

}  // namespace prism::rt
