// Tokens of the text form. Never fails: what is no token becomes Kind::Bad, which no rule of the grammar expects.
#pragma once

#include <string>
#include <string_view>

namespace prism::ir {

struct Token {
  enum class Kind : uint8_t { End, Bad, Word, Value, Symbol, DimName, Number, String, Punctuation } kind = Kind::End;
  std::string_view text;  ///< as written
  std::string value;      ///< the word or name without its mark, or the string without quotes and escapes
  size_t offset = 0;

  bool is(Kind k) const { return kind == k; }
  bool is(std::string_view punctuation) const { return kind == Kind::Punctuation && text == punctuation; }
  bool is_word(std::string_view w) const { return kind == Kind::Word && text == w; }
};

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) { next(); }

  const Token& peek() const { return token_; }
  Token take() {
    Token t = std::move(token_);
    next();
    return t;
  }
  /// Goes on at `offset`: the parser has read a type by itself.
  void seek(size_t offset) {
    at_ = offset;
    next();
  }
  std::string_view text() const { return text_; }

 private:
  void next();
  void skip_blank();
  void name(Token::Kind kind);
  void string(Token::Kind kind);
  void number();

  std::string_view text_;
  size_t at_ = 0;
  Token token_;
};

/// Can the text be written without quotes after '%' or '@'?
bool is_plain_name(std::string_view text);
/// Can the text be written as a word, and is it then read back as a string?
bool is_plain_word(std::string_view text);
std::string quoted(std::string_view text);

}  // namespace prism::ir
