// From a GGUF file to a module: frontends/gguf/archs.def lists the architectures, arch/<name>.cpp builds each.
//
// The module has one graph:
//   @forward(%ids: i32[?seq], %kv0: kv<f16>[?past,h,d], ...) -> (f32[?out,vocab], kv<f16>[?past+?seq,h,d], ...)
// with ?seq in [1,context], ?past in [0,context], ?out in [1,context]; logits are those of the last ?out ids.
// Weights refer to the file's bytes, kept alive by the module.
#pragma once

#include <memory>

#include "frontends/gguf/gguf.h"
#include "ir/builder.h"

namespace prism::gguf {

struct ModelOptions {
  ir::DType kv_dtype = ir::DType::F16;  ///< element type of the KV cache: F16, BF16 or F32
  bool weights = true;                  ///< false: only their types matter, and data that is made is not made yet
};

Result<std::unique_ptr<ir::Module>> build_module(std::shared_ptr<File> file, const ModelOptions& options = {});

/// What the architectures share: hyper-parameters read and checked, weights declared, common blocks. One arch/<name>.cpp
/// is a function of this.
struct ArchBuilder;

}  // namespace prism::gguf
