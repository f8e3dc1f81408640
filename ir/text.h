// Text form: print(parse(print(m))) == print(m). Sample in docs/ir.md.
#pragma once

#include <string>
#include <string_view>

#include "ir/module.h"

namespace prism::ir {

std::string print(const Module& m);
std::string print(const Graph& g);
std::string print(const Operation& op);
std::string attr_str(const Attr& a);  ///< "1", "0.5", "true", "[1,2]", "word"
/// `file` names the text in errors: "file:line:column: found 'x', expected ':'". Bounded: depth, counts and sizes are checked.
Result<std::unique_ptr<Module>> parse(std::string_view text, std::string_view file);

/// Binary form (FlatBuffers, ir/module.fbs), verified on reading. Weight bytes are not part of it.
std::string to_binary(const Module& m);
Result<std::unique_ptr<Module>> from_binary(std::string_view bytes, std::string_view file);

}  // namespace prism::ir
