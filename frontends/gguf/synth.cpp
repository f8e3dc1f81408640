#include "frontends/gguf/synth.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "frontends/gguf/quote.h"
#include "frontends/gguf/rope_factors.h"
#include "frontends/gguf/synth_values.h"
#include "llvm/ADT/StringRef.h"
#include "runtime/base/checked.h"

namespace prism::gguf {
namespace {

constexpr std::string_view kPrefix = "synth:";
constexpr std::string_view kFactors = "rope_freqs.weight";

constexpr Shape kShapes[] = {
#define SHAPE(...) {__VA_ARGS__},
#include "frontends/gguf/shapes.def"
};

constexpr std::string_view kTypes[] = {"f32",  "f16",  "bf16", "q4_0", "q4_1", "q5_0", "q5_1",   "q8_0",
                                       "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "q4_k_m"};

std::string_view nearest(std::string_view text, std::span<const std::string_view> names) {
  return *std::ranges::min_element(
      names, {}, [&](std::string_view n) { return llvm::StringRef(text).edit_distance(llvm::StringRef(n)); });
}

/// A matrix's type in q4_k_m. `layer` is -1 outside the blocks.
ir::DType mixed_type(const Shape& s, std::string_view name, int64_t layer) {
  const int64_t eighth = s.layers / 8;
  const bool precise = layer < eighth || layer >= 7 * s.layers / 8 || (layer - eighth) % 3 == 2;
  if (name == (s.tied ? "token_embd.weight" : "output.weight")) return ir::DType::Q6_K;
  if (name.ends_with("attn_qkv.weight")) return ir::DType::Q5_K;
  if (precise && (name.ends_with("attn_v.weight") || name.ends_with("ffn_down.weight"))) return ir::DType::Q6_K;
  return ir::DType::Q4_K;
}

/// Lists a shape's tensors, in the order they stand in the file.
class TensorList {
 public:
  explicit TensorList(const Synth& s) : synth_(s) {}

  void matrix(const std::string& name, int64_t rows, int64_t columns) {
    const auto plain = ir::dtype_from_name(synth_.type);
    add(name, ir::fitting_type(plain ? *plain : mixed_type(synth_.shape, name, layer_), columns), {rows, columns});
  }
  void vector(const std::string& name, int64_t size) { add(name, ir::DType::F32, {size}); }
  void table(const std::string& name, int64_t rows, int64_t columns) { add(name, ir::DType::F32, {rows, columns}); }

  void block(int64_t layer) {
    layer_ = layer;
    const Shape& s = synth_.shape;
    const std::string blk = "blk." + std::to_string(layer) + ".";
    const bool gpt2 = s.architecture == "gpt2", gemma3 = s.architecture == "gemma3";
    const int64_t q = s.heads * s.head_size, kv = s.kv_heads * s.head_size;
    const auto linear = [&](const std::string& name, int64_t out, int64_t in, bool bias) {
      matrix(blk + name + ".weight", out, in);
      if (bias) vector(blk + name + ".bias", out);
    };
    const auto norm = [&](const std::string& name, int64_t size) {
      vector(blk + name + ".weight", size);
      if (gpt2) vector(blk + name + ".bias", size);
    };
    norm("attn_norm", s.width);
    if (gpt2) {
      linear("attn_qkv", q + 2 * kv, s.width, true);
    } else {
      const bool bias = s.architecture == "qwen2";
      linear("attn_q", q, s.width, bias);
      linear("attn_k", kv, s.width, bias);
      linear("attn_v", kv, s.width, bias);
    }
    if (gemma3 || s.architecture == "qwen3") {
      norm("attn_q_norm", s.head_size);
      norm("attn_k_norm", s.head_size);
    }
    linear("attn_output", s.width, q, gpt2);
    if (gemma3) norm("post_attention_norm", s.width);
    norm("ffn_norm", s.width);
    if (!gpt2) linear("ffn_gate", s.hidden, s.width, false);
    linear("ffn_up", s.hidden, s.width, gpt2);
    linear("ffn_down", s.width, s.hidden, gpt2);
    if (gemma3) norm("post_ffw_norm", s.width);
    layer_ = -1;
  }

  std::vector<TensorInfo> tensors;

 private:
  void add(const std::string& name, ir::DType type, std::vector<int64_t> shape) {
    uint64_t elements = 1;
    for (int64_t n : shape) elements *= uint64_t(n);
    const uint64_t bytes = elements / ir::info(type).block * ir::info(type).bytes;
    tensors.push_back({name, type, std::move(shape), end_, bytes});
    end_ = round_up(end_ + bytes, kDefaultAlignment);
  }

  const Synth& synth_;
  int64_t layer_ = -1;
  uint64_t end_ = 0;
};

/// Values that leave activations about as large as they came: unit norms, and rows that do not lengthen a vector.
Distribution distribution_of(const TensorInfo& t) {
  // Gemma's embeddings are as large as what a block adds: its blocks are made to speak louder, or it repeats the last token.
  const bool after_block = t.name.ends_with(".post_attention_norm.weight") || t.name.ends_with(".post_ffw_norm.weight");
  if (t.name.ends_with("norm.weight")) return {after_block ? 2.0 : 1.0, 0.1};
  if (t.shape.size() == 1) return {0, 0.1};
  return {0, 1 / std::sqrt(double(t.shape.back()))};
}

template <class Number>
bool parse_number(std::string_view text, Number& value) {
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  return ec == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::span<const Shape> shapes() { return kShapes; }
std::span<const std::string_view> synth_types() { return kTypes; }

std::string Synth::path() const {
  std::string out = std::string(kPrefix) + std::string(shape.name) + ":" + std::string(type) + ":seed=" + std::to_string(seed);
  const Shape& full = *std::ranges::find(kShapes, shape.name, &Shape::name);
  if (shape.layers != full.layers) out += ":layers=" + std::to_string(shape.layers);
  if (shape.vocab != full.vocab) out += ":vocab=" + std::to_string(shape.vocab);
  if (shape.context != full.context) out += ":ctx=" + std::to_string(shape.context);
  return out;
}

std::vector<TensorInfo> Synth::tensors() const {
  const bool gpt2 = shape.architecture == "gpt2";
  TensorList list(*this);
  list.matrix("token_embd.weight", shape.vocab, shape.width);
  if (gpt2) list.table("position_embd.weight", shape.context, shape.width);
  if (shape.architecture == "llama" && shape.rope_factor > 0) list.vector(std::string(kFactors), shape.head_size / 2);
  for (int64_t layer = 0; layer < shape.layers; ++layer) list.block(layer);
  list.vector("output_norm.weight", shape.width);
  if (gpt2) list.vector("output_norm.bias", shape.width);
  if (!shape.tied) list.matrix("output.weight", shape.vocab, shape.width);
  return std::move(list.tensors);
}

uint64_t Synth::parameters() const {
  uint64_t sum = 0;
  for (const TensorInfo& t : tensors()) {
    if (t.name == kFactors) continue;  // a constant of the architecture
    uint64_t elements = 1;
    for (int64_t n : t.shape) elements *= uint64_t(n);
    sum += elements;
  }
  return sum;
}

bool is_synth(std::string_view path) { return path.starts_with(kPrefix); }

Result<Synth> parse_synth(const std::string& path) {
  std::vector<std::string_view> parts;
  for (std::string_view rest = std::string_view(path).substr(kPrefix.size());;) {
    const size_t colon = rest.find(':');
    parts.push_back(rest.substr(0, colon));
    if (colon == rest.npos) break;
    rest.remove_prefix(colon + 1);
  }
  const auto shape = std::ranges::find(kShapes, parts[0], &Shape::name);
  if (shape == std::end(kShapes)) {
    std::vector<std::string_view> names;
    for (const Shape& s : kShapes) names.push_back(s.name);
    return error(path, ": unknown shape ", quote(parts[0]), ", did you mean '", nearest(parts[0], names),
                 "'? (prism synth --list shows them all)");
  }
  Synth s{.shape = *shape};
  size_t next = 1;
  if (next < parts.size() && parts[next].find('=') == parts[next].npos) {
    const auto type = std::ranges::find(kTypes, parts[next]);
    if (type == std::end(kTypes))
      return error(path, ": unknown type ", quote(parts[next]), ", did you mean '", nearest(parts[next], kTypes), "'?");
    s.type = *type;
    ++next;
  }
  struct Key {
    std::string_view name;
    int64_t *value, lo, hi;
  };
  const Key keys[] = {{"layers", &s.shape.layers, 1, 512}, {"vocab", &s.shape.vocab, 258, 1 << 20}, {"ctx", &s.shape.context, 1, 1 << 24}};
  for (; next < parts.size(); ++next) {
    const size_t equals = std::min(parts[next].find('='), parts[next].size());
    const std::string_view name = parts[next].substr(0, equals), text = parts[next].substr(std::min(equals + 1, parts[next].size()));
    if (name == "seed") {
      if (!parse_number(text, s.seed)) return error(path, ": seed: found ", quote(text), ", expected 0 to ", UINT64_MAX);
      continue;
    }
    const auto key = std::ranges::find(keys, name, &Key::name);
    if (key == std::end(keys)) return error(path, ": found ", quote(parts[next]), ", expected seed=, layers=, vocab= or ctx=");
    if (!parse_number(text, *key->value) || *key->value < key->lo || *key->value > key->hi)
      return error(path, ": ", name, ": found ", quote(text), ", expected ", key->lo, " to ", key->hi);
  }
  return s;
}

Result<std::shared_ptr<File>> open_synth(const std::string& path) {
  PRISM_TRY(const Synth s, parse_synth(path));
  return File::made(synth_header(s), path, [s](const TensorInfo& t, uint64_t offset, std::span<uint8_t> out) {
    if (t.name == kFactors) {
      const std::vector<float> factors = llama3_rope_factors({.base = s.shape.rope_base, .factor = s.shape.rope_factor}, s.shape.head_size);
      std::memcpy(out.data(), reinterpret_cast<const uint8_t*>(factors.data()) + offset, out.size());
      return;
    }
    const ir::DTypeInfo& format = ir::info(t.dtype);
    make_values(t.dtype, sequence_key(s.seed, t.name), distribution_of(t), offset / format.bytes * format.block, out);
  });
}

}  // namespace prism::gguf
