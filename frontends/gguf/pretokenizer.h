// Cuts text into the words inside which byte-level BPE merges, by the regular expressions a model was trained with.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"

namespace prism::gguf {

class PreTokenizer {
 public:
  /// `name` is the value of tokenizer.ggml.pre.
  static Result<PreTokenizer> create(std::string_view name, const std::string& file);
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

  /// The words of `text` (valid UTF-8), in order and without gaps.
  Result<std::vector<std::string_view>> split(std::string_view text) const;

  bool ignore_merges() const { return ignore_merges_; }  ///< a word that is a token is taken as it is
  bool add_bos() const { return add_bos_; }              ///< where the file does not say

 private:
  struct Regex;
  PreTokenizer();
  std::vector<Regex> regexes_;  ///< each cuts what the one before it left
  bool ignore_merges_ = false, add_bos_ = false;
  std::string file_;
};

}  // namespace prism::gguf
