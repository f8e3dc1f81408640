// Runs the launches of an entry point on the device an executable is for, with the arena and the KV cache they work on.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "runtime/executable.h"
#include "runtime/session.h"

namespace prism::rt {

class Executor {
 public:
  /// Space for every entry point of `exe` and a cache of `capacity` positions; `name` begins error messages.
  static Result<std::unique_ptr<Executor>> create(std::shared_ptr<const Executable> exe, int64_t capacity, const SessionOptions& options,
                                                  const std::string& name);
  virtual ~Executor() = default;

  /// Puts an input into the arena.
  virtual Status write(uint64_t offset, std::span<const uint8_t> from) = 0;
  /// Runs an entry point of the executable with these dims. Error if one is out of range; then nothing has run.
  virtual Status run(const EntryPoint& entry, std::span<const int64_t> dims) = 0;
  /// What a run left in the arena, valid until the next call of read or run.
  virtual Result<const uint8_t*> read(uint64_t offset, uint64_t bytes) = 0;
  virtual KvStats kv_stats(int64_t positions, int64_t capacity) const = 0;

 protected:
  Executor(std::shared_ptr<const Executable> exe, const std::string& name) : exe_(std::move(exe)), name_(name) {}
  uint64_t arena_bytes() const;   ///< of the largest entry point
  Status check_dims(const EntryPoint& entry, std::span<const int64_t> dims) const;
  /// Tasks of a launch, at most `most`.
  Result<int64_t> tasks(const EntryPoint& entry, size_t launch, std::span<const int64_t> dims, int64_t most) const;

  std::shared_ptr<const Executable> exe_;
  std::string name_;
};

}  // namespace prism::rt
