#include "ir/lexer.h"

#include <cctype>

namespace prism::ir {

namespace {

bool name_char(char c) { return isalnum(uint8_t(c)) || c == '_' || c == '.'; }
bool word_start(char c) { return isalpha(uint8_t(c)) || c == '_'; }
constexpr std::string_view kHex = "0123456789abcdef";

}  // namespace

bool is_plain_name(std::string_view text) {
  for (char c : text)
    if (!name_char(c)) return false;
  return !text.empty();
}

bool is_plain_word(std::string_view text) {
  const bool reserved = text == "true" || text == "false" || text == "inf" || text == "nan";
  return is_plain_name(text) && word_start(text[0]) && !reserved;
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') (out += '\\') += c;
    else if (uint8_t(c) < 0x20 || c == 0x7f) ((out += "\\x") += kHex[uint8_t(c) >> 4]) += kHex[c & 15];
    else out += c;
  }
  return out += '"';
}

void Lexer::skip_blank() {
  while (at_ < text_.size()) {
    const char c = text_[at_];
    if (c == ';' || (c == '/' && text_.substr(at_, 2) == "//")) {
      at_ = std::min(text_.find('\n', at_), text_.size());
    } else if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
      ++at_;
    } else {
      return;
    }
  }
}

void Lexer::next() {
  using Kind = Token::Kind;
  skip_blank();
  token_ = {};
  token_.offset = at_;
  if (at_ >= text_.size()) return;
  const char c = text_[at_];
  const char after = at_ + 1 < text_.size() ? text_[at_ + 1] : '\0';
  if (c == '%' || c == '@' || c == '?') {
    ++at_;
    const Kind kind = c == '%' ? Kind::Value : c == '@' ? Kind::Symbol : Kind::DimName;
    after == '"' && c != '?' ? string(kind) : name(kind);
  } else if (c == '"') {
    string(Kind::String);
  } else if (isdigit(uint8_t(c)) || (c == '-' && name_char(after))) {
    number();
  } else if (word_start(c)) {
    name(Kind::Word);
  } else {
    at_ += c == '-' && after == '>' ? 2 : 1;
    token_.kind = std::string_view("-(){}[],:=").find(c) != std::string_view::npos ? Kind::Punctuation : Kind::Bad;
  }
  token_.text = text_.substr(token_.offset, at_ - token_.offset);
}

void Lexer::name(Token::Kind kind) {
  const size_t begin = at_;
  while (at_ < text_.size() && name_char(text_[at_])) ++at_;
  token_.kind = at_ > begin ? kind : Token::Kind::Bad;
  token_.value = text_.substr(begin, at_ - begin);
}

void Lexer::number() {
  token_.kind = Token::Kind::Number;
  ++at_;
  while (at_ < text_.size() && (name_char(text_[at_]) || ((text_[at_] == '-' || text_[at_] == '+') &&
                                                          (text_[at_ - 1] == 'e' || text_[at_ - 1] == 'E'))))
    ++at_;
}

void Lexer::string(Token::Kind kind) {
  token_.kind = Token::Kind::Bad;  // until the closing quote
  for (++at_; at_ < text_.size() && text_[at_] != '\n'; ++at_) {
    const char c = text_[at_];
    if (c == '"') {
      ++at_;
      token_.kind = kind;
      return;
    }
    if (c != '\\') {
      token_.value += c;
      continue;
    }
    const std::string_view escape = text_.substr(at_ + 1, 3);
    if (escape.starts_with('"') || escape.starts_with('\\')) {
      token_.value += escape[0];
      ++at_;
    } else if (escape.size() == 3 && escape[0] == 'x' && kHex.find(escape[1]) != kHex.npos &&
               kHex.find(escape[2]) != kHex.npos) {
      token_.value += char(kHex.find(escape[1]) << 4 | kHex.find(escape[2]));
      at_ += 3;
    } else {
      return;
    }
  }
}

}  // namespace prism::ir
