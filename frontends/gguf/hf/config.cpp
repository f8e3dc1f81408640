#include "frontends/gguf/hf/config.h"

#include <algorithm>
#include <set>

#include "frontends/gguf/model_keys.h"
#include "frontends/gguf/quote.h"
#include "frontends/gguf/rope_factors.h"

namespace prism::gguf::hf {
namespace {

using Order = Recipe::Order;

struct Family {
  std::string_view model_type, class_name, architecture;
};
constexpr Family kFamilies[] = {{"llama", "LlamaForCausalLM", "llama"},        {"mistral", "MistralForCausalLM", "llama"},
                                {"qwen2", "Qwen2ForCausalLM", "qwen2"},        {"qwen3", "Qwen3ForCausalLM", "qwen3"},
                                {"gemma3_text", "Gemma3ForCausalLM", "gemma3"}, {"gpt2", "GPT2LMHeadModel", "gpt2"}};

Result<Family> family_of(const Object& config) {
  const Json* classes = config.find("architectures");
  const Json* name = classes && classes->is_array() && classes->size() == 1 ? &(*classes)[0] : config.find("model_type");
  std::string known;
  for (const Family& f : kFamilies) {
    if (name && (*name == f.class_name || *name == f.model_type)) return f;
    known += (known.empty() ? "" : ", ") + std::string(f.class_name);
  }
  return error(config.where(), ": 'architectures': found ", name ? shown(*name) : "nothing", ", expected one of ", known);
}

struct Hyper {
  int64_t layers, width, hidden, heads, kv_heads, head_size, context, vocab;
  bool tied, qkv_bias = false, output_bias = false, ffn_bias = false;
};

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? "," : "") + std::to_string(shape[i]);
  return out + "]";
}

struct How {
  Order order = Order::Same;
  int64_t heads = 1;
  float add = 0;
  bool exact = false;  ///< in f32, as llama.cpp keeps what is small
};

/// Lists the GGUF file's tensors, each found in the weights with the shape it must have.
class Tensors {
 public:
  Tensors(const Weights& weights, const std::string& where) : weights_(weights.tensors), where_(where) {}

  Status add(const std::string& name, const std::string& source, std::vector<int64_t> shape, const How& how) {
    const auto found = weights_.find(source);
    if (found == weights_.end()) return error(where_, ": tensor ", quote(source), ": not found in the weights, expected ", shape_text(shape));
    const SafeTensor& t = found->second;
    std::vector<int64_t> expected = shape;
    if (how.order == Order::Transposed) std::ranges::reverse(expected);
    if (t.shape != expected)
      return error(t.file, ": tensor ", quote(source), ": found shape ", shape_text(t.shape), ", expected ", shape_text(expected), " by config.json");
    const auto dtype = dtype_of(t);
    if (!dtype) return error(t.file, ": tensor ", quote(source), ": found dtype ", quote(t.type), ", expected F32, F16 or BF16");
    used_.insert(source);
    recipes_.push_back({name, shape.size() == 1 || how.exact ? ir::DType::F32 : *dtype, std::move(shape), &t, how.order, how.heads, how.add});
    return ok();
  }
  Status linear(const std::string& name, const std::string& source, int64_t out, int64_t in, bool bias, const How& how = {}) {
    PRISM_CHECK(add(name + ".weight", source + ".weight", {out, in}, how));
    return bias ? add(name + ".bias", source + ".bias", {out}, {how.order == Order::Transposed ? Order::Same : how.order, how.heads}) : ok();
  }
  void constant(const std::string& name, std::vector<float> values) {
    recipes_.push_back({.name = name, .dtype = ir::DType::F32, .shape = {int64_t(values.size())}, .values = std::move(values)});
  }
  bool has(const std::string& source) const { return weights_.contains(source); }
  void ignore(const std::string& source) { used_.insert(source); }

  /// A tensor nothing reads would make silently wrong numbers.
  Result<std::vector<Recipe>> finish(std::string_view architecture) {
    for (const auto& [name, t] : weights_)
      if (!used_.contains(name) && !name.ends_with(".rotary_emb.inv_freq"))
        return error(t.file, ": tensor ", quote(name), ": found, but it is not part of architecture ", architecture, " as config.json describes it");
    return std::move(recipes_);
  }

