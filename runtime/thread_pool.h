// A team of threads that run one job together (SPMD) and meet at barriers. Waiting threads spin for a bounded time,
// then sleep in the kernel, so that more threads than cores, or a busy machine, costs time but never collapses.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "runtime/base/result.h"

namespace prism::rt {

/// Cores this process may run on.
unsigned available_cores();

/// A counter of generations that threads wait to see advance.
class Gate {
 public:
  uint32_t generation() const { return generation_.load(std::memory_order_acquire); }
  void advance();
  /// Returns once the generation is no longer `seen`.
  void wait(uint32_t seen, std::chrono::nanoseconds spin);

 private:
  alignas(64) std::atomic<uint32_t> generation_{0};
  std::atomic<uint32_t> sleepers_{0};
};

class ThreadTeam {
 public:
  static constexpr unsigned kMaxThreads = 1024;

  /// `threads` counts the caller; 0 = all cores.
  static Result<std::unique_ptr<ThreadTeam>> create(unsigned threads);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  unsigned size() const { return size_; }
  /// How long to spin for threads that are about to be done.
  std::chrono::nanoseconds barrier_spin() const { return barrier_spin_; }

  /// Calls job(thread index) on every thread, 0 being the caller, and returns when all have returned.
  template <class Job>
  void run(Job&& job) {
    using J = std::remove_reference_t<Job>;
    run_erased([](void* j, unsigned thread) { (*static_cast<J*>(j))(thread); },
               const_cast<void*>(static_cast<const void*>(&job)));
  }

  /// Inside a job: returns when every thread of the team has called it.
  void barrier();

 private:
  explicit ThreadTeam(unsigned threads);
  void run_erased(void (*job)(void*, unsigned), void* context);
  void work(unsigned thread);

  unsigned size_;
  std::chrono::nanoseconds barrier_spin_, idle_spin_;
  void (*job_)(void*, unsigned) = nullptr;  // nullptr: the workers end
  void* context_ = nullptr;
  Gate start_, passed_;
  alignas(64) std::atomic<uint32_t> arrived_{0};
  std::vector<std::thread> workers_;
};

/// Runs f(i) for every i in [0, n) over the team, each thread taking the next that is free. For work outside the hot
/// path.
template <class F>
void parallel_for(ThreadTeam& team, size_t n, F&& f) {
  std::atomic<size_t> next{0};
  team.run([&](unsigned) {
    for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) f(i);
  });
}

}  // namespace prism::rt
