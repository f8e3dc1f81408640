// A layer of attention with a compressed cache, over contexts that demote pages: every instruction set against the evaluator, whose cache
// keeps everything and rounds what a query reads as pages have it.
#include "ir/kv_pages.h"
#include "runtime/cpu.h"
#include "tests/unit/attention_model.h"

namespace prism {
namespace {

/// How far the kernels of prompts are from those of generation on one cache: the last of 16 positions, after lengths from `first` to `last`.
double prompt_error(const std::shared_ptr<rt::Executable>& exe, std::span<const int32_t> ids, size_t first, size_t last) {
  std::vector<float> prompt, generated;
  for (size_t at = first; at <= last; at += 9) {
    auto s = session(exe);
    feed(*s, ids.first(at), 100);
    const std::vector<float> all = score(*s, ids.subspan(at, 16));
    generated.insert(generated.end(), all.end() - kVocab, all.end());
    EXPECT_EQ(s->rewind(int64_t(at)), int64_t(at));
    const std::vector<float> fed = feed(*s, ids.subspan(at, 16), 16);
    prompt.insert(prompt.end(), fed.begin(), fed.end());
  }
  return nmse(prompt, generated);
}

class CompressedAttention : public testing::TestWithParam<std::tuple<Shape, rt::Isa>> {};

TEST_P(CompressedAttention, AgreesWithTheEvaluatorInAnyPieces) {
  const auto& [shape, isa] = GetParam();
  Model model(shape);
  const std::vector<float> want = model.evaluate(shape.bits), f16 = model.evaluate("");
  const double loss = nmse(want, f16);
  auto exe = model.compile(isa, shape.bits), f16_exe = model.compile(isa, "");
  ASSERT_TRUE(exe && f16_exe);
  const std::span<const int32_t> ids = model.ids();

  const std::vector<float> scored = score(*session(exe), ids);
  ASSERT_EQ(scored.size(), want.size());
  // Codes that lie between two levels may fall to either; and in products queries and weights have 8 bits, as keys and values of k8v8.
  const double bound = 0.02 * loss + 2 * nmse(model.evaluate("k8v8"), f16);
  EXPECT_GT(loss, shape.bits == "k8v8" ? 1e-6 : 1e-4);
  EXPECT_LT(nmse(scored, want), bound) << "of a loss of " << loss;
  expect_steps_to_say(*session(exe, 1), ids, scored);

  const std::vector<float> fed = feed(*session(exe), ids, 1);
  // Where prompts are computed in bf16 some values fall to the other code; on the same pages they agree.
  EXPECT_LT(nmse(fed, want), bound + 0.25 * loss + 2 * nmse(feed(*session(f16_exe), ids, 1), f16)) << "of a loss of " << loss;
  const double exact = std::max(prompt_error(exe, ids, 10, 176), prompt_error(f16_exe, ids, 192, 404));
  EXPECT_LT(prompt_error(exe, ids, 192, 404), bound + 3 * exact) << exact << " where nothing is demoted";
  for (size_t piece : {7u, 61u, 128u, 420u})
    for (unsigned threads : {1u, 3u}) {
      const std::vector<float> pieces = feed(*session(exe, threads), ids, piece);
      EXPECT_TRUE(std::equal(pieces.end() - kVocab, pieces.end(), fed.end() - kVocab)) << "in pieces of " << piece;
      EXPECT_TRUE(std::equal(pieces.begin(), pieces.begin() + kVocab, fed.begin() + long(std::min<size_t>(piece, ids.size()) - 1) * kVocab)) << "first of " << piece;
    }
}

std::vector<std::tuple<Shape, rt::Isa>> cases() {
  std::vector<std::tuple<Shape, rt::Isa>> all;
  const Shape main{3, 1, 64, "k4v3"}, wide{4, 1, 128, "k6v5"};
  for (const Shape& s : {main, wide, Shape{3, 1, 64, "k8v8"}, Shape{6, 2, 32, "k4v4"}, Shape{2, 2, 96, "k5v2"}, Shape{2, 1, 256, "k3v3"}, Shape{4, 2, 64, "k4v4", 200}, Shape{3, 1, 64, "k4v3", 0, 512, 0, 256}})
    all.push_back({s, rt::best_isa()});
  for (rt::Isa isa : isas_here())
    if (isa != rt::best_isa()) all.insert(all.end(), {{main, isa}, {wide, isa}});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Shapes, CompressedAttention, testing::ValuesIn(cases()),
                         [](const auto& info) { return name_of(std::get<0>(info.param)) + "_" + std::string(rt::isa_name(std::get<1>(info.param))); });

/// Factors of keys and of queries cancel in scores; kernels round what the evaluator does.
TEST(CompressedCache, BalancedKeys) {
  Model model({6, 2, 32, ""});
  std::string letters;
  for (int i = 0; i < 2 * 32; ++i) letters += "Ycdeghijo"[i * 5 % 9];   // 2^-2 to 2^2
  const std::vector<float> f16 = model.evaluate(""), plain = model.evaluate("k8v8"), want = model.evaluate("k8v8,balance=" + letters);
  EXPECT_LT(nmse(want, f16), 20 * nmse(plain, f16)) << "whatever the factors are";
  EXPECT_NE(want, plain);
  for (rt::Isa isa : {rt::best_isa(), rt::Isa::Generic}) {
    auto exe = model.compile(isa, "k8v8,balance=" + letters);
    ASSERT_TRUE(exe);
    const std::vector<float> scored = score(*session(exe), model.ids());
    EXPECT_LT(nmse(scored, want), 2 * nmse(want, f16)) << rt::isa_name(isa);
    const std::vector<float> fed = feed(*session(exe), model.ids(), 128);
    EXPECT_LT(nmse(std::span(fed).last(kVocab), std::span(scored).last(kVocab)), 1e-3) << rt::isa_name(isa);
  }
}

/// What other kernels leave in the memory that prompts stage their positions in is no part of what they read.
TEST(CompressedCache, PromptsMayFollowWhatWasGenerated) {
  for (int64_t step : {40, 512}) {
    Model model({3, 1, 64, "", 0, step});
    auto exe = model.compile(rt::best_isa(), "k4v3");
    ASSERT_TRUE(exe);
    const std::span<const int32_t> ids = model.ids();
    auto s = session(exe, 2, 4096), scoring = session(exe, 2, 4096);
    std::vector<float> got, generated;
    for (int lap = 0; lap < 6; ++lap) {   // until generation's keys are split into many parts
      const std::vector<float> want = score(*scoring, ids);
      for (size_t at = 0; at < ids.size(); at += 42) {
        score(*s, ids.subspan(at, 23));
        const std::vector<float> fed = feed(*s, ids.subspan(at + 23, 19), 19);
        got.insert(got.end(), fed.begin(), fed.end());
        generated.insert(generated.end(), want.begin() + long(at + 41) * kVocab, want.begin() + long(at + 42) * kVocab);
      }
    }
    EXPECT_LT(nmse(got, generated), 0.02) << step;
  }
}

/// Drafts: positions that are appended and taken back leave no trace, also where they demoted a page.
TEST(CompressedCache, LastPositionsCanBeTakenBack) {
  Model model({3, 1, 64, ""});
  auto exe = model.compile(rt::best_isa(), "k4v3");
  ASSERT_TRUE(exe);
  const std::span<const int32_t> ids = model.ids();
  const std::vector<float> want = score(*session(exe), ids);
  expect_drafts_leave_no_trace(exe, ids, want, 300);
}

class RingCache : public testing::TestWithParam<Shape> {};

/// What a window no longer reads is written over, and nothing else is.
TEST_P(RingCache, HasTheBitsOfAWholeCache) {
  const Shape& shape = GetParam();
  for (rt::Isa isa : {rt::Isa::Generic, rt::best_isa()}) {
    Model model(shape);
    auto ring = model.compile(isa, shape.bits), whole = model.compile(isa, shape.bits, false);
    ASSERT_TRUE(ring && whole);
    const std::span<const int32_t> ids = model.ids();
    auto s = session(ring), w = session(whole);
    EXPECT_LT(s->kv_stats().bytes_allocated, w->kv_stats().bytes_allocated);
    const std::vector<float> want = score(*w, ids);
    EXPECT_EQ(score(*s, ids), want);
    EXPECT_LT(s->kv_stats().bytes_used, w->kv_stats().bytes_used);
    EXPECT_EQ(s->kv_stats().bytes_f16, w->kv_stats().bytes_f16);
    EXPECT_GT(s->kv_stats().evicted, 0);
    EXPECT_EQ(w->kv_stats().evicted, 0);
    for (size_t piece : {1u, 7u, 64u}) EXPECT_EQ(feed(*session(ring), ids, piece), feed(*session(whole), ids, piece)) << "in pieces of " << piece;
    expect_drafts_leave_no_trace(ring, ids, want, 100);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, RingCache, testing::Values(Shape{3, 1, 64, "exact", 100, 64}, Shape{4, 2, 32, "k4v3", 140, 40}, Shape{2, 1, 256, "exact", 20, 16}, Shape{4, 2, 64, "k8v8", 129, 64}, Shape{3, 1, 64, "exact", 0, 32, 0, 256}),
                         [](const auto& info) { return name_of(info.param); });

/// Also where the reader that is last reads less.
TEST(RingCache, GoesBackAsFarAsItHolds) {
  for (int64_t second_window : {0, 20}) {
    Model model({2, 1, 32, "", 65, 64, second_window});   // a ring of 128
    auto s = session(model.compile(rt::best_isa(), ""));
    const std::span<const int32_t> ids = model.ids();
    const std::vector<float> want = score(*s, ids.first(200));
    EXPECT_EQ(s->kv_stats().bytes_used, uint64_t(128 * 2 * 32 * 2));
    EXPECT_EQ(s->kv_stats().evicted, 200 - 128);
    ASSERT_EQ(s->rewind(136), 136) << "reads from 72 on";
    EXPECT_EQ(score(*s, ids.subspan(136, 64)), std::vector<float>(want.begin() + 136 * kVocab, want.end()));
    EXPECT_EQ(s->rewind(135), 0) << "would read 71, which 199 is written over";
  }
}

/// Two layers side by side, of whose queries only the last row is computed: fewer than what is appended, and nothing orders the layers.
TEST(CompressedCache, QueriesMayBeFewerThanTokens) {
  std::string body, arguments, types, results;
  for (const std::string l : {"0", "1"}) {
    body += "    %k" + l + " = linear(%x, @k" + l + ") : f32[?seq,64]\n    %v" + l + " = linear(%x, @v" + l + ") : f32[?seq,64]\n    %kh" + l + " = reshape(%k" + l + ") {shape=\"?seq,1,64\"} : f32[?seq,1,64]\n" +
            "    %vh" + l + " = reshape(%v" + l + ") {shape=\"?seq,1,64\"} : f32[?seq,1,64]\n    %kr" + l + " = rope(%kh" + l + ", %pos) {mode=half} : f32[?seq,1,64]\n" +
            "    %kv" + l + "a = kv_append(%kv" + l + ", %kr" + l + ", %vh" + l + ") : kv<f16>[?past+?seq,1,64]\n    %qh" + l + " = reshape(%q) {shape=\"?out,2,64\"} : f32[?out,2,64]\n" +
            "    %a" + l + " = attention(%qh" + l + ", %kv" + l + "a) {scale=0.03} : f32[?out,2,64]\n    %r" + l + " = reshape(%a" + l + ") {shape=\"?out,128\"} : f32[?out,128]\n";
    arguments += ", %kv" + l + ": kv<f16>[?past,1,64]";
    types += ", kv<f16>[?past+?seq,1,64]";
    results += ", %kv" + l + "a";
  }
  const std::string text = "module @m level=graph {\n  dim ?out in [1,512]\n  dim ?past in [0,512]\n  dim ?seq in [1,512]\n  attr context_length=512\n  attr vocab_size=48\n  weight @embd : f32[48,128]\n"
      "  weight @k0 : f32[64,128]\n  weight @v0 : f32[64,128]\n  weight @k1 : f32[64,128]\n  weight @v1 : f32[64,128]\n  graph @forward(%ids: i32[?seq]" + arguments + ") -> (f32[?out,48]" + types + ") {\n"
      "    %pos = positions() {count=\"?seq\", start=\"?past\"} : i32[?seq]\n    %x = embedding(%ids, @embd) : f32[?seq,128]\n    %q = tail(%x) {rows=\"?out\"} : f32[?out,128]\n" + body +
      "    %s = add(%r0, %r1) : f32[?out,128]\n    %y = linear(%s, @embd) : f32[?out,48]\n    return %y" + results + "\n  }\n}\n";
  Model model(text);
  const std::span<const int32_t> ids = std::span<const int32_t>(model.ids()).first(330);
  const std::vector<float> f16 = model.evaluate("", 330, 1), k8v8 = model.evaluate("k8v8", 330, 1);
  ASSERT_GT(nmse(k8v8, f16), 1e-7);
  for (const std::string bits : {"", "k8v8"}) {
    auto exe = model.compile(rt::best_isa(), bits);
    ASSERT_TRUE(exe);
    for (size_t piece : {330u, 100u, 1u}) {
      const std::vector<float> fed = feed(*session(exe), ids, piece);
      EXPECT_LT(nmse(std::span(fed).last(kVocab), bits.empty() ? f16 : k8v8), 1e-4) << bits << " in pieces of " << piece;
    }
  }
}

TEST(CompressedCache, StatesItsSize) {
  Model model({4, 2, 128, ""});
  auto s = session(model.compile(rt::best_isa(), "k4v3"));
  score(*s, std::span(model.ids()).first(160));
  EXPECT_EQ(s->kv_stats().demoted, 0);
  EXPECT_EQ(s->kv_stats().compressing_seconds, 0) << "nothing to demote yet";
  score(*s, std::span(model.ids()).subspan(160));
  const rt::KvStats stats = s->kv_stats();
  EXPECT_EQ(stats.dtype, "k4v3");
  EXPECT_GT(stats.compressing_seconds, 0);
  EXPECT_EQ(stats.demoted, 256);
  const int64_t exact = 2 * 2 * 128 * 2 * (16 + 208);
  const int64_t page = 2 * (64 * 128 * 7 / 8 + 2 * (64 + 8) + 128);  // codes, a scale of each position and two bases, means
  EXPECT_EQ(stats.bytes_used, uint64_t(exact + 4 * page));
  EXPECT_EQ(stats.bytes_f32, uint64_t(kPositions * 2 * 2 * 128 * 4));
}

TEST(KvPages, KeepWhatBitsAllow) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  const int64_t size = 64;
  double before = 1;
  for (int bits : {2, 3, 4, 5, 6, 8}) {
    std::vector<float> page(64 * size), was;
    for (float& x : page) x = normal(rng);
    was = page;
    ir::demote_page(page.data(), size, size, bits, false);
    const double error = nmse(page, was);
    // Uniform levels for a normal distribution (Max, 1960): .1188, .0374, .0115, .0035; a scale of its own for 64 does a little better or worse.
    const double optimum = bits == 2 ? 0.1188 : bits == 3 ? 0.0374 : bits == 4 ? 0.0115 : bits == 5 ? 0.0035 : 0.00104;
    if (bits < 8) {
      EXPECT_LT(error, 1.1 * optimum) << bits << " bits";
    }
    EXPECT_LT(error, before / 2);
    before = error;
  }
}

TEST(KvPages, MeansOfKeysDoNotMatter) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  const int64_t size = 32;
  std::vector<float> page(64 * size), moved;
  for (float& x : page) x = normal(rng);
  moved = page;
  for (size_t i = 0; i < moved.size(); ++i) moved[i] += i % 32 == 5 ? 300.0f : i % 32 == 9 ? -20.0f : 0.0f;
  const auto was = page, moved_was = moved;
  ir::demote_page(page.data(), size, size, 4, true);
  ir::demote_page(moved.data(), size, size, 4, true);
  double error = 0, moved_error = 0;
  for (size_t i = 0; i < page.size(); ++i) {
    error += std::pow(page[i] - was[i], 2);
    moved_error += std::pow(moved[i] - moved_was[i], 2);
  }
  EXPECT_LT(moved_error, 2 * error);
}

TEST(KvPages, NothingAndConstantsAreExact) {
  std::vector<float> page(64 * 32, 0.0f);
  ir::demote_page(page.data(), 32, 32, 3, false);
  for (float x : page) ASSERT_EQ(x, 0.0f);
  page.assign(64 * 32, 5.0f);
  ir::demote_page(page.data(), 32, 32, 3, true);
  for (float x : page) ASSERT_NEAR(x, 5.0f, 1e-6f);
}

}  // namespace
}  // namespace prism
