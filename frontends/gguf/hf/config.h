// config.json: which architecture, its hyper-parameters as GGUF keys, and where GGUF's tensors come from.
#pragma once

#include "frontends/gguf/header_writer.h"
#include "frontends/gguf/hf/json.h"
#include "frontends/gguf/hf/safetensors.h"

namespace prism::gguf::hf {

/// A tensor of the GGUF file and how it is made.
struct Recipe {
  enum class Order {
    Same,
    Transposed,  ///< GPT-2 keeps its matrices with inputs first
    Interleaved  ///< element i of a head's first half and of its second become neighbours, as Llama's rope in GGUF takes them
  };

  std::string name;
  ir::DType dtype;
  std::vector<int64_t> shape;
  const SafeTensor* from = nullptr;  ///< nullptr: `values`
  Order order = Order::Same;
  int64_t heads = 1;                 ///< of rows, if interleaved
  float add = 0;                     ///< to every element
  std::vector<float> values = {};
};

struct Config {
  int64_t vocab;
  std::vector<Recipe> tensors;
};

/// Writes the keys. What the architecture here cannot compute is an error, and so is a tensor that it does not read.
Result<Config> read_config(const Object& config, const Weights& weights, HeaderWriter& w);

}  // namespace prism::gguf::hf
