// What the architectures share: hyper-parameters read and checked, weights found and checked, common blocks.
// An architecture is a function of an ArchBuilder (arch/<name>.cpp). The first error is kept and later calls return
// placeholders, so that an architecture reads as a plain list of blocks; build_module looks at status() at the end.
#pragma once

#include <set>

#include "frontends/gguf/model.h"

namespace prism::gguf {

struct HyperParameters {
  int64_t context = 1, vocab = 1, layers = 1, width = 1, hidden = 1, heads = 1, kv_heads = 1, head_size = 2;
  int64_t rope_dims = 2;
  double rope_base = 10000, rope_scale = 1;
};

/// Where a matrix's optional `.scale` tensor, one number, multiplies its output.
enum class OutputScale { BeforeBias, AfterBias, Unused };

struct Rope {
  std::string mode;  ///< "adjacent" or "half", see ir/ops.def
  double base, scale;
  ir::Value* factors = nullptr;
};

struct AttentionOptions {
  double scale;
  std::optional<Rope> rope = {};
  int64_t window = 0;
  bool normalize_qk = false;  ///< attn_q_norm and attn_k_norm: RMS norm of each head before rope
};

struct ArchBuilder {
  ArchBuilder(std::shared_ptr<File> file, std::string architecture, const ModelOptions& options);

  HyperParameters hp;
  bool biases_required = false;  ///< every `linear` must find its bias

  // Metadata; keys without the architecture's prefix.
  const MetaValue* find(const std::string& key) const;
  int64_t int_param(const std::string& key, int64_t lo, int64_t hi, std::optional<int64_t> fallback = {});
  double float_param(const std::string& key, double lo, double hi, std::optional<double> fallback = {});
  /// One number per layer, or the same for all.
  std::vector<int64_t> layer_params(const std::string& key, int64_t lo, int64_t hi,
                                    std::optional<int64_t> fallback = {});

  // Weights by the file's tensor names. `optional_...` return nullptr if the file has none.
  bool has(const std::string& name) const { return file_->tensor(name); }
  ir::Value* matrix(const std::string& name, int64_t rows, int64_t columns);
  ir::Value* vector(const std::string& name, int64_t size);
  ir::Value* optional_vector(const std::string& name, int64_t size);
  /// The file may hold this tensor, which is no part of the text model (a classifier, an embedding head).
  void ignore(const std::string& name) { used_.insert(name); }

  // Blocks. `name` is a tensor's name without ".weight" or ".bias".
  static std::string block(int64_t layer, std::string_view name);  ///< "blk.<layer>.<name>"
  ir::Value* embed();                                              ///< [?seq, width]
  ir::Value* rms_norm(ir::Value* x, const std::string& name, int64_t size);
  ir::Value* layer_norm(ir::Value* x, const std::string& name);
  ir::Value* linear(ir::Value* x, const std::string& name, int64_t in, int64_t out, OutputScale scale);
  ir::Value* attention(ir::Value* x, int64_t layer, const AttentionOptions& options);
  /// down(act(gate(x)) * up(x))
  ir::Value* gated_ffn(ir::Value* x, int64_t layer, const std::string& act, OutputScale scale);
  /// down(act(up(x)))
  ir::Value* ffn(ir::Value* x, int64_t layer, const std::string& act, OutputScale scale);
  ir::Value* positions() const { return positions_; }
  ir::Value* tail(ir::Value* x) { return b.Tail({x}, {{"rows", "?out"}}, "tail"); }
  /// The output matrix (or the embedding's, where the file has none) applied to the normalised rows.
  ir::Value* output(ir::Value* x);

  void fail(Error e) {
    if (!error_) error_ = std::move(e);
  }
  template <class Found, class Expected>
  void fail_param(const std::string& suffix, const Found& found, const Expected& expected) {
    fail(prism::error(file_->name(), ": ", key(suffix), " is ", found, ", expected ", expected));
  }
  Status status() const { return error_ ? Status(*error_) : ok(); }
  Result<std::unique_ptr<ir::Module>> finish(ir::Value* logits);

  ir::Builder b;

 private:
  void read_hyper_parameters();
  void declare_graph();
  ir::Value* weight(const std::string& name, std::vector<int64_t> shape);
  std::optional<double> scalar(const std::string& name);
  ir::Value* activation(ir::Value* x, const std::string& act);
  std::array<ir::Value*, 3> qkv(ir::Value* x, int64_t layer);
  std::string key(const std::string& suffix) const { return architecture_ + "." + suffix; }

  std::shared_ptr<File> file_;
  std::string architecture_;
  ModelOptions options_;
  std::unique_ptr<ir::Module> module_;
  ir::Graph* graph_;
  ir::Value *ids_ = nullptr, *positions_ = nullptr;
  std::vector<ir::Value*> kv_;  ///< arguments, then the caches with this step appended, in layer order
  std::set<std::string> used_;  ///< tensors an architecture has asked for
  std::optional<Error> error_;
};

}  // namespace prism::gguf
