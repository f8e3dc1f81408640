// Which thread did which tasks of a session when. The executor records, whoever asked for it reads between the session's calls.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/program.h"

namespace prism::rt {

class Profile {
 public:
  /// Times are in nanoseconds, from any beginning.
  struct Span {
    int64_t from = 0, to = 0;
    int64_t length() const { return to - from; }
  };
  /// One run of an entry point.
  struct Step {
    size_t entry = 0;
    std::vector<int64_t> dims;
    Span time;
  };
  /// One call of a kernel: tasks [begin, end) of a launch.
  struct Share {
    uint32_t step = 0, launch = 0;
    int64_t begin = 0, end = 0;
    Span time;
  };
  /// From the end of the launch before to the end of the last share.
  struct Launch {
    uint32_t step = 0, launch = 0;
    Span time;
    int64_t busy = 0;  ///< of all threads together
  };

  static int64_t now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }

  void begin_step(size_t entry, std::span<const int64_t> dims, unsigned threads);
  void end_step() { steps_.back().time.to = now(); }
  /// By the thread that has done the share, just now. Threads do not meet here.
  void share(unsigned thread, uint32_t launch, int64_t begin, int64_t end, int64_t from) {
    shares_[thread].list.push_back({uint32_t(steps_.size() - 1), launch, begin, end, {from, now()}});
  }
  void clear();

  const std::vector<Step>& steps() const { return steps_; }
  size_t threads() const { return shares_.size(); }
  const std::vector<Share>& shares(size_t thread) const { return shares_[thread].list; }
  /// Every launch of every step, in order; steps are of `p`.
  std::vector<Launch> launches(const Program& p) const;

 private:
  struct alignas(128) Shares {
    std::vector<Share> list;
  };
  std::vector<Step> steps_;
  std::vector<Shares> shares_;  // by thread
};

}  // namespace prism::rt
