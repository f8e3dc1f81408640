#include "tools/model.h"

#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <stop_token>
#include <thread>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "codegen/cache.h"
#include "codegen/fill_weight.h"
#include "codegen/generate.h"
#include "frontends/gguf/hf/folder.h"
#include "frontends/gguf/model.h"
#include "frontends/gguf/synth.h"
#include "ir/text.h"
#include "passes/pass.h"
#include "runtime/gpu/driver.h"
#include "runtime/prx_format.h"
#include "runtime/thread_pool.h"
#include "tools/commands.h"
#include "tools/quantize/ranges.h"

namespace prism::tools {

namespace fs = std::filesystem;

namespace {

/// Says what is going on if it is not over, and the thread joined, within a second.
std::jthread announce(const char* what) {
  return std::jthread([what](std::stop_token over) {
    std::mutex mutex;
    std::unique_lock lock(mutex);
    std::condition_variable_any().wait_for(lock, over, std::chrono::seconds(1), [] { return false; });
    if (!over.stop_requested()) fprintf(stderr, "%s...\n", what);
  });
}

Status write_text(const fs::path& path, std::string_view text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  out.close();
  if (!out) return error(path.string(), ": cannot write");
  return ok();
}

/// Changes when the program does, so that a new build never runs an old build's kernels.
/// Of a file's version: other contents have another.
uint64_t file_stamp(const std::string& path) {
  struct stat s{};
  stat(path.c_str(), &s);
  const uint64_t parts[] = {uint64_t(s.st_size), uint64_t(s.st_mtim.tv_sec), uint64_t(s.st_mtim.tv_nsec)};
  return XXH3_64bits(parts, sizeof parts);
}

/// Names a model by its header, size, modification times and a sample of every tensor; one that is made of nothing by its header,
/// which says how.
std::string cache_name(const gguf::File& f, const CompileOptions& o) {
  XXH3_state_t* state = XXH3_createState();
  XXH3_128bits_reset(state);
  auto add = [&](const void* p, size_t n) { XXH3_128bits_update(state, p, n); };
  const uint64_t size = f.size();
  add(&size, sizeof size);
  std::vector<std::string> files = f.sources();
  files.emplace_back("/proc/self/exe");
  if (const auto steps = passes::parse_pipeline(o.pipeline)) std::ranges::copy(quantize::range_files(*steps), std::back_inserter(files));
  for (const std::string& file : files) {
    const uint64_t stamp = file_stamp(file);
    add(&stamp, sizeof stamp);
  }
  add(o.isa.data(), o.isa.size());
  const std::string target = o.target.text();
  add(target.data(), target.size());
  add(o.pipeline.data(), o.pipeline.size());
  add(&o.kv.dtype, sizeof o.kv.dtype);
  const std::string plan = o.kv.plan();
  add(plan.data(), plan.size());
  add(f.bytes().data(), size_t(f.header_bytes()));
  for (const gguf::TensorInfo& t : f.tensors()) {
    if (f.sources().empty()) break;
    uint8_t sample[256];
    const auto bytes = size_t(std::min<uint64_t>(t.bytes, sizeof sample));
    f.read(t, 0, {sample, bytes});
    add(sample, bytes);
  }
  const XXH128_hash_t h = XXH3_128bits_digest(state);
  XXH3_freeState(state);
  char name[48];
  snprintf(name, sizeof name, "%016lx%016lx.prx", (unsigned long)h.high64, (unsigned long)h.low64);
  return name;
}

/// The model file a .prx refers to: as recorded, or beside the .prx, or made.
Result<std::shared_ptr<gguf::File>> referenced_model(const rt::ModelReference& model, const std::string& prx, unsigned threads) {
  const fs::path beside = fs::path(prx).parent_path() / fs::path(model.path).filename();
  for (const fs::path& candidate : {fs::path(model.path), beside}) {
    std::error_code ec;
    if (!gguf::is_synth(candidate.string()) && !fs::exists(candidate, ec)) continue;
    PRISM_TRY(auto file, gguf::File::open(candidate.string()));
    PRISM_TRY(const auto found, reference_to(*file, threads));
    if (found.size != model.size || found.hash != model.hash)
      return error(prx, ": model file ", candidate.string(), ": found ", found.size, " bytes with hash ", found.hash, ", expected ",
                   model.size, " with ", model.hash, ", those it was compiled from; compile it again");
    return file;
  }
  return error(prx, ": model file ", model.path, ": not found, nor beside the .prx; put it back or compile with --embed-weights");
}

/// A .prx for GPUs without code for this machine's: compiled again from its IR. `data` receives the new code.
Status compile_again(rt::PrxFile& file, const std::string& arch, std::vector<std::vector<uint8_t>>& data) {
  const std::jthread announcement = announce("compiling for this GPU");
  rt::Program& p = file.program;
  if (p.ir.empty()) return error(file.path, ": found neither code for ", arch, " nor the IR to compile it from");
  PRISM_TRY(auto module, ir::from_binary(p.ir, file.path));
  CompileOptions options;
  options.target = {"cuda", {arch}};
  PRISM_TRY(rt::Program made, compile_module(*module, options));
  const auto same = [](const rt::Weight& a, const rt::Weight& b) { return a.name == b.name && a.layout == b.layout && a.offset == b.offset && a.bytes == b.bytes; };
  if (!std::equal(p.weights.begin(), p.weights.end(), made.weights.begin(), made.weights.end(), same))
    return error(file.path, ": its weights are packed for another pipeline than this Prism's, compile its model again");
  PRISM_CHECK(rt::validate(made, file.path));
  file.code.clear();
  for (rt::Code& c : made.codes) data.push_back(std::move(c.data));
  for (const auto& d : data) file.code.push_back(d);
  p.codes = std::move(made.codes);
  p.kernels = std::move(made.kernels);
  p.entries = std::move(made.entries);
  p.dims = std::move(made.dims);
  p.kv = std::move(made.kv);
  return ok();
}

}  // namespace

double seconds_since_process_start() {
  // Field 22 of /proc/self/stat: start time in clock ticks since boot.
  std::ifstream in("/proc/self/stat");
  std::string text((std::istreambuf_iterator<char>(in)), {});
  std::istringstream fields(text.substr(std::min(text.size(), text.rfind(')') + 1)));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec) - atof(field.c_str()) / double(sysconf(_SC_CLK_TCK));
}

