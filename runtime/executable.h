// .prx files: writing, loading with verification, and the code of the kernels mapped into the process.
//
// File: 64-byte header {magic "PRX1", u32 version, u64 metadata bytes, u64 weight offset (4096-aligned), u64 weight
// bytes, u64 XXH3 of the metadata region [64, weight offset), u64 XXH3 of the header's first 40 bytes, zeros}, then the
// FlatBuffer (runtime/executable.fbs, identifier "PRX1"), zero padding, then the weight segment to the end of the file.
// The FlatBuffer holds one XXH3 per 4 MiB of weights; all are checked on load, over all threads.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "runtime/program.h"

namespace prism::rt {

/// Fills bytes of weight `w` (packed into its layout) into `dst`, zero so far; called once per weight, from several
/// threads at once.
using WeightFiller = std::function<Status(const Weight& w, std::span<uint8_t> dst)>;
/// Fraction done in [0,1] and what is being done. Called from any thread, by one at a time.
using Progress = std::function<void(const std::string& what, double done)>;

class Executable;

struct LoadOptions {
  unsigned threads = 0;      ///< 0 = all cores
  WeightFiller fill;         ///< needed when weights are not embedded
  Progress progress;
  std::shared_ptr<const Executable> like = {};  ///< CPUs: of the same model file; its weights are used if the program has them in the same places
};

using KernelFn = void (*)(void* const* args, const int64_t* dims, int64_t begin, int64_t end, void* scratch);

namespace gpu { class DeviceProgram; }
struct PrxFile;  // a file opened and verified: runtime/prx_format.h

class Executable {
 public:
  /// Maps and verifies a file. Errors name the file, the item, found and expected.
  static Result<std::shared_ptr<Executable>> load(const std::string& path, const LoadOptions& options = {});
  static Result<std::shared_ptr<Executable>> load(PrxFile file, const LoadOptions& options);
  /// From a program just compiled; weights filled by options.fill.
  static Result<std::shared_ptr<Executable>> from_program(Program p, const LoadOptions& options);
  ~Executable();

  const Program& program() const { return program_; }
  // CPUs
  const uint8_t* weight(size_t i) const { return weights_[i]; }   ///< its bytes
  KernelFn kernel(size_t i) const { return functions_[i]; }
  // GPUs; nullptr for CPUs
  const gpu::DeviceProgram* gpu() const;
  const EntryPoint* entry(std::string_view name) const;

 private:
  Executable() = default;
  Program program_;
  std::vector<const uint8_t*> weights_;   // as Program::weights
  std::vector<KernelFn> functions_;
  struct Resources;
  std::unique_ptr<Resources> resources_;
};

/// Writes atomically (temporary file, fsync, rename). With `fill` the weights are embedded.
Status write_executable(const Program& p, const std::string& path, const WeightFiller& fill, const Progress& progress = {});
/// Reads only the description (no weights, no code): for `prism inspect` and to learn where the model file is.
Result<Program> read_description(const std::string& path);

}  // namespace prism::rt
