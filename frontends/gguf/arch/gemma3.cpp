// Gemma 3 (text): norms before and after each block, most layers with a sliding window and their own rope base.
#include <cmath>

#include "frontends/gguf/arch_builder.h"

namespace prism::gguf {
namespace {

/// Which layers attend to a sliding window: listed one by one, or all but every n-th.
std::vector<bool> sliding_layers(ArchBuilder& a) {
  constexpr const char* kKey = "attention.sliding_window_pattern";
  const MetaValue* listed = a.find(kKey);
  if (listed && std::holds_alternative<std::vector<bool>>(*listed)) {
    auto layers = std::get<std::vector<bool>>(*listed);
    if (int64_t(layers.size()) == a.hp.layers) return layers;
    a.fail_param(kKey, "an array of " + std::to_string(layers.size()), a.hp.layers);
    return std::vector<bool>(size_t(a.hp.layers), true);
  }
  std::vector<bool> sliding(size_t(a.hp.layers), true);
  const auto pattern = a.layer_params(kKey, 0, 1 << 20, 6);
  const bool one_by_one = listed && std::holds_alternative<std::vector<int64_t>>(*listed);
  for (int64_t i = 0; i < a.hp.layers; ++i) {
    const int64_t n = pattern[size_t(i)];
    sliding[size_t(i)] = one_by_one ? n != 0 : n == 0 || i % n < n - 1;
  }
  return sliding;
}

}  // namespace

ir::Value* build_gemma3(ArchBuilder& a) {
  const HyperParameters& hp = a.hp;
  const int64_t window = a.int_param("attention.sliding_window", 0, 1 << 24, 0);
  const auto sliding = window > 0 ? sliding_layers(a) : std::vector<bool>(size_t(hp.layers), false);
  // The 27B model, known by its depth, scales by the width per head instead of the head's size.
  const bool is_27b = hp.layers == 62;
  const AttentionOptions global{.scale = 1 / std::sqrt(double(is_27b ? hp.width / hp.heads : hp.head_size)),
                                .rope = Rope{"half", hp.rope_base, hp.rope_scale},
                                .normalize_qk = true};
  AttentionOptions local = global;
  local.window = window;
  local.rope = Rope{"half", a.float_param("rope.freq_base_swa", 1e-3, 1e12, 10000.0), 1.0};

  a.ignore("dense_2.weight");
  a.ignore("dense_3.weight");
  ir::Value* x = a.b.Scale({a.embed()}, {{"by", double(std::sqrt(float(hp.width)))}});
  for (int64_t i = 0; i < hp.layers; ++i) {
    ir::Value* h = a.rms_norm(x, a.block(i, "attn_norm"), hp.width);
    h = a.attention(h, i, sliding[size_t(i)] ? local : global);
    x = a.b.Add({a.rms_norm(h, a.block(i, "post_attention_norm"), hp.width), x});
    h = a.rms_norm(x, a.block(i, "ffn_norm"), hp.width);
    h = a.gated_ffn(h, i, "gelu", OutputScale::Unused);
    x = a.b.Add({a.rms_norm(h, a.block(i, "post_ffw_norm"), hp.width), x});
  }
  ir::Value* logits = a.output(a.rms_norm(a.tail(x), "output_norm", hp.width));
  const double cap = a.float_param("final_logit_softcapping", 0, 1e6, 0.0);
  return cap > 0 ? a.b.Softcap({logits}, {{"cap", cap}}) : logits;
}

}  // namespace prism::gguf
