// tokenizer.json and its companions as GGUF's tokenizer.* keys.
#pragma once

#include "frontends/gguf/header_writer.h"
#include "frontends/gguf/hf/json.h"

namespace prism::gguf::hf {

/// Byte-level BPE becomes GGUF's "gpt2", BPE of characters with bytes to fall back on (Llama 2, Gemma) its "llama". `vocab` is the
/// number of tokens that the weights know: tokens are filled up to it, added ones beyond it are left out.
Status write_vocabulary(const std::string& folder, const Object& config, int64_t vocab, HeaderWriter& w);

}  // namespace prism::gguf::hf