 private:
  const SafeTensors& weights_;
  const std::string& where_;
  std::vector<Recipe> recipes_;
  std::set<std::string> used_;
};

struct Rope {
  double base;
  double linear = 1;  ///< positions are divided by it
  std::optional<Llama3Rope> llama3;
};

/// `base` stands in `from`, which is config.json or, with newer files, `scaling` itself.
Result<Rope> read_rope(const Object& from, const std::optional<Object>& scaling, double default_base) {
  Rope rope;
  PRISM_TRY(rope.base, from.get_float("rope_theta", default_base));
  PRISM_CHECK(from.require("partial_rotary_factor", {1}));
  const auto positive = [](const Object& o, std::string_view key, double value) -> Status {
    return value > 0 ? ok() : Status(error(o.where(), ": ", quote(key), ": found ", value, ", expected a positive number"));
  };
  PRISM_CHECK(positive(from, "rope_theta", rope.base));
  if (!scaling) return rope;
  PRISM_TRY(const std::string old_name, scaling->get_string("type", "default"));
  PRISM_TRY(const std::string type, scaling->get_string("rope_type", old_name));
  if (type == "default") return rope;
  if (type != "linear" && type != "llama3")
    return error(scaling->where(), ": 'rope_type': found ", quote(type), ", expected default, linear or llama3");
  PRISM_TRY(const double factor, scaling->get_float("factor"));
  PRISM_CHECK(positive(*scaling, "factor", factor));
  if (type == "linear") {
    rope.linear = factor;
    return rope;
  }
  Llama3Rope l{.base = rope.base, .factor = factor};
  PRISM_TRY(l.low, scaling->get_float("low_freq_factor"));
  PRISM_TRY(l.high, scaling->get_float("high_freq_factor"));
  PRISM_TRY(l.trained, scaling->get_float("original_max_position_embeddings"));
  PRISM_CHECK(positive(*scaling, "low_freq_factor", l.low));
  PRISM_CHECK(positive(*scaling, "original_max_position_embeddings", l.trained));
  if (!(l.high > l.low)) return error(scaling->where(), ": 'high_freq_factor': found ", l.high, ", expected more than low_freq_factor, ", l.low);
  rope.llama3 = l;
  return rope;
}

/// `kind`: the layers it is for, where newer files tell them apart.
Result<Rope> read_rope(const Object& config, std::string_view kind, double default_base) {
  if (config.find("rope_parameters")) {
    PRISM_TRY(Object parameters, config.get_object("rope_parameters"));
    if (parameters.find(kind)) {
      PRISM_TRY(parameters, parameters.get_object(kind));
    }
    return read_rope(parameters, parameters, default_base);
  }
  std::optional<Object> scaling;
  if (config.find("rope_scaling")) {
    PRISM_TRY(scaling, config.get_object("rope_scaling"));
  }
  return read_rope(config, scaling, default_base);
}

void write_hyper(const Hyper& h, const std::string& architecture, double epsilon, double rope_base, HeaderWriter& w) {
  write_model_keys(w, architecture, {h.vocab, h.context, h.width, h.layers, h.hidden, h.heads, h.kv_heads, h.head_size, epsilon, rope_base});
}

/// Which layers have a sliding window, as GGUF says it: all but every n-th; 0: all.
Result<int64_t> sliding_pattern(const Object& config, int64_t layers) {
  const Json* types = config.find("layer_types");
  if (!types) return config.get_int("sliding_window_pattern", 1, 1 << 20, 6);
  const auto wrong = [&] {
    return error(config.where(), ": 'layer_types': found ", shown(*types), ", expected ", layers, " of 'sliding_attention', every n-th 'full_attention'");
  };
  if (!types->is_array() || int64_t(types->size()) != layers) return wrong();
  int64_t n = 0;
  for (int64_t i = 0; i < layers; ++i) {
    const bool full = (*types)[size_t(i)] == "full_attention";
    if (!full && (*types)[size_t(i)] != "sliding_attention") return wrong();
    if (full && n == 0) n = i + 1;
    if (full != (n > 0 && i % n == n - 1)) return wrong();
  }
  return n;
}