rt::Progress stderr_progress() {
  const auto start = std::chrono::steady_clock::now();
  const bool terminal = isatty(2);
  auto last = std::make_shared<std::pair<std::string, int>>("", -1);
  return [=](const std::string& what, double done) {
    if (std::chrono::steady_clock::now() - start < std::chrono::seconds(1)) return;
    const int percent = int(done * 100);
    if (last->first == what && (!terminal || last->second == percent)) return;
    *last = {what, percent};
    if (terminal) fprintf(stderr, "\r%s %3d%%%s", what.c_str(), percent, done >= 1 ? "\n" : "");
    else fprintf(stderr, "%s...\n", what.c_str());
  };
}

Result<FileKind> file_kind(const std::string& path) {
  if (gguf::is_synth(path) || gguf::hf::is_folder(path)) return FileKind::Gguf;
  char magic[4] = {};
  std::ifstream in(path, std::ios::binary);
  if (!in) return error(path, ": cannot open: ", strerror(errno));
  in.read(magic, 4);
  if (in.gcount() == 4 && !memcmp(magic, "GGUF", 4)) return FileKind::Gguf;
  if (in.gcount() == 4 && !memcmp(magic, "PRX1", 4)) return FileKind::Prx;
  return error(path, ": found neither 'GGUF' nor 'PRX1' in its first 4 bytes, expected a GGUF or .prx file, or a Hugging Face folder with config.json");
}

