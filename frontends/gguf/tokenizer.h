// Text <-> token ids, from a GGUF file's tokenizer.* metadata: byte-level BPE and SPM (llama/gemma).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "frontends/gguf/gguf.h"

namespace prism::gguf {

class Tokenizer {
 public:
  static Result<std::unique_ptr<Tokenizer>> create(const File& f);
  virtual ~Tokenizer() = default;

  /// Ids of `text` without BOS/EOS. Control tokens written in the text are recognised if `parse_special`.
  /// Invalid UTF-8: an error naming the byte offset.
  virtual Result<std::vector<int32_t>> encode(std::string_view text, bool parse_special = true) const = 0;
  /// Bytes of one token as they appear in text; control tokens give "" unless `special`.
  virtual std::string piece(int32_t id, bool special = false) const = 0;
  /// All of the ids as text (the inverse of encode where one exists).
  std::string decode(std::span<const int32_t> ids, bool special = false) const;

  size_t size() const { return size_; }
  int32_t bos() const { return bos_; }   ///< -1 if none
  int32_t eos() const { return eos_; }
  bool add_bos() const { return add_bos_; }
  bool is_end(int32_t id) const;         ///< eos, eot, eom and their like

 protected:
  friend class StreamDecoder;
  size_t size_ = 0;
  int32_t bos_ = -1, eos_ = -1;
  bool add_bos_ = false;
  std::vector<int32_t> ends_;            ///< ascending
  bool strip_leading_space_ = false;     ///< SPM with add_space_prefix: encode puts a space before the text
};

/// Turns a stream of tokens into text that never ends inside a UTF-8 character; invalid bytes become U+FFFD.
class StreamDecoder {
 public:
  /// `at_start`: the first token begins the text (a continuation keeps its leading space).
  explicit StreamDecoder(const Tokenizer& t, bool at_start = false) : tokenizer_(t), at_start_(at_start) {}
  std::string push(int32_t id);   ///< text that became complete
  std::string flush();            ///< what is left; incomplete bytes become U+FFFD

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;
  bool at_start_;
};

}  // namespace prism::gguf
