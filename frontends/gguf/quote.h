// Names from files, made safe to stand in a one-line message.
#pragma once

#include <string>
#include <string_view>

namespace prism::gguf {

/// 'text', with control and non-ASCII bytes as \xNN and a long text cut short.
inline std::string quote(std::string_view text, size_t most = 80) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out = "'";
  for (unsigned char byte : text.substr(0, most)) {
    if (byte >= 0x20 && byte < 0x7f) {
      out += char(byte);
    } else {
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return out + (text.size() > most ? "...'" : "'");
}

}  // namespace prism::gguf
