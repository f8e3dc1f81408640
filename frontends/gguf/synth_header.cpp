// The header of a synthetic model: what llama.cpp's converter writes for the architecture, with a made-up vocabulary.
#include "frontends/gguf/model_keys.h"
#include "frontends/gguf/synth.h"

namespace prism::gguf {
namespace {

/// Goes up when the same path comes to mean other values, so that nothing made of the old ones is taken for the new.
constexpr std::string_view kEdition = "1";

/// Byte-level BPE without merges: a prompt becomes its bytes, and what the model says is mostly words like " kopita".
void write_vocabulary(HeaderWriter& w, int64_t size) {
  constexpr int32_t kBegin = 256, kEnd = 257;
  constexpr std::string_view kConsonants = "bdfghjklmnprstvz", kVowels = "aeiou";
  std::vector<std::string> tokens;
  tokens.reserve(size_t(size));
  for (int byte = 0, others = 0; byte < 256; ++byte) {  // unprintable bytes are written as characters from 256 on
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    const int c = printable ? byte : 256 + others++;
    tokens.push_back(c < 128 ? std::string(1, char(c)) : std::string{char(0xc0 | c >> 6), char(0x80 | (c & 63))});
  }
  tokens.insert(tokens.end(), {"<|begin|>", "<|end|>"});
  for (int64_t i = 0; int64_t(tokens.size()) < size; ++i) {
    std::string word = "\u0120";  // a space
    int64_t rest = i;
    do {  // the number in base 80, a syllable a digit
      word += {kConsonants[size_t(rest % 16)], kVowels[size_t(rest / 16 % 5)]};
      rest /= 80;
    } while (rest > 0);
    tokens.push_back(std::move(word));
  }
  std::vector<int32_t> types(tokens.size(), 1);
  types[kBegin] = types[kEnd] = 3;
  w.string("tokenizer.ggml.model", "gpt2");
  w.string("tokenizer.ggml.pre", "gpt-2");
  w.strings("tokenizer.ggml.tokens", tokens);
  w.ints("tokenizer.ggml.token_type", types);
  w.strings("tokenizer.ggml.merges", {});
  w.u32("tokenizer.ggml.bos_token_id", kBegin);
  w.u32("tokenizer.ggml.eos_token_id", kEnd);
  w.boolean("tokenizer.ggml.add_bos_token", true);
}

}  // namespace

std::string synth_header(const Synth& synth) {
  const Shape& s = synth.shape;
  const std::string prefix = std::string(s.architecture) + ".";
  HeaderWriter w;
  w.string("general.architecture", s.architecture);
  w.string("general.name", synth.path());
  w.string("general.version", kEdition);
  w.u32("general.quantization_version", 2);
  write_model_keys(w, std::string(s.architecture), {s.vocab, s.context, s.width, s.layers, s.hidden, s.heads, s.kv_heads, s.head_size, s.epsilon, s.rope_base});
  if (s.architecture == "gemma3") {
    w.u32(prefix + "attention.sliding_window", s.window);
    w.u32(prefix + "attention.sliding_window_pattern", 6);  // every sixth layer sees all positions
    w.f32(prefix + "rope.freq_base_swa", 1e4);
    if (s.rope_factor > 0) {
      w.string(prefix + "rope.scaling.type", "linear");
      w.f32(prefix + "rope.scaling.factor", s.rope_factor);
    }
  }
  write_vocabulary(w, s.vocab);
  for (const TensorInfo& t : synth.tensors()) w.tensor(t.name, t.dtype, t.shape);
  return w.finish();
}

}  // namespace prism::gguf
