// What a profile records of a session: every task of every launch once, in order, on the thread that did it.
#include "runtime/profile.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "runtime/session.h"
#include "tiny_program.h"

namespace prism::rt::testing {
namespace {

struct Recorded {
  std::shared_ptr<Executable> exe = tiny_executable();
  Profile profile;
  std::unique_ptr<Session> session;

  explicit Recorded(unsigned threads) {
    auto made = Session::create(exe, {.threads = threads, .profile = &profile});
    EXPECT_TRUE(made) << made.message();
    session = std::move(*made);
  }
  void work() {
    const std::vector<int32_t> ids = {1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1};  // two pieces of at most 8
    ASSERT_TRUE(session->feed(ids));
    ASSERT_TRUE(session->step(2));
  }
};

TEST(Profile, HoldsEveryTaskOfEveryLaunchOnce) {
  for (unsigned threads : {1u, 2u, 5u}) {
    Recorded r(threads);
    r.work();
    const Program& p = r.exe->program();
    const auto& steps = r.profile.steps();
    ASSERT_EQ(steps.size(), 3u);
    EXPECT_EQ(p.entries[steps[0].entry].name, "prefill");
    EXPECT_EQ(p.entries[steps[2].entry].name, "decode");
    EXPECT_EQ(steps[1].dims, (std::vector<int64_t>{3, 8, 1, 128}));
    ASSERT_EQ(r.profile.threads(), threads);
    std::map<std::pair<uint32_t, uint32_t>, std::vector<std::pair<int64_t, int64_t>>> ranges;
    for (size_t t = 0; t < threads; ++t)
      for (const Profile::Share& s : r.profile.shares(t)) ranges[{s.step, s.launch}].push_back({s.begin, s.end});
    for (uint32_t s = 0; s < steps.size(); ++s)
      for (uint32_t l = 0; l < 2; ++l) {
        auto& list = ranges[{s, l}];
        std::sort(list.begin(), list.end());
        int64_t at = 0;
        for (auto [begin, end] : list) {
          EXPECT_EQ(begin, at);
          EXPECT_LT(begin, end);
          at = end;
        }
        EXPECT_EQ(at, l == 0 ? steps[s].dims[0] : kVocab) << "step " << s << " launch " << l;
      }
  }
}

TEST(Profile, TimesAreInOrderAndLaunchesFillTheStep) {
  Recorded r(2);
  r.work();
  const auto& steps = r.profile.steps();
  for (size_t t = 0; t < r.profile.threads(); ++t) {
    int64_t at = 0;
    for (const Profile::Share& s : r.profile.shares(t)) {
      EXPECT_GE(s.time.from, std::max(at, steps[s.step].time.from));
      EXPECT_GE(s.time.to, s.time.from);
      EXPECT_LE(s.time.to, steps[s.step].time.to);
      at = s.time.to;
    }
  }
  const auto launches = r.profile.launches(r.exe->program());
  ASSERT_EQ(launches.size(), 6u);
  int64_t busy = 0, shares = 0;
  for (size_t i = 0; i < launches.size(); ++i) {
    const Profile::Launch& l = launches[i];
    EXPECT_EQ(l.step, i / 2);
    EXPECT_EQ(l.launch, i % 2);
    EXPECT_EQ(l.time.from, l.launch ? launches[i - 1].time.to : steps[l.step].time.from);
    EXPECT_LE(l.time.to, steps[l.step].time.to);
    EXPECT_LE(l.busy, 2 * l.time.length());
    busy += l.busy;
  }
  for (size_t t = 0; t < 2; ++t)
    for (const Profile::Share& s : r.profile.shares(t)) shares += s.time.length();
  EXPECT_EQ(busy, shares);
}

TEST(Profile, CanBeginAnew) {
  Recorded r(2);
  r.work();
  r.profile.clear();
  EXPECT_TRUE(r.profile.steps().empty());
  EXPECT_TRUE(r.profile.launches(r.exe->program()).empty());
  ASSERT_TRUE(r.session->step(1));
  EXPECT_EQ(r.profile.launches(r.exe->program()).size(), 2u);
}

}  // namespace
}  // namespace prism::rt::testing
