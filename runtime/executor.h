// Runs the launches of an entry point over a team of threads. All pointers are computed when it is made, so that a step
// neither allocates nor locks.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/executable.h"
#include "runtime/kv_cache.h"
#include "runtime/memory.h"
#include "runtime/thread_pool.h"

namespace prism::rt {

class Executor {
 public:
  /// Space for every entry point of `exe`; `name` begins error messages. `kv` must outlive it.
  static Result<std::unique_ptr<Executor>> create(std::shared_ptr<const Executable> exe, const KvCache& kv,
                                                  unsigned threads, const std::string& name);

  /// Runs an entry point of the executable with these dims. Error if one is out of range; then nothing has run.
  Status run(const EntryPoint& entry, std::span<const int64_t> dims);
  uint8_t* arena() const { return arena_.data(); }

 private:
  struct BoundLaunch {
    KernelFn kernel;
    void* const* args;
    const Expr* tasks;
    int64_t count = 0;  // tasks in this step
  };
  struct BoundEntry {
    std::vector<void*> args;  // of all launches
    std::vector<BoundLaunch> launches;
  };

  Executor() = default;
  BoundEntry bind(const EntryPoint& entry, const KvCache& kv) const;
  void run_share(const BoundEntry& entry, const int64_t* dims, unsigned thread, uint32_t start);

  /// One launch of the step in progress. Each thread has a share of the tasks, which another takes if it is late.
  struct Progress {
    std::atomic<uint32_t> shares_done{0};
    std::unique_ptr<std::atomic<bool>[]> taken;  // by share
  };

  std::shared_ptr<const Executable> exe_;
  std::string name_;
  std::unique_ptr<ThreadTeam> team_;
  Mapping arena_, scratch_;
  uint64_t scratch_stride_ = 0;
  std::vector<BoundEntry> entries_;  // as Program::entries
  std::vector<Progress> progress_;   // as the launches of an entry
  Gate launched_;                    // advances when a launch is done
};

}  // namespace prism::rt
