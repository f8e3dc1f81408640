#include "runtime/profile.h"

#include <algorithm>

namespace prism::rt {

void Profile::begin_step(size_t entry, std::span<const int64_t> dims, unsigned threads) {
  shares_.resize(threads);
  steps_.push_back({entry, {dims.begin(), dims.end()}, {now(), 0}});
}

void Profile::clear() {
  steps_.clear();
  for (Shares& s : shares_) s.list.clear();
}

std::vector<Profile::Launch> Profile::launches(const Program& p) const {
  std::vector<Launch> all;
  std::vector<size_t> first;  // of each step's in `all`
  for (uint32_t s = 0; s < steps_.size(); ++s) {
    first.push_back(all.size());
    for (uint32_t l = 0; l < p.entries[steps_[s].entry].launches.size(); ++l) all.push_back({s, l, {}, 0});
  }
  for (const Shares& thread : shares_)
    for (const Share& s : thread.list) {
      Launch& l = all[first[s.step] + s.launch];
      l.time.to = std::max(l.time.to, s.time.to);
      l.busy += s.time.length();
    }
  for (size_t i = 0; i < all.size(); ++i) {
    all[i].time.from = all[i].launch ? all[i - 1].time.to : steps_[all[i].step].time.from;
    all[i].time.to = std::max(all[i].time.from, all[i].time.to);  // nothing to do
  }
  return all;
}

}  // namespace prism::rt
