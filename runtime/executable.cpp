#include "runtime/executable.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "runtime/base/checked.h"
#include "runtime/code_object.h"
#include "runtime/cpu.h"
#include "runtime/fill.h"
#include "runtime/gpu/device_program.h"
#include "runtime/prx_format.h"

namespace prism::rt {
namespace {

/// Copies the weights from the mapped file into huge pages and checks their hashes. Kernels stream them at every token, and
/// with 4 KiB pages the walks cost a fifth of the bandwidth or more (docs/decisions.md).
Result<Mapping> read_weights(std::span<const uint8_t> file, std::span<const uint64_t> hashes, unsigned threads,
                             const Progress& progress, const std::string& name) {
  PRISM_TRY(Mapping weights, Mapping::anonymous(file.size(), name + ": weights", /*huge_pages=*/true));
  PRISM_TRY(auto team, ThreadTeam::create(unsigned(std::min<size_t>(threads, std::max<size_t>(1, hashes.size())))));
  ProgressCounter counter(progress, "reading weights", file.size());
  std::vector<uint64_t> found(hashes.size());
  parallel_for(*team, hashes.size(), [&](size_t i) {
    const auto rest = file.subspan(i * kHashedBytes);
    const auto chunk = rest.first(std::min(kHashedBytes, rest.size()));
    uint8_t* source = const_cast<uint8_t*>(chunk.data());
    uint8_t* copy = weights.data() + i * kHashedBytes;
    madvise(source, chunk.size(), MADV_POPULATE_READ);  // not a fault for each page
    std::memcpy(copy, source, chunk.size());
    madvise(source, chunk.size(), MADV_DONTNEED);       // one copy in memory at a time
    found[i] = xxh3(copy, chunk.size());
    counter.add(chunk.size());
  });
  for (size_t i = 0; i < hashes.size(); ++i)
    if (found[i] != hashes[i])
      return error(name, ": hash ", i, " of the weights: found ", found[i], ", expected ", hashes[i],
                   ": the file is damaged");
  return weights;
}

}  // namespace

struct Executable::Resources {
  Mapping weights;                           // if another is their owner, those with values of their own
  std::shared_ptr<const Executable> owner;
  CodeObject code;
  std::unique_ptr<gpu::DeviceProgram> gpu;

  /// An executable with everything but weights. `codes`: the bytes of p.codes.
  static Result<std::shared_ptr<Executable>> create(Program p, const std::vector<std::span<const uint8_t>>& codes, const std::string& name) {
    std::shared_ptr<Executable> exe(new Executable);
    exe->resources_ = std::make_unique<Resources>();
    Resources& r = *exe->resources_;
    if (!p.codes.empty() && p.codes[0].target != "cpu") {
      PRISM_TRY(auto driver, gpu::open_device(p.codes[0].target));
      std::vector<std::span<const uint8_t>> usable;
      PRISM_TRY(const auto chosen, choose_gpu_codes(p.codes, driver->info(), name));
      for (size_t i : chosen) usable.push_back(codes[i]);
      PRISM_TRY(r.gpu, gpu::DeviceProgram::create(std::move(driver), p, usable, name));
    } else {
      PRISM_TRY(const size_t chosen, choose_code(p.codes, best_isa(), name));
      PRISM_TRY(r.code, CodeObject::load(codes[chosen], name));
      for (const Kernel& k : p.kernels) {
        void* symbol = r.code.symbol(k.symbol);
        if (!symbol) return error(name, ": kernel ", quoted(k.symbol), ": found no such symbol in the code");
        exe->functions_.push_back(reinterpret_cast<KernelFn>(symbol));
      }
    }
    for (Code& c : p.codes) c.data = {};  // now in the process
    exe->program_ = std::move(p);
    return exe;
  }