/// What Gemma 3 has besides.
Status write_gemma3(const Object& config, const Hyper& h, const std::string& prefix, HeaderWriter& w) {
  PRISM_CHECK(config.require("hidden_activation", {"gelu_pytorch_tanh"}));
  PRISM_CHECK(config.require("attn_logit_softcapping", {}));
  PRISM_CHECK(config.require("use_bidirectional_attention", {false}));
  // Queries are scaled by the head's size, in the 27B model (62 layers) by the width per head.
  PRISM_CHECK(config.require("query_pre_attn_scalar", {h.layers == 62 ? h.width / h.heads : h.head_size}));
  PRISM_TRY(const int64_t window, config.get_int("sliding_window", 1, 1 << 24, 4096));
  PRISM_TRY(const int64_t pattern, sliding_pattern(config, h.layers));
  w.u32(prefix + "attention.sliding_window", window);
  w.u32(prefix + "attention.sliding_window_pattern", pattern);
  PRISM_TRY(double local_base, config.get_float("rope_local_base_freq", 1e4));
  if (config.find("rope_parameters")) {
    PRISM_TRY(const Object all, config.get_object("rope_parameters"));
    PRISM_TRY(const Object parameters, all.get_object("sliding_attention"));
    PRISM_TRY(const Rope local, read_rope(parameters, parameters, 1e4));
    if (local.linear != 1 || local.llama3) return error(parameters.where(), ": found scaled rotations in layers with a sliding window, expected none");
    local_base = local.base;
  }
  w.f32(prefix + "rope.freq_base_swa", local_base);
  PRISM_TRY(const double cap, config.get_float("final_logit_softcapping", 0));
  if (cap != 0) w.f32(prefix + "final_logit_softcapping", cap);
  return ok();
}