rt::WeightFiller filler(std::shared_ptr<gguf::File> file) {
  return [file](const rt::Weight& w, std::span<uint8_t> dst) -> Status {
    auto source = [&](const std::string& name) -> Result<codegen::SourceTensor> {
      const gguf::TensorInfo* t = file->tensor(name);
      if (!t) return error(file->name(), ": tensor '", name, "' is missing, expected as a source of weight ", w.name);
      const auto bytes = file->load(*t);
      return codegen::SourceTensor{t->dtype, t->shape, bytes.get(),
                                   [file, bytes](const uint8_t* p, size_t n) { file->forget(p, n); }};
    };
    return codegen::fill_weight(w, source, dst);
  };
}

// Pieces are hashed on all cores and do not stay in memory.
Result<rt::ModelReference> reference_to(const gguf::File& f, unsigned threads) {
  constexpr uint64_t kPiece = uint64_t(4) << 20;
  struct Piece {
    const gguf::TensorInfo* tensor;  // nullptr: of f.bytes()
    uint64_t begin, bytes;
  };
  std::vector<Piece> pieces;
  const auto cut = [&](const gguf::TensorInfo* t, uint64_t bytes) {
    for (uint64_t at = 0; at < bytes; at += kPiece) pieces.push_back({t, at, std::min(kPiece, bytes - at)});
  };
  cut(nullptr, f.bytes().size());
  if (f.is_made() && !f.sources().empty())
    for (const gguf::TensorInfo& t : f.tensors()) cut(&t, t.bytes);
  std::vector<uint64_t> hashes(pieces.size());
  PRISM_TRY(auto team, rt::ThreadTeam::create(threads));
  rt::parallel_for(*team, hashes.size(), [&](size_t i) {
    const Piece& p = pieces[i];
    std::vector<uint8_t> made(p.tensor ? p.bytes : 0);
    if (p.tensor) f.read(*p.tensor, p.begin, made);
    const uint8_t* bytes = p.tensor ? made.data() : f.bytes().data() + p.begin;
    hashes[i] = XXH3_64bits(bytes, p.bytes);
    if (!p.tensor) f.forget(bytes, p.bytes);
  });
  const std::string path = f.sources().empty() ? f.name() : fs::absolute(f.name()).string();
  return rt::ModelReference{path, f.size(), XXH3_64bits(hashes.data(), 8 * hashes.size())};
}

Result<std::vector<passes::PipelineStep>> pipeline_of(const CompileOptions& o) {
  const rt::Isa isa = o.isa.empty() ? rt::best_isa() : rt::isa_from_name(o.isa).value();  // checked by the option
  std::vector<passes::PipelineStep> steps;
  const auto add = [&](const std::string& text) -> Status {
    PRISM_TRY(const auto more, passes::parse_pipeline(text));
    steps.insert(steps.end(), more.begin(), more.end());
    return ok();
  };
  if (!o.kv.bits.empty()) PRISM_CHECK(add("plan-kv-compression{bits=" + o.kv.bits + (o.kv.balance.empty() ? "" : ",balance=" + o.kv.balance) + "}"));
  PRISM_CHECK(add(o.pipeline));
  if (steps.empty() || steps.back().pass->makes != ir::Level::Plan) PRISM_CHECK(add(codegen::default_pipeline(o.target.device, isa)));
  return steps;
}

