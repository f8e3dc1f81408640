// The bytes of a program's weights, made from the tensors of the model file.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "ir/type.h"
#include "runtime/program.h"

namespace prism::codegen {

struct SourceTensor {
  ir::DType dtype;
  std::vector<int64_t> shape;
  const uint8_t* data;
  std::function<void(const uint8_t* begin, size_t bytes)> done = {};  ///< called when a range will not be read again
};
/// The sources' rows one after the other or interleaved, converted to the weight's type (see ir::Conversion) and packed into its layout.
/// source(name): the tensor of the model file.
Status fill_weight(const rt::Weight& w, const std::function<Result<SourceTensor>(const std::string&)>& source,
                   std::span<uint8_t> dst);
/// Size in bytes of a weight of this type in an executable; an error if its layout cannot hold its type.
Result<uint64_t> weight_bytes(const ir::Type& t);

}  // namespace prism::codegen
