// Runs launches on a GPU, in one stream. A step whose launches are always the same is recorded once and replayed.
#pragma once

#include <memory>
#include <string>

#include "runtime/executor.h"

namespace prism::rt::gpu {

Result<std::unique_ptr<Executor>> create_executor(std::shared_ptr<const Executable> exe, int64_t capacity, bool persistent,
                                                  const std::string& name);

}  // namespace prism::rt::gpu
