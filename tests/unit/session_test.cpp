#include "runtime/session.h"

#include <gtest/gtest.h>

#include "tiny_program.h"

namespace prism::rt::testing {
namespace {

using Logits = std::vector<float>;

std::vector<int32_t> some_ids(size_t n) {
  std::vector<int32_t> ids(n);
  for (size_t i = 0; i < n; ++i) ids[i] = int32_t((i * i + 3 * i + 1) % kVocab);
  return ids;
}

std::unique_ptr<Session> make_session(const std::shared_ptr<Executable>& exe, unsigned threads = 2,
                                      int64_t context = 0) {
  SessionOptions options;
  options.threads = threads;
  options.context = context;
  auto s = Session::create(exe, options);
  EXPECT_TRUE(s) << s.message();
  return std::move(*s);
}

Logits logits(Session& s, const Status& fed) {
  EXPECT_TRUE(fed) << fed.message();
  const auto r = s.logits();
  EXPECT_TRUE(r) << r.message();
  return r ? Logits(r->begin(), r->end()) : Logits();
}

Logits feed(Session& s, std::span<const int32_t> ids) { return logits(s, s.feed(ids)); }
Logits step(Session& s, int32_t id) { return logits(s, s.step(id)); }

std::shared_ptr<Executable> with(void (*change)(Program&)) {
  Program p = tiny_program();
  change(p);
  LoadOptions options;
  options.fill = fill_tiny;
  auto exe = Executable::from_program(std::move(p), options);
  EXPECT_TRUE(exe) << exe.message();
  return exe ? *exe : nullptr;
}

void expect_refused(const std::shared_ptr<Executable>& exe, const SessionOptions& options, const std::string& text) {
  const auto s = Session::create(exe, options);
  ASSERT_FALSE(s) << text;
  EXPECT_NE(s.message().find(text), std::string::npos) << s.message();
  EXPECT_EQ(s.message().find('\n'), std::string::npos);
}

TEST(Session, PrefillInChunksAndDecodeAgreeWithTheModel) {
  const auto exe = tiny_executable();
  const auto ids = some_ids(kContext);
  for (unsigned threads : {1u, 2u, 8u}) {
    for (size_t prompt : {1u, 2u, 7u, 8u, 9u, 23u, 64u}) {
      auto s = make_session(exe, threads);
      EXPECT_EQ(feed(*s, std::span(ids).first(prompt)), expected_logits(ids, prompt - 1)) << threads << " " << prompt;
      EXPECT_EQ(s->position(), int64_t(prompt));
      for (size_t i = prompt; i < prompt + 5; ++i)
        EXPECT_EQ(step(*s, ids[i]), expected_logits(ids, i));
    }
  }
}

TEST(Session, FeedIsPrefillAndStepIsDecodeWhateverTheNumberOfIds) {
  const auto ids = some_ids(2);
  auto no_prefill_kernels = make_session(with([](Program& p) { p.entries[0].launches.clear(); }));
  auto no_decode_kernels = make_session(with([](Program& p) { p.entries[1].launches.clear(); }));
  EXPECT_NE(feed(*no_prefill_kernels, std::span(ids).first(1)), expected_logits(ids, 0));
  EXPECT_EQ(feed(*no_decode_kernels, std::span(ids).first(1)), expected_logits(ids, 0));
  EXPECT_NE(step(*no_decode_kernels, ids[1]), expected_logits(ids, 1));
}

TEST(Session, ScoreGivesEveryRow) {
  const auto exe = tiny_executable();
  const auto ids = some_ids(31);
  auto s = make_session(exe);
  feed(*s, std::span(ids).first(3));
  std::vector<Logits> rows;
  const Status status = s->score(std::span(ids).subspan(3), [&](size_t i, std::span<const float> row) {
    EXPECT_EQ(i, rows.size());
    rows.emplace_back(row.begin(), row.end());
  });
  ASSERT_TRUE(status) << status.message();
  ASSERT_EQ(rows.size(), 28u);
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(rows[i], expected_logits(ids, 3 + i)) << i;
  EXPECT_EQ(s->position(), 31);
}

TEST(Session, WorksWithFewerEntryPoints) {
  const auto ids = some_ids(20);
  const auto only_decode = with([](Program& p) { p.entries = {p.entries[1]}; });
  const auto only_prefill = with([](Program& p) { p.entries = {p.entries[0]}; });
  for (const auto& exe : {only_decode, only_prefill}) {
    auto s = make_session(exe);
    EXPECT_EQ(feed(*s, ids), expected_logits(ids, 19));
    s->rewind(0);
    EXPECT_EQ(step(*s, ids[0]), expected_logits(ids, 0));
    size_t rows = 0;
    EXPECT_TRUE(s->score(std::span(ids).subspan(1), [&](size_t i, std::span<const float> row) {
      EXPECT_EQ(Logits(row.begin(), row.end()), expected_logits(ids, 1 + i));
      ++rows;
    }));
    EXPECT_EQ(rows, 19u);
  }
}

TEST(Session, RewindForgets) {
  auto s = make_session(tiny_executable());
  const auto ids = some_ids(30);
  feed(*s, ids);
  s->rewind(11);
  EXPECT_EQ(s->position(), 11);
  EXPECT_EQ(feed(*s, std::span(ids).subspan(11, 2)), expected_logits(ids, 12));
  s->rewind(500);
  EXPECT_EQ(s->position(), 13);
  s->rewind(-4);
  EXPECT_EQ(s->position(), 0);
}

TEST(Session, LogitsAreThoseOfTheLastFeedOrStepOrNone) {
  auto s = make_session(tiny_executable());
  const auto ids = some_ids(9);
  const auto none = [&] {
    const auto r = s->logits();
    ASSERT_FALSE(r);
    EXPECT_EQ(r.message(), "tiny: logits: found none, expected a feed or a step just before");
    auto sampler = Sampler::create({});
    EXPECT_EQ(s->sample(*sampler).message(), r.message());
  };
  none();
  feed(*s, std::span(ids).first(4));
  EXPECT_FALSE(s->feed({}));  // refused: the logits are still there
  EXPECT_EQ(logits(*s, ok()), expected_logits(ids, 3));
  s->rewind(2);
  none();
  EXPECT_EQ(step(*s, ids[2]), expected_logits(ids, 2));
  EXPECT_TRUE(s->score(std::span(ids).subspan(3, 2), [](size_t, std::span<const float>) {}));
  none();
}

TEST(Session, SamplesFromItsLogits) {
  auto s = make_session(tiny_executable());
  const auto ids = some_ids(40);
  auto sampler = Sampler::create({.temperature = 1, .seed = 5}), same = Sampler::create({.temperature = 1, .seed = 5});
  for (size_t i = 0; i < ids.size(); ++i) {
    ASSERT_TRUE(s->step(ids[i]));
    const auto id = s->sample(*sampler);
    ASSERT_TRUE(id) << id.message();
    EXPECT_EQ(*id, same->sample(expected_logits(ids, i)));
  }
}

TEST(Session, ErrorsLeaveTheStateAlone) {
  auto s = make_session(tiny_executable());
  const auto ids = some_ids(kContext);
  feed(*s, std::span(ids).first(10));
  const auto fails = [&](const std::vector<int32_t>& bad, const std::string& text) {
    const auto fed = s->feed(bad);
    ASSERT_FALSE(fed);
    EXPECT_NE(fed.message().find(text), std::string::npos) << fed.message();
    const Status scored = s->score(bad, [](size_t, std::span<const float>) { ADD_FAILURE(); });
    ASSERT_FALSE(scored);
    EXPECT_EQ(scored.message(), fed.message());
    EXPECT_EQ(s->position(), 10);
  };
  fails({}, "ids: found none");
  fails({0, 1, 5}, "id 2: found 5, expected 0 to 4");
  fails({-1}, "id 0: found -1, expected 0 to 4");
  fails(some_ids(91), "context full: found 10 + 91 positions, expected at most 100, use --ctx");
  EXPECT_EQ(feed(*s, std::span(ids).subspan(10)), expected_logits(ids, 99));
  EXPECT_FALSE(s->feed(std::vector<int32_t>{1}));
}

TEST(Session, AnErrorInALaterChunkGoesBackToTheStart) {
  // The second chunk's past is out of range.
  auto s = make_session(with([](Program& p) {
    for (EntryPoint& e : p.entries) e.dim_max[1] = 6;
  }));
  const auto r = s->feed(some_ids(20));
  ASSERT_FALSE(r);
  EXPECT_NE(r.message().find("\"prefill\": found past = 8, expected 0 to 6"), std::string::npos) << r.message();
  EXPECT_EQ(s->position(), 0);
  std::vector<size_t> rows;
  EXPECT_FALSE(s->score(some_ids(20), [&](size_t i, std::span<const float>) { rows.push_back(i); }));
  EXPECT_EQ(rows.size(), 8u);
  EXPECT_EQ(s->position(), 0);
}

TEST(Session, TaskCountsAreCheckedBeforeAStep) {
  const auto negative = with([](Program& p) {  // 3 - past * past
    for (EntryPoint& e : p.entries) e.launches[0].tasks.code = {0, 3, 1, 1, 1, 1, 3, 0, 0, -1, 3, 0, 2, 0};
  });
  auto s = make_session(negative);
  EXPECT_TRUE(s->feed(some_ids(3)));
  const auto r = s->feed(some_ids(1));
  ASSERT_FALSE(r);
  EXPECT_NE(r.message().find("launch 0: found -6 tasks"), std::string::npos) << r.message();
  const auto divides = with([](Program& p) {  // seq / past
    for (EntryPoint& e : p.entries) e.launches[0].tasks.code = {1, 0, 1, 1, 4, 0};
  });
  EXPECT_FALSE(make_session(divides)->feed(some_ids(1)));
}

TEST(Session, CapacityAndStatistics) {
  const auto exe = tiny_executable();
  auto s = make_session(exe, 1, 10);
  EXPECT_EQ(s->kv_stats().capacity, 64);  // rounded up
  feed(*s, some_ids(10));
  const KvStats stats = s->kv_stats();
  EXPECT_EQ(stats.dtype, "f32");
  EXPECT_EQ(stats.positions, 10);
  EXPECT_EQ(stats.bytes_used, 80u);
  EXPECT_EQ(stats.bytes_exact, 80u);
  EXPECT_EQ(stats.bytes_f16, 40u);
  EXPECT_EQ(stats.bytes_allocated, 64u * 8);
  EXPECT_EQ(stats.bytes_f32, 80u);
  EXPECT_EQ(make_session(exe, 1, 70)->kv_stats().capacity, kContext);  // 128, but the model stops at 100
  EXPECT_EQ(make_session(exe, 1, 0)->kv_stats().capacity, kContext);
  EXPECT_EQ(make_session(exe, 1, 0)->kv_stats().bytes_allocated, 128u * 8);
  const auto several = with([](Program& p) { p.kv = {{"f16", 3, 64, 0}, {"f32", 1, 2, 0}, {"bf16", 1, 8, 0}}; });
  const auto mixed = make_session(several, 1, 64);
  feed(*mixed, some_ids(3));
  EXPECT_EQ(mixed->kv_stats().dtype, "f16");
  EXPECT_EQ(mixed->kv_stats().bytes_used, 3 * 2u * (3 * 64 * 2 + 2 * 4 + 8 * 2));
}

TEST(Session, OptionsAreChecked) {
  const auto exe = tiny_executable();
  SessionOptions options;
  options.context = 101;
  expect_refused(exe, options, "context: found 101 positions, expected 0 to 100");
  options.context = -1;
  expect_refused(exe, options, "context: found -1 positions");
  options.context = 0;
  options.threads = 100000;
  expect_refused(exe, options, "threads: found 100000");
}

TEST(Session, MemoryIsBounded) {
  const auto no_limit = [](Program& p) {
    p.context_length = 0;
    p.kv = {{"f16", 1 << 16, 1 << 16, 0}};
    for (EntryPoint& e : p.entries) e.dim_max[3] = int64_t(1) << 40;
  };
  SessionOptions options;
  options.context = int64_t(1) << 36;
  expect_refused(with(no_limit), options, "KV cache of 68719476736 positions (see --ctx): needs more than 16.0 EiB");
  options.context = 1 << 20;
  expect_refused(with(no_limit), options, "KV cache of 1048576 positions (see --ctx): needs 16.0 PiB, this machine");
  expect_refused(with([](Program& p) { p.entries[0].arena_bytes = uint64_t(1) << 45; }), {}, "arena: needs 32.0 TiB");
}

TEST(Session, TheProgramMustBeALanguageModel) {
  expect_refused(with([](Program& p) { p.vocab = 0; }), {}, "vocabulary size: found 0");
  expect_refused(with([](Program& p) { p.dims[1] = "height"; }), {}, "dims: found \"height\"");
  expect_refused(with([](Program& p) { p.entries.clear(); }), {}, "found neither");
  expect_refused(with([](Program& p) { p.entries[0].inputs.clear(); }), {}, "found no slot \"ids\"");
  expect_refused(with([](Program& p) { p.entries[1].outputs[0].dtype = "f16"; }), {}, "found dtype \"f16\"");
  expect_refused(with([](Program& p) { p.entries[2].outputs[0].shape.clear(), p.entries[2].arena_bytes = 100; }), {},
                 "expected room for 4 x 5 values");
  expect_refused(with([](Program& p) { p.entries[0].inputs[0].offset = 2; }), {}, "aligned");
}

}  // namespace
}  // namespace prism::rt::testing
