#include "runtime/executable.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "runtime/code_object.h"
#include "runtime/cpu.h"
#include "runtime/fill.h"
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
  Mapping weights;
  CodeObject code;

  /// An executable with everything but weights.
  static Result<std::shared_ptr<Executable>> create(Program p, std::span<const uint8_t> elf, const std::string& name) {
    std::shared_ptr<Executable> exe(new Executable);
    exe->resources_ = std::make_unique<Resources>();
    PRISM_TRY(exe->resources_->code, CodeObject::load(elf, name));
    for (const Kernel& k : p.kernels) {
      void* symbol = exe->resources_->code.symbol(k.symbol);
      if (!symbol) return error(name, ": kernel ", quoted(k.symbol), ": found no such symbol in the code");
      exe->functions_.push_back(reinterpret_cast<KernelFn>(symbol));
    }
    for (Code& c : p.codes) c.data = {};  // now in the process
    exe->program_ = std::move(p);
    return exe;
  }

  static Status fill(Executable& exe, const LoadOptions& options, const std::string& name) {
    const Program& p = exe.program_;
    Mapping& weights = exe.resources_->weights;
    PRISM_TRY(weights, Mapping::anonymous(p.weight_bytes, name + ": weights", /*huge_pages=*/true));
    exe.weights_ = weights.data();
    return fill_weights(p, weights.data(), options.threads, options.fill, options.progress);
  }
};

Executable::~Executable() = default;

Result<std::shared_ptr<Executable>> Executable::load(const std::string& path, const LoadOptions& options) {
  PRISM_TRY(PrxFile file, open_prx(path));
  return load(std::move(file), options);
}

Result<std::shared_ptr<Executable>> Executable::load(PrxFile file, const LoadOptions& options) {
  const std::string& path = file.path;
  PRISM_TRY(const size_t code, choose_code(file.program.codes, best_isa(), path));
  Mapping weights;
  if (file.program.weights_embedded) {
    const unsigned threads = options.threads ? options.threads : available_cores();
    PRISM_TRY(weights, read_weights(file.weights, file.weight_hashes, threads, options.progress, path));
  } else if (!file.program.weights.empty() && !options.fill) {
    return error(path, ": weights: found none in the file, expected those of the model file ",
                 quoted(file.program.model.path));
  }
  PRISM_TRY(auto exe, Resources::create(std::move(file.program), file.code[code], path));
  if (exe->program_.weights_embedded) {
    exe->weights_ = weights.data();
    exe->resources_->weights = std::move(weights);
  } else {
    PRISM_CHECK(Resources::fill(*exe, options, path));
  }
  return exe;
}

Result<std::shared_ptr<Executable>> Executable::from_program(Program p, const LoadOptions& options) {
  const std::string name = p.name.empty() ? "program" : p.name;
  PRISM_CHECK(validate(p, name));
  PRISM_TRY(const size_t code, choose_code(p.codes, best_isa(), name));
  if (!p.weights.empty() && !options.fill) return error(name, ": weights: found nothing to fill them with");
  p.weights_embedded = false;
  const std::vector<uint8_t> elf = std::move(p.codes[code].data);
  PRISM_TRY(auto exe, Resources::create(std::move(p), elf, name));
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
