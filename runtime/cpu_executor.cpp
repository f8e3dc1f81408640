#include "runtime/cpu_executor.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/checked.h"

namespace prism::rt {

Result<std::unique_ptr<Executor>> create_cpu_executor(std::shared_ptr<const Executable> exe, int64_t capacity, const SessionOptions& options,
                                                      const std::string& name) {
  auto e = std::make_unique<CpuExecutor>(std::move(exe), options.profile, name);
  PRISM_CHECK(e->init(capacity, options.threads));
  return std::unique_ptr<Executor>(std::move(e));
}

Status CpuExecutor::init(int64_t capacity, unsigned threads) {
  const Program& p = exe_->program();
  const std::string cache = kv_cache_name(name_, capacity);
  PRISM_TRY(kv_, KvLayout::create(p.kv, capacity, cache));
  // No huge pages: heads lie far apart, and the first position would bring all of the cache into memory. That doubles what SmolLM2
  // takes and delays its first token from 3 to 7 ms, or to 150 on a machine that finds the memory first; long contexts are read no faster.
  PRISM_TRY(cache_, Mapping::anonymous(kv_.bytes(), cache, /*huge_pages=*/false));
  PRISM_TRY(team_, ThreadTeam::create(threads));
  uint64_t scratch_bytes = 0;
  for (const Kernel& k : p.kernels) scratch_bytes = std::max(scratch_bytes, k.scratch_bytes);
  constexpr uint64_t kApart = 128;  // two cache lines, which the prefetcher fetches together
  scratch_stride_ = round_up(scratch_bytes, kApart);
  PRISM_TRY(arena_, Mapping::anonymous(arena_bytes(), name_ + ": arena", /*huge_pages=*/true));
  PRISM_TRY(scratch_, Mapping::anonymous(scratch_stride_ * team_->size(), name_ + ": scratch", /*huge_pages=*/true));
  size_t launches = 0;
  for (const EntryPoint& entry : p.entries) {
    entries_.push_back(bind(entry));
    launches = std::max(launches, entry.launches.size());
  }
  progress_ = std::vector<Progress>(launches);
  for (Progress& progress : progress_) progress.taken = std::make_unique<std::atomic<bool>[]>(team_->size());
  return ok();
}

KvStats CpuExecutor::kv_stats(int64_t positions, int64_t capacity) const {
  KvStats stats = kv_.stats(positions, capacity);
  stats.compressing_seconds = 1e-9 * double(demoting_.load(std::memory_order_relaxed));
  return stats;
}

CpuExecutor::BoundEntry CpuExecutor::bind(const EntryPoint& entry) const {
  const auto address = [&](const Arg& a) -> uint8_t* {
    switch (a.space) {
      case Space::Arena: return arena_.data() + a.offset;
      case Space::Weight: return const_cast<uint8_t*>(exe_->weight(a.index)) + a.offset;  // kernels only read it
      case Space::KvK: return cache_.data() + kv_.k(a.index) + a.offset;
      case Space::KvV: return cache_.data() + kv_.v(a.index) + a.offset;
    }
    __builtin_unreachable();  // validated
  };
  const std::vector<std::string>& dims = exe_->program().dims;
  const size_t demote = size_t(std::ranges::find(dims, kDemoteDim) - dims.begin());   // past the end: none has it
  BoundEntry bound;
  for (const Launch& l : entry.launches)
    for (const Arg& a : l.args) bound.args.push_back(address(a));
  void* const* args = bound.args.data();
  for (const Launch& l : entry.launches) {
    bound.launches.push_back({exe_->kernel(l.kernel), args, l.tasks.reads_dim(demote)});
    args += l.args.size();
  }
  return bound;
}

Status CpuExecutor::write(uint64_t offset, std::span<const uint8_t> from) {
  std::memcpy(arena_.data() + offset, from.data(), from.size());
  return ok();
}

Result<const uint8_t*> CpuExecutor::read(uint64_t offset, uint64_t) { return arena_.data() + offset; }

Status CpuExecutor::run(const EntryPoint& entry, std::span<const int64_t> dims) {
  constexpr int64_t kMaxTasks = int64_t(1) << 40;  // times the number of threads still fits
  PRISM_CHECK(check_dims(entry, dims));
  const size_t index = size_t(&entry - exe_->program().entries.data());
  BoundEntry& bound = entries_[index];
  for (size_t i = 0; i < bound.launches.size(); ++i) {
    PRISM_TRY(bound.launches[i].count, tasks(entry, i, dims, kMaxTasks));
  }
  for (size_t i = 0; i < bound.launches.size(); ++i) {
    progress_[i].shares_done.store(0, std::memory_order_relaxed);
    for (unsigned t = 0; t < team_->size(); ++t) progress_[i].taken[t].store(false, std::memory_order_relaxed);
  }
  const uint32_t start = launched_.generation();
  if (profile_) profile_->begin_step(index, dims, team_->size());
  team_->run([&](unsigned thread) { run_share(bound, dims.data(), thread, start); });
  if (profile_) profile_->end_step();
  return ok();
}

/// The hot loop. Which thread does a task changes nothing in what the task computes, so neither does their number. A thread
/// that the system keeps from running is not waited for unless it is in the middle of its share.
void CpuExecutor::run_share(const BoundEntry& entry, const int64_t* dims, unsigned thread, uint32_t start) {
  const int64_t threads = team_->size();
  void* scratch = scratch_.data() + thread * int64_t(scratch_stride_);
  for (uint32_t i = 0; i < entry.launches.size(); ++i) {
    const auto done = [&] { return launched_.generation() - start > i; };  // the counter may wrap
    if (done()) continue;  // late: the others have gone on
    const BoundLaunch& l = entry.launches[i];
    for (int64_t n = 0; n < threads; ++n) {
      const int64_t share = (thread + n) % threads;  // its own first: the same weights at every step
      std::atomic<bool>& taken = progress_[i].taken[size_t(share)];
      if (taken.load(std::memory_order_relaxed) || taken.exchange(true, std::memory_order_relaxed)) continue;
      const int64_t begin = l.count * share / threads, end = l.count * (share + 1) / threads;
      if (begin < end) {
        const int64_t from = profile_ || l.demotes ? Profile::now() : 0;
        l.kernel(l.args, dims, begin, end, scratch);
        if (l.demotes) demoting_.fetch_add(Profile::now() - from, std::memory_order_relaxed);
        if (profile_) profile_->share(thread, i, begin, end, from);
      }
      if (progress_[i].shares_done.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) launched_.advance();
    }
    while (!done()) launched_.wait(start + i, team_->barrier_spin());
  }
}

}  // namespace prism::rt
