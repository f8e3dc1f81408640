// What plan-memory decided, for code generation and for people.
#pragma once

#include <string>

#include "ir/module.h"

namespace prism::passes {

/// Ranges of the module's dims inside one entry point: a module attribute "<entry>.<symbol>.max" lowers the bound.
ir::Dim::Ranges entry_ranges(const ir::Module& m, const ir::Graph& entry);

/// Bytes `t` takes in the arena at most; 0 for a KV cache. Error if a dim has no bound.
Result<int64_t> arena_bytes(const ir::Type& t, const ir::Dim::Ranges& ranges);

/// A table per entry point: every value with its type, offset and bytes. `m` is at level plan.
std::string memory_plan_table(const ir::Module& m);

}  // namespace prism::passes
