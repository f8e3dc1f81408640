#include "frontends/gguf/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <initializer_list>

#include "frontends/gguf/quote.h"
#include "frontends/gguf/utf8.h"

namespace prism::gguf {
namespace {

constexpr uint32_t kMatchLimit = 100'000'000;  // steps inside one match; a match is at most one word

using Patterns = std::initializer_list<const char*>;

constexpr char kWords[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
#define CONTRACTIONS R"((?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]))"
#define SYMBOLS_AND_SPACE R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"
constexpr char kLlama3[] = CONTRACTIONS R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)" SYMBOLS_AND_SPACE;
constexpr char kQwen2[] = CONTRACTIONS R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)" SYMBOLS_AND_SPACE;
constexpr char kQwen35[] =
    CONTRACTIONS R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
#undef CONTRACTIONS
#undef SYMBOLS_AND_SPACE

struct Family {
  std::initializer_list<std::string_view> names;
  Patterns patterns;
  bool ignore_merges = false, add_bos = false;
};

const Family kFamilies[] = {
    {{"default", ""}, {R"([\p{P}$+<=>^~|]+)", kWords, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
    {{"gpt-2", "phi-2", "mpt", "olmo", "jais", "gigachat", "a.x-4.0", "mellum", "exaone4", "trillion",
      "granite-docling"},
     {kWords}},
    {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"},
     {R"(\p{N})", kWords}},
    {{"qwen2", "deepseek-r1-qwen", "megrez", "kormo", "f2llmv2", "stablelm2", "hunyuan", "solar-open", "grok-2"},
     {kQwen2}},
    {{"qwen35"}, {kQwen35}},
    {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}, {kLlama3}, true, true},
    {{"glm4", "glm5"}, {kLlama3}, true, false},
    {{"dbrx", "smaug-bpe", "chatglm-bpe"}, {kLlama3}},
    {{"falcon"}, {R"([\p{P}$+<=>^~|`]+)", kWords, "[0-9][0-9][0-9]"}},
};

/// The regular expressions ask only for a character's class beyond U+07FF, and utf8proc's Unicode is newer than
/// PCRE2's: each such character is replaced by one of the same class and length.
std::string collapse(std::string_view text) {
  enum Class { kLetter, kMark, kNumber, kPunctuation, kSymbol, kSeparator, kOther };
  static constexpr std::string_view kThree[] = {"一", "\u0901", "\u2160", "\u2010", "\u2190", "\u2003", "\ue000"};
  static constexpr std::string_view kFour[] = {"\U00010400", "\U0001d165", "\U00010107", "\U00010100",
                                               "\U0001f300", "",           "\U000f0000"};
  std::string out(text);
  for (size_t i = 0; i < out.size();) {
    const size_t length = utf8_length(static_cast<unsigned char>(out[i]));
    if (length >= 3) {
      utf8proc_int32_t c = 0;
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(out.data()) + i, utf8proc_ssize_t(length), &c);
      const char category = utf8proc_category_string(c)[0];
      Class k = category == 'L'   ? kLetter
                : category == 'M' ? kMark
                : category == 'N' ? kNumber
                : category == 'P' ? kPunctuation
                : category == 'S' ? kSymbol
                : category == 'Z' ? kSeparator
                                  : kOther;
      if (c >= 0x2ebf0 && c <= 0x2ee5d) k = kLetter;  // CJK extension I, Unicode 15.1
      const std::string_view stand_in = (length == 3 ? kThree : kFour)[k];
      std::copy(stand_in.begin(), stand_in.end(), out.begin() + ptrdiff_t(i));
    }
    i += length;
  }
  return out;
}

std::string pcre_message(int code) {
  PCRE2_UCHAR text[128];
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

struct MatchDataDeleter {
  void operator()(pcre2_match_data* d) const { pcre2_match_data_free(d); }
};
struct MatchContextDeleter {
  void operator()(pcre2_match_context* c) const { pcre2_match_context_free(c); }
};

}  // namespace

struct PreTokenizer::Regex {
  struct Deleter {
    void operator()(pcre2_code* c) const { pcre2_code_free(c); }
  };
  std::unique_ptr<pcre2_code, Deleter> code;
};

PreTokenizer::PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

Result<PreTokenizer> PreTokenizer::create(std::string_view name, const std::string& file) {
  const auto* family = std::find_if(std::begin(kFamilies), std::end(kFamilies), [&](const Family& f) {
    return std::find(f.names.begin(), f.names.end(), name) != f.names.end();
  });
  if (family == std::end(kFamilies)) {
    return error(file, ": key 'tokenizer.ggml.pre': found ", quote(name), ", which is not supported");
  }
  PreTokenizer result;
  result.file_ = file;
  result.ignore_merges_ = family->ignore_merges;
  result.add_bos_ = family->add_bos;
  for (const char* pattern : family->patterns) {
    int code;
    PCRE2_SIZE offset;
    Regex regex;
    regex.code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                                   &code, &offset, nullptr));
    if (!regex.code) return error(file, ": pre-tokenizer ", quote(name), ": ", pcre_message(code));
    pcre2_jit_compile(regex.code.get(), PCRE2_JIT_COMPLETE);  // where it cannot, the interpreter gives the same matches
    result.regexes_.push_back(std::move(regex));
  }
  return result;
}

Result<std::vector<std::string_view>> PreTokenizer::split(std::string_view text) const {
  const std::string subject = collapse(text);
  const std::unique_ptr<pcre2_match_data, MatchDataDeleter> data(pcre2_match_data_create(1, nullptr));
  const std::unique_ptr<pcre2_match_context, MatchContextDeleter> context(pcre2_match_context_create(nullptr));
  if (!data || !context) return error(file_, ": pre-tokenizer: out of memory");
  pcre2_set_match_limit(context.get(), kMatchLimit);

  std::vector<size_t> ends = {text.size()}, cut;
  for (const Regex& regex : regexes_) {
    cut.clear();
    size_t begin = 0;
    for (size_t end : ends) {
      const auto* piece = reinterpret_cast<PCRE2_SPTR>(subject.data()) + begin;
      const size_t length = end - begin;
      for (size_t at = 0; at < length;) {
        const int code =
            pcre2_match(regex.code.get(), piece, length, at, PCRE2_NO_UTF_CHECK, data.get(), context.get());
        if (code == PCRE2_ERROR_NOMATCH) {
          cut.push_back(end);
          break;
        }
        if (code < 0) return error(file_, ": pre-tokenizer: ", pcre_message(code));
        const PCRE2_SIZE* match = pcre2_get_ovector_pointer(data.get());
        if (match[0] > at) cut.push_back(begin + match[0]);  // what no pattern matches is a word of its own
        cut.push_back(begin + match[1]);
        at = match[1];
      }
      begin = end;
    }
    ends.swap(cut);
  }
  std::vector<std::string_view> words;
  words.reserve(ends.size());
  size_t begin = 0;
  for (size_t end : ends) {
    words.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return words;
}

}  // namespace prism::gguf
