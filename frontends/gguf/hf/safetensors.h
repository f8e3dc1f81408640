// The weights of a Hugging Face folder: model.safetensors, or several files and model.safetensors.index.json.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "frontends/gguf/mapped_file.h"
#include "ir/quants.h"

namespace prism::gguf::hf {

struct SafeTensor {
  std::string type;                ///< as the file calls it: F32, F16, BF16 or what is not read here
  std::vector<int64_t> shape;      ///< outermost first
  std::span<const uint8_t> data;   ///< of any alignment
  std::string file;                ///< for messages
};

using SafeTensors = std::map<std::string, SafeTensor, std::less<>>;

/// Checked: data lies in its file, apart from the others', and has the size that type (if it is read here) and shape ask for.
Result<SafeTensors> parse_safetensors(std::span<const uint8_t> bytes, const std::string& name);

std::optional<ir::DType> dtype_of(const SafeTensor& t);

/// All of a folder's, which live as long as this.
struct Weights {
  SafeTensors tensors;
  std::vector<MappedFile> files;
  std::vector<std::string> paths;  ///< of the files

  static Result<Weights> open(const std::string& folder);
};

}  // namespace prism::gguf::hf