Result<rt::Program> compile_module(ir::Module& m, const CompileOptions& o) {
  codegen::GenerateOptions generate;
  generate.target = o.target.device;
  generate.archs = o.target.archs;
  if (o.kernels) generate.report = [&](const auto& kernels) { *o.kernels = kernels; };
  if (!o.isa.empty()) generate.isa = rt::isa_from_name(o.isa).value();  // checked by the option
  PRISM_TRY(auto pipeline, pipeline_of(o));
  passes::ManagerOptions manager_options;
  if (!o.dump_ir.empty()) {
    std::error_code ec;
    fs::create_directories(o.dump_ir, ec);
    if (ec) return error(o.dump_ir, ": cannot create: ", ec.message());
    PRISM_CHECK(write_text(fs::path(o.dump_ir) / "00-frontend.prism", ir::print(m)));
    manager_options.after_pass = [&](const passes::PipelineStep& step, size_t index, const ir::Module& now) {
      char number[8];
      snprintf(number, sizeof number, "%02zu-", index + 1);
      return write_text(fs::path(o.dump_ir) / (number + std::string(step.pass->name) + ".prism"), ir::print(now));
    };
    generate.dump = [&](const std::string& name, const std::string& text) { (void)bool(write_text(fs::path(o.dump_ir) / name, text)); };
    manager_options.reproducer = (fs::path(o.dump_ir) / "reproducer.prism").string();
  }
  std::string before = ir::to_binary(m);
  PRISM_CHECK(passes::Manager(manager_options).run(m, pipeline));
  PRISM_TRY(auto program, codegen::generate(m, generate));
  program.ir = std::move(before);
  return program;
}

KvChoice parse_kv(const std::string& kv) {
  const auto [type, plan] = split_kv(kv);
  const size_t colon = std::min(plan.find(':'), plan.size());
  KvChoice choice(ir::dtype_from_name(type).value_or(ir::DType::F16), plan.substr(0, colon));
  if (colon < plan.size()) choice.balance = plan.substr(colon + 1);
  return choice;
}

Result<CompiledModel> compile_gguf(std::shared_ptr<gguf::File> file, const CompileOptions& o) {
  const std::jthread announcement = announce("compiling");
  PRISM_TRY(auto module, gguf::build_module(file, {.kv_dtype = o.kv.dtype, .weights = false}));
  PRISM_TRY(const auto pipeline, pipeline_of(o));
  PRISM_CHECK(quantize::annotate_ranges(*module, pipeline, [&](const quantize::Calibration& c, const std::string& path) -> Status {
    PRISM_TRY(const auto reference, reference_to(*file));
    return quantize::check_model(c, path, *file, reference);
  }));
  PRISM_TRY(auto program, compile_module(*module, o));
  static constexpr std::string_view kKept[] = {"tokenizer.", "general."};
  program.metadata = gguf::extract_metadata(*file, kKept);
  PRISM_TRY(program.name, file->get_string("general.name", ""));
  if (program.name.empty()) program.name = fs::path(file->name()).stem().string();
  return CompiledModel{std::move(program), filler(file)};
}

Result<std::shared_ptr<gguf::File>> metadata_of(const rt::Program& p, const std::string& path) {
  return gguf::File::parse({reinterpret_cast<const uint8_t*>(p.metadata.data()), p.metadata.size()}, path);
}

