// Models of random weights in the shapes of public ones (shapes.def), for measuring speed where no model file is.
//
// Their path is `synth:SHAPE[:TYPE][:key=value...]` with the keys seed, layers, vocab and ctx; File::open accepts it. The
// weights are a function of the seed and the tensor's name, made when they are read.
#pragma once

#include "frontends/gguf/gguf.h"

namespace prism::gguf {

struct Shape {
  std::string_view name, architecture;
  int64_t layers, width, hidden, heads, kv_heads, head_size, vocab, context;
  double rope_base, rope_factor;
  int64_t window;
  double epsilon;
  bool tied;
};
std::span<const Shape> shapes();

/// Types of the matrices: a name of ir/dtypes.def, or q4_k_m, llama.cpp's mix of q4_k, q5_k and q6_k.
std::span<const std::string_view> synth_types();

struct Synth {
  Shape shape;  ///< with layers, vocab and context as asked for
  std::string_view type = "q4_k_m";
  uint64_t seed = 1;

  std::string path() const;                 ///< the one way of writing it
  std::vector<TensorInfo> tensors() const;  ///< offsets from the start of the data
  uint64_t parameters() const;
};

bool is_synth(std::string_view path);
Result<Synth> parse_synth(const std::string& path);
/// A file that exists nowhere but in its header.
Result<std::shared_ptr<File>> open_synth(const std::string& path);

/// The GGUF header of `s`: keys, a vocabulary of bytes and made-up words, tensors.
std::string synth_header(const Synth& s);

}  // namespace prism::gguf
