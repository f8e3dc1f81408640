// Writing a model file whose data is made when it is read.
#pragma once

#include <string>

#include "frontends/gguf/gguf.h"

namespace prism::tools {

/// Makes and writes the tensors in pieces, by all threads (0 = all cores), into a file that takes the place of `path` when it is whole. Progress
/// on stderr says `what` is going on.
Status write_model(const gguf::File& model, const std::string& path, const std::string& what, unsigned threads);

}  // namespace prism::tools
