#include "runtime/fill.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>

namespace prism::rt {

Status fill_weight(const Weight& w, std::span<uint8_t> dst, const WeightFiller& fill) {
  if (w.values.empty()) return fill(w, dst);
  std::memcpy(dst.data(), w.values.data(), dst.size());
  return ok();
}

Status fill_weights(const Program& p, uint8_t* base, unsigned threads, const WeightFiller& fill,
                    const Progress& progress) {
  const size_t n = p.weights.size();
  if (threads == 0) threads = available_cores();
  PRISM_TRY(auto team, ThreadTeam::create(unsigned(std::min<size_t>(threads, std::max<size_t>(1, n)))));

  // The largest first, so that no thread is left with a large one at the end.
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return p.weights[a].bytes > p.weights[b].bytes; });

  const uint64_t total = std::accumulate(p.weights.begin(), p.weights.end(), uint64_t(0),
                                         [](uint64_t sum, const Weight& w) { return sum + w.bytes; });
  ProgressCounter counter(progress, "packing weights", total);
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::optional<Error> first;
  parallel_for(*team, n, [&](size_t i) {
    if (failed) return;
    const Weight& w = p.weights[order[i]];
    if (Status s = fill_weight(w, {base + w.offset, w.bytes}, fill); !s) {
      failed = true;
      std::lock_guard lock(mutex);
      if (!first) first = s.err();
      return;
    }
    counter.add(w.bytes);
  });
  if (first) return *first;
  return ok();
}

}  // namespace prism::rt
