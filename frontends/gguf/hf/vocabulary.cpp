#include "frontends/gguf/hf/vocabulary.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "frontends/gguf/mapped_file.h"
#include "frontends/gguf/quote.h"
#include "frontends/gguf/utf8.h"

namespace prism::gguf::hf {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSpace = "\u2581";
constexpr size_t kLongestToken = 1024;  // bytes; every way of cutting it in two is looked at

enum TokenType : int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct Merge {
  std::string_view left, right;
};

struct Vocabulary {
  std::vector<std::string> texts;
  std::vector<int32_t> types;
  std::unordered_map<std::string_view, int32_t> index;
  std::vector<Merge> merges;

  int32_t find(std::string_view text) const {
    const auto it = index.find(text);
    return it == index.end() ? -1 : it->second;
  }
  Status place(const std::string& where, const std::string& text, int64_t id, int32_t type) {
    const auto at = size_t(id);
    if (types[at] != kUnused && texts[at] != text) return error(where, ": token ", quote(text), ": found id ", id, ", which is that of ", quote(texts[at]));
    if (types[at] == kUnused) texts[at] = text;
    types[at] = type;
    const auto [it, fresh] = index.emplace(texts[at], int32_t(id));
    if (!fresh && it->second != id) return error(where, ": token ", quote(text), ": found id ", id, ", expected ", it->second, " as before");
    return ok();
  }
};

/// As llama.cpp has it: files often do not say that these are special.
bool looks_special(std::string_view t) {
  return t == "<pad>" || t == "<mask>" || (t.starts_with("<|") && t.ends_with("|>")) || (t.starts_with("<｜") && t.ends_with("｜>")) ||
         (t.starts_with("<unused") && t.ends_with(">"));
}

bool is_byte(std::string_view t) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  return t.size() == 6 && t.starts_with("<0x") && t[5] == '>' && kHex.find(t[3]) != kHex.npos && kHex.find(t[4]) != kHex.npos;
}

Status read_tokens(const Object& root, const Object& model, int64_t size, Vocabulary& v) {
  v.texts.resize(size_t(size));
  v.types.assign(size_t(size), kUnused);
  struct Added {
    std::string where, text;
    int64_t id;
    bool special;
  };
  std::vector<Added> added;
  std::set<std::string> beyond;  // tokens that the weights do not know
  const Json* list = root.find("added_tokens");
  if (list && !list->is_array()) return error(root.where(), ": 'added_tokens': found ", list->type_name(), ", expected an array");
  for (size_t i = 0; list && i < list->size(); ++i) {
    PRISM_TRY(const Object token, Object::of((*list)[i], root.where() + ": added token " + std::to_string(i)));
    Added a{.where = token.where()};
    PRISM_TRY(a.id, token.get_int("id", 0, INT32_MAX));
    PRISM_TRY(a.text, token.get_string("content"));
    PRISM_TRY(a.special, token.get_bool("special", false));
    for (const char* key : {"lstrip", "rstrip", "single_word"}) PRISM_CHECK(token.require(key, {false}));
    if (a.id < size) added.push_back(std::move(a));
    else beyond.insert(a.text);
  }
  PRISM_TRY(const Object vocab, model.get_object("vocab"));
  for (const auto& [text, value] : vocab.json().items()) {
    if (beyond.contains(text)) continue;
    PRISM_TRY(const int64_t id, vocab.get_int(text, 0, size - 1));
    PRISM_CHECK(v.place(vocab.where(), text, id, kNormal));
  }
  for (const Added& a : added) PRISM_CHECK(v.place(a.where, a.text, a.id, a.special || looks_special(a.text) ? kControl : kUserDefined));
  return ok();
}

