#include "frontends/gguf/tokenizer.h"

#include <algorithm>
#include <charconv>

#include "frontends/gguf/quote.h"
#include "frontends/gguf/utf8.h"
#include "frontends/gguf/vocab_tokenizer.h"

namespace prism::gguf {
namespace {

constexpr size_t kMaxTextBytes = size_t(1) << 29;
constexpr std::string_view kReplacement = "\xef\xbf\xbd";

/// The byte that a token written <0xXX> stands for, -1 if it is not written so.
int byte_token_value(std::string_view token) {
  unsigned value = 0;
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  const auto [end, status] = std::from_chars(token.data() + 3, token.data() + 5, value, 16);
  return status == std::errc() && end == token.data() + 5 ? int(value) : -1;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> Tokenizer::create(const File& f) {
  PRISM_TRY(const std::string model, f.get_string("tokenizer.ggml.model"));
  if (model != "gpt2" && model != "llama") {
    return error(f.name(), ": key 'tokenizer.ggml.model': found ", quote(model),
                 ", expected 'gpt2' (byte-level BPE) or 'llama' (SPM)");
  }
  PRISM_TRY(Vocab vocab, Vocab::load(f));
  return model == "gpt2" ? create_bpe(f, std::move(vocab)) : create_spm(f, std::move(vocab));
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool special) const {
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    std::string p = piece(ids[i], special);
    const bool strip = i == 0 && strip_leading_space_ && p.starts_with(' ');
    text.append(p, strip ? 1 : 0);
  }
  return text;
}

bool Tokenizer::is_end(int32_t id) const { return std::binary_search(ends_.begin(), ends_.end(), id); }

Status VocabTokenizer::load_ids(const File& f, const Defaults& defaults) {
  size_ = vocab_.size();
  ends_ = vocab_.ends();
  auto known = [&](int32_t id) { return id >= 0 && size_t(id) < size_ ? id : -1; };
  PRISM_TRY(bos_, token_id(f, "tokenizer.ggml.bos_token_id", size_, known(defaults.bos)));
  PRISM_TRY(eos_, token_id(f, "tokenizer.ggml.eos_token_id", size_, known(defaults.eos)));
  if (eos_ >= 0 && !is_end(eos_)) ends_.insert(std::upper_bound(ends_.begin(), ends_.end(), eos_), eos_);
  PRISM_TRY(add_bos_, f.get_bool("tokenizer.ggml.add_bos_token", defaults.add_bos));
  add_bos_ = add_bos_ && bos_ >= 0;
  return ok();
}

Result<std::vector<int32_t>> VocabTokenizer::encode(std::string_view text, bool parse_special) const {
  if (text.size() > kMaxTextBytes) {
    return error(file_, ": text to encode: found ", text.size(), " bytes, expected at most ", kMaxTextBytes);
  }
  for (size_t i = 0; i < text.size();) {
    const Utf8Front front = utf8_front(text.substr(i, 4));
    if (front.state != Utf8Front::kValid) {
      return error(file_, ": text to encode: found invalid UTF-8 at byte ", i, ", expected valid UTF-8");
    }
    i += front.length;
  }
  std::vector<int32_t> ids;
  for (const Fragment& fragment : vocab_.partition(text, parse_special)) {
    if (fragment.token >= 0) {
      ids.push_back(fragment.token);
    } else {
      PRISM_CHECK(encode_text(fragment.text, ids));
    }
  }
  return ids;
}

std::string VocabTokenizer::piece(int32_t id, bool special) const {
  if (id < 0 || size_t(id) >= vocab_.size()) return "";
  if (vocab_.is(id, Vocab::kControl | Vocab::kUnknown)) return special ? std::string(vocab_.text(id)) : "";
  if (vocab_.is(id, Vocab::kUserDefined)) return std::string(vocab_.text(id));
  if (vocab_.is(id, Vocab::kNormal)) return text_bytes(vocab_.text(id));
  if (vocab_.is(id, Vocab::kByte)) {
    const int byte = byte_token_value(vocab_.text(id));
    if (byte >= 0) return std::string(1, char(byte));
  }
  return "";
}

std::string StreamDecoder::push(int32_t id) {
  std::string p = tokenizer_.piece(id);
  if (at_start_ && tokenizer_.strip_leading_space_ && p.starts_with(' ')) p.erase(0, 1);
  at_start_ = false;
  pending_ += p;
  std::string out;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Front front = utf8_front(rest);
    if (front.state == Utf8Front::kIncomplete) break;
    out += front.state == Utf8Front::kValid ? rest.substr(0, front.length) : kReplacement;
    rest.remove_prefix(front.length);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return out;
}

std::string StreamDecoder::flush() {
  const bool incomplete = !pending_.empty();
  pending_.clear();
  return std::string(incomplete ? kReplacement : "");
}

}  // namespace prism::gguf