Result<Model> load_model(const std::string& path, const ModelOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  Model model;
  rt::LoadOptions load{options.threads, {}, stderr_progress(), options.like};
  PRISM_TRY(FileKind kind, file_kind(path));
  std::string prx = path;
  std::shared_ptr<gguf::File> file;
  if (kind == FileKind::Gguf) {
    PRISM_TRY(file, gguf::File::open(path));
    CompileOptions compile = options.compile;
    PRISM_TRY(compile.target, parse_target(options.target));
    compile.kv = parse_kv(options.kv);
    if (compile.isa.empty()) compile.isa = rt::isa_name(rt::best_isa());
    const fs::path folder = fs::path(codegen::cache_directory()) / "models";
    std::error_code ec;
    fs::create_directories(folder, ec);
    prx = (folder / cache_name(*file, compile)).string();
    if (file->sources().empty()) load.fill = filler(file);  // only the code is worth keeping
    if (auto cached = rt::Executable::load(prx, load)) {
      model.executable = *cached;
    } else {
      PRISM_TRY(auto compiled, compile_gguf(file, compile));
      model.compiled_now = true;
      const rt::WeightFiller embed = file->sources().empty() ? nullptr : compiled.fill;
      if (options.like) {  // a variant that is looked at once
        load.fill = compiled.fill;
        PRISM_TRY(model.executable, rt::Executable::from_program(std::move(compiled.program), load));
      } else if (auto written = rt::write_executable(compiled.program, prx, embed, load.progress); written) {
        PRISM_TRY(model.executable, rt::Executable::load(prx, load));
      } else {  // no room or no permission for a cache: run from memory
        fprintf(stderr, "prism: not cached: %s\n", written.message().c_str());
        load.fill = compiled.fill;
        PRISM_TRY(model.executable, rt::Executable::from_program(std::move(compiled.program), load));
      }
    }
  } else {
    PRISM_TRY(rt::PrxFile opened, rt::open_prx(path));
    const auto& codes = opened.program.codes;
    const std::string device = options.target.substr(0, options.target.find(':'));
    if (!device.empty() && (codes.empty() || codes[0].target != device))
      return error(path, ": --target: found code for ", codes.empty() ? "nothing" : codes[0].target, ", expected ", device, "; compile its model again");
    std::vector<std::vector<uint8_t>> data;
    if (!codes.empty() && codes[0].target == "cuda") {
      PRISM_TRY(const auto driver, rt::gpu::open_cuda());
      const std::string arch = driver->info().arch;
      if (std::none_of(codes.begin(), codes.end(), [&](const rt::Code& c) { return c.isa == arch; })) PRISM_CHECK(compile_again(opened, arch, data));
    }
    if (!options.compile.pipeline.empty())
      return error(path, ": passes: found ", options.compile.pipeline, " to run, expected none: its passes ran when it was compiled; compile its model again");
    const std::string& isa = options.compile.isa;
    if (!isa.empty() && std::none_of(codes.begin(), codes.end(), [&](const rt::Code& c) { return c.isa == isa; }))
      return error(path, ": --isa: found code for ", codes.empty() ? "nothing" : codes[0].isa, ", expected ", isa, "; compile its model again");
    for (const rt::KvLayer& l : opened.program.kv)
      if (!options.kv.empty() && l.name() != options.kv)
        return error(path, ": --kv: found a KV cache of ", l.name(), ", expected ", options.kv, "; compile its model again");
    if (!opened.program.weights_embedded) {
      PRISM_TRY(file, referenced_model(opened.program.model, path, options.threads));
      load.fill = filler(file);
    }
    PRISM_TRY(model.executable, rt::Executable::load(std::move(opened), load));
  }
  PRISM_TRY(model.metadata, metadata_of(model.executable->program(), path));
  model.load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return model;
}

Result<std::unique_ptr<gguf::Tokenizer>> load_tokenizer(const std::string& path) {
  PRISM_TRY(FileKind kind, file_kind(path));
  if (kind == FileKind::Gguf) {
    PRISM_TRY(auto file, gguf::File::open(path));
    return gguf::Tokenizer::create(*file);
  }
  PRISM_TRY(auto description, rt::read_description(path));
  PRISM_TRY(auto file, metadata_of(description, path));
  return gguf::Tokenizer::create(*file);
}

Result<Tokens> tokenize(const std::string& model, const std::string& text) {
  PRISM_TRY(const auto tokenizer, load_tokenizer(model));
  PRISM_TRY(auto ids, tokenizer->encode(text, /*parse_special=*/false));
  return Tokens{std::move(ids), tokenizer->add_bos() ? tokenizer->bos() : -1};
}

Result<std::vector<int32_t>> parse_ids(const std::string& text) {
  std::vector<int32_t> ids;
  const char *p = text.data(), *end = p + text.size();
  while (p < end) {
    while (p < end && (*p == ' ' || *p == ',' || *p == '\n' || *p == '\t')) ++p;
    if (p == end) break;
    int32_t v;
    auto [next, ec] = std::from_chars(p, end, v);
    if (ec != std::errc() || (next < end && !strchr(" ,\n\t", *next)))
      return error("ids: found '", std::string(p, std::min<size_t>(size_t(end - p), 20)), "', expected numbers separated by commas");
    ids.push_back(v);
    p = next;
  }
  return ids;
}

}  // namespace prism::tools
