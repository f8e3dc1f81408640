#include "frontends/gguf/arch_builder.h"

#include <algorithm>
#include <cmath>

#include "frontends/gguf/quote.h"

namespace prism::gguf {
namespace {

using ir::Dim;
using ir::DType;
using ir::Type;
using ir::Value;

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? "," : "") + std::to_string(shape[i]);
  return out + "]";
}

std::string rows_of_heads(int64_t heads, int64_t size) {
  return "?seq," + std::to_string(heads) + "," + std::to_string(size);
}

template <class Number>
std::string range_text(Number lo, Number hi) {
  std::ostringstream out;
  out << lo;
  if (lo != hi) out << " to " << hi;
  return out.str();
}

}  // namespace

ArchBuilder::ArchBuilder(std::shared_ptr<File> file, std::string architecture, const ModelOptions& options)
    : b(nullptr),
      file_(std::move(file)),
      architecture_(std::move(architecture)),
      options_(options),
      module_(std::make_unique<ir::Module>()) {
  module_->name = architecture_;
  module_->keep_alive.push_back(file_);
  graph_ = module_->add_graph("forward");
  b = ir::Builder(graph_);
  read_hyper_parameters();
  if (!error_) declare_graph();
}

// ---- metadata

const MetaValue* ArchBuilder::find(const std::string& suffix) const { return file_->find(key(suffix)); }

int64_t ArchBuilder::int_param(const std::string& suffix, int64_t lo, int64_t hi, std::optional<int64_t> fallback) {
  const auto value = file_->get_int(key(suffix), fallback);
  if (!value) return fail(value.err()), lo;
  if (*value >= lo && *value <= hi) return *value;
  return fail_param(suffix, *value, range_text(lo, hi)), lo;
}

double ArchBuilder::float_param(const std::string& suffix, double lo, double hi, std::optional<double> fallback) {
  const auto value = file_->get_float(key(suffix), fallback);
  if (!value) return fail(value.err()), lo;
  if (*value >= lo && *value <= hi) return *value;  // false for NaN
  return fail_param(suffix, *value, range_text(lo, hi)), lo;
}

std::vector<int64_t> ArchBuilder::layer_params(const std::string& suffix, int64_t lo, int64_t hi,
                                               std::optional<int64_t> fallback) {
  const auto values = file_->get_ints(key(suffix), size_t(hp.layers), fallback);
  if (!values) return fail(values.err()), std::vector<int64_t>(hp.layers, lo);
  for (int64_t value : *values) {
    if (value >= lo && value <= hi) continue;
    fail_param(suffix, value, range_text(lo, hi));
    return std::vector<int64_t>(hp.layers, lo);
  }
  return *values;
}

