// Thousands of malformed GGUF files made from two small ones: each is refused with one line or harmlessly read.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstring>
#include <memory>
#include <random>

#include "frontends/gguf/tokenizer.h"
#include "tests/unit/gguf_writer.h"

namespace prism::gguf {
namespace {

GgufWriter& tensors(GgufWriter& w) {
  return w.tensor("embed", {32, 3}, 8, 0).tensor("norm", {5}, 0, 128).tensor("head", {256, 1}, 12, 160).data(160 + 144);
}

std::vector<uint8_t> bpe_file() {
  GgufWriter w;
  w.string("general.architecture", "llama").key("general.file_type", 10, uint64_t(3)).f32("llama.rms", 1e-5f);
  w.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "gpt-2");
  w.strings("tokenizer.ggml.tokens", {"a", "b", "ab", "Ġ", "Ġab", "<s>", "</s>", "Ċ"});
  w.array<int32_t>("tokenizer.ggml.token_type", 5, {1, 1, 1, 1, 1, 3, 3, 1});
  w.strings("tokenizer.ggml.merges", {"a b", "Ġ ab"});
  w.u32("tokenizer.ggml.bos_token_id", 5)
      .u32("tokenizer.ggml.eos_token_id", 6)
      .boolean("tokenizer.ggml.add_bos_token", true);
  return tensors(w).bytes();
}

std::vector<uint8_t> spm_file() {
  GgufWriter w;
  w.string("tokenizer.ggml.model", "llama").key("general.quantization_version", 11, int64_t(2));
  w.strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "<0x61>", "▁", "a", "▁a", "b"});
  w.array<float>("tokenizer.ggml.scores", 6, {0, 0, 0, 0, -4, -3, -1, -2});
  w.array<int32_t>("tokenizer.ggml.token_type", 5, {2, 3, 3, 6, 1, 1, 1, 1});
  w.array<uint8_t>("flags", 7, {1, 0}).key("wide", 12, 2.5).boolean("tokenizer.ggml.add_space_prefix", true);
  return tensors(w).bytes();
}

class Hostile : public testing::Test {
 protected:
  enum Outcome { kMayParse, kMustFail };

  void try_file(const std::vector<uint8_t>& content, Outcome outcome, const std::string& what) {
    ++count_;
    const auto bytes =
        std::make_unique<uint8_t[]>(content.size());  // of the exact size, so that a sanitizer sees the end
    if (!content.empty()) std::memcpy(bytes.get(), content.data(), content.size());
    auto file = File::parse({bytes.get(), content.size()}, "hostile.gguf");
    if (!file) {
      check_message(file.message(), what);
      return;
    }
    EXPECT_EQ(outcome, kMayParse) << what << " was accepted";
    for (const TensorInfo& t : (*file)->tensors()) {
      ASSERT_LE(t.offset + t.bytes, content.size()) << what;
      unsigned sum = 0;
      for (uint64_t i = 0; i < t.bytes; ++i) sum += (*file)->data(t)[i];
      ASSERT_GE(sum, 0u);
    }
    auto tokenizer = Tokenizer::create(**file);
    if (!tokenizer) {
      check_message(tokenizer.message(), what);
      return;
    }
    auto ids = (*tokenizer)->encode("ab a<s> b\n\xc3\xa9</s>");
    if (!ids) {
      check_message(ids.message(), what);
      return;
    }
    for (int32_t id : *ids) ASSERT_LT(size_t(id), (*tokenizer)->size()) << what;
    for (int32_t id = -1; id <= int32_t((*tokenizer)->size()); ++id) (*tokenizer)->piece(id, true);
    (*tokenizer)->decode(*ids);
  }

  void check_message(const std::string& message, const std::string& what) {
    ++refused_;
    EXPECT_EQ(message.find("hostile.gguf: "), 0u) << what << ": " << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << what << ": " << message;
    EXPECT_LT(message.size(), 400u) << what;
  }

  int count_ = 0, refused_ = 0;
};

TEST_F(Hostile, TheUnchangedFilesAreRead) {
  for (const auto& bytes : {bpe_file(), spm_file()}) {
    auto file = File::parse(bytes, "fine.gguf");
    ASSERT_TRUE(file) << file.message();
    auto tokenizer = Tokenizer::create(**file);
    ASSERT_TRUE(tokenizer) << tokenizer.message();
  }
}

TEST_F(Hostile, TruncatedAnywhere) {
  for (const auto& bytes : {bpe_file(), spm_file()}) {
    for (size_t n = 0; n < bytes.size(); ++n) {
      try_file({bytes.begin(), bytes.begin() + ptrdiff_t(n)}, kMustFail, "first " + std::to_string(n) + " bytes");
    }
  }
  EXPECT_GE(count_, 1200);
  EXPECT_EQ(refused_, count_);
}

TEST_F(Hostile, BitsFlipped) {
  for (const auto& bytes : {bpe_file(), spm_file()}) {
    for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
      auto copy = bytes;
      copy[bit / 8] ^= uint8_t(1 << bit % 8);
      try_file(copy, kMayParse, "bit " + std::to_string(bit) + " flipped");
    }
  }
  EXPECT_GE(refused_, 1200);
}

TEST_F(Hostile, HugeAndOddNumbersAnywhere) {
  rusage before{}, after{};
  getrusage(RUSAGE_SELF, &before);
  const uint64_t values[] = {
      0, 1, 0x7fffffff, 0xffffffff, uint64_t(1) << 40, uint64_t(INT64_MAX), uint64_t(1) << 63, UINT64_MAX};
  for (const auto& bytes : {bpe_file(), spm_file()}) {
    for (size_t at = 0; at + 8 <= bytes.size(); ++at) {
      for (uint64_t value : values) {
        auto copy = bytes;
        std::memcpy(copy.data() + at, &value, 8);
        try_file(copy, kMayParse, std::to_string(value) + " at byte " + std::to_string(at));
      }
    }
  }
  EXPECT_GE(refused_, 1200);
  getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 256 * 1024) << "KiB";  // a count believed would ask for gigabytes
}

TEST_F(Hostile, PiecesMovedAndMixed) {
  std::mt19937 random(1);
  for (const auto& bytes : {bpe_file(), spm_file()}) {
    for (int i = 0; i < 1000; ++i) {
      auto copy = bytes;
      const size_t length = 1 + random() % 64;
      const size_t from = random() % (copy.size() - length), to = random() % (copy.size() - length);
      std::memmove(copy.data() + to, copy.data() + from, length);
      for (unsigned k = random() % 4; k > 0; --k) copy[random() % copy.size()] = uint8_t(random());
      if (random() % 4 == 0) copy.resize(random() % copy.size());
      try_file(copy, kMayParse, "mix " + std::to_string(i));
    }
  }
}

}  // namespace
}  // namespace prism::gguf
