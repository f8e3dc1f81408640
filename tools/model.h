// From the path of a model (.gguf or .prx) to something that runs, with the cache of compiled models.
#pragma once

#include <memory>
#include <string>

#include "frontends/gguf/tokenizer.h"
#include "ir/eval.h"
#include "passes/pass.h"
#include "runtime/session.h"
#include "tools/target.h"

namespace prism::codegen {
struct KernelReport;
}

namespace prism::tools {

/// What --kv chooses.
struct KvChoice {
  KvChoice(ir::DType dtype = ir::DType::F16, std::string bits = {}) : dtype(dtype), bits(std::move(bits)) {}
  ir::DType dtype;
  std::string bits;       ///< of demoted positions, as plan-kv-compression takes them; empty: none are
  std::string balance;    ///< the same
  /// Both, as --kv takes them.
  std::string plan() const { return bits + (balance.empty() ? "" : ":" + balance); }
};

struct CompileOptions {
  std::string isa;        ///< cpu: empty = this machine's best
  std::string pipeline;   ///< passes; those of the target follow unless it ends in plan-memory
  KvChoice kv;
  std::string dump_ir;    ///< folder for the module after every pass and the kernels' text
  Target target;
  std::vector<codegen::KernelReport>* kernels = nullptr;  ///< cuda: receives what they take of a GPU
};

/// "" is f16.
KvChoice parse_kv(const std::string& kv);

/// The passes that `options` ask for, by name or by target.
Result<std::vector<passes::PipelineStep>> pipeline_of(const CompileOptions& options);

/// A compiled GGUF file and where its weights come from.
struct CompiledModel {
  rt::Program program;
  rt::WeightFiller fill;
};
Result<CompiledModel> compile_gguf(std::shared_ptr<gguf::File> file, const CompileOptions& options);
/// Program of a module as frontends make it; its weights are the module's.
Result<rt::Program> compile_module(ir::Module& m, const CompileOptions& options);
/// Packs the tensors of a model file.
rt::WeightFiller filler(std::shared_ptr<gguf::File> file);
/// What a .prx without weights records of its model file, so that it runs with no other: every byte counts. 0 threads = all cores.
Result<rt::ModelReference> reference_to(const gguf::File& file, unsigned threads = 0);

struct Model {
  std::shared_ptr<rt::Executable> executable;
  std::shared_ptr<gguf::File> metadata;
  bool compiled_now = false;
  double load_seconds = 0;
};
struct ModelOptions {
  unsigned threads = 0;
  CompileOptions compile;
  std::string target;     ///< --target; of a .prx: what it must be for, empty = what it is for
  std::string kv;         ///< --kv; likewise
  std::shared_ptr<const rt::Executable> like = {};   ///< of the same file: see rt::LoadOptions; what is compiled is not cached then
};
/// The tokenizer's and other facts that a .prx keeps of its GGUF file; `p` must outlive them. `path` begins error messages.
Result<std::shared_ptr<gguf::File>> metadata_of(const rt::Program& p, const std::string& path);

/// A .gguf is compiled unless the cache holds it; a .prx is mapped. Shows progress on stderr when it takes over a second.
Result<Model> load_model(const std::string& path, const ModelOptions& options);

enum class FileKind { Gguf, Prx };
Result<FileKind> file_kind(const std::string& path);

/// The tokenizer of either kind of file, without loading weights.
Result<std::unique_ptr<gguf::Tokenizer>> load_tokenizer(const std::string& path);

/// A text as the model's tokenizer has it.
struct Tokens {
  std::vector<int32_t> ids;
  int32_t bos = -1;  ///< begins a context; -1: the model wants none
};
Result<Tokens> tokenize(const std::string& model, const std::string& text);

/// Prints "what  42%" on a terminal or one line per stage otherwise, once a second has passed.
rt::Progress stderr_progress();

using Observer = std::function<void(const ir::Operation&, const std::vector<const ir::Tensor*>& in, const std::vector<ir::Tensor>& out)>;
/// The model as a module evaluated op by op in f32 with an f32 cache; `kv` (--kv) may ask for no other. `observe` is told of every operation.
Result<std::unique_ptr<rt::Session>> reference_session(const std::string& path, const std::string& kv, Observer observe = {});

/// The result, its error naming the file it is about.
template <class T>
Result<T> about(const std::string& path, Result<T> result) {
  if (result) return result;
  return error(path, ": ", result.message());
}

/// "1,2,3" -> ids; an error names the first thing that is not a number.
Result<std::vector<int32_t>> parse_ids(const std::string& text);
double seconds_since_process_start();

}  // namespace prism::tools