  /// The executable has the weights of options.like, but for those that have values. False if it needs its own.
  static Result<bool> share(Executable& exe, const LoadOptions& options, const std::string& name) {
    Resources& r = *exe.resources_;
    if (!options.like || r.gpu || options.like->gpu()) return false;
    const std::vector<Weight>&mine = exe.program_.weights, &others = options.like->program_.weights;
    std::vector<size_t> at;   // theirs that have no values
    for (size_t i = 0; i < others.size(); ++i)
      if (others[i].values.empty()) at.push_back(i);
    size_t next = 0;
    uint64_t bytes = 0;
    for (const Weight& w : mine) {
      if (!w.values.empty()) bytes += round_up(w.bytes + kWeightSlack, kWeightAlignment);
      else if (next == at.size() || w != others[at[next++]]) return false;
    }
    if (next != at.size()) return false;
    PRISM_TRY(r.weights, Mapping::anonymous(bytes, name + ": weights with values", /*huge_pages=*/false));
    uint8_t* to = r.weights.data();
    next = 0;
    for (const Weight& w : mine) {
      if (w.values.empty()) {
        exe.weights_.push_back(options.like->weights_[at[next++]]);
        continue;
      }
      std::memcpy(to, w.values.data(), w.bytes);
      exe.weights_.push_back(to);
      to += round_up(w.bytes + kWeightSlack, kWeightAlignment);
    }
    r.owner = options.like;
    return true;
  }

  static Status fill(Executable& exe, const LoadOptions& options, const std::string& name) {
    PRISM_TRY(const bool shared, share(exe, options, name));
    if (shared) return ok();
    const Program& p = exe.program_;
    PRISM_TRY(Mapping weights, Mapping::anonymous(p.weight_bytes, name + ": weights", /*huge_pages=*/true));
    PRISM_CHECK(fill_weights(p, weights.data(), options.threads, options.fill, options.progress));
    return give(exe, std::move(weights));
  }

  /// The executable's weights, in the memory of its device.
  static Status give(Executable& exe, Mapping weights) {
    Resources& r = *exe.resources_;
    if (r.gpu) return r.gpu->upload_weights({weights.data(), weights.bytes()});
    r.weights = std::move(weights);
    for (const Weight& w : exe.program_.weights) exe.weights_.push_back(r.weights.data() + w.offset);
    return ok();
  }
};

Executable::~Executable() = default;

const gpu::DeviceProgram* Executable::gpu() const { return resources_->gpu.get(); }

Result<std::shared_ptr<Executable>> Executable::load(const std::string& path, const LoadOptions& options) {
  PRISM_TRY(PrxFile file, open_prx(path));
  return load(std::move(file), options);
}

Result<std::shared_ptr<Executable>> Executable::load(PrxFile file, const LoadOptions& options) {
  const std::string& path = file.path;
  if (!file.program.weights_embedded && !file.program.weights.empty() && !options.fill)
    return error(path, ": weights: found none in the file, expected those of the model file ", quoted(file.program.model.path));
  PRISM_TRY(auto exe, Resources::create(std::move(file.program), file.code, path));
  if (!exe->program_.weights_embedded) {
    PRISM_CHECK(Resources::fill(*exe, options, path));
    return exe;
  }
  PRISM_TRY(const bool shared, Resources::share(*exe, options, path));
  if (shared) return exe;
  const unsigned threads = options.threads ? options.threads : available_cores();
  PRISM_TRY(Mapping weights, read_weights(file.weights, file.weight_hashes, threads, options.progress, path));
  PRISM_CHECK(Resources::give(*exe, std::move(weights)));
  return exe;
}

Result<std::shared_ptr<Executable>> Executable::from_program(Program p, const LoadOptions& options) {
  const std::string name = p.name.empty() ? "program" : p.name;
  PRISM_CHECK(validate(p, name));
  if (!p.weights.empty() && !options.fill) return error(name, ": weights: found nothing to fill them with");
  p.weights_embedded = false;
  std::vector<std::vector<uint8_t>> data;
  std::vector<std::span<const uint8_t>> codes;
  for (Code& c : p.codes) data.push_back(std::move(c.data));
  for (const auto& d : data) codes.push_back(d);
  PRISM_TRY(auto exe, Resources::create(std::move(p), codes, name));
  PRISM_CHECK(Resources::fill(*exe, options, name));
  return exe;
}

const EntryPoint* Executable::entry(std::string_view name) const {
  for (const EntryPoint& e : program_.entries)
    if (e.name == name) return &e;
  return nullptr;
}

Result<Program> read_description(const std::string& path) {
  PRISM_TRY(PrxFile file, open_prx(path));
  return std::move(file.program);
}

}  // namespace prism::rt
