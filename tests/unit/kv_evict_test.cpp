// A layer of attention that keeps the first positions and the newest: every instruction set against the evaluator, whose cache keeps everything.
#include "tests/unit/attention_model.h"

namespace prism {
namespace {

constexpr int64_t kKept = 256;

class EvictingAttention : public testing::TestWithParam<rt::Isa> {};

TEST_P(EvictingAttention, AgreesWithTheEvaluatorInAnyPieces) {
  for (const Shape& shape : {Shape{3, 1, 64, "", 0, 40, 0, kKept}, Shape{4, 2, 96, "", 0, 40, 0, kKept}}) {
    Shape without = shape;
    without.kept = 0;
    Model model(shape), plain(without);
    auto exe = model.compile(GetParam(), ""), plain_exe = plain.compile(GetParam(), "");
    ASSERT_TRUE(exe && plain_exe);
    const std::span<const int32_t> ids = model.ids();
    const std::vector<float> want = model.evaluate("");
    const std::vector<float> scored = score(*session(exe), ids);
    EXPECT_LT(nmse(scored, want), 1e-6);
    EXPECT_EQ(score(*session(exe, 5), ids), scored);
    expect_steps_to_say(*session(exe, 1), ids, scored);
    const std::vector<float> fed = feed(*session(exe), ids, 1);
    EXPECT_LT(nmse(fed, want), 1e-7 + 2 * nmse(feed(*session(plain_exe), ids, 1), plain.evaluate(""))) << "of what prompts lose to rounding anyway";
    for (size_t piece : {7u, 61u, 420u})
      for (unsigned threads : {1u, 3u}) {
        const std::vector<float> pieces = feed(*session(exe, threads), ids, piece);
        EXPECT_TRUE(std::equal(pieces.end() - kVocab, pieces.end(), fed.end() - kVocab)) << "in pieces of " << piece;
      }
  }
}

/// The model's own results as long as nothing is evicted, others afterwards.
TEST_P(EvictingAttention, ChangesNothingUntilItEvicts) {
  Model evicting({3, 1, 64, "", 0, 40, 0, kKept}), plain({3, 1, 64, "", 0, 40});
  const std::span<const int32_t> ids = evicting.ids();
  const std::vector<float> got = score(*session(evicting.compile(GetParam(), "")), ids), want = score(*session(plain.compile(GetParam(), "")), ids);
  const auto part = [](const std::vector<float>& v, int64_t from, int64_t to) { return std::span(v).subspan(size_t(from * kVocab), size_t((to - from) * kVocab)); };
  EXPECT_LT(nmse(part(got, 0, kKept), part(want, 0, kKept)), 1e-12);
  EXPECT_GT(nmse(part(got, kKept, kPositions), part(want, kKept, kPositions)), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Isas, EvictingAttention, testing::ValuesIn(isas_here()), [](const auto& info) { return std::string(rt::isa_name(info.param)); });

/// The model was made for 4096 positions.
TEST(EvictingCache, GoesOnBeyondTheContext) {
  for (const std::string bits : {"", "k4v3"}) {
    Model model({3, 1, 64, bits, 0, 40, 0, kKept});
    auto ring = model.compile(rt::best_isa(), bits), whole = model.compile(rt::best_isa(), bits, false);
    ASSERT_TRUE(ring && whole);
    auto r = session(ring, 2, 0), w = session(whole, 2, 8192);
    EXPECT_GT(r->kv_stats().capacity, 1000000);
    const uint64_t allocated = r->kv_stats().bytes_allocated;
    EXPECT_LT(3 * allocated, w->kv_stats().bytes_allocated);
    for (int i = 0; i < 5; ++i) {
      const std::vector<float> got = score(*r, model.ids());
      EXPECT_EQ(got, score(*w, model.ids())) << i;
      EXPECT_EQ(feed(*r, model.ids(), 100), feed(*w, model.ids(), 100)) << i;
    }
    EXPECT_EQ(r->position(), 10 * kPositions);
    EXPECT_EQ(r->kv_stats().bytes_allocated, allocated);
    EXPECT_GT(r->kv_stats().evicted, 9 * kPositions);
  }
}

TEST(EvictingCache, LastPositionsCanBeTakenBack) {
  for (const std::string bits : {"", "k4v3"}) {
    Model model({3, 1, 64, bits, 0, 40, 0, kKept});
    auto exe = model.compile(rt::best_isa(), bits);
    ASSERT_TRUE(exe);
    const std::vector<float> want = score(*session(exe), model.ids());
    expect_drafts_leave_no_trace(exe, model.ids(), want, 100);
  }
}

}  // namespace
}  // namespace prism
