// The dims that a language model's steps have: where they stand in Program::dims, and their values.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "runtime/program.h"

namespace prism::rt {

struct StepDims {
  std::optional<size_t> seq, past, out, ctx, demoted, demote;

  /// Refuses a program with others. `name` begins error messages.
  static Result<StepDims> of(const Program& p, const std::string& name);

  /// Of a step of `tokens` after `before` positions that computes logits of the last `outputs`; `capacity`: what the cache has room for.
  void set(std::vector<int64_t>& dims, int64_t tokens, int64_t before, int64_t outputs, int64_t capacity) const;
};

}  // namespace prism::rt
