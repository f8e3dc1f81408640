#include "frontends/gguf/text_index.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace prism::gguf {

TextIndex::TextIndex(std::span<const std::string_view> texts)
    : texts_(texts), slots_(std::bit_ceil(2 * texts.size() + 1), Slot{0, -1}) {
  const size_t mask = slots_.size() - 1;
  for (size_t position = 0; position < texts.size(); ++position) {
    const std::string_view text = texts[position];
    const uint32_t hash = uint32_t(std::hash<std::string_view>{}(text));
    size_t i = hash & mask;
    while (slots_[i].position >= 0 && !(slots_[i].hash == hash && texts_[slots_[i].position] == text))
      i = (i + 1) & mask;
    if (slots_[i].position < 0) slots_[i] = {hash, int32_t(position)};
  }
}

int32_t TextIndex::find(std::string_view text) const {
  if (slots_.empty()) return -1;
  const size_t mask = slots_.size() - 1;
  const uint32_t hash = uint32_t(std::hash<std::string_view>{}(text));
  for (size_t i = hash & mask; slots_[i].position >= 0; i = (i + 1) & mask) {
    if (slots_[i].hash == hash && texts_[slots_[i].position] == text) return slots_[i].position;
  }
  return -1;
}

}  // namespace prism::gguf
