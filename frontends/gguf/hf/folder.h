// A Hugging Face folder (config.json, tokenizer.json, *.safetensors) as the GGUF file that llama.cpp's converter would make of it.
// The header is made when it is opened, tensors are made of the mapped files when they are read.
#pragma once

#include "frontends/gguf/gguf.h"

namespace prism::gguf::hf {

/// Whether `path` is a folder with a config.json.
bool is_folder(const std::string& path);
Result<std::shared_ptr<File>> open_folder(const std::string& path);

}  // namespace prism::gguf::hf
