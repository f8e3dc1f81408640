// From a planned module to an executable program: every distinct kernel region becomes KIR, C and machine code once.
#pragma once

#include <functional>
#include <map>

#include "codegen/cuda/nvrtc.h"
#include "codegen/gpus.h"
#include "codegen/kernels/region.h"
#include "ir/module.h"
#include "runtime/cpu.h"
#include "runtime/program.h"

namespace prism::codegen {

/// A GPU kernel and what it takes of a multiprocessor.
struct KernelReport {
  std::string symbol;
  std::string computes;                      ///< its anchor op with the operands' types, then the other ops
  int64_t threads = 0, shared_bytes = 0;     ///< of a block
  MathUnit unit = MathUnit::Cores;
  std::map<std::string, KernelUsage> usage;  ///< by architecture

  /// Zeros where nothing is known.
  KernelUsage usage_on(const std::string& arch) const {
    const auto found = usage.find(arch);
    return found == usage.end() ? KernelUsage() : found->second;
  }
};

struct GenerateOptions {
  rt::Isa isa = rt::best_isa();            ///< CPUs
  std::string target = "cpu";              ///< "cpu", "cuda", "emu"
  std::vector<std::string> archs = {};     ///< "sm_90a", ...: kernels use what all of them have; cuda: machine code for each
  std::function<void(const std::string& name, const std::string& text)> dump;  ///< receives "kernels.kir" and "kernels.c" or "kernels.cu"
  std::function<void(const std::vector<KernelReport>&)> report = {};  ///< cuda: receives all kernels when they are compiled
};

/// The named pipeline (passes/pipelines.cpp) made for a target, on CPUs for an instruction set.
std::string default_pipeline(const std::string& target, rt::Isa isa);

/// `m` is at level Plan. The program has no weights bytes: `fill_weight` makes them.
Result<rt::Program> generate(const ir::Module& m, const GenerateOptions& options = {});

}  // namespace prism::codegen