/// Written "left right" or as a pair, the first to be merged first.
Status read_merges(const Object& model, Vocabulary& v) {
  const Json* merges = model.find("merges");
  if (!merges || !merges->is_array()) return error(model.where(), ": 'merges': ", merges ? "found another kind" : "not found", ", expected an array");
  for (size_t i = 0; i < merges->size(); ++i) {
    const Json& m = (*merges)[i];
    Merge merge;
    if (m.is_string()) {
      const std::string_view text = m.get_ref<const std::string&>();
      const size_t space = std::min(text.find(' '), text.size());
      merge = {text.substr(0, space), text.substr(std::min(space + 1, text.size()))};
    } else if (m.is_array() && m.size() == 2 && m[0].is_string() && m[1].is_string()) {
      merge = {m[0].get_ref<const std::string&>(), m[1].get_ref<const std::string&>()};
    }
    const bool plain = merge.left.find(' ') == merge.left.npos && merge.right.find(' ') == merge.right.npos;
    if (merge.left.empty() || merge.right.empty() || !plain || v.find(std::string(merge.left) + std::string(merge.right)) < 0)
      return error(model.where(), ": merge ", i, ": found ", shown(m), ", expected two tokens that make a third");
    v.merges.push_back(merge);
  }
  return ok();
}

/// The steps of a normalizer or a pre-tokenizer, which may be none, one or a sequence.
Result<std::vector<Object>> steps_of(const Object& root, std::string_view key, std::string_view list) {
  std::vector<Object> steps;
  if (!root.find(key)) return steps;
  PRISM_TRY(const Object all, root.get_object(key));
  PRISM_TRY(const std::string type, all.get_string("type"));
  if (type != "Sequence") return std::vector<Object>{all};
  const Json* items = all.find(list);
  if (!items || !items->is_array()) return error(all.where(), ": ", quote(list), ": expected an array");
  for (const Json& item : *items) {
    PRISM_TRY(Object step, Object::of(item, all.where()));
    steps.push_back(std::move(step));
  }
  return steps;
}

Error unknown_step(const Object& step) {
  return error(step.where(), ": found ", quote(step.json().dump(-1, ' ', true, Json::error_handler_t::replace), 300), ", which is not supported");
}

/// The pre-tokenizers of frontends/gguf/pretokenizer.cpp as tokenizer.json writes them: regular expressions and these two.
constexpr std::string_view kDigits = "Digits", kByteLevel = "ByteLevel";
#define CONTRACTIONS R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|)"
#define SYMBOLS_AND_SPACE R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"
constexpr std::string_view kLlama3 = CONTRACTIONS R"([^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)" SYMBOLS_AND_SPACE;
constexpr std::string_view kQwen2 = CONTRACTIONS R"([^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)" SYMBOLS_AND_SPACE;
#undef CONTRACTIONS
#undef SYMBOLS_AND_SPACE
const struct {
  std::string_view name;
  bool ignore_merges;
  std::vector<std::string_view> steps;
} kPreTokenizers[] = {
    {"gpt-2", false, {kByteLevel}}, {"smollm", false, {kDigits, kByteLevel}}, {"qwen2", false, {kQwen2}},
    {"llama-bpe", true, {kLlama3}}, {"smaug-bpe", false, {kLlama3}},
};

/// The value of tokenizer.ggml.pre.
Result<std::string> pre_name(const Object& root, const Object& model, const std::vector<Object>& pre) {
  std::vector<std::string> steps;
  for (const Object& step : pre) {
    PRISM_TRY(const std::string type, step.get_string("type"));
    if (type == "ByteLevel") {
      PRISM_CHECK(step.require("add_prefix_space", {false}));
      PRISM_TRY(const bool regex, step.get_bool("use_regex", true));
      if (regex) steps.emplace_back(kByteLevel);
    } else if (type == "Digits") {
      PRISM_CHECK(step.require("individual_digits", {true}));
      steps.emplace_back(kDigits);
    } else if (type == "Split") {
      PRISM_TRY(const Object pattern, step.get_object("pattern"));
      PRISM_TRY(const std::string regex, pattern.get_string("Regex"));
      PRISM_CHECK(step.require("behavior", {"Isolated"}));
      PRISM_CHECK(step.require("invert", {false}));
      steps.push_back(regex);
    } else {
      return unknown_step(step);
    }
  }
  PRISM_TRY(const bool ignore_merges, model.get_bool("ignore_merges", false));
  for (const auto& known : kPreTokenizers)
    if (known.ignore_merges == ignore_merges && std::ranges::equal(known.steps, steps)) return std::string(known.name);
  std::string found;
  for (const std::string& step : steps) found += (found.empty() ? "" : ", ") + quote(step, 300);
  return error(root.where(), ": 'pre_tokenizer': found ", found, " with ignore_merges ", ignore_merges ? "true" : "false",
               ", expected that of GPT-2, SmolLM, Qwen 2 or Llama 3");
}

