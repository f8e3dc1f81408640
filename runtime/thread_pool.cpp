#include "runtime/thread_pool.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <system_error>

namespace prism::rt {
namespace {

using std::chrono::steady_clock;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

void futex(std::atomic<uint32_t>& word, int operation, uint32_t value) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), operation | FUTEX_PRIVATE_FLAG, value, nullptr, nullptr, 0);
}

}  // namespace

unsigned available_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return unsigned(std::max(1, CPU_COUNT(&set)));
  return std::max(1u, std::thread::hardware_concurrency());  // more cores than a cpu_set_t holds
}

void Gate::advance() {
  // Sequentially consistent with the sleeper's increment and the kernel's look at the counter: either the sleeper sees
  // the new generation or this thread sees the sleeper.
  generation_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst)) futex(generation_, FUTEX_WAKE, INT_MAX);
}

void Gate::wait(uint32_t seen, std::chrono::nanoseconds spin) {
  constexpr int kPausesPerClock = 32;
  for (int i = 0; i < kPausesPerClock; ++i) {
    if (generation() != seen) return;
    relax();
  }
  for (const auto deadline = steady_clock::now() + spin; steady_clock::now() < deadline;) {
    for (int i = 0; i < kPausesPerClock; ++i) {
      if (generation() != seen) return;
      relax();
    }
  }
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  while (generation() == seen) futex(generation_, FUTEX_WAIT, seen);
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
}

Result<std::unique_ptr<ThreadTeam>> ThreadTeam::create(unsigned threads) {
  if (threads == 0) threads = std::min(available_cores(), kMaxThreads);
  if (threads > kMaxThreads) return error("threads: found ", threads, ", expected at most ", kMaxThreads);
  std::unique_ptr<ThreadTeam> team(new ThreadTeam(threads));
  try {
    for (unsigned t = 1; t < threads; ++t) team->workers_.emplace_back(&ThreadTeam::work, team.get(), t);
  } catch (const std::system_error& e) {
    return error("threads: the system started ", team->workers_.size() + 1, ", expected ", threads, ": ", e.what());
  }
  return team;
}

// A barrier inside a step waits for kernels that end within microseconds of each other; between steps the caller
// samples and prints. With more threads than cores the one waited for may need this core, so the spin is a token one.
ThreadTeam::ThreadTeam(unsigned threads)
    : size_(threads),
      barrier_spin_(std::chrono::microseconds(threads > available_cores() ? 1 : 50)),
      idle_spin_(std::chrono::microseconds(threads > available_cores() ? 1 : 100)) {}

ThreadTeam::~ThreadTeam() {
  job_ = nullptr;
  start_.advance();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadTeam::work(unsigned thread) {
  for (uint32_t seen = 0;; ++seen) {
    start_.wait(seen, idle_spin_);
    if (!job_) return;
    job_(context_, thread);
    barrier();
  }
}

void ThreadTeam::run_erased(void (*job)(void*, unsigned), void* context) {
  job_ = job;
  context_ = context;
  start_.advance();
  job(context, 0);
  barrier();
}

void ThreadTeam::barrier() {
  const uint32_t generation = passed_.generation();
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    passed_.advance();
  } else {
    passed_.wait(generation, barrier_spin_);
  }
}

}  // namespace prism::rt
