#include "runtime/executor.h"

#include <algorithm>

#include "runtime/base/checked.h"
#include "runtime/prx_format.h"

namespace prism::rt {

Result<std::unique_ptr<Executor>> Executor::create(std::shared_ptr<const Executable> exe, const KvCache& kv,
                                                   unsigned threads, const std::string& name) {
  std::unique_ptr<Executor> e(new Executor);
  const Program& p = exe->program();
  e->exe_ = std::move(exe);
  e->name_ = name;
  PRISM_TRY(e->team_, ThreadTeam::create(threads));

  uint64_t arena_bytes = 0, scratch_bytes = 0;
  for (const EntryPoint& entry : p.entries) arena_bytes = std::max(arena_bytes, entry.arena_bytes);
  for (const Kernel& k : p.kernels) scratch_bytes = std::max(scratch_bytes, k.scratch_bytes);
  constexpr uint64_t kApart = 128;  // two cache lines, which the prefetcher fetches together
  e->scratch_stride_ = round_up(scratch_bytes, kApart);
  PRISM_TRY(e->arena_, Mapping::anonymous(arena_bytes, name + ": arena", /*huge_pages=*/true));
  PRISM_TRY(e->scratch_,
            Mapping::anonymous(e->scratch_stride_ * e->team_->size(), name + ": scratch", /*huge_pages=*/true));
  size_t launches = 0;
  for (const EntryPoint& entry : p.entries) {
    e->entries_.push_back(e->bind(entry, kv));
    launches = std::max(launches, entry.launches.size());
  }
  e->progress_ = std::vector<Progress>(launches);
  for (Progress& progress : e->progress_) progress.taken = std::make_unique<std::atomic<bool>[]>(e->team_->size());
  return e;
}

Executor::BoundEntry Executor::bind(const EntryPoint& entry, const KvCache& kv) const {
  uint8_t* weights = const_cast<uint8_t*>(exe_->weights());  // kernels only read them
  const auto address = [&](const Arg& a) -> uint8_t* {
    switch (a.space) {
      case Space::Arena: return arena_.data() + a.offset;
      case Space::Weight: return weights + exe_->program().weights[a.index].offset + a.offset;
      case Space::KvK: return kv.k(a.index) + a.offset;
      case Space::KvV: return kv.v(a.index) + a.offset;
    }
    __builtin_unreachable();  // validated
  };
  BoundEntry bound;
  for (const Launch& l : entry.launches)
    for (const Arg& a : l.args) bound.args.push_back(address(a));
  void* const* args = bound.args.data();
  for (const Launch& l : entry.launches) {
    bound.launches.push_back({exe_->kernel(l.kernel), args, &l.tasks});
    args += l.args.size();
  }
  return bound;
}

Status Executor::run(const EntryPoint& entry, std::span<const int64_t> dims) {
  constexpr int64_t kMaxTasks = int64_t(1) << 40;  // times the number of threads still fits
  const Program& p = exe_->program();
  for (size_t d = 0; d < dims.size(); ++d)
    if (dims[d] < entry.dim_min[d] || dims[d] > entry.dim_max[d])
      return error(name_, ": entry point ", quoted(entry.name), ": found ", p.dims[d], " = ", dims[d], ", expected ",
                   entry.dim_min[d], " to ", entry.dim_max[d]);
  BoundEntry& bound = entries_[size_t(&entry - p.entries.data())];
  for (size_t i = 0; i < bound.launches.size(); ++i) {
    const auto tasks = bound.launches[i].tasks->evaluate(dims);
    if (!tasks) return error(name_, ": entry point ", quoted(entry.name), ": launch ", i, ": ", tasks.message());
    if (*tasks < 0 || *tasks > kMaxTasks)
      return error(name_, ": entry point ", quoted(entry.name), ": launch ", i, ": found ", *tasks,
                   " tasks, expected 0 to ", kMaxTasks);
    bound.launches[i].count = *tasks;
  }
  for (size_t i = 0; i < bound.launches.size(); ++i) {
    progress_[i].shares_done.store(0, std::memory_order_relaxed);
    for (unsigned t = 0; t < team_->size(); ++t) progress_[i].taken[t].store(false, std::memory_order_relaxed);
  }
  const uint32_t start = launched_.generation();
  team_->run([&](unsigned thread) { run_share(bound, dims.data(), thread, start); });
  return ok();
}

/// The hot loop. Which thread does a task changes nothing in what the task computes, so neither does their number. A thread
/// that the system keeps from running is not waited for unless it is in the middle of its share.
void Executor::run_share(const BoundEntry& entry, const int64_t* dims, unsigned thread, uint32_t start) {
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
      if (begin < end) l.kernel(l.args, dims, begin, end, scratch);
      if (progress_[i].shares_done.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) launched_.advance();
    }
    while (!done()) launched_.wait(start + i, team_->barrier_spin());
  }
}

}  // namespace prism::rt
