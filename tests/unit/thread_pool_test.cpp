#include "runtime/thread_pool.h"

#include <gtest/gtest.h>

#include <thread>

namespace prism::rt {
namespace {

std::unique_ptr<ThreadTeam> make_team(unsigned threads) {
  auto team = ThreadTeam::create(threads);
  EXPECT_TRUE(team) << team.message();
  return std::move(*team);
}

TEST(ThreadTeam, EveryThreadRunsEveryJobOnce) {
  for (unsigned threads : {1u, 2u, 3u, 8u}) {
    auto team = make_team(threads);
    ASSERT_EQ(team->size(), threads);
    std::vector<int> calls(threads);  // not atomic: each thread touches its own, run() orders them
    for (int i = 0; i < 500; ++i) team->run([&](unsigned t) { ++calls[t]; });
    EXPECT_EQ(calls, std::vector<int>(threads, 500));
  }
}

TEST(ThreadTeam, CallerIsThreadZero) {
  auto team = make_team(3);
  const auto caller = std::this_thread::get_id();
  std::thread::id ids[3];
  team->run([&](unsigned t) { ids[t] = std::this_thread::get_id(); });
  EXPECT_EQ(ids[0], caller);
  EXPECT_NE(ids[1], caller);
  EXPECT_NE(ids[1], ids[2]);
}

/// Each phase reads what every other thread wrote in the phase before: wrong if a barrier lets anyone through early.
void check_barriers(unsigned threads, int phases) {
  auto team = make_team(threads);
  std::vector<int64_t> values[2] = {std::vector<int64_t>(threads, 1), std::vector<int64_t>(threads)};
  std::atomic<int> wrong{0};
  team->run([&](unsigned t) {
    for (int phase = 0; phase < phases; ++phase) {
      const auto& in = values[phase % 2];
      for (int64_t v : in)
        if (v != phase + 1) ++wrong;
      values[1 - phase % 2][t] = phase + 2;
      team->barrier();
    }
  });
  EXPECT_EQ(wrong, 0) << threads << " threads";
}

TEST(ThreadTeam, BarrierOrdersWrites) {
  check_barriers(1, 1000);
  check_barriers(2, 100000);
}

TEST(ThreadTeam, MoreThreadsThanCores) {
  check_barriers(available_cores() + 1, 10000);
  check_barriers(4 * available_cores(), 10000);
}

TEST(ThreadTeam, WorkersSleepAndWake) {
  auto team = make_team(2);
  int sum = 0, other = 0;
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // past the spin
    team->run([&](unsigned t) { (t ? other : sum) += 1; });
    team->run([&](unsigned t) {
      if (t == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // the other sleeps in the barrier
    });
  }
  EXPECT_EQ(sum, 20);
  EXPECT_EQ(other, 20);
}

TEST(ThreadTeam, MadeAndEndedManyTimes) {
  for (int i = 0; i < 200; ++i) make_team(1 + unsigned(i % 4));
}

TEST(ThreadTeam, NumberIsChecked) {
  EXPECT_EQ(make_team(0)->size(), available_cores());
  const auto team = ThreadTeam::create(ThreadTeam::kMaxThreads + 1);
  ASSERT_FALSE(team);
  EXPECT_NE(team.message().find("found 1025, expected at most 1024"), std::string::npos) << team.message();
}

TEST(ThreadTeam, ParallelForDoesEachIndexOnce) {
  auto team = make_team(4);
  std::vector<std::atomic<int>> done(10007);
  parallel_for(*team, done.size(), [&](size_t i) { ++done[i]; });
  for (const auto& d : done) ASSERT_EQ(d, 1);
  parallel_for(*team, 0, [&](size_t) { ADD_FAILURE(); });
}

}  // namespace
}  // namespace prism::rt
