// Byte-level BPE: every byte is written as a printable character, words are merged by rank.
#include <array>
#include <cstring>

#include "frontends/gguf/merge.h"
#include "frontends/gguf/pretokenizer.h"
#include "frontends/gguf/quote.h"
#include "frontends/gguf/utf8.h"
#include "frontends/gguf/vocab_tokenizer.h"

namespace prism::gguf {
namespace {

constexpr std::string_view kMerges = "tokenizer.ggml.merges";

/// GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the others for U+0100 and up, in order.
struct ByteAlphabet {
  struct Letter {
    char text[2];
    uint8_t length;
  };
  std::array<Letter, 256> letters{};
  std::array<int16_t, 0x144> bytes{};  ///< by character, -1: not a letter of the alphabet

  constexpr ByteAlphabet() {
    bytes.fill(-1);
    int next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
      const int c = printable ? byte : next++;
      bytes[size_t(c)] = int16_t(byte);
      letters[size_t(byte)] =
          c < 0x80 ? Letter{{char(c), 0}, 1} : Letter{{char(0xc0 | c >> 6), char(0x80 | (c & 0x3f))}, 2};
    }
  }
};
constexpr ByteAlphabet kAlphabet;

class BpeTokenizer final : public VocabTokenizer {
 public:
  BpeTokenizer(Vocab vocab, const std::string& file, PreTokenizer pre, TextList merges)
      : VocabTokenizer(std::move(vocab), file),
        pre_(std::move(pre)),
        merges_(std::move(merges)),
        ranks_(merges_.all()) {
    for (std::string_view m : merges_.all()) longest_merge_ = std::max(longest_merge_, m.size());
  }
  Status load_ids(const File& f) {
    return VocabTokenizer::load_ids(f, {.bos = -1, .eos = -1, .add_bos = pre_.add_bos()});
  }

 protected:
  Status encode_text(std::string_view text, std::vector<int32_t>& ids) const override {
    PRISM_TRY(const std::vector<std::string_view> words, pre_.split(text));
    Scratch scratch;
    scratch.pair.resize(longest_merge_);
    for (std::string_view word : words) encode_word(word, scratch, ids);
    return ok();
  }

  std::string text_bytes(std::string_view token) const override {
    std::string out;
    for (size_t i = 0; i < token.size();) {
      const size_t length = std::min(utf8_length(static_cast<unsigned char>(token[i])), token.size() - i);
      const unsigned char lead = token[i];
      const size_t c = length == 1 ? lead : length == 2 ? size_t(lead & 0x1f) << 6 | (token[i + 1] & 0x3f) : SIZE_MAX;
      if (c < kAlphabet.bytes.size() && kAlphabet.bytes[c] >= 0) {
        out += char(kAlphabet.bytes[c]);
      } else {
        out += token.substr(i, length);
      }
      i += length;
    }
    return out;
  }

 private:
  struct Scratch {
    Merger merger;
    std::string letters;
    std::string pair;
  };

  void encode_word(std::string_view word, Scratch& s, std::vector<int32_t>& ids) const {
    s.letters.clear();
    s.merger.clear();
    for (unsigned char byte : word) {
      const auto& letter = kAlphabet.letters[byte];
      s.letters.append(letter.text, letter.length);
      s.merger.add(letter.length);
    }
    if (pre_.ignore_merges()) {
      if (const int32_t id = vocab_.find(s.letters); id >= 0) {
        ids.push_back(id);
        return;
      }
    }
    // A merge is kept as the file writes it, "left right", and its place in the list is its rank.
    s.merger.run(s.letters, [&](std::string_view both, size_t left) {
      if (both.size() + 1 > longest_merge_) return kNoMerge;
      std::memcpy(s.pair.data(), both.data(), left);
      s.pair[left] = ' ';
      std::memcpy(s.pair.data() + left + 1, both.data() + left, both.size() - left);
      const int32_t rank = ranks_.find({s.pair.data(), both.size() + 1});
      return rank < 0 ? kNoMerge : float(rank);
    });
    s.merger.for_each(s.letters, [&](std::string_view symbol) {
      if (const int32_t id = vocab_.find(symbol); id >= 0) {
        ids.push_back(id);
        return;
      }
      for (size_t i = 0; i < symbol.size(); ++i) {  // not a token: those of its bytes that are
        if (const int32_t id = vocab_.find(symbol.substr(i, 1)); id >= 0) ids.push_back(id);
      }
    });
  }

  const PreTokenizer pre_;
  const TextList merges_;
  const TextIndex ranks_;
  size_t longest_merge_ = 0;  ///< bytes
};

}  // namespace

Result<std::unique_ptr<Tokenizer>> create_bpe(const File& f, Vocab vocab) {
  constexpr size_t kMaxMerges = size_t(1) << 24;  // ranks are compared as float
  const MetaValue* v = f.find(kMerges);
  const auto* merges = v ? std::get_if<std::vector<std::string_view>>(v) : nullptr;
  if (!merges)
    return error(f.name(), ": key ", quote(kMerges), ": ", v ? "found another kind" : "not found",
                 ", expected an array of strings");
  if (merges->size() > kMaxMerges) {
    return error(f.name(), ": key ", quote(kMerges), ": found ", merges->size(), " merges, expected at most ",
                 kMaxMerges);
  }
  PRISM_TRY(const std::string pre_name, f.get_string("tokenizer.ggml.pre", ""));
  PRISM_TRY(PreTokenizer pre, PreTokenizer::create(pre_name, f.name()));
  auto tokenizer = std::make_unique<BpeTokenizer>(std::move(vocab), f.name(), std::move(pre), TextList(*merges));
  PRISM_CHECK(tokenizer->load_ids(f));
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

}  // namespace prism::gguf
