// Filling a weight segment from the model file, over several threads.
#pragma once

#include <atomic>
#include <mutex>

#include "runtime/executable.h"
#include "runtime/thread_pool.h"

namespace prism::rt {

/// Adds up bytes done by several threads and reports them, one report at a time.
class ProgressCounter {
 public:
  ProgressCounter(const Progress& report, std::string what, uint64_t total)
      : report_(report), what_(std::move(what)), total_(total) {}

  void add(uint64_t bytes) {
    if (!report_) return;
    std::lock_guard lock(mutex_);
    done_ += bytes;
    report_(what_, total_ ? double(done_) / double(total_) : 1.0);
  }

 private:
  const Progress& report_;
  const std::string what_;
  const uint64_t total_;
  std::mutex mutex_;
  uint64_t done_ = 0;
};

/// The weight's values, or what `fill` says. Of a program that was validated.
Status fill_weight(const Weight& w, std::span<uint8_t> dst, const WeightFiller& fill);

/// Calls `fill` for every weight of `p`, at its place in the segment at `base`. `threads` 0 = all cores.
Status fill_weights(const Program& p, uint8_t* base, unsigned threads, const WeightFiller& fill,
                    const Progress& progress);

}  // namespace prism::rt
