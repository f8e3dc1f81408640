// The keys of a model's sizes that all architectures have, as GGUF files name them.
#pragma once

#include "frontends/gguf/header_writer.h"

namespace prism::gguf {

struct ModelKeys {
  int64_t vocab, context, width, layers, hidden, heads, kv_heads, head_size;
  double epsilon, rope_base;   ///< rope_base: not of gpt2
};

inline void write_model_keys(HeaderWriter& w, const std::string& architecture, const ModelKeys& k) {
  const std::string prefix = architecture + ".";
  w.u32(prefix + "vocab_size", k.vocab);
  w.u32(prefix + "context_length", k.context);
  w.u32(prefix + "embedding_length", k.width);
  w.u32(prefix + "block_count", k.layers);
  w.u32(prefix + "feed_forward_length", k.hidden);
  w.u32(prefix + "attention.head_count", k.heads);
  w.u32(prefix + "attention.head_count_kv", k.kv_heads);
  if (architecture == "gpt2") return w.f32(prefix + "attention.layer_norm_epsilon", k.epsilon);
  w.f32(prefix + "attention.layer_norm_rms_epsilon", k.epsilon);
  w.u32(prefix + "attention.key_length", k.head_size);
  w.u32(prefix + "attention.value_length", k.head_size);
  w.u32(prefix + "rope.dimension_count", k.head_size);
  w.f32(prefix + "rope.freq_base", k.rope_base);
}

}  // namespace prism::gguf
