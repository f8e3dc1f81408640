#include "codegen/roofline.h"

#include <algorithm>
#include <map>
#include <span>

#include "runtime/base/checked.h"
#include "runtime/step_dims.h"

namespace prism::codegen {
namespace {

/// Of a multiprocessor of every architecture that Prism compiles for.
constexpr int64_t kThreads = 2048, kBlocks = 32, kRegisters = 65536, kReservedShared = 1024;

/// Of one launch that has blocks.
Result<KernelBound> launch_bound(const rt::Launch& l, const rt::Kernel& kernel, MathUnit unit, const Gpu& gpu, int64_t blocks, std::span<const int64_t> dims) {
  PRISM_TRY(const rt::Amounts amounts, rt::amounts_of(kernel, dims));
  const double speed = l.product ? gpu.wgmma : gpu.operations(unit);   // a library's kernels
  const double limit = std::max(double(amounts.bytes()) / gpu.memory, double(amounts.operations) / speed);
  const int64_t fullest = ceil_div(blocks, gpu.multiprocessors);
  return KernelBound{l.kernel, 1, blocks, amounts, limit, limit * (double(fullest * gpu.multiprocessors) / double(blocks) - 1), kBoundarySeconds};
}

}  // namespace

KernelBound& KernelBound::operator+=(const KernelBound& b) {
  launches += b.launches;
  blocks += b.blocks;
  amounts += b.amounts;
  limit += b.limit;
  uneven += b.uneven;
  boundaries += b.boundaries;
  return *this;
}

int64_t resident_blocks(const KernelReport& kernel, const Gpu& gpu) {
  const int64_t registers = kernel.usage_on(gpu.arch).registers;
  int64_t blocks = std::min(kBlocks, kThreads / std::max<int64_t>(kernel.threads, 1));
  if (registers) blocks = std::min(blocks, kRegisters / (int64_t(round_up(uint64_t(registers), 8)) * kernel.threads));
  return std::min(blocks, gpu.shared_kib * 1024 / (kernel.shared_bytes + kReservedShared));
}

Result<StepBound> bound_of(const rt::Program& p, const std::vector<KernelReport>& reports, const Gpu& gpu, bool decode, int64_t tokens, int64_t depth) {
  const std::string name = decode ? "decode" : "prefill";
  const auto find = [&](const std::string& wanted) { return std::find_if(p.entries.begin(), p.entries.end(), [&](const rt::EntryPoint& e) { return e.name == wanted; }); };
  const auto entry = find(name), largest = find(name + rt::kLargestSuffix);
  if (entry == p.entries.end()) return error(p.name, ": entry points: found no ", name);
  PRISM_TRY(const auto at, rt::StepDims::of(p, p.name));
  std::map<size_t, KernelBound> found;
  std::vector<int64_t> dims(p.dims.size());
  int64_t most = 1;
  for (size_t i = 0; i < p.dims.size(); ++i)
    if (p.dims[i] == "seq" && !decode) most = entry->dim_max[i];
  const int64_t capacity = int64_t(round_up(uint64_t(depth + tokens), rt::kKvCapacityMultiple));
  for (int64_t done = 0; done < tokens;) {
    const int64_t piece = std::min(tokens - done, most);
    at.set(dims, piece, depth + done, 1, capacity);
    const auto add = [&](const rt::EntryPoint& e) -> Status {
      for (const rt::Launch& l : e.launches) {
        PRISM_TRY(const int64_t blocks, l.tasks.evaluate(dims));
        if (!blocks) continue;
        PRISM_TRY(const KernelBound bound, launch_bound(l, p.kernels[l.kernel], reports[l.kernel].unit, gpu, blocks, dims));
        KernelBound& sum = found[l.kernel];
        sum.kernel = l.kernel;
        sum += bound;
      }
      return ok();
    };
    PRISM_CHECK(add(*entry));
    if (done + piece == tokens && largest != p.entries.end()) PRISM_CHECK(add(*largest));
    done += piece;
  }
  StepBound step{decode, tokens, depth, {}, {}};
  for (const auto& [kernel, b] : found) {
    step.kernels.push_back(b);
    step.all += b;
  }
  std::stable_sort(step.kernels.begin(), step.kernels.end(), [](const KernelBound& a, const KernelBound& b) { return a.lost() > b.lost(); });
  return step;
}

}  // namespace prism::codegen
