// The merge loop that byte-level BPE and SPM share: neighbours are joined, the cheapest pair first.
#pragma once

#include <cstdint>
#include <limits>
#include <queue>
#include <string_view>
#include <vector>

namespace prism::gguf {

struct Symbol {
  uint32_t begin, length;  ///< bytes of the text; length 0: joined to the symbol before it
  int32_t previous, next;  ///< positions in the list, -1 at the ends
};

inline constexpr float kNoMerge = std::numeric_limits<float>::infinity();

/// One text at a time; keeps its memory between texts.
class Merger {
 public:
  void clear() { symbols_.clear(); }
  /// Appends the text's next `length` bytes as a symbol.
  void add(size_t length) {
    const int32_t index = int32_t(symbols_.size());
    const uint32_t begin = index == 0 ? 0 : symbols_.back().begin + symbols_.back().length;
    if (index > 0) symbols_.back().next = index;
    symbols_.push_back({begin, uint32_t(length), index - 1, -1});
  }

  /// Joins until nothing can be joined. `cost(both, left)` is the cost of joining the first `left` bytes of the text
  /// `both` to the rest, or kNoMerge. Of equally cheap pairs the leftmost comes first.
  template <class Cost>
  void run(std::string_view text, Cost&& cost) {
    auto push = [&](int32_t left) {
      if (left < 0 || symbols_[left].next < 0) return;
      const Symbol& a = symbols_[left];
      const uint32_t length = a.length + symbols_[a.next].length;
      const float c = cost(text.substr(a.begin, length), a.length);
      if (c != kNoMerge) queue_.push({c, left, length});
    };
    for (size_t i = 0; i + 1 < symbols_.size(); ++i) push(int32_t(i));
    while (!queue_.empty()) {
      const Candidate top = queue_.top();
      queue_.pop();
      Symbol& a = symbols_[top.left];
      // A candidate is stale when one of its two symbols has been joined to another meanwhile.
      if (a.length == 0 || a.next < 0 || a.length + symbols_[a.next].length != top.length) continue;
      Symbol& b = symbols_[a.next];
      a.length = top.length;
      a.next = b.next;
      b.length = 0;
      if (a.next >= 0) symbols_[a.next].previous = top.left;
      push(a.previous);
      push(top.left);
    }
  }

  /// Calls `visit(text of the symbol)` for what is left, in order.
  template <class Visit>
  void for_each(std::string_view text, Visit&& visit) const {
    for (int32_t i = symbols_.empty() ? -1 : 0; i >= 0; i = symbols_[i].next) {
      visit(text.substr(symbols_[i].begin, symbols_[i].length));
    }
  }

 private:
  struct Candidate {
    float cost;
    int32_t left;
    uint32_t length;  ///< of both symbols when it was found
    bool operator<(const Candidate& o) const { return cost > o.cost || (cost == o.cost && left > o.left); }
  };
  std::vector<Symbol> symbols_;
  std::priority_queue<Candidate> queue_;
};

}  // namespace prism::gguf
