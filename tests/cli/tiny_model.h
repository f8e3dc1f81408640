// A llama with one token for each byte that says "é日🙂a" for ever after an "a" and ends after a "z": attention and feed-forward
// add nothing, and the output row of a token is the embedding of the one before it.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "tests/unit/gguf_writer.h"

namespace prism::cli {

inline const std::string kSaid = "é日🙂a";  // 10 bytes, no two alike
inline constexpr int kEnd = 256, kVocab = 257, kContext = 96;

/// The token that follows, or -1.
inline int successor(int token) {
  if (token == 'z') return kEnd;
  const size_t at = token < 256 ? kSaid.find(char(token)) : std::string::npos;
  return at == std::string::npos ? -1 : uint8_t(kSaid[(at + 1) % kSaid.size()]);
}

/// With an `attention` other than 0, that much of what attention finds is added after all, of numbers that 16 bits do not hold.
inline gguf::GgufWriter tiny_model(float attention = 0) {
  constexpr uint64_t kWidth = 64;
  gguf::GgufWriter w;
  w.string("general.architecture", "llama").string("general.name", "Tiny Speaker");
  w.u32("llama.block_count", 1).u32("llama.context_length", kContext).u32("llama.embedding_length", kWidth);
  w.u32("llama.feed_forward_length", kWidth).u32("llama.attention.head_count", 2);
  w.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);

  // Byte-level BPE writes bytes that are not printable as characters from 256 on.
  std::vector<std::string> tokens;
  std::vector<int32_t> types(kVocab, 1);
  for (int byte = 0, others = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    const int c = printable ? byte : 256 + others++;
    tokens.push_back(c < 128 ? std::string(1, char(c)) : std::string{char(0xc0 | c >> 6), char(0x80 | (c & 63))});
  }
  tokens.push_back("<|end|>");
  types[kEnd] = 3;
  w.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "gpt-2");
  w.strings("tokenizer.ggml.tokens", tokens).array<int32_t>("tokenizer.ggml.token_type", 5, types);
  w.strings("tokenizer.ggml.merges", {}).u32("tokenizer.ggml.eos_token_id", kEnd);

  uint64_t at = 0, state = 1;
  std::vector<float> all;
  const auto tensor = [&](const std::string& name, std::vector<uint64_t> dims, const std::vector<float>& values) {
    w.tensor(name, dims, 0, at);
    at += 4 * values.size();
    all.insert(all.end(), values.begin(), values.end());
  };
  const auto signs = [&](size_t n) {
    std::vector<float> v(n);
    for (float& x : v) x = (state = state * 6364136223846793005u + 1442695040888963407u) >> 63 ? 1.0f : -1.0f;
    return v;
  };
  const std::vector<float> embedding = signs(kVocab * kWidth), ones(kWidth, 1), zeros(kWidth * kWidth);
  std::vector<float> output(kVocab * kWidth);
  for (int token = 0; token < kVocab; ++token)
    if (const int next = successor(token); next >= 0)
      std::copy_n(embedding.begin() + token * int(kWidth), kWidth, output.begin() + next * int(kWidth));
  tensor("token_embd.weight", {kWidth, kVocab}, embedding);
  std::vector<float> attn_norm = ones;
  for (size_t i = 0; attention != 0 && i < kWidth; ++i) attn_norm[i] += 0.3f * std::sin(float(i));
  tensor("blk.0.attn_norm.weight", {kWidth}, attn_norm);
  for (const char* norm : {"blk.0.ffn_norm", "output_norm"}) tensor(std::string(norm) + ".weight", {kWidth}, ones);
  for (const char* name : {"attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"})
    tensor("blk.0." + std::string(name) + ".weight", {kWidth, kWidth}, signs(kWidth * kWidth));
  std::vector<float> attended = signs(kWidth * kWidth);
  for (float& x : attended) x *= attention;
  tensor("blk.0.attn_output.weight", {kWidth, kWidth}, attended);
  tensor("blk.0.ffn_down.weight", {kWidth, kWidth}, zeros);
  tensor("output.weight", {kWidth, kVocab}, output);
  w.data(all);
  return w;
}

}  // namespace prism::cli
