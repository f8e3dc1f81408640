// What a kernel moves and computes, as formulas over the program's dims: for profiles and benchmarks.
#pragma once

#include <functional>

#include "ir/module.h"
#include "runtime/program.h"

namespace prism::codegen {

/// Of a `kernel` operation. `expression` turns a size into the program's form.
Result<rt::Work> work_of(const ir::Operation& kernel, const std::function<rt::Expr(ir::Dim)>& expression);

}  // namespace prism::codegen
