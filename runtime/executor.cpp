#include "runtime/executor.h"

#include <algorithm>

#include "runtime/cpu_executor.h"
#include "runtime/gpu/executor.h"
#include "runtime/prx_format.h"

namespace prism::rt {

Result<std::unique_ptr<Executor>> Executor::create(std::shared_ptr<const Executable> exe, int64_t capacity,
                                                   const SessionOptions& options, const std::string& name) {
  if (exe->gpu() && options.profile) return error(name, ": profile: found a program for GPUs, expected one for CPUs");
  if (exe->gpu()) return gpu::create_executor(std::move(exe), capacity, options.persistent, name);
  return create_cpu_executor(std::move(exe), capacity, options, name);
}

uint64_t Executor::arena_bytes() const {
  uint64_t bytes = 0;
  for (const EntryPoint& entry : exe_->program().entries) bytes = std::max(bytes, entry.arena_bytes);
  return bytes;
}

Status Executor::check_dims(const EntryPoint& entry, std::span<const int64_t> dims) const {
  for (size_t d = 0; d < dims.size(); ++d)
    if (dims[d] < entry.dim_min[d] || dims[d] > entry.dim_max[d])
      return error(name_, ": entry point ", quoted(entry.name), ": found ", exe_->program().dims[d], " = ", dims[d], ", expected ",
                   entry.dim_min[d], " to ", entry.dim_max[d]);
  return ok();
}

Result<int64_t> Executor::tasks(const EntryPoint& entry, size_t launch, std::span<const int64_t> dims, int64_t most) const {
  const auto tasks = entry.launches[launch].tasks.evaluate(dims);
  if (!tasks) return error(name_, ": entry point ", quoted(entry.name), ": launch ", launch, ": ", tasks.message());
  if (*tasks < 0 || *tasks > most)
    return error(name_, ": entry point ", quoted(entry.name), ": launch ", launch, ": found ", *tasks, " tasks, expected 0 to ", most);
  return *tasks;
}

}  // namespace prism::rt
