// Qwen3 (dense): Qwen2 without biases, with RMS norms of each q and k head.
#include <cmath>

#include "frontends/gguf/arch_builder.h"

namespace prism::gguf {

ir::Value* build_qwen3(ArchBuilder& a) {
  const HyperParameters& hp = a.hp;
  const AttentionOptions attention{.scale = 1 / std::sqrt(double(hp.head_size)),
                                   .rope = Rope{"half", hp.rope_base, hp.rope_scale},
                                   .normalize_qk = true};
  a.ignore("cls.output.weight");
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