Status write_byte_level(const Object& root, const Object& model, const std::vector<Object>& pre, const Vocabulary& v, HeaderWriter& w) {
  PRISM_TRY(const auto normalizer, steps_of(root, "normalizer", "normalizers"));
  for (const Object& step : normalizer) PRISM_CHECK(step.require("type", {"NFC"}));  // GGUF has no word for it: text is taken to be so
  PRISM_TRY(const std::string name, pre_name(root, model, pre));
  std::vector<std::string> merges;
  for (const Merge& m : v.merges) merges.push_back(std::string(m.left) + " " + std::string(m.right));
  w.string("tokenizer.ggml.model", "gpt2");
  w.string("tokenizer.ggml.pre", name);
  w.strings("tokenizer.ggml.merges", merges);
  return ok();
}

/// Whether a space is put before the text; that spaces become U+2581 is checked.
Result<bool> space_prefix(const Object& root, const std::vector<Object>& pre) {
  PRISM_TRY(const auto normalizer, steps_of(root, "normalizer", "normalizers"));
  const Json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpace}};
  const Json prepend = {{"type", "Prepend"}, {"prepend", kSpace}};
  const Json split = {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "MergedWithPrevious"}, {"invert", false}};
  bool escaped = false, prefix = false;
  for (const Object& step : normalizer) {
    if (step.json() == prepend && !prefix) prefix = true;
    else if (step.json() == replace) escaped = true;
    else return unknown_step(step);
  }
  for (const Object& step : pre) {
    if (step.json() == split && escaped) continue;  // no spaces are left
    PRISM_TRY(const std::string type, step.get_string("type"));
    if (type != "Metaspace" || escaped) return unknown_step(step);
    PRISM_CHECK(step.require("replacement", {kSpace}));
    PRISM_TRY(const bool cuts, step.get_bool("split", true));
    PRISM_TRY(const bool old_scheme, step.get_bool("add_prefix_space", true));
    PRISM_TRY(const std::string scheme, step.get_string("prepend_scheme", old_scheme ? "always" : "never"));
    if (cuts || (scheme != "always" && scheme != "never")) return unknown_step(step);
    escaped = true;
    prefix = scheme == "always";
  }
  if (!escaped) return error(root.where(), ": 'normalizer': found none that replaces spaces by U+2581, which byte_fallback goes with here");
  return prefix;
}

