#include "analysis/lockstep.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "runtime/thread_pool.h"

namespace prism::analysis {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kRows = 16;  // compared at once: as many as most executables score at once

/// Adds the time of its life to a sum.
class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds) {}
  ~Stopwatch() { seconds_ += std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  double& seconds_;
  Clock::time_point start_ = Clock::now();
};

/// Logits of a few positions, one row after the other.
class Rows {
 public:
  void clear() {
    count_ = 0;
    values_.clear();
  }
  void push(std::span<const float> row) {
    ++count_;
    values_.insert(values_.end(), row.begin(), row.end());
  }
  std::span<const float> row(size_t i) const { return std::span(values_).subspan(i * (values_.size() / count_), values_.size() / count_); }

 private:
  std::vector<float> values_;
  size_t count_ = 0;
};

class Lockstep {
 public:
  Lockstep(Runner& base, std::span<Runner> variants, const LockstepOptions& options, std::unique_ptr<rt::ThreadTeam> team)
      : base_(base), variants_(variants), options_(options), team_(std::move(team)) {
    result_.variants.resize(variants.size());
  }

  Result<LockstepResult> run(std::span<const int32_t> ids) {
    const bool has_bos = options_.bos >= 0;
    const auto most = size_t(options_.context - has_bos);
    total_ = int64_t(ids.size() + (has_bos ? (ids.size() + most - 1) / most : 0));
    std::vector<int32_t> context;
    for (; !ids.empty(); ids = ids.subspan(std::min(ids.size(), most)), ++result_.contexts) {
      context.clear();
      if (has_bos) context.push_back(options_.bos);
      const auto piece = ids.first(std::min(ids.size(), most));
      context.insert(context.end(), piece.begin(), piece.end());
      PRISM_CHECK(run_context(context));
    }
    return std::move(result_);
  }

 private:
  Status run_context(std::span<const int32_t> context) {
    PRISM_CHECK(for_each_runner([](Runner& r) {
      r.session->rewind(0);
      return ok();
    }));
    const auto chunk = size_t(options_.chunk);
    for (size_t begin = 0; begin < context.size(); begin += chunk) {
      const size_t end = std::min(context.size(), begin + chunk);
      for (size_t at = begin; at < end; at += kRows) PRISM_CHECK(compare_rows(context, at, std::min(kRows, end - at)));
      if (end == context.size()) break;  // nothing reads the cache any more
      PRISM_CHECK(for_each_runner([&](Runner& r) {
        if (!r.fed) return ok();
        if (r.session->rewind(int64_t(begin)) < int64_t(begin))
          return Status(error("a compressed cache cannot take back a chunk of ", end - begin, " ids as prompts need it to (see --chunk, --no-noise); expected at most 16"));
        return r.session->feed(context.subspan(begin, end - begin));
      }));
    }
    return ok();
  }

  Status compare_rows(std::span<const int32_t> context, size_t at, size_t count) {
    const auto ids = context.subspan(at, count);
    PRISM_CHECK(score(base_, ids, base_rows_, result_.base_seconds));
    for (size_t v = 0; v < variants_.size(); ++v) {
      VariantResult& result = result_.variants[v];
      PRISM_CHECK(score(variants_[v], ids, variant_rows_, result.seconds));
      const Stopwatch watch(result_.comparison_seconds);
      std::vector<std::optional<Result<Comparison>>> found(count);
      rt::parallel_for(*team_, count, [&](size_t i) {
        found[i] = compare(base_rows_.row(i), variant_rows_.row(i), at + i + 1 < context.size() ? context[at + i + 1] : -1);
      });
      for (size_t i = 0; i < count; ++i) {
        const auto position = int64_t(at + i);
        if (!*found[i])
          return error(base_.name, " and ", variants_[v].name, ": context ", result_.contexts, ", position ", position, ": ", found[i]->message());
        if (position >= options_.from) result.summaries.add(position, **found[i]);
      }
    }
    result_.positions += int64_t(count);
    if (options_.progress) options_.progress(result_.positions, total_);
    return ok();
  }

  /// Keeping the rows is a part of comparing them.
  Status score(Runner& r, std::span<const int32_t> ids, Rows& rows, double& seconds) {
    double all = 0, keeping = 0;
    rows.clear();
    const Status status = timed(r, all, [&] {
      return r.session->score(ids, [&](size_t, std::span<const float> row) {
        const Stopwatch watch(keeping);
        rows.push(row);
      });
    });
    seconds += all - keeping;
    result_.comparison_seconds += keeping;
    return status;
  }

  template <class F>
  Status for_each_runner(F&& f) {
    PRISM_CHECK(timed(base_, result_.base_seconds, [&] { return f(base_); }));
    for (size_t v = 0; v < variants_.size(); ++v) PRISM_CHECK(timed(variants_[v], result_.variants[v].seconds, [&] { return f(variants_[v]); }));
    return ok();
  }

  template <class F>
  static Status timed(const Runner& r, double& seconds, F&& f) {
    const Stopwatch watch(seconds);
    const Status status = f();
    return status ? ok() : Status(error(r.name, ": ", status.message()));
  }

  Runner& base_;
  std::span<Runner> variants_;
  const LockstepOptions& options_;
  std::unique_ptr<rt::ThreadTeam> team_;
  LockstepResult result_;
  int64_t total_ = 0;
  Rows base_rows_, variant_rows_;
};

}  // namespace

Result<LockstepResult> run_in_lockstep(Runner& base, std::span<Runner> variants, std::span<const int32_t> ids, const LockstepOptions& o) {
  if (ids.empty()) return error("ids to compare models over: found none, expected at least 1");
  const int64_t least = o.bos >= 0 ? 2 : 1;
  if (o.context < least) return error("context: found ", o.context, " positions, expected at least ", least);
  if (o.chunk < 1) return error("chunk: found ", o.chunk, " ids, expected at least 1");
  if (o.from < 0 || o.from >= o.context) return error("from: found position ", o.from, ", expected 0 to ", o.context - 1, ", those of a context");
  PRISM_TRY(auto team, rt::ThreadTeam::create(o.threads));
  return Lockstep(base, variants, o, std::move(team)).run(ids);
}

}  // namespace prism::analysis