void ArchBuilder::read_hyper_parameters() {
  constexpr int64_t kMaxContext = 1 << 24, kMaxVocab = 1 << 24, kMaxWidth = 1 << 18, kMaxHeads = 1 << 12;
  hp.layers = int_param("block_count", 1, 512);
  hp.context = int_param("context_length", 1, kMaxContext);
  hp.width = int_param("embedding_length", 1, kMaxWidth);
  if (error_) return;
  const auto same_in_all_layers = [&](const std::string& suffix, int64_t hi, std::optional<int64_t> fallback) {
    const auto values = layer_params(suffix, 1, hi, fallback);
    if (std::ranges::count(values, values[0]) != std::ptrdiff_t(values.size())) {
      fail_param(suffix, "different in some layers", "one value");
    }
    return values[0];
  };
  hp.hidden = same_in_all_layers("feed_forward_length", 1 << 22, {});
  hp.heads = same_in_all_layers("attention.head_count", kMaxHeads, {});
  hp.kv_heads = same_in_all_layers("attention.head_count_kv", kMaxHeads, hp.heads);
  if (hp.heads % hp.kv_heads != 0) {
    fail_param("attention.head_count_kv", hp.kv_heads, "a divisor of " + std::to_string(hp.heads) + " heads");
  }
  hp.head_size = int_param("attention.key_length", 1, kMaxWidth, hp.width / hp.heads);
  for (const char* same : {"attention.value_length", "attention.key_length_swa", "attention.value_length_swa"}) {
    int_param(same, hp.head_size, hp.head_size, hp.head_size);
  }
  hp.rope_dims = int_param("rope.dimension_count", 1, hp.head_size, hp.head_size);
  if (hp.rope_dims % 2 != 0) fail_param("rope.dimension_count", hp.rope_dims, "an even number");
  hp.rope_base = float_param("rope.freq_base", 1e-3, 1e12, 10000.0);

  const auto scaling = file_->get_string(key("rope.scaling.type"), "linear");
  if (!scaling) return fail(scaling.err());
  if (*scaling != "none" && *scaling != "linear") {
    fail_param("rope.scaling.type", quote(*scaling), "none or linear");
  }
  const char* factor_key = find("rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
  const double factor = float_param(factor_key, 0, 1e9, 0.0);
  hp.rope_scale = *scaling == "linear" && factor != 0 ? 1 / factor : 1.0;
  float_param("rope.scaling.attn_factor", 1, 1, 1.0);

  int_param("expert_count", 0, 0, 0);  // dense models only
  int_param("nextn_predict_layers", 0, 0, 0);
  if (const auto causal = file_->get_bool(key("attention.causal"), true); !causal) {
    fail(causal.err());
  } else if (!*causal) {
    fail_param("attention.causal", "false", "true");
  }

  const MetaValue* tokens = file_->find("tokenizer.ggml.tokens");
  const auto* texts = tokens ? std::get_if<std::vector<std::string_view>>(tokens) : nullptr;
  if (texts && !texts->empty()) {
    hp.vocab = int64_t(texts->size());
  } else {
    hp.vocab = int_param("vocab_size", 1, kMaxVocab);
  }
}

void ArchBuilder::declare_graph() {
  module_->dims["seq"] = {1, hp.context};
  module_->dims["past"] = {0, hp.context};
  module_->dims["out"] = {1, hp.context};
  module_->attrs = {{"architecture", architecture_}, {"context_length", hp.context}, {"vocab_size", hp.vocab}};
  const Dim seq = Dim::symbol("seq"), past = Dim::symbol("past");
  ids_ = graph_->add_arg(Type::tensor(DType::I32, {seq}), "ids");
  for (int64_t i = 0; i < hp.layers; ++i) {
    const Type cache = Type::kv(options_.kv_dtype, past, hp.kv_heads, hp.head_size);
    kv_.push_back(graph_->add_arg(cache, "kv" + std::to_string(i)));
  }
  positions_ = b.Positions({}, {{"start", "?past"}, {"count", "?seq"}}, "pos");
}

// ---- weights

Value* ArchBuilder::weight(const std::string& name, std::vector<int64_t> shape) {
  const TensorInfo* found = file_->tensor(name);
  if (!found) {
    fail(error(file_->name(), ": tensor ", quote(name), " is missing, expected shape ", shape_text(shape)));
  } else if (found->shape != shape) {
    fail(error(file_->name(), ": tensor ", quote(name), ": found shape ", shape_text(found->shape), ", expected ",
               shape_text(shape)));
  } else if (!ir::is_float(found->dtype) && (!ir::info(found->dtype).quantized || shape.size() == 1)) {
    fail(error(file_->name(), ": tensor ", quote(name), ": found ", ir::info(found->dtype).name, ", expected a float",
               shape.size() == 1 ? "" : " or quantized", " type"));
  }
  used_.insert(name);
  if (ir::Weight* known = module_->weight(name)) return &known->value;
  ir::Shape dims(shape.begin(), shape.end());
  ir::Weight* w = module_->add_weight(name, Type::tensor(error_ ? DType::F32 : found->dtype, dims));
  if (!error_ && options_.weights) {
    w->data = file_->data(*found);
    w->bytes = found->bytes;
  }
  return &w->value;
}

Value* ArchBuilder::matrix(const std::string& name, int64_t rows, int64_t columns) {
  return weight(name, {rows, columns});
}
Value* ArchBuilder::vector(const std::string& name, int64_t size) { return weight(name, {size}); }
Value* ArchBuilder::optional_vector(const std::string& name, int64_t size) {
  return has(name) ? vector(name, size) : nullptr;
}

std::optional<double> ArchBuilder::scalar(const std::string& name) {
  const TensorInfo* found = file_->tensor(name);
  if (!found) return std::nullopt;
  if (found->shape != std::vector<int64_t>{1} || !ir::is_float(found->dtype)) {
    fail(error(file_->name(), ": tensor ", quote(name), ": found ", ir::info(found->dtype).name,
               shape_text(found->shape), ", expected one float"));
    return std::nullopt;
  }
  float value;
  ir::dequantize_row(found->dtype, file_->data(*found), &value, 1);
  return value;
}

// ---- blocks

std::string ArchBuilder::block(int64_t layer, std::string_view name) {
  return "blk." + std::to_string(layer) + "." + std::string(name);
}

Value* ArchBuilder::embed() { return b.Embedding({ids_, matrix("token_embd.weight", hp.vocab, hp.width)}, {}, "embd"); }

Value* ArchBuilder::rms_norm(Value* x, const std::string& name, int64_t size) {
  const double eps = float_param("attention.layer_norm_rms_epsilon", 0, 1);
  return b.RmsNorm({x, vector(name + ".weight", size)}, {{"eps", eps}}, "norm");
}

Value* ArchBuilder::layer_norm(Value* x, const std::string& name) {
  const double eps = float_param("attention.layer_norm_epsilon", 0, 1);
  return b.LayerNorm({x, vector(name + ".weight", hp.width), vector(name + ".bias", hp.width)}, {{"eps", eps}}, "norm");
}

Value* ArchBuilder::linear(Value* x, const std::string& name, int64_t in, int64_t out, OutputScale scale_use) {
  Value* w = matrix(name + ".weight", out, in);
  Value* bias = biases_required ? vector(name + ".bias", out) : optional_vector(name + ".bias", out);
  const auto scale = scale_use == OutputScale::Unused ? std::nullopt : scalar(name + ".scale");
  if (scale && bias && scale_use == OutputScale::BeforeBias) {
    return b.Add({b.Scale({b.Linear({x, w})}, {{"by", *scale}}), bias});
  }
  Value* y = bias ? b.Linear({x, w, bias}) : b.Linear({x, w});
  return scale ? b.Scale({y}, {{"by", *scale}}) : y;
}

std::array<Value*, 3> ArchBuilder::qkv(Value* x, int64_t layer) {
  const int64_t q_width = hp.heads * hp.head_size, kv_width = hp.kv_heads * hp.head_size;
  if (!has(block(layer, "attn_qkv.weight"))) {
    return {linear(x, block(layer, "attn_q"), hp.width, q_width, OutputScale::BeforeBias),
            linear(x, block(layer, "attn_k"), hp.width, kv_width, OutputScale::BeforeBias),
            linear(x, block(layer, "attn_v"), hp.width, kv_width, OutputScale::BeforeBias)};
  }
  Value* all = linear(x, block(layer, "attn_qkv"), hp.width, q_width + 2 * kv_width, OutputScale::BeforeBias);
  const auto columns = [&](int64_t begin, int64_t count) {
    return b.Slice({all}, {{"axis", int64_t{1}}, {"begin", begin}, {"end", begin + count}});
  };
  return {columns(0, q_width), columns(q_width, kv_width), columns(q_width + kv_width, kv_width)};
}

Value* ArchBuilder::attention(Value* x, int64_t layer, const AttentionOptions& options) {
  auto [q, k, v] = qkv(x, layer);
  q = b.Reshape({q}, {{"shape", rows_of_heads(hp.heads, hp.head_size)}}, "q");
  k = b.Reshape({k}, {{"shape", rows_of_heads(hp.kv_heads, hp.head_size)}}, "k");
  v = b.Reshape({v}, {{"shape", rows_of_heads(hp.kv_heads, hp.head_size)}}, "v");
  if (options.normalize_qk) {
    q = rms_norm(q, block(layer, "attn_q_norm"), hp.head_size);
    k = rms_norm(k, block(layer, "attn_k_norm"), hp.head_size);
  }
  if (const auto& rope = options.rope) {
    const ir::AttrMap attrs = {
        {"base", rope->base}, {"mode", rope->mode}, {"dims", hp.rope_dims}, {"scale", rope->scale}};
    const auto rotate = [&](Value* of) {
      return rope->factors ? b.Rope({of, positions_, rope->factors}, attrs) : b.Rope({of, positions_}, attrs);
    };
    q = rotate(q);
    k = rotate(k);
  }
  kv_[layer] = b.KvAppend({kv_[layer], k, v}, {}, "kv" + std::to_string(layer) + "_next");
  Value* y = b.Attention({q, kv_[layer]}, {{"scale", options.scale}, {"window", options.window}}, "attn");
  const int64_t q_width = hp.heads * hp.head_size;
  y = b.Reshape({y}, {{"shape", "?seq," + std::to_string(q_width)}});
  return linear(y, block(layer, "attn_output"), q_width, hp.width, OutputScale::BeforeBias);
}

Value* ArchBuilder::activation(Value* x, const std::string& act) {
  return act == "silu" ? b.Silu({x}) : b.Gelu({x}, {{"approximate", "tanh"}});
}

Value* ArchBuilder::gated_ffn(Value* x, int64_t layer, const std::string& act, OutputScale scale) {
  Value* gate = linear(x, block(layer, "ffn_gate"), hp.width, hp.hidden, scale);
  Value* up = linear(x, block(layer, "ffn_up"), hp.width, hp.hidden, scale);
  return linear(b.Mul({activation(gate, act), up}), block(layer, "ffn_down"), hp.hidden, hp.width, scale);
}

Value* ArchBuilder::ffn(Value* x, int64_t layer, const std::string& act, OutputScale scale) {
  Value* up = linear(x, block(layer, "ffn_up"), hp.width, hp.hidden, scale);
  return linear(activation(up, act), block(layer, "ffn_down"), hp.hidden, hp.width, scale);
}

Value* ArchBuilder::output(Value* x) {
  const std::string name = has("output.weight") ? "output.weight" : "token_embd.weight";
  Value* w = matrix(name, hp.vocab, hp.width);
  Value* bias = optional_vector("output.bias", hp.vocab);
  return bias ? b.Linear({x, w, bias}, {}, "logits") : b.Linear({x, w}, {}, "logits");
}

Result<std::unique_ptr<ir::Module>> ArchBuilder::finish(Value* logits) {
  if (error_) return *error_;
  if (auto status = b.status(); !status) return error(file_->name(), ": ", status.message());
  // A tensor nothing reads would make silently wrong numbers. Scales of inputs only matter to formats not read here.
  for (const TensorInfo& t : file_->tensors()) {
    if (used_.count(t.name) || t.name.ends_with(".scale") || t.name.ends_with(".input_scale")) continue;
    return error(file_->name(), ": tensor ", quote(t.name), " is not part of architecture ", architecture_);
  }
  std::vector<Value*> results = {logits};
  results.insert(results.end(), kv_.begin(), kv_.end());
  b.set_return(results);
  return std::move(module_);
}

}  // namespace prism::gguf
