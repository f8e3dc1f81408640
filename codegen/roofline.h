// What a GPU allows the steps of a program at most, from what its kernels move, compute and take of a multiprocessor: known without a GPU.
// Each launch takes as long as its bytes or its operations do (the roofline: Williams et al. 2009, https://doi.org/10.1145/1498765.1498785),
// stretched by the multiprocessor that gets most blocks, and then a boundary: what lies between the ends of two launches of a graph.
#pragma once

#include <vector>

#include "codegen/generate.h"
#include "codegen/gpus.h"
#include "runtime/work.h"

namespace prism::codegen {

/// Seconds between two launches of a graph, as measured with empty kernels.
constexpr double kBoundarySeconds = 1.3e-6;

/// Blocks of a kernel that a multiprocessor holds at a time: by threads, registers and shared memory.
int64_t resident_blocks(const KernelReport& kernel, const Gpu& gpu);

/// All launches of one kernel in a step.
struct KernelBound {
  size_t kernel = 0;
  int64_t launches = 0, blocks = 0;   ///< blocks: of all launches
  rt::Amounts amounts;
  double limit = 0;                   ///< seconds that its bytes or operations take
  double uneven = 0;                  ///< seconds beyond, of multiprocessors that have more blocks than others
  double boundaries = 0;              ///< seconds
  double lost() const { return uneven + boundaries; }
  KernelBound& operator+=(const KernelBound& b);
};

/// A step of `tokens` after `depth` positions, prompts in as many pieces as they need. Most is lost in the first kernel.
struct StepBound {
  bool decode = false;
  int64_t tokens = 0, depth = 0;
  std::vector<KernelBound> kernels;
  KernelBound all;                    ///< their sums
  double seconds() const { return all.limit + all.lost(); }
};

/// `reports`: by kernel of `p`, as GenerateOptions::report has them. decode: one token.
Result<StepBound> bound_of(const rt::Program& p, const std::vector<KernelReport>& reports, const Gpu& gpu, bool decode, int64_t tokens, int64_t depth);

}  // namespace prism::codegen
