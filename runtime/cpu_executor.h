// Runs launches over a team of threads. All pointers are computed when it is made, so that a step neither allocates nor locks.
#pragma once

#include <atomic>
#include <vector>

#include "runtime/executor.h"
#include "runtime/kv_cache.h"
#include "runtime/memory.h"
#include "runtime/profile.h"
#include "runtime/thread_pool.h"

namespace prism::rt {

class CpuExecutor final : public Executor {
 public:
  CpuExecutor(std::shared_ptr<const Executable> exe, Profile* profile, const std::string& name)
      : Executor(std::move(exe), name), profile_(profile) {}
  Status init(int64_t capacity, unsigned threads);

  Status write(uint64_t offset, std::span<const uint8_t> from) override;
  Status run(const EntryPoint& entry, std::span<const int64_t> dims) override;
  Result<const uint8_t*> read(uint64_t offset, uint64_t bytes) override;
  KvStats kv_stats(int64_t positions, int64_t capacity) const override;

 private:
  struct BoundLaunch {
    KernelFn kernel;
    void* const* args;
    bool demotes = false;
    int64_t count = 0;  // tasks in this step
  };
  struct BoundEntry {
    std::vector<void*> args;  // of all launches
    std::vector<BoundLaunch> launches;
  };

  BoundEntry bind(const EntryPoint& entry) const;
  void run_share(const BoundEntry& entry, const int64_t* dims, unsigned thread, uint32_t start);

  /// One launch of the step in progress. Each thread has a share of the tasks, which another takes if it is late.
  struct Progress {
    std::atomic<uint32_t> shares_done{0};
    std::unique_ptr<std::atomic<bool>[]> taken;  // by share
  };

  std::unique_ptr<ThreadTeam> team_;
  KvLayout kv_;
  Mapping arena_, scratch_, cache_;
  uint64_t scratch_stride_ = 0;
  std::vector<BoundEntry> entries_;  // as Program::entries
  std::vector<Progress> progress_;   // as the launches of an entry
  std::atomic<int64_t> demoting_{0};  // ns of all threads
  Gate launched_;                    // advances when a launch is done
  Profile* profile_;                 // nullptr: nobody asks
};

Result<std::unique_ptr<Executor>> create_cpu_executor(std::shared_ptr<const Executable> exe, int64_t capacity, const SessionOptions& options,
                                                      const std::string& name);

}  // namespace prism::rt
