#include "frontends/gguf/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "frontends/gguf/text_index.h"
#include "tests/unit/gguf_writer.h"
#include "tests/unit/reference.h"

namespace prism::gguf {
namespace {

using Ids = std::vector<int32_t>;

/// Holds the bytes that the File refers to only as long as create() needs them: a tokenizer outlives its file.
Result<std::unique_ptr<Tokenizer>> create(const GgufWriter& w) {
  const auto bytes = w.bytes();
  PRISM_TRY(auto file, File::parse(bytes, "t.gguf"));
  return Tokenizer::create(*file);
}

Ids encode(const Tokenizer& t, std::string_view text, bool parse_special = true) {
  auto ids = t.encode(text, parse_special);
  EXPECT_TRUE(ids) << ids.message();
  return ids ? *ids : Ids{};
}

GgufWriter bpe(const std::string& pre = "gpt-2") {
  GgufWriter w;
  w.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", pre);
  w.strings("tokenizer.ggml.tokens",
            {"a", "b", "c", "ab", "abc", "Ġ", "Ġab", "<s>", "<s>x", "[U]", "Ã", "©", "Ċ", "1", "x", "<", ">", "s"});
  w.array<int32_t>("tokenizer.ggml.token_type", 5, {1, 1, 1, 1, 1, 1, 1, 3, 3, 4, 1, 1, 1, 1, 1, 1, 1, 1});
  w.strings("tokenizer.ggml.merges", {"a b", "b c", "Ġ ab", "ab c"});
  return w;
}

GgufWriter spm(bool space_prefix, const std::string& name = "") {
  GgufWriter w;
  w.string("tokenizer.ggml.model", "llama").string("general.name", name);
  w.strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "▁a", "ab", "▁ab",
                                      "<|user|>", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>", "<0x61>"});
  w.array<float>("tokenizer.ggml.scores", 6, {0, 0, 0, 0, 0, -9, -8, -7, -1, -2, -3, 0, 0, 0, 0, 0, 0});
  w.array<int32_t>("tokenizer.ggml.token_type", 5, {2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 3, 6, 6, 6, 6, 6});
  w.boolean("tokenizer.ggml.add_space_prefix", space_prefix);
  return w;
}

TEST(Tokenizer, SmolLm2SpecialTokens) {
  auto file = File::open(model_path("smollm2"));
  ASSERT_TRUE(file) << file.message();
  auto tokenizer = Tokenizer::create(**file);
  ASSERT_TRUE(tokenizer) << tokenizer.message();
  const Tokenizer& t = **tokenizer;
  EXPECT_EQ(t.size(), 49152u);
  EXPECT_EQ(t.bos(), 1);
  EXPECT_EQ(t.eos(), 2);
  EXPECT_FALSE(t.add_bos());
  EXPECT_TRUE(t.is_end(0));  // <|endoftext|>
  EXPECT_TRUE(t.is_end(2));  // <|im_end|>
  EXPECT_FALSE(t.is_end(1));
}

using RealTokenizer = RealModel;

TEST_P(RealTokenizer, AgreesWithTheReference) {
  auto file = File::open(model_path(GetParam()));
  ASSERT_TRUE(file) << file.message();
  auto tokenizer = Tokenizer::create(**file);
  ASSERT_TRUE(tokenizer) << tokenizer.message();
  const Tokenizer& t = **tokenizer;
  const auto& cases = reference()["models"].at(GetParam())["tokenizer"];
  ASSERT_GE(cases.size(), 30u);
  for (const auto& c : cases) {
    const std::string text = c["text"];
    auto ids = t.encode(text);
    ASSERT_TRUE(ids) << ids.message();
    EXPECT_EQ(*ids, c["ids"].get<Ids>()) << text;
    EXPECT_EQ(t.decode(*ids, true), text);
    StreamDecoder stream(t);
    std::string streamed;
    for (int32_t id : *ids) streamed += stream.push(id);
    streamed += stream.flush();
    EXPECT_EQ(streamed, t.decode(*ids));
  }
  const std::string text = read_file(shared_path("text.txt"));
  auto ids = t.encode(text);
  ASSERT_TRUE(ids) << ids.message();
  Ids whole = *ids;
  if (t.add_bos()) whole.insert(whole.begin(), t.bos());
  const Ids fed = reference()["models"].at(GetParam())["ids"];
  ASSERT_GE(whole.size(), fed.size());
  EXPECT_EQ(Ids(whole.begin(), whole.begin() + ptrdiff_t(fed.size())), fed);
  EXPECT_EQ(t.decode(*ids, true), text);
}

INSTANTIATE_TEST_SUITE_P(Models, RealTokenizer, testing::ValuesIn(test_models()), real_model_name);

TEST(Tokenizer, BpeMergesByRankInsideWords) {
  auto t = create(bpe());
  ASSERT_TRUE(t) << t.message();
  EXPECT_EQ(encode(**t, "abc"), (Ids{4}));    // "a b" before "b c"
  EXPECT_EQ(encode(**t, "bc"), (Ids{1, 2}));  // "bc" is no token: its bytes
  EXPECT_EQ(encode(**t, "ab ab"), (Ids{3, 6}));
  EXPECT_EQ(encode(**t, "ab  ab"), (Ids{3, 5, 6}));
  EXPECT_EQ(encode(**t, "é"), (Ids{10, 11}));
  EXPECT_EQ(encode(**t, "\n"), (Ids{12}));
  EXPECT_EQ(encode(**t, ""), Ids{});
  EXPECT_EQ((*t)->decode(Ids{3, 6, 10, 11, 12}), "ab abé\n");
  EXPECT_EQ((*t)->bos(), -1);
  EXPECT_EQ((*t)->piece(-1), "");
  EXPECT_EQ((*t)->piece(18), "");
}

TEST(Tokenizer, Llama3TakesAWordThatIsATokenWithoutMerging) {
  GgufWriter w;
  w.string("tokenizer.ggml.model", "gpt2").strings("tokenizer.ggml.tokens", {"a", "b", "aba", "ab"});
  w.strings("tokenizer.ggml.merges", {"a b"});
  auto merged = create(GgufWriter(w).string("tokenizer.ggml.pre", "qwen2"));
  auto taken = create(GgufWriter(w).string("tokenizer.ggml.pre", "llama3"));
  ASSERT_TRUE(merged && taken);
  EXPECT_EQ(encode(**merged, "aba"), (Ids{3, 0}));
  EXPECT_EQ(encode(**taken, "aba"), (Ids{2}));
}

TEST(Tokenizer, TextIndexTellsTextsWithTheSameHashApart) {
  std::vector<std::string> texts;
  for (int i = 0; i < 400000; ++i) texts.push_back("token " + std::to_string(i));  // some 20 pairs share 32 bits
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  const TextIndex index(views);
  size_t wrong = 0;
  for (size_t i = 0; i < views.size(); ++i) wrong += index.find(views[i]) != int32_t(i);
  EXPECT_EQ(wrong, 0u);
  EXPECT_EQ(index.find("token"), -1);
  EXPECT_EQ(TextIndex().find("token"), -1);
}

TEST(Tokenizer, SpecialTokensLongestFirst) {
  auto t = create(bpe());
  ASSERT_TRUE(t) << t.message();
  EXPECT_EQ(encode(**t, "ab<s>ab<s>x[U]"), (Ids{3, 7, 3, 8, 9}));
  EXPECT_EQ(encode(**t, "<s>[U]", false), (Ids{15, 17, 16, 9}));  // user-defined tokens are always found
  EXPECT_EQ((*t)->decode(Ids{7, 3, 9}), "ab[U]");
  EXPECT_EQ((*t)->decode(Ids{7, 3, 9}, true), "<s>ab[U]");
}

TEST(Tokenizer, PreTokenizersDiffer) {
  auto words = [](const std::string& pre, std::vector<std::string> merges, const std::string& text) {
    GgufWriter w;
    w.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", pre);
    std::vector<std::string> tokens = {"1", "Ġ", "ģ", "x", "'", "S", "!", "Ċ"};
    for (auto m : merges) tokens.push_back(m.erase(m.find(' '), 1));
    w.strings("tokenizer.ggml.tokens", tokens).strings("tokenizer.ggml.merges", merges);
    auto t = create(w);
    EXPECT_TRUE(t) << t.message();
    std::string out;
    for (int32_t id : encode(**t, text)) out += (*t)->piece(id) + "|";
    return out;
  };
  const std::vector<std::string> digits = {"1 1", "11 1", "11 11"};
  EXPECT_EQ(words("gpt-2", digits, "1111111"), "1111|111|");
  EXPECT_EQ(words("smollm", digits, "1111"), "1|1|1|1|");
  EXPECT_EQ(words("qwen2", digits, "1111"), "1|1|1|1|");
  EXPECT_EQ(words("llama-bpe", digits, "11111"), "111|11|");
  EXPECT_EQ(words("default", digits, "11111"), "111|11|");
  EXPECT_EQ(words("gpt-2", {"Ġ Ġ", "x '", "' S"}, "x'S"), "x|'|S|");
  EXPECT_EQ(words("qwen2", {"x '", "' S"}, "x'S"), "x|'S|");
  EXPECT_EQ(words("gpt-2", {"! Ċ"}, "!\n"), "!|\n|");
  EXPECT_EQ(words("qwen2", {"! Ċ"}, "!\n"), "!\n|");
  EXPECT_EQ(words("qwen2", {"x ð"}, "x\U00011f02"), "x\xf0|");  // a letter since Unicode 15
  EXPECT_EQ(words("qwen2", {"x ð"}, "x\U0002ebf1"), "x\xf0|");  // since 15.1
  EXPECT_EQ(words("qwen2", {"x ð"}, "x\U0001f642"), "x|");
  EXPECT_EQ(words("gpt-2", {"! á"}, "!\u180e"), "!\xe1|");  // no white space any more
}

TEST(Tokenizer, SpmMergesByScore) {
  auto t = create(spm(false));
  ASSERT_TRUE(t) << t.message();
  EXPECT_TRUE((*t)->add_bos());
  EXPECT_EQ((*t)->bos(), 1);
  EXPECT_EQ((*t)->eos(), 2);
  EXPECT_EQ(encode(**t, "ab"), (Ids{9}));
  EXPECT_EQ(encode(**t, " ab"), (Ids{10}));  // "▁a" first, then "▁ab"
  EXPECT_EQ(encode(**t, " aab"), (Ids{8, 9}));
  EXPECT_EQ(encode(**t, "aab"), (Ids{6, 9}));
  EXPECT_EQ(encode(**t, "é"), (Ids{3, 4}));  // byte tokens
  EXPECT_EQ(encode(**t, "z"), (Ids{0}));     // no byte token: unknown
  EXPECT_EQ((*t)->decode(Ids{8, 7, 3, 4}), " abé");
  EXPECT_EQ((*t)->piece(0), "");
}

TEST(Tokenizer, SpmSpacePrefix) {
  auto t = create(spm(true));
  ASSERT_TRUE(t) << t.message();
  EXPECT_EQ(encode(**t, "a"), (Ids{8}));
  EXPECT_EQ(encode(**t, "a<s>a"), (Ids{8, 1, 8}));  // again after a special token
  EXPECT_EQ(encode(**t, ""), Ids{});
  EXPECT_EQ((*t)->decode(Ids{8, 8}), "a a");
  StreamDecoder continuation(**t), whole(**t, true);
  EXPECT_EQ(continuation.push(8), " a");
  EXPECT_EQ(whole.push(8), "a");
  EXPECT_EQ(whole.push(8), " a");
}

TEST(Tokenizer, Phi3SpecialTokensTakeTheSpaceAfterThem) {
  auto phi = create(spm(false, "Phi-3 mini"));
  auto other = create(spm(false, "Other"));
  ASSERT_TRUE(phi && other);
  EXPECT_EQ(encode(**phi, "<|user|> \n a"), (Ids{11, 6}));
  EXPECT_EQ(encode(**phi, "<s> a"), (Ids{1, 8}));
  EXPECT_EQ(encode(**other, "<|user|> a"), (Ids{11, 8}));
}

TEST(Tokenizer, MergesLikeTheObviousAlgorithm) {
  std::mt19937 random(7);
  for (int round = 0; round < 50; ++round) {
    std::vector<std::string> tokens = {"a", "b", "c"};
    std::vector<float> scores = {0, 0, 0};
    std::map<std::string, float> score_of;
    for (int i = 0; i < 12; ++i) {
      std::string s;
      for (unsigned n = 2 + random() % 4; n > 0; --n) s += char('a' + random() % 3);
      if (!score_of.emplace(s, -float(random() % 5)).second) continue;  // ties on purpose
      tokens.push_back(s);
      scores.push_back(score_of[s]);
    }
    GgufWriter w;
    w.string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", tokens);
    w.array<float>("tokenizer.ggml.scores", 6, scores).boolean("tokenizer.ggml.add_space_prefix", false);
    auto t = create(w);
    ASSERT_TRUE(t) << t.message();
    for (int text_index = 0; text_index < 20; ++text_index) {
      std::vector<std::string> parts;
      std::string text;
      for (unsigned n = random() % 40; n > 0; --n) {
        parts.push_back(std::string(1, char('a' + random() % 3)));
        text += parts.back();
      }
      for (;;) {  // join the best neighbours, the leftmost of equals
        size_t best = SIZE_MAX;
        for (size_t i = 0; i + 1 < parts.size(); ++i) {
          const auto it = score_of.find(parts[i] + parts[i + 1]);
          if (it != score_of.end() && (best == SIZE_MAX || it->second > score_of[parts[best] + parts[best + 1]]))
            best = i;
        }
        if (best == SIZE_MAX) break;
        parts[best] += parts[best + 1];
        parts.erase(parts.begin() + ptrdiff_t(best) + 1);
      }
      std::vector<std::string> pieces;
      for (int32_t id : encode(**t, text)) pieces.push_back((*t)->piece(id));
      ASSERT_EQ(pieces, parts) << text;
    }
  }
}

TEST(Tokenizer, LongInputStaysPossible) {
  auto b = create(bpe()), s = create(spm(false));
  ASSERT_TRUE(b && s);
  std::string text;
  while (text.size() < 1 << 20) text += "abc";
  EXPECT_EQ(encode(**b, text).size(), text.size() / 3);
  std::replace(text.begin(), text.end(), 'c', 'a');
  EXPECT_EQ((*s)->decode(encode(**s, text)), text);
  EXPECT_EQ(encode(**b, std::string(1 << 20, '\n')).size(), size_t(1) << 20);
}

TEST(Tokenizer, InvalidUtf8IsRefusedWithItsPlace) {
  auto t = create(bpe());
  ASSERT_TRUE(t) << t.message();
  for (const char* bad : {"\x80", "\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\xff"}) {
    auto ids = (*t)->encode(std::string("ab é") + bad);
    ASSERT_FALSE(ids);
    EXPECT_EQ(ids.message(), "t.gguf: text to encode: found invalid UTF-8 at byte 5, expected valid UTF-8");
  }
}

TEST(Tokenizer, StreamNeverSplitsACharacter) {
  auto t = create(spm(false));
  ASSERT_TRUE(t) << t.message();
  StreamDecoder stream(**t);
  EXPECT_EQ(stream.push(12), "");  // F0 9F 99 82 is one character
  EXPECT_EQ(stream.push(13), "");
  EXPECT_EQ(stream.push(14), "");
  EXPECT_EQ(stream.push(15), "🙂");
  EXPECT_EQ(stream.push(15), "\ufffd");  // a continuation byte alone
  EXPECT_EQ(stream.push(12), "");
  EXPECT_EQ(stream.push(16), "\ufffda");  // 'a' ends what cannot become a character
  EXPECT_EQ(stream.push(3), "");
  EXPECT_EQ(stream.flush(), "\ufffd");
  EXPECT_EQ(stream.flush(), "");
}

TEST(Tokenizer, EndsAreFoundByTheirText) {
  GgufWriter w;
  w.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "qwen2");
  w.strings("tokenizer.ggml.tokens", {"a", "<|im_end|>", "<|eot_id|>", "<|fim_pad|>", "<|fim_prefix|>", "stop"});
  w.strings("tokenizer.ggml.merges", {}).u32("tokenizer.ggml.eot_token_id", 5).u32("tokenizer.ggml.eos_token_id", 99);
  auto t = create(w);
  ASSERT_TRUE(t) << t.message();
  std::vector<bool> ends;
  for (int32_t id = -1; id < 7; ++id) ends.push_back((*t)->is_end(id));
  EXPECT_EQ(ends, (std::vector<bool>{false, false, true, true, true, false, true, false}));
  EXPECT_EQ((*t)->eos(), -1);                      // 99 is no token
  EXPECT_EQ(encode(**t, "<|im_end|>"), (Ids{1}));  // a control token though the file has no types
  EXPECT_EQ((*t)->piece(1), "");
}

TEST(Tokenizer, AddBosDefaults) {
  EXPECT_TRUE((*create(bpe("llama-bpe").u32("tokenizer.ggml.bos_token_id", 7)))->add_bos());
  EXPECT_FALSE((*create(bpe("llama-bpe")))->add_bos());  // there is none to add
  EXPECT_FALSE((*create(bpe("qwen2").u32("tokenizer.ggml.bos_token_id", 7)))->add_bos());
  EXPECT_FALSE((*create(spm(false).boolean("tokenizer.ggml.add_bos_token", false)))->add_bos());
}

TEST(Tokenizer, CreateSaysWhatItCannotRead) {
  auto message = [](const GgufWriter& w) {
    auto t = create(w);
    return t ? "no error" : t.message();
  };
  EXPECT_EQ(message(GgufWriter()), "t.gguf: key 'tokenizer.ggml.model': not found, expected a string");
  EXPECT_EQ(message(GgufWriter().string("tokenizer.ggml.model", "test")),
            "t.gguf: key 'tokenizer.ggml.model': found 'test', expected 'gpt2' (byte-level BPE) or 'llama' (SPM)");
  EXPECT_EQ(message(GgufWriter().string("tokenizer.ggml.model", "gpt2")),
            "t.gguf: key 'tokenizer.ggml.tokens': not found, expected an array of strings");
  EXPECT_EQ(message(bpe("never-heard-of")),
            "t.gguf: key 'tokenizer.ggml.pre': found 'never-heard-of', which is not supported");
  GgufWriter w;
  w.string("tokenizer.ggml.model", "gpt2").strings("tokenizer.ggml.tokens", {"a"});
  EXPECT_EQ(message(w), "t.gguf: key 'tokenizer.ggml.merges': not found, expected an array of strings");
  w = GgufWriter();
  w.string("tokenizer.ggml.model", "llama")
      .strings("tokenizer.ggml.tokens", {"a", "b"})
      .array<float>("tokenizer.ggml.scores", 6, {1});
  EXPECT_EQ(message(w), "t.gguf: key 'tokenizer.ggml.scores': found 1 elements, expected 2");
  w = GgufWriter();
  w.string("tokenizer.ggml.model", "llama")
      .strings("tokenizer.ggml.tokens", {"a", "b"})
      .array<int32_t>("tokenizer.ggml.token_type", 5, {1});
  EXPECT_EQ(message(w), "t.gguf: key 'tokenizer.ggml.token_type': found 1 elements, expected 2");
  w = GgufWriter();
  w.string("tokenizer.ggml.model", "llama")
      .strings("tokenizer.ggml.tokens", {"a"})
      .array<float>("tokenizer.ggml.scores", 6, {NAN});
  EXPECT_EQ(message(w), "t.gguf: key 'tokenizer.ggml.scores': element 0: found nan, expected a finite number");
}

}  // namespace
}  // namespace prism::gguf
