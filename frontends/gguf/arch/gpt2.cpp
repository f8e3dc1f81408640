// GPT-2: learned positions, layer norms with biases, fused q, k, v.
#include <cmath>

#include "frontends/gguf/arch_builder.h"

namespace prism::gguf {

ir::Value* build_gpt2(ArchBuilder& a) {
  const HyperParameters& hp = a.hp;
  const AttentionOptions attention{.scale = 1 / std::sqrt(double(hp.head_size))};
  a.biases_required = true;
  ir::Value* table = a.matrix("position_embd.weight", hp.context, hp.width);
  ir::Value* x = a.b.Add({a.embed(), a.b.Embedding({a.positions(), table})});
  for (int64_t i = 0; i < hp.layers; ++i) {
    ir::Value* h = a.layer_norm(x, a.block(i, "attn_norm"));
    x = a.b.Add({a.attention(h, i, attention), x});
    h = a.layer_norm(x, a.block(i, "ffn_norm"));
    x = a.b.Add({a.ffn(h, i, "gelu", OutputScale::Unused), x});
  }
  return a.output(a.layer_norm(a.tail(x), "output_norm"));
}

}  // namespace prism::gguf
