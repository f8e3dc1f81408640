// Checks a module: structure (definitions before uses, unique names, use lists), every op's signature, attributes
// and level, and, at level Kernel and above, that only `kernel` ops stand at the top of a graph.
#pragma once

#include "ir/module.h"

namespace prism::ir {

Status verify(const Module& m);

}  // namespace prism::ir
