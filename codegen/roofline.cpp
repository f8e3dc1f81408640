#include "codegen/roofline.h"

#include <algorithm>
#include <map>

#include "runtime/base/checked.h"
#include "runtime/step_dims.h"

namespace prism::codegen {
namespace {

/// Of a multiprocessor of every architecture that Prism compiles for.
constexpr int64_t kThreads = 2048, kBlocks = 32, kRegisters = 65536, kReservedShared = 1024;

double part(int64_t amount, double per_second) { return double(amount) / per_second; }

}  // namespace

int64_t resident_blocks(const KernelReport& kernel, const Gpu& gpu) {
  const auto usage = kernel.usage.find(gpu.arch);
  const int64_t registers = usage == kernel.usage.end() ? 0 : usage->second.registers;
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
    std::vector<rt::Launch> launches = entry->launches;
    if (done + piece == tokens && largest != p.entries.end()) launches.insert(launches.end(), largest->launches.begin(), largest->launches.end());
    for (const rt::Launch& l : launches) {
      PRISM_TRY(const int64_t blocks, l.tasks.evaluate(dims));
      if (!blocks) continue;
      const rt::Kernel& k = p.kernels[l.kernel];
      PRISM_TRY(const rt::Amounts amounts, rt::amounts_of(k, dims));
      KernelBound& b = found[l.kernel];
      const double speed = l.product ? gpu.wgmma : gpu.operations(reports[l.kernel].unit);   // a library's kernels
      const double limit = std::max(part(amounts.bytes(), gpu.memory), part(amounts.operations, speed));
      const double most_blocks = double(ceil_div(blocks, gpu.multiprocessors));
      b.kernel = l.kernel;
      b.launches += 1;
      b.blocks += blocks;
      b.amounts += amounts;
      b.limit += limit;
      b.uneven += limit * (most_blocks * gpu.multiprocessors / double(blocks) - 1);
      b.boundaries += kBoundarySeconds;
    }
    done += piece;
  }
  StepBound step{decode, tokens, depth, {}, {}};
  for (const auto& [kernel, b] : found) {
    step.kernels.push_back(b);
    step.all.launches += b.launches;
    step.all.blocks += b.blocks;
    step.all.amounts += b.amounts;
    step.all.limit += b.limit;
    step.all.uneven += b.uneven;
    step.all.boundaries += b.boundaries;
  }
  std::stable_sort(step.kernels.begin(), step.kernels.end(), [](const KernelBound& a, const KernelBound& b) { return a.lost() > b.lost(); });
  return step;
}

}  // namespace prism::codegen
