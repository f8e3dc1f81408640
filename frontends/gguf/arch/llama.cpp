// Llama 1 to 3 and what shares their graph: SmolLM2, Mistral, TinyLlama.
#include <cmath>

#include "frontends/gguf/arch_builder.h"

namespace prism::gguf {

ir::Value* build_llama(ArchBuilder& a) {
  const HyperParameters& hp = a.hp;
  a.int_param("rope.dimension_count", hp.head_size, hp.head_size, hp.head_size);
  const Rope rope{"adjacent", hp.rope_base, hp.rope_scale, a.optional_vector("rope_freqs.weight", hp.rope_dims / 2)};
  const AttentionOptions attention{.scale = 1 / std::sqrt(double(hp.head_size)), .rope = rope};
  ir::Value* x = a.embed();
  for (int64_t i = 0; i < hp.layers; ++i) {
    ir::Value* h = a.rms_norm(x, a.block(i, "attn_norm"), hp.width);
    x = a.b.Add({a.attention(h, i, attention), x});
    h = a.rms_norm(x, a.block(i, "ffn_norm"), hp.width);
    x = a.b.Add({a.gated_ffn(h, i, "silu", OutputScale::AfterBias), x});
  }
  return a.output(a.rms_norm(a.tail(x), "output_norm", hp.width));
}

}  // namespace prism::gguf
