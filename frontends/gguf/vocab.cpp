#include "frontends/gguf/vocab.h"

#include <algorithm>
#include <cctype>

#include "frontends/gguf/quote.h"

namespace prism::gguf {
namespace {

constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
constexpr std::string_view kTokenTypes = "tokenizer.ggml.token_type";
constexpr size_t kMaxTokens = INT32_MAX / 4;

// Texts that end a generation wherever they are in a vocabulary; files often do not say so.
constexpr std::string_view kEndTexts[] = {"<|eot_id|>",
                                          "<|im_end|>",
                                          "<|end|>",
                                          "<|return|>",
                                          "<|call|>",
                                          "<|flush|>",
                                          "<|calls|>",
                                          "<end_of_turn>",
                                          "</s>",
                                          "<|endoftext|>",
                                          "<|eom_id|>",
                                          "<EOT>",
                                          "_<EOT>",
                                          "[EOT]",
                                          "[EOS]",
                                          "<|end_of_text|>",
                                          "<end_of_utterance>",
                                          "<eos>",
                                          "<turn|>",
                                          "<|tool_response>",
                                          "[e~[",
                                          "<｜end▁of▁sentence｜>"};

/// Fill-in-the-middle tokens: control tokens, and some of them end a generation.
struct FillRole {
  std::string_view key;
  bool ends;
  std::vector<std::string_view> texts;
};
const FillRole kFillRoles[] = {
    {"tokenizer.ggml.fim_pre_token_id",
     false,
     {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
      "<|prefix|>"}},
    {"tokenizer.ggml.fim_suf_token_id",
     false,
     {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>",
      "<|suffix|>"}},
    {"tokenizer.ggml.fim_mid_token_id",
     false,
     {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>",
      "<|middle|>"}},
    {"tokenizer.ggml.fim_pad_token_id", true, {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}},
    {"tokenizer.ggml.fim_rep_token_id", true, {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"}},
    {"tokenizer.ggml.fim_sep_token_id", true, {"<|file_sep|>"}},
};

uint8_t kind_of(int64_t token_type) {
  switch (token_type) {
    case 1:
      return Vocab::kNormal;
    case 2:
      return Vocab::kUnknown;
    case 3:
      return Vocab::kControl;
    case 4:
      return Vocab::kUserDefined;
    case 5:
      return Vocab::kUnused;
    case 6:
      return Vocab::kByte;
    default:
      return 0;
  }
}

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/// Phi-3's special tokens take the white space that follows them; the file does not say so.
bool is_phi3(const File& f) {
  const MetaValue* v = f.find("general.name");
  const auto* name = v ? std::get_if<std::string>(v) : nullptr;
  if (!name) return false;
  std::string lower;
  for (unsigned char c : *name) lower += char(std::tolower(c));
  return lower.find("phi-3") != lower.npos || lower.find("phi3") != lower.npos;
}

}  // namespace

TextList::TextList(std::span<const std::string_view> texts) {
  size_t bytes = 0;
  for (std::string_view t : texts) bytes += t.size();
  bytes_.reserve(bytes);
  texts_.reserve(texts.size());
  for (std::string_view t : texts) {
    texts_.emplace_back(bytes_.data() + bytes_.size(), t.size());
    bytes_.insert(bytes_.end(), t.begin(), t.end());
  }
}

Result<int32_t> token_id(const File& f, std::string_view key, size_t vocab_size, int32_t fallback) {
  PRISM_TRY(const int64_t id, f.get_int(key, -1));
  return id >= 0 && uint64_t(id) < vocab_size ? int32_t(id) : fallback;
}

Result<Vocab> Vocab::load(const File& f) {
  const MetaValue* v = f.find(kTokens);
  if (!v) return error(f.name(), ": key ", quote(kTokens), ": not found, expected an array of strings");
  const auto* texts = std::get_if<std::vector<std::string_view>>(v);
  if (!texts) return error(f.name(), ": key ", quote(kTokens), ": found another kind, expected an array of strings");
  if (texts->empty() || texts->size() > kMaxTokens) {
    return error(f.name(), ": key ", quote(kTokens), ": found ", texts->size(), " tokens, expected 1 to ", kMaxTokens);
  }
  Vocab vocab;
  vocab.texts_ = TextList(*texts);
  vocab.index_ = TextIndex(vocab.texts_.all());
  for (std::string_view t : vocab.texts_.all()) vocab.longest_ = std::max(vocab.longest_, t.size());
  PRISM_CHECK(vocab.load_kinds(f));
  PRISM_CHECK(vocab.find_ends(f));
  vocab.index_specials(f);
  return vocab;
}

Status Vocab::load_kinds(const File& f) {
  kinds_.assign(size(), kNormal);
  const MetaValue* v = f.find(kTokenTypes);
  if (!v) return ok();
  const auto* types = std::get_if<std::vector<int64_t>>(v);
  if (!types)
    return error(f.name(), ": key ", quote(kTokenTypes), ": found another kind, expected an array of integers");
  if (types->size() < size()) {
    return error(f.name(), ": key ", quote(kTokenTypes), ": found ", types->size(), " elements, expected ", size());
  }
  for (size_t i = 0; i < size(); ++i) kinds_[i] = kind_of((*types)[i]);
  return ok();
}

Status Vocab::find_ends(const File& f) {
  for (std::string_view key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    PRISM_TRY(const int32_t id, token_id(f, key, size(), -1));
    if (id >= 0) ends_.push_back(id);
  }
  auto found = [&](std::string_view text, bool ends) {
    const int32_t id = find(text);
    if (id < 0) return;
    kinds_[size_t(id)] |= kControl;
    if (ends) ends_.push_back(id);
  };
  for (std::string_view text : kEndTexts) found(text, true);
  for (const FillRole& role : kFillRoles) {
    PRISM_TRY(const int32_t id, token_id(f, role.key, size(), -1));
    if (id >= 0) {
      if (role.ends) ends_.push_back(id);
      continue;
    }
    for (std::string_view text : role.texts) found(text, role.ends);
  }
  std::sort(ends_.begin(), ends_.end());
  ends_.erase(std::unique(ends_.begin(), ends_.end()), ends_.end());
  return ok();
}

void Vocab::index_specials(const File& f) {
  const bool phi3 = is_phi3(f);
  if (phi3) strips_right_.assign(size(), false);
  for (int32_t id = 0; id < int32_t(size()); ++id) {
    const std::string_view t = text(id);
    if (t.empty() || !is(id, kControl | kUserDefined | kUnknown)) continue;
    auto at = std::lower_bound(specials_.begin(), specials_.end(), t.size(),
                               [](const SpecialLength& s, size_t length) { return s.length > length; });
    if (at == specials_.end() || at->length != t.size()) at = specials_.insert(at, {t.size(), {}});
    at->first_bytes.set(static_cast<unsigned char>(t[0]));
    if (phi3) strips_right_[size_t(id)] = t != "<unk>" && t != "<s>" && t != "<|endoftext|>";
  }
}

std::vector<Fragment> Vocab::partition(std::string_view text, bool parse_special) const {
  std::vector<Fragment> fragments, cut;
  if (!text.empty()) fragments.push_back({text});
  const int wanted = parse_special ? kControl | kUserDefined | kUnknown : kUserDefined;
  const int unwanted = parse_special ? 0 : kControl | kUnknown;
  for (const SpecialLength& special : specials_) {
    if (special.length > text.size()) continue;
    cut.clear();
    for (const Fragment& fragment : fragments) {
      std::string_view rest = fragment.text;
      for (size_t i = 0; fragment.token < 0 && i + special.length <= rest.size();) {
        const int32_t id =
            special.first_bytes[static_cast<unsigned char>(rest[i])] ? find(rest.substr(i, special.length)) : -1;
        if (id < 0 || !is(id, wanted) || is(id, unwanted)) {
          ++i;
          continue;
        }
        if (i > 0) cut.push_back({rest.substr(0, i)});
        cut.push_back({{}, id});
        rest.remove_prefix(i + special.length);
        if (!strips_right_.empty() && strips_right_[size_t(id)]) {
          while (!rest.empty() && is_space(rest[0])) rest.remove_prefix(1);
        }
        i = 0;
      }
      if (fragment.token >= 0 || !rest.empty()) cut.push_back({rest, fragment.token});
    }
    fragments.swap(cut);
  }
  return fragments;
}

}  // namespace prism::gguf
