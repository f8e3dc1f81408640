// Writes a GGUF file as the Hugging Face folder it could have come from: the way back, on its own, from what the readers do.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "frontends/gguf/gguf.h"

namespace prism::gguf {

using nlohmann::json;

struct HfTensor {
  std::string type;
  std::vector<int64_t> shape;
  std::string bytes;
};

inline void write_text(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

/// A safetensors file: the header's length, the header, data in the order of names.
inline std::string safetensors(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}
inline std::string safetensors(const std::map<std::string, HfTensor>& tensors) {
  json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const auto& [name, t] : tensors) {
    header[name] = {{"dtype", t.type}, {"shape", t.shape}, {"data_offsets", {data.size(), data.size() + t.bytes.size()}}};
    data += t.bytes;
  }
  return safetensors(header.dump(), data);
}

struct HfModel {
  json config, tokenizer;
  std::map<std::string, HfTensor> tensors;
  std::map<std::string, std::vector<float>> expected;  ///< by GGUF's names

  void write(const std::string& folder) const {
    std::filesystem::create_directories(folder);
    write_text(folder + "/config.json", config.dump());
    write_text(folder + "/tokenizer.json", tokenizer.dump());
    write_text(folder + "/model.safetensors", safetensors(tensors));
  }
};

inline std::vector<float> floats_of(const File& f, const TensorInfo& t) {
  size_t n = 1;
  for (int64_t d : t.shape) n *= size_t(d);
  std::vector<float> values(n);
  const auto bytes = f.load(t);
  ir::dequantize_row(t.dtype, bytes.get(), values.data(), n);
  return values;
}

/// tokenizer.json of what a GGUF file says of its tokenizer. SPM's merges as Hugging Face's converter makes them of the scores.
inline json hf_tokenizer(const File& f) {
  const std::string model = *f.get_string("tokenizer.ggml.model");
  const auto& texts = std::get<std::vector<std::string_view>>(*f.find("tokenizer.ggml.tokens"));
  const MetaValue* type_list = f.find("tokenizer.ggml.token_type");
  json vocab = json::object(), merges = json::array(), added = json::array();
  std::map<std::string_view, int> ids;
  std::vector<int> normal;
  for (size_t i = 0; i < texts.size(); ++i) {
    const int64_t type = type_list ? std::get<std::vector<int64_t>>(*type_list)[i] : 1;
    std::string text(texts[i]);
    if (type == 5) continue;
    if (type == 3 || type == 4) added.push_back({{"id", i}, {"content", text}, {"special", type == 3}, {"lstrip", false}, {"normalized", false}});
    if (type == 1) normal.push_back(int(i));
    if (type != 4 || model == "llama") vocab[text] = i;
    ids.emplace(texts[i], int(i));
  }
  json t = {{"version", "1.0"}, {"added_tokens", added}, {"normalizer", nullptr}, {"model", {{"type", "BPE"}, {"unk_token", nullptr}}}};
  if (model == "llama") {
    const auto& scores = std::get<std::vector<double>>(*f.find("tokenizer.ggml.scores"));
    std::stable_sort(normal.begin(), normal.end(), [&](int a, int b) { return scores[size_t(a)] > scores[size_t(b)]; });
    for (int id : normal) {
      const std::string_view text = texts[size_t(id)];
      for (size_t cut = 1; cut < text.size(); ++cut)
        if (ids.contains(text.substr(0, cut)) && ids.contains(text.substr(cut))) merges.push_back({text.substr(0, cut), text.substr(cut)});
    }
    t["model"]["byte_fallback"] = true;
    json steps = json::array({{{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}}});
    if (*f.get_bool("tokenizer.ggml.add_space_prefix", true)) steps.insert(steps.begin(), {{"type", "Prepend"}, {"prepend", "▁"}});
    t["normalizer"] = {{"type", "Sequence"}, {"normalizers", steps}};
  } else {
    const std::string pre = *f.get_string("tokenizer.ggml.pre", "gpt-2");
    const MetaValue* list = f.find("tokenizer.ggml.merges");
    if (const auto* pairs = std::get_if<std::vector<std::string_view>>(list))
      for (size_t i = 0; i < pairs->size(); ++i) {
        const size_t space = (*pairs)[i].find(' ');
        if (i % 2) merges.push_back((*pairs)[i]);  // both ways of writing them
        else merges.push_back({(*pairs)[i].substr(0, space), (*pairs)[i].substr(space + 1)});
      }
    const json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", pre != "qwen2"}};
    const char* qwen2 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    json steps = json::array({bytes});
    if (pre == "smollm") steps = {{{"type", "Digits"}, {"individual_digits", true}}, bytes};
    if (pre == "qwen2") steps = {{{"type", "Split"}, {"pattern", {{"Regex", qwen2}}}, {"behavior", "Isolated"}, {"invert", false}}, bytes};
    t["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", steps}};
    if (steps.size() == 1) t["pre_tokenizer"] = bytes;
  }
  t["model"]["vocab"] = vocab;
  t["model"]["merges"] = merges;
  return t;
}