/// GGUF's scores say which token is made first, whatever it is made of. The ranks of merges say the same if those that make one
/// token stand together and there is one for each way of making it. Hugging Face's converter used to lose those of the first token
/// that SentencePiece learned, whose score is 0 (Llama 2's two spaces); SentencePiece, which models are trained with, makes it first.
Result<std::vector<float>> scores_of(const Object& model, const Vocabulary& v) {
  std::vector<float> scores(v.texts.size(), 0.0f);
  std::unordered_set<uint64_t> pairs;
  std::vector<bool> made(v.texts.size());
  const auto pair = [](int32_t left, int32_t right) { return uint64_t(uint32_t(left)) << 32 | uint32_t(right); };
  int32_t first = -1, last = -1;
  for (size_t i = 0; i < v.merges.size(); ++i) {
    const Merge& m = v.merges[i];
    const int32_t id = v.find(std::string(m.left) + std::string(m.right));
    pairs.insert(pair(v.find(m.left), v.find(m.right)));
    if (first < 0 && v.types[size_t(id)] == kNormal) first = id;
    if (id == last) continue;
    if (made[size_t(id)]) return error(model.where(), ": merge ", i, ": found another way of making ", quote(v.texts[size_t(id)]), ", expected it beside the others");
    made[size_t(id)] = true;
    scores[size_t(id)] = -float(i);
    last = id;
  }
  const auto symbol = [&](std::string_view t) { return v.find(t) >= 0 || utf8_length(static_cast<unsigned char>(t[0])) == t.size(); };
  for (size_t id = 0; id < v.texts.size(); ++id) {
    const std::string_view t = v.texts[id];
    if (v.types[id] != kNormal) continue;
    if (t.size() > kLongestToken) return error(model.where(), ": token ", id, ": found ", t.size(), " bytes, expected at most ", kLongestToken);
    for (size_t cut = 1; cut < t.size(); ++cut) {
      const bool inside = (static_cast<unsigned char>(t[cut]) & 0xc0) == 0x80;
      const std::string_view left = t.substr(0, cut), right = t.substr(cut);
      if (inside || !symbol(left) || !symbol(right) || pairs.contains(pair(v.find(left), v.find(right)))) continue;
      if (made[id] || int32_t(id) + 1 != first)
        return error(model.where(), ": token ", quote(t), ": found no merge of ", quote(left), " and ", quote(right), ", which GGUF's scores cannot say");
      scores[id] = 1;
    }
  }
  return scores;
}

Status write_characters(const Object& root, const Object& model, const std::vector<Object>& pre, Vocabulary& v, HeaderWriter& w) {
  PRISM_CHECK(model.require("ignore_merges", {false}));
  PRISM_TRY(const bool prefix, space_prefix(root, pre));
  for (size_t id = 0; id < v.texts.size(); ++id)
    if (v.types[id] == kNormal && is_byte(v.texts[id])) v.types[id] = kByte;
  PRISM_TRY(const std::vector<float> scores, scores_of(model, v));
  w.string("tokenizer.ggml.model", "llama");
  w.string("tokenizer.ggml.pre", "default");
  w.floats("tokenizer.ggml.scores", scores);
  w.boolean("tokenizer.ggml.add_space_prefix", prefix);
  return ok();
}

/// A companion of tokenizer.json that need not be there: an empty object then.
Result<Json> read_optional(const std::string& path) {
  std::error_code ec;
  return fs::exists(path, ec) ? read_json(path) : Result<Json>(Json::object());
}

/// A token's text in tokenizer_config.json: a string, or an object with more about it. "" if there is none.
std::string text_of(const Json* token) {
  if (token && token->is_object() && token->contains("content")) token = &(*token)["content"];
  return token && token->is_string() ? token->get<std::string>() : "";
}

/// The first token that the post-processor puts before a text; "" if none.
std::string first_token(const Json* post) {
  if (!post || !post->is_object()) return "";
  if (const auto all = post->find("processors"); all != post->end() && all->is_array()) {
    for (const Json& one : *all)
      if (std::string text = first_token(&one); !text.empty()) return text;
    return "";
  }
  const auto single = post->find("single");
  if (single == post->end() || !single->is_array() || single->empty() || !(*single)[0].is_object()) return "";
  const auto special = (*single)[0].find("SpecialToken");
  if (special == (*single)[0].end() || !special->is_object() || !special->contains("id")) return "";
  return text_of(&(*special)["id"]);
}

