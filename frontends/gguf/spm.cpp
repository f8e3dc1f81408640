// SPM (llama, gemma): spaces become U+2581, neighbours are merged by the score of the token they make, and what is no
// token becomes bytes.
#include <array>
#include <cmath>

#include "frontends/gguf/merge.h"
#include "frontends/gguf/quote.h"
#include "frontends/gguf/utf8.h"
#include "frontends/gguf/vocab_tokenizer.h"

namespace prism::gguf {
namespace {

constexpr std::string_view kScores = "tokenizer.ggml.scores";
constexpr std::string_view kSpace = "\u2581";

class SpmTokenizer final : public VocabTokenizer {
 public:
  SpmTokenizer(Vocab vocab, const std::string& file, std::vector<float> scores)
      : VocabTokenizer(std::move(vocab), file), scores_(std::move(scores)) {
    constexpr char kHex[] = "0123456789ABCDEF";
    for (int byte = 0; byte < 256; ++byte) {
      const char name[] = {'<', '0', 'x', kHex[byte >> 4], kHex[byte & 15], '>'};
      const char self = char(byte);
      int32_t id = vocab_.find({name, sizeof(name)});
      if (id < 0) id = vocab_.find({&self, 1});
      byte_ids_[size_t(byte)] = id;
    }
  }

  Status load_ids(const File& f) {
    PRISM_CHECK(VocabTokenizer::load_ids(f, {.bos = 1, .eos = 2, .add_bos = true}));
    PRISM_TRY(const int32_t unknown, token_id(f, "tokenizer.ggml.unknown_token_id", size(), 0));
    for (int32_t& id : byte_ids_) id = id < 0 ? unknown : id;
    PRISM_TRY(strip_leading_space_, f.get_bool("tokenizer.ggml.add_space_prefix", true));
    return ok();
  }

 protected:
  Status encode_text(std::string_view text, std::vector<int32_t>& ids) const override {
    std::string escaped;
    escaped.reserve(text.size() + text.size() / 2);
    if (strip_leading_space_) escaped += kSpace;
    for (char c : text) {
      if (c == ' ') {
        escaped += kSpace;
      } else {
        escaped += c;
      }
    }
    Merger merger;
    for (size_t i = 0; i < escaped.size();) {
      const size_t length = utf8_length(static_cast<unsigned char>(escaped[i]));
      merger.add(length);
      i += length;
    }
    merger.run(escaped, [&](std::string_view both, size_t) {
      if (both.size() > vocab_.longest()) return kNoMerge;
      const int32_t id = vocab_.find(both);
      return id < 0 ? kNoMerge : -scores_[size_t(id)];
    });
    merger.for_each(escaped, [&](std::string_view symbol) {
      if (const int32_t id = vocab_.find(symbol); id >= 0) {
        ids.push_back(id);
        return;
      }
      for (unsigned char byte : symbol) ids.push_back(byte_ids_[byte]);
    });
    return ok();
  }

  std::string text_bytes(std::string_view token) const override {
    std::string out;
    while (!token.empty()) {
      const size_t at = std::min(token.find(kSpace), token.size());
      out += token.substr(0, at);
      if (at == token.size()) break;
      out += ' ';
      token.remove_prefix(at + kSpace.size());
    }
    return out;
  }

 private:
  const std::vector<float> scores_;
  std::array<int32_t, 256> byte_ids_;
};

Result<std::vector<float>> load_scores(const File& f, size_t size) {
  std::vector<float> scores(size, 0.0f);
  const MetaValue* v = f.find(kScores);
  if (!v) return scores;
  const auto* values = std::get_if<std::vector<double>>(v);
  if (!values) return error(f.name(), ": key ", quote(kScores), ": found another kind, expected an array of floats");
  if (values->size() < size) {
    return error(f.name(), ": key ", quote(kScores), ": found ", values->size(), " elements, expected ", size);
  }
  for (size_t i = 0; i < size; ++i) {
    if (!std::isfinite((*values)[i])) {
      return error(f.name(), ": key ", quote(kScores), ": element ", i, ": found ", (*values)[i],
                   ", expected a finite number");
    }
    scores[i] = float((*values)[i]);
  }
  return scores;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> create_spm(const File& f, Vocab vocab) {
  PRISM_TRY(std::vector<float> scores, load_scores(f, vocab.size()));
  auto tokenizer = std::make_unique<SpmTokenizer>(std::move(vocab), f.name(), std::move(scores));
  PRISM_CHECK(tokenizer->load_ids(f));
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

}  // namespace prism::gguf