/// Weights of type F32, F16 or BF16. `rope_scaling` says what rope_freqs.weight holds.
inline HfModel hf_model(const File& f, const std::string& type = "F32", const json& rope_scaling = nullptr) {
  HfModel m;
  const std::string arch = *f.get_string("general.architecture"), prefix = arch + ".";
  const auto number = [&](const std::string& key, int64_t fallback = -1) { return *f.get_int(prefix + key, fallback); };
  const auto real = [&](const std::string& key, double fallback) { return *f.get_float(prefix + key, fallback); };
  const int64_t layers = number("block_count"), width = number("embedding_length"), heads = number("attention.head_count");
  const int64_t kv_heads = number("attention.head_count_kv", heads), head = number("attention.key_length", width / heads);
  const bool gpt2 = arch == "gpt2", gemma = arch == "gemma3", llama = arch == "llama";

  m.config = {{"vocab_size", f.tensor("token_embd.weight")->shape[0]}, {"tie_word_embeddings", !f.tensor("output.weight")}, {"torch_dtype", "float32"}};
  const std::map<std::string, std::pair<const char*, const char*>> names = {{"llama", {"LlamaForCausalLM", "llama"}}, {"qwen2", {"Qwen2ForCausalLM", "qwen2"}},
      {"qwen3", {"Qwen3ForCausalLM", "qwen3"}}, {"gemma3", {"Gemma3ForCausalLM", "gemma3_text"}}, {"gpt2", {"GPT2LMHeadModel", "gpt2"}}};
  m.config["architectures"] = json::array({names.at(arch).first});
  m.config["model_type"] = names.at(arch).second;
  if (gpt2) {
    m.config.update({{"n_layer", layers}, {"n_embd", width}, {"n_head", heads}, {"n_positions", number("context_length")},
                     {"n_inner", number("feed_forward_length")}, {"layer_norm_epsilon", real("attention.layer_norm_epsilon", 0)},
                     {"activation_function", "gelu_new"}});
  } else {
    m.config.update({{"num_hidden_layers", layers}, {"hidden_size", width}, {"intermediate_size", number("feed_forward_length")},
                     {"num_attention_heads", heads}, {"num_key_value_heads", kv_heads}, {"head_dim", head},
                     {"max_position_embeddings", number("context_length")}, {"rms_norm_eps", real("attention.layer_norm_rms_epsilon", 0)},
                     {"rope_theta", real("rope.freq_base", 1e4)}, {"rope_scaling", rope_scaling}});
    if (!gemma) m.config["hidden_act"] = "silu";
    if (f.tensor("blk.0.attn_q.bias") && arch != "qwen2") m.config["attention_bias"] = true;
    if (f.tensor("blk.0.ffn_up.bias")) m.config["mlp_bias"] = true;
  }
  if (arch == "qwen2") m.config.update({{"use_sliding_window", false}, {"sliding_window", 32768}});
  if (gemma) {
    json kinds = json::array();
    const MetaValue* pattern = f.find(prefix + "attention.sliding_window_pattern");
    const auto* each = std::get_if<std::vector<int64_t>>(pattern);
    for (int64_t i = 0; i < layers; ++i) {
      const bool sliding = each ? (*each)[size_t(i)] != 0 : (i + 1) % *f.get_int(prefix + "attention.sliding_window_pattern") != 0;
      kinds.push_back(sliding ? "sliding_attention" : "full_attention");
    }
    m.config.update({{"hidden_activation", "gelu_pytorch_tanh"}, {"query_pre_attn_scalar", head}, {"sliding_window", number("attention.sliding_window")},
                     {"layer_types", kinds}, {"rope_local_base_freq", real("rope.freq_base_swa", 1e4)}, {"attn_logit_softcapping", nullptr}});
    if (const double factor = real("rope.scaling.factor", 0); factor != 0) m.config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", factor}};
  }

  const auto dtype = type == "F32" ? ir::DType::F32 : type == "F16" ? ir::DType::F16 : ir::DType::BF16;
  const auto rounded = [&](const std::vector<float>& values) {
    std::string bytes(values.size() * ir::info(dtype).bytes, 0);
    ir::quantize_row(dtype, values.data(), bytes.data(), values.size());
    return bytes;
  };
  const std::map<std::string, std::string> plain = {{"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};
  const std::map<std::string, std::string> in_layer = {
      {"attn_norm", "input_layernorm"}, {"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"}, {"attn_v", "self_attn.v_proj"},
      {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"}, {"attn_output", "self_attn.o_proj"},
      {"post_attention_norm", "post_attention_layernorm"}, {"ffn_norm", gemma ? "pre_feedforward_layernorm" : "post_attention_layernorm"},
      {"post_ffw_norm", "post_feedforward_layernorm"}, {"ffn_gate", "mlp.gate_proj"}, {"ffn_up", "mlp.up_proj"}, {"ffn_down", "mlp.down_proj"}};
  const std::map<std::string, std::string> gpt2_plain = {
      {"token_embd", "transformer.wte"}, {"position_embd", "transformer.wpe"}, {"output_norm", "transformer.ln_f"}, {"output", "lm_head"}};
  const std::map<std::string, std::string> gpt2_in_layer = {{"attn_norm", "ln_1"}, {"attn_qkv", "attn.c_attn"}, {"attn_output", "attn.c_proj"},
                                                            {"ffn_norm", "ln_2"}, {"ffn_up", "mlp.c_fc"}, {"ffn_down", "mlp.c_proj"}};
  for (const TensorInfo& t : f.tensors()) {
    if (t.name.ends_with("scale") || t.name == "output.bias") continue;  // what these files cannot say
    std::vector<float> values = floats_of(f, t);
    if (t.name == "rope_freqs.weight") {
      m.expected[t.name] = values;
      continue;
    }
    std::string name = t.name, source;
    const std::string suffix = name.substr(name.rfind('.'));  // .weight or .bias
    name.resize(name.size() - suffix.size());
    const bool attention = name.find("attn_") != name.npos;
    if (const TensorInfo* scale = f.tensor(name + ".scale"); scale && (attention ? suffix == ".weight" : llama))
      for (float& v : values) v *= floats_of(f, *scale)[0];
    if (name.starts_with("blk.")) {
      const size_t dot = name.find('.', 4);
      source = (gpt2 ? "transformer.h." : "model.layers.") + name.substr(4, dot - 4) + "." + (gpt2 ? gpt2_in_layer : in_layer).at(name.substr(dot + 1));
    } else {
      source = (gpt2 ? gpt2_plain : plain).at(name);
    }
    std::vector<int64_t> shape = t.shape;
    std::vector<float> written = values;
    const size_t columns = shape.size() == 2 ? size_t(shape[1]) : 1;
    if (gpt2 && name.starts_with("blk.") && shape.size() == 2) {
      for (size_t r = 0; r < size_t(shape[0]); ++r)
        for (size_t c = 0; c < columns; ++c) written[c * size_t(shape[0]) + r] = values[r * columns + c];
      std::swap(shape[0], shape[1]);
    }
    if (llama && (name.ends_with("attn_q") || name.ends_with("attn_k"))) {
      auto to = written.begin();  // of each head, first the even rows, then the odd ones
      for (int64_t h = 0; h < shape[0] / head; ++h)
        for (int64_t odd : {0, 1})
          for (int64_t i = 0; i < head / 2; ++i) to = std::copy_n(values.begin() + (h * head + 2 * i + odd) * int64_t(columns), columns, to);
    }
    const bool from_one = gemma && name.ends_with("norm");
    if (from_one)
      for (float& v : written) v -= 1;
    const std::string bytes = rounded(written);
    if (dtype == ir::DType::F32) {
      m.expected[t.name] = values;
    } else {  // the values are rounded, wherever they stand
      const std::string same = rounded(from_one ? written : values);
      ir::dequantize_row(dtype, same.data(), values.data(), values.size());
      m.expected[t.name] = values;
    }
    if (from_one) {
      ir::dequantize_row(dtype, bytes.data(), values.data(), values.size());
      for (float& v : values) v += 1;
      m.expected[t.name] = values;
    }
    m.tensors[source + suffix] = {type, shape, bytes};
  }
  if (gemma && m.config.contains("attention_bias"))  // of all four or none
    for (int64_t i = 0; i < layers; ++i) {
      m.tensors["model.layers." + std::to_string(i) + ".self_attn.o_proj.bias"] = {type, {width}, rounded(std::vector<float>(size_t(width)))};
      m.expected["blk." + std::to_string(i) + ".attn_output.bias"].assign(size_t(width), 0.0f);
    }
  m.tokenizer = hf_tokenizer(f);
  return m;
}

}  // namespace prism::gguf
