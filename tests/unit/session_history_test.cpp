// What a session says next depends on what is in its context alone, whatever it did before: prompts, generation and drafts that were taken
// back, in any order, on every kind of KV cache. What one kernel leaves in memory that another reads would show here. SEEDS=100: more histories.
#include "tests/unit/attention_model.h"

namespace prism {
namespace {

/// A session, and how each position of its context came there.
class Recorded {
 public:
  Recorded(std::shared_ptr<rt::Executable> exe, unsigned seed) : exe_(std::move(exe)), session_(session(exe_, 2, kContext)), rng_(seed) {}

  void act() {
    const int64_t room = kContext - int64_t(context_.size());
    switch (up_to(5)) {
      case 0: return append(std::min(1 + up_to(140), room), true);
      case 1: return append(std::min(1 + up_to(12), room), true);
      case 2: return append(std::min(1 + up_to(40), room), false);
      case 3: return append(std::min<int64_t>(1, room), false);
      default: return take_back(up_to(30) ? up_to(16) : up_to(200));
    }
  }

  /// The bits of the next logits, and those of a session that was only given what the context has.
  void expect_those_of_a_new_session() {
    auto fresh = session(exe_, 3, kContext);
    for (size_t at = 0; at < context_.size();) {
      size_t end = at;
      std::vector<int32_t> ids;
      for (; end < context_.size() && context_[end].prompt == context_[at].prompt; ++end) ids.push_back(context_[end].id);
      if (!context_[at].prompt) score(*fresh, ids);
      else ASSERT_TRUE(fresh->feed(ids));
      at = end;
    }
    ASSERT_EQ(fresh->position(), session_->position());
    std::vector<int32_t> next;
    const bool prompt = up_to(1) > 0;
    for (int64_t i = prompt ? std::min(up_to(30), kContext - 1 - int64_t(context_.size())) : 0; i >= 0; --i) next.push_back(int32_t(up_to(kVocab - 1)));
    for (rt::Session* s : {fresh.get(), session_.get()}) ASSERT_TRUE(prompt ? s->feed(next) : s->step(next[0]));
    for (int32_t id : next) context_.push_back({id, prompt});
    reached_ = std::max(reached_, int64_t(context_.size()));
    const auto got = *session_->logits(), want = *fresh->logits();
    for (size_t i = 0; i < want.size(); ++i) ASSERT_EQ(got[i], want[i]) << "logit " << i << " after " << context_.size() << " positions";
  }

  bool full() const { return int64_t(context_.size()) >= kContext; }

 private:
  static constexpr int64_t kContext = 2560;
  struct Position {
    int32_t id;
    bool prompt;
  };

  int64_t up_to(int64_t most) { return int64_t(rng_() % uint64_t(most + 1)); }

  void append(int64_t count, bool prompt) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < count; ++i) {
      ids.push_back(int32_t(up_to(kVocab - 1)));
      context_.push_back({ids.back(), prompt});
    }
    if (ids.empty()) return;
    reached_ = std::max(reached_, int64_t(context_.size()));
    if (!prompt && count > 1) score(*session_, ids);
    else ASSERT_TRUE(prompt ? session_->feed(ids) : session_->step(ids[0]));
  }

  void take_back(int64_t count) {
    const int64_t wanted = std::max<int64_t>(int64_t(context_.size()) - count, 0), kept = session_->rewind(wanted);
    ASSERT_LE(kept, wanted);
    if (reached_ - wanted <= 16) {
      ASSERT_EQ(kept, wanted) << "of " << reached_ << " the last 16 can always be taken back";
    }
    context_.resize(size_t(kept));
    if (!kept) reached_ = 0;
  }

  std::shared_ptr<rt::Executable> exe_;
  std::unique_ptr<rt::Session> session_;
  std::vector<Position> context_;
  int64_t reached_ = 0;   ///< positions at most, since it was empty
  std::mt19937 rng_;
};

class SessionHistory : public testing::TestWithParam<std::tuple<Shape, rt::Isa>> {};

TEST_P(SessionHistory, OnlyTheContextMatters) {
  const auto& [shape, isa] = GetParam();
  Model model(shape);
  auto exe = model.compile(isa, shape.bits == "exact" ? "" : shape.bits);
  ASSERT_TRUE(exe);
  for (unsigned seed = 1; seed <= (getenv("SEEDS") ? unsigned(atoi(getenv("SEEDS"))) : 2); ++seed) {
    Recorded recorded(exe, seed);
    for (int i = 1; i <= 400 && !recorded.full(); ++i) {
      recorded.act();
      if (i % 10 == 0 && !recorded.full()) recorded.expect_those_of_a_new_session();
      if (HasFatalFailure()) FAIL() << "seed " << seed << ", act " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Caches, SessionHistory,
                         testing::Combine(testing::Values(Shape{3, 1, 64, "exact"}, Shape{4, 2, 32, "exact", 100, 64}, Shape{3, 1, 64, "exact", 0, 64, 0, 256}, Shape{3, 1, 64, "k4v3"},
                                                          Shape{4, 2, 96, "k8v8", 0, 40}, Shape{2, 1, 128, "k3v2", 200, 64}, Shape{6, 2, 32, "k4v4", 0, 40, 0, 320}),
                                          testing::ValuesIn(isas_here())),
                         [](const auto& info) { return name_of(std::get<0>(info.param)) + "_" + std::string(rt::isa_name(std::get<1>(info.param))); });

}  // namespace
}  // namespace prism
