// Finds a text's position in a list of texts: a vocabulary or its merges.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace prism::gguf {

/// A hash table with open addressing that keeps positions only; the texts belong to the caller and must stay in place.
class TextIndex {
 public:
  TextIndex() = default;
  explicit TextIndex(std::span<const std::string_view> texts);

  /// The position of the first text equal to `text`, -1 if there is none.
  int32_t find(std::string_view text) const;

 private:
  struct Slot {
    uint32_t hash;
    int32_t position;  ///< -1: free
  };
  std::span<const std::string_view> texts_;
  std::vector<Slot> slots_;  ///< a power of two, at most half full
};

}  // namespace prism::gguf
