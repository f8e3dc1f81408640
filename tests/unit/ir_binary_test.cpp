#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "ir/text.h"

namespace prism::ir {
namespace {

std::unique_ptr<Module> sample(const char* name) {
  std::ifstream in(std::filesystem::path(PRISM_SOURCE_DIR) / "tests/ir" / name);
  auto m = parse((std::ostringstream() << in.rdbuf()).str(), name);
  EXPECT_TRUE(m) << m.message();
  return *std::move(m);
}

TEST(Binary, RoundTrips) {
  for (const char* name : {"roundtrip.prism", "kernel.prism"}) {
    auto m = sample(name);
    auto back = from_binary(to_binary(*m), "t");
    ASSERT_TRUE(back) << back.message();
    EXPECT_EQ(print(**back), print(*m));
    EXPECT_EQ((*back)->attrs, m->attrs);
  }
}

TEST(Binary, ReadsFromAnyAddress) {
  auto m = sample("kernel.prism");
  const std::string shifted = "x" + to_binary(*m);
  auto back = from_binary(std::string_view(shifted).substr(1), "t");
  ASSERT_TRUE(back) << back.message();
  EXPECT_EQ(print(**back), print(*m));
}

TEST(Binary, RejectsOtherFiles) {
  for (std::string bytes : {std::string(), std::string("PIRM"), std::string(100, '\0'),
                            std::string("\x10\0\0\0PIRMxxxxxxxxxxxxxxxxx", 24)}) {
    auto m = from_binary(bytes, "file.bin");
    ASSERT_FALSE(m);
    EXPECT_TRUE(m.message().starts_with("file.bin: ")) << m.message();
  }
}

TEST(Binary, VerifiesTheModule) {
  auto m =
      parse("module @m level=kernel { graph @f(%x: f32[4]) -> (f32[4]) { %y = relu(%x) : f32[4] return %y } }", "t");
  ASSERT_TRUE(m);
  auto back = from_binary(to_binary(**m), "t");
  ASSERT_FALSE(back);
  EXPECT_EQ(back.message(),
            "t: module @m: graph @f: %y: relu stands at the top of a graph at level kernel, expected only kernel");
}

/// Truncations and flipped bits: an error or a module that is valid and can be printed.
TEST(Binary, SurvivesDamage) {
  std::mt19937 rng(13);
  size_t read = 0;
  for (const char* name : {"roundtrip.prism", "kernel.prism"}) {
    const std::string good = to_binary(*sample(name));
    for (size_t n = 0; n < good.size(); ++n) {
      auto m = from_binary(good.substr(0, n), "t");
      if (m) {
        EXPECT_GT(n, good.size() - 8) << "only the padding at the end may be lost";
      }
    }
    for (int i = 0; i < 4000; ++i) {
      std::string s = good;
      for (unsigned flips = 1 + rng() % 3; flips-- > 0;) s[rng() % s.size()] ^= char(1 << rng() % 8);
      auto m = from_binary(s, "t");
      if (!m) {
        ASSERT_TRUE(m.message().starts_with("t: "));
        continue;
      }
      ++read;
      auto again = parse(print(**m), "t");
      ASSERT_TRUE(again) << again.message();
      ASSERT_EQ(print(**again), print(**m));
    }
  }
  EXPECT_GT(read, 100u);
}

}  // namespace
}  // namespace prism::ir
