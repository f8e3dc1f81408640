// What the tokenizers share: special tokens are cut out of the text first, then each run of text is encoded.
#pragma once

#include "frontends/gguf/tokenizer.h"
#include "frontends/gguf/vocab.h"

namespace prism::gguf {

class VocabTokenizer : public Tokenizer {
 public:
  Result<std::vector<int32_t>> encode(std::string_view text, bool parse_special) const override;
  std::string piece(int32_t id, bool special) const override;

 protected:
  /// Defaults where the file says nothing; -1: no such token.
  struct Defaults {
    int32_t bos, eos;
    bool add_bos;
  };
  VocabTokenizer(Vocab vocab, std::string file) : vocab_(std::move(vocab)), file_(std::move(file)) {}
  Status load_ids(const File& f, const Defaults& defaults);

  /// Appends the ids of valid UTF-8 between special tokens.
  virtual Status encode_text(std::string_view text, std::vector<int32_t>& ids) const = 0;
  /// The bytes that a normal token's text stands for.
  virtual std::string text_bytes(std::string_view token) const = 0;

  const Vocab vocab_;
  const std::string file_;  ///< for messages
};

Result<std::unique_ptr<Tokenizer>> create_bpe(const File& f, Vocab vocab);
Result<std::unique_ptr<Tokenizer>> create_spm(const File& f, Vocab vocab);

}  // namespace prism::gguf