/// Ids of the tokens with a role, whether texts begin with one, and how a conversation is written.
Status write_roles(const std::string& folder, const Object& root, const Object& config, const Vocabulary& v, HeaderWriter& w) {
  const std::string tokens_path = folder + "/tokenizer_config.json", generation_path = folder + "/generation_config.json";
  PRISM_TRY(const Json tokens_json, read_optional(tokens_path));
  PRISM_TRY(const Json generation_json, read_optional(generation_path));
  PRISM_TRY(const Object tokens, Object::of(tokens_json, tokens_path));
  PRISM_TRY(const Object generation, Object::of(generation_json, generation_path));
  const std::pair<std::string, std::string_view> roles[] = {{"bos", "bos"}, {"eos", "eos"}, {"unk", "unknown"}, {"pad", "padding"}};
  const std::string first = first_token(root.find("post_processor"));
  const auto known = [&](int64_t id) { return id >= 0 && id < int64_t(v.texts.size()); };
  int64_t bos = -1;
  for (const auto& [role, name] : roles) {
    const std::string text = text_of(tokens.find(role + "_token"));
    int64_t id = text.empty() ? -1 : v.find(text);
    for (const Object* place : {&config, &generation}) {
      const Json* value = place->find(role + "_token_id");
      if (value && value->is_array() && !value->empty()) value = &(*value)[0];
      if (!known(id) && value && value->is_number_integer()) id = value->get<int64_t>();
    }
    if (role == "bos") bos = id = known(id) || first.empty() ? id : v.find(first);
    if (known(id)) w.u32("tokenizer.ggml." + std::string(name) + "_token_id", id);
  }
  if (!first.empty() && v.find(first) != bos)
    return error(root.where(), ": 'post_processor': found ", quote(first), " before every text, expected the token that begins texts");
  PRISM_TRY(const bool add_bos, tokens.get_bool("add_bos_token", !first.empty()));
  w.boolean("tokenizer.ggml.add_bos_token", add_bos);

  std::error_code ec;
  const std::string template_path = folder + "/chat_template.jinja";
  if (fs::exists(template_path, ec)) {
    PRISM_TRY(const MappedFile file, MappedFile::open(template_path, "a chat template"));
    w.string("tokenizer.chat_template", {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()});
  } else if (const Json* text = tokens.find("chat_template"); text && text->is_string()) {
    w.string("tokenizer.chat_template", text->get_ref<const std::string&>());
  }
  return ok();
}

}  // namespace

Status write_vocabulary(const std::string& folder, const Object& config, int64_t vocab, HeaderWriter& w) {
  const std::string path = folder + "/tokenizer.json";
  PRISM_TRY(const Json json, read_json(path));
  PRISM_TRY(const Object root, Object::of(json, path));
  PRISM_TRY(const Object model, root.get_object("model"));
  PRISM_CHECK(model.require("type", {"BPE"}));
  PRISM_CHECK(model.require("dropout", {0}));
  PRISM_CHECK(model.require("continuing_subword_prefix", {""}));
  PRISM_CHECK(model.require("end_of_word_suffix", {""}));
  Vocabulary v;
  PRISM_CHECK(read_tokens(root, model, vocab, v));
  PRISM_CHECK(read_merges(model, v));
  PRISM_TRY(const auto pre, steps_of(root, "pre_tokenizer", "pretokenizers"));
  PRISM_TRY(const bool fallback, model.get_bool("byte_fallback", false));
  if (std::ranges::any_of(pre, [](const Object& step) { return step.find("type") && *step.find("type") == "ByteLevel"; })) {
    PRISM_CHECK(write_byte_level(root, model, pre, v, w));
  } else if (fallback) {
    PRISM_CHECK(write_characters(root, model, pre, v, w));
  } else {
    return error(path, ": found BPE that is neither byte-level nor falls back on bytes, expected one of them");
  }
  PRISM_CHECK(write_roles(folder, root, config, v, w));
  for (size_t id = 0; id < v.texts.size(); ++id) {
    std::string& t = v.texts[id];
    if (v.types[id] == kUnused) t = "[PAD" + std::to_string(id) + "]";
    // Those are looked for in the text as it is written.
    for (size_t at; v.types[id] == kUserDefined && (at = t.find(kSpace)) != t.npos;) t.replace(at, kSpace.size(), " ");
  }
  w.strings("tokenizer.ggml.tokens", v.texts);
  w.ints("tokenizer.ggml.token_type", v.types);
  return ok();
}

}  // namespace prism::gguf::hf
