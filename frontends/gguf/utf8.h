// UTF-8, checked: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once

#include <cstddef>
#include <string_view>

namespace prism::gguf {

struct Utf8Front {
  enum State { kValid, kInvalid, kIncomplete } state;
  size_t length;  ///< bytes of the character, or of the longest beginning of one
};

/// What stands at the front of `s`, which is not empty.
inline Utf8Front utf8_front(std::string_view s) {
  const unsigned char lead = s[0];
  if (lead < 0x80) return {Utf8Front::kValid, 1};
  if (lead < 0xc2 || lead > 0xf4) return {Utf8Front::kInvalid, 1};
  const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (size_t i = 1; i < length; ++i) {
    if (i == s.size()) return {Utf8Front::kIncomplete, i};
    const unsigned char byte = s[i];
    if (byte < low || byte > high) return {Utf8Front::kInvalid, i};
    low = 0x80;
    high = 0xbf;
  }
  return {Utf8Front::kValid, length};
}

/// Length of a character known to be valid, from its first byte.
inline size_t utf8_length(unsigned char lead) { return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4; }

}  // namespace prism::gguf