/// Llama and its relatives: norms by RMS, rotations, gated feed-forward layers.
Result<Config> read_llama_like(const Object& config, const std::string& architecture, const Weights& weights, HeaderWriter& w) {
  const bool llama = architecture == "llama", qwen2 = architecture == "qwen2", qwen3 = architecture == "qwen3", gemma3 = architecture == "gemma3";
  const std::string prefix = architecture + ".";
  Hyper h;
  PRISM_TRY(h.layers, config.get_int("num_hidden_layers", 1, 512));
  PRISM_TRY(h.width, config.get_int("hidden_size", 1, 1 << 18));
  PRISM_TRY(h.hidden, config.get_int("intermediate_size", 1, 1 << 22));
  PRISM_TRY(h.heads, config.get_int("num_attention_heads", 1, 1 << 12));
  PRISM_TRY(h.kv_heads, config.get_int("num_key_value_heads", 1, 1 << 12, h.heads));
  PRISM_TRY(h.head_size, config.get_int("head_dim", 2, 1 << 18, qwen3 ? 128 : gemma3 ? 256 : h.width / h.heads));
  PRISM_TRY(h.context, config.get_int("max_position_embeddings", 1, 1 << 24));
  PRISM_TRY(h.vocab, config.get_int("vocab_size", 1, 1 << 24));
  PRISM_TRY(h.tied, config.get_bool("tie_word_embeddings", gemma3));
  if (h.head_size % 2 != 0) return error(config.where(), ": 'head_dim': found ", h.head_size, ", expected an even number, whose halves rotate");
  if (!qwen2) {
    PRISM_TRY(h.qkv_bias, config.get_bool("attention_bias", false));
    h.output_bias = h.qkv_bias;
  } else {
    h.qkv_bias = true;
  }
  if (llama) {
    PRISM_TRY(h.ffn_bias, config.get_bool("mlp_bias", false));
  }
  PRISM_TRY(const double epsilon, config.get_float("rms_norm_eps", 1e-6));
  PRISM_TRY(const Rope rope, read_rope(config, "full_attention", gemma3 ? 1e6 : 1e4));
  if (rope.llama3 && !llama) return error(config.where(), ": 'rope_type': found 'llama3', expected it with architecture llama only");

  write_hyper(h, architecture, epsilon, rope.base, w);
  if (rope.linear != 1) {
    w.string(prefix + "rope.scaling.type", "linear");
    w.f32(prefix + "rope.scaling.factor", rope.linear);
  }
  if (gemma3) {
    PRISM_CHECK(write_gemma3(config, h, prefix, w));
  } else {
    PRISM_CHECK(config.require("hidden_act", {"silu"}));
    // Qwen's files name a window that they do not use.
    if (llama) PRISM_CHECK(config.require("sliding_window", {}));
    PRISM_CHECK(config.require("use_sliding_window", {false}));
    PRISM_CHECK(config.require("layer_types", {std::vector<std::string>(size_t(h.layers), "full_attention")}));
  }

  Tensors t(weights, config.where());
  const How norm{.add = gemma3 ? 1.0f : 0.0f};  // Gemma's files have the difference from 1
  const auto rotated = [&](int64_t heads) { return How{.order = llama ? Order::Interleaved : Order::Same, .heads = heads}; };
  const int64_t q = h.heads * h.head_size, kv = h.kv_heads * h.head_size;
  PRISM_CHECK(t.add("token_embd.weight", "model.embed_tokens.weight", {h.vocab, h.width}, {}));
  if (rope.llama3) t.constant("rope_freqs.weight", llama3_rope_factors(*rope.llama3, h.head_size));
  for (int64_t i = 0; i < h.layers; ++i) {
    const std::string to = "blk." + std::to_string(i) + ".", from = "model.layers." + std::to_string(i) + ".";
    PRISM_CHECK(t.add(to + "attn_norm.weight", from + "input_layernorm.weight", {h.width}, norm));
    PRISM_CHECK(t.linear(to + "attn_q", from + "self_attn.q_proj", q, h.width, h.qkv_bias, rotated(h.heads)));
    PRISM_CHECK(t.linear(to + "attn_k", from + "self_attn.k_proj", kv, h.width, h.qkv_bias, rotated(h.kv_heads)));
    PRISM_CHECK(t.linear(to + "attn_v", from + "self_attn.v_proj", kv, h.width, h.qkv_bias));
    if (qwen3 || gemma3) {
      PRISM_CHECK(t.add(to + "attn_q_norm.weight", from + "self_attn.q_norm.weight", {h.head_size}, norm));
      PRISM_CHECK(t.add(to + "attn_k_norm.weight", from + "self_attn.k_norm.weight", {h.head_size}, norm));
    }
    PRISM_CHECK(t.linear(to + "attn_output", from + "self_attn.o_proj", h.width, q, h.output_bias));
    if (gemma3) {
      PRISM_CHECK(t.add(to + "post_attention_norm.weight", from + "post_attention_layernorm.weight", {h.width}, norm));
      PRISM_CHECK(t.add(to + "ffn_norm.weight", from + "pre_feedforward_layernorm.weight", {h.width}, norm));
      PRISM_CHECK(t.add(to + "post_ffw_norm.weight", from + "post_feedforward_layernorm.weight", {h.width}, norm));
    } else {
      PRISM_CHECK(t.add(to + "ffn_norm.weight", from + "post_attention_layernorm.weight", {h.width}, norm));
    }
    PRISM_CHECK(t.linear(to + "ffn_gate", from + "mlp.gate_proj", h.hidden, h.width, h.ffn_bias));
    PRISM_CHECK(t.linear(to + "ffn_up", from + "mlp.up_proj", h.hidden, h.width, h.ffn_bias));
    PRISM_CHECK(t.linear(to + "ffn_down", from + "mlp.down_proj", h.width, h.hidden, h.ffn_bias));
  }
  PRISM_CHECK(t.add("output_norm.weight", "model.norm.weight", {h.width}, norm));
  if (h.tied) t.ignore("lm_head.weight");
  else PRISM_CHECK(t.add("output.weight", "lm_head.weight", {h.vocab, h.width}, {}));
  PRISM_TRY(auto recipes, t.finish(architecture));
  return Config{h.vocab, std::move(recipes)};
}

