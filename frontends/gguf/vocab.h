// The vocabulary of a GGUF file: token texts, their kinds, and the special tokens found in a text.
#pragma once

#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "frontends/gguf/gguf.h"
#include "frontends/gguf/text_index.h"

namespace prism::gguf {

/// A copy of a list of texts in one piece of memory, so that views of it outlive the file.
class TextList {
 public:
  TextList() = default;
  explicit TextList(std::span<const std::string_view> texts);
  TextList(TextList&&) = default;
  TextList& operator=(TextList&&) = default;

  std::span<const std::string_view> all() const { return texts_; }
  std::string_view operator[](size_t i) const { return texts_[i]; }
  size_t size() const { return texts_.size(); }

 private:
  std::vector<char> bytes_;
  std::vector<std::string_view> texts_;
};

/// A run of text, or a special token that was written in it.
struct Fragment {
  std::string_view text;
  int32_t token = -1;
};

class Vocab {
 public:
  /// What a token is; a token that ends a turn is a control token whatever else the file calls it.
  enum Kind : uint8_t { kNormal = 1, kUnknown = 2, kControl = 4, kUserDefined = 8, kUnused = 16, kByte = 32 };

  static Result<Vocab> load(const File& f);

  size_t size() const { return texts_.size(); }
  std::string_view text(int32_t id) const { return texts_[size_t(id)]; }
  bool is(int32_t id, int kinds) const { return (kinds_[size_t(id)] & kinds) != 0; }
  int32_t find(std::string_view text) const { return index_.find(text); }  ///< -1 if it is no token
  size_t longest() const { return longest_; }                              ///< bytes
  const std::vector<int32_t>& ends() const { return ends_; }               ///< tokens that end a generation

  /// Cuts out the special tokens, the longest first; only user-defined ones unless `parse_special`.
  std::vector<Fragment> partition(std::string_view text, bool parse_special) const;

 private:
  Status load_kinds(const File& f);
  Status find_ends(const File& f);
  void index_specials(const File& f);

  TextList texts_;
  TextIndex index_;
  size_t longest_ = 0;
  std::vector<uint8_t> kinds_;
  std::vector<int32_t> ends_;

  struct SpecialLength {
    size_t length;
    std::bitset<256> first_bytes;
  };
  std::vector<SpecialLength> specials_;  ///< the longest first
  std::vector<bool> strips_right_;       ///< white space after the token belongs to it; empty if no token does that
};

/// The value of a token-id key, or `fallback` if the key is missing or names no token.
Result<int32_t> token_id(const File& f, std::string_view key, size_t vocab_size, int32_t fallback);

}  // namespace prism::gguf