Result<Config> read_gpt2(const Object& config, const Weights& weights, HeaderWriter& w) {
  Hyper h{};
  PRISM_TRY(h.layers, config.get_int("n_layer", 1, 512));
  PRISM_TRY(h.width, config.get_int("n_embd", 1, 1 << 18));
  PRISM_TRY(h.hidden, config.get_int("n_inner", 1, 1 << 22, 4 * h.width));
  PRISM_TRY(h.heads, config.get_int("n_head", 1, 1 << 12));
  PRISM_TRY(h.context, config.get_int("n_positions", 1, 1 << 24));
  PRISM_TRY(h.vocab, config.get_int("vocab_size", 1, 1 << 24));
  PRISM_TRY(h.tied, config.get_bool("tie_word_embeddings", true));
  h.kv_heads = h.heads;
  if (h.width % h.heads != 0) return error(config.where(), ": 'n_head': found ", h.heads, ", expected a divisor of n_embd, ", h.width);
  PRISM_TRY(const double epsilon, config.get_float("layer_norm_epsilon", 1e-5));
  PRISM_CHECK(config.require("activation_function", {"gelu_new", "gelu_pytorch_tanh"}));
  PRISM_CHECK(config.require("scale_attn_weights", {true}));
  PRISM_CHECK(config.require("scale_attn_by_inverse_layer_idx", {false}));
  PRISM_CHECK(config.require("add_cross_attention", {false}));
  write_hyper(h, "gpt2", epsilon, 0, w);

  Tensors t(weights, config.where());
  const std::string root = t.has("transformer.wte.weight") ? "transformer." : "";  // the oldest files lack it
  const auto norm = [&](const std::string& name, const std::string& source) -> Status {
    PRISM_CHECK(t.add(name + ".weight", source + ".weight", {h.width}, {}));
    return t.add(name + ".bias", source + ".bias", {h.width}, {});
  };
  const auto linear = [&](const std::string& name, const std::string& source, int64_t out, int64_t in) {
    return t.linear(name, source, out, in, true, {.order = Order::Transposed});
  };
  PRISM_CHECK(t.add("token_embd.weight", root + "wte.weight", {h.vocab, h.width}, {}));
  PRISM_CHECK(t.add("position_embd.weight", root + "wpe.weight", {h.context, h.width}, {.exact = true}));
  for (int64_t i = 0; i < h.layers; ++i) {
    const std::string to = "blk." + std::to_string(i) + ".", from = root + "h." + std::to_string(i) + ".";
    PRISM_CHECK(norm(to + "attn_norm", from + "ln_1"));
    PRISM_CHECK(linear(to + "attn_qkv", from + "attn.c_attn", 3 * h.width, h.width));
    PRISM_CHECK(linear(to + "attn_output", from + "attn.c_proj", h.width, h.width));
    PRISM_CHECK(norm(to + "ffn_norm", from + "ln_2"));
    PRISM_CHECK(linear(to + "ffn_up", from + "mlp.c_fc", h.hidden, h.width));
    PRISM_CHECK(linear(to + "ffn_down", from + "mlp.c_proj", h.width, h.hidden));
    t.ignore(from + "attn.bias");  // the causal mask
    t.ignore(from + "attn.masked_bias");
  }
  PRISM_CHECK(norm("output_norm", root + "ln_f"));
  if (h.tied) t.ignore("lm_head.weight");
  else PRISM_CHECK(t.add("output.weight", "lm_head.weight", {h.vocab, h.width}, {}));
  PRISM_TRY(auto recipes, t.finish("gpt2"));
  return Config{h.vocab, std::move(recipes)};
}

}  // namespace

Result<Config> read_config(const Object& config, const Weights& weights, HeaderWriter& w) {
  PRISM_TRY(const Family family, family_of(config));
  PRISM_CHECK(config.require("quantization_config", {}));
  w.string("general.architecture", family.architecture);
  if (family.architecture == "gpt2") return read_gpt2(config, weights, w);
  return read_llama_like(config, std::string(family.architecture), weights, w);
}

}  // namespace prism::gguf::hf
