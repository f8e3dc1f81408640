#include <gtest/gtest.h>

#include <cstdint>

#include "runtime/program.h"

namespace prism::rt {
namespace {

using Code = std::vector<int64_t>;

constexpr int64_t kDims[] = {7, -3, 0, INT64_MAX};

Result<int64_t> evaluate(Code code) { return Expr{std::move(code)}.evaluate(kDims); }

int64_t binary(Expr::Code op, int64_t a, int64_t b) {
  const auto r = evaluate({Expr::Const, a, Expr::Const, b, op, 0});
  EXPECT_TRUE(r) << r.message();
  return r ? *r : INT64_MIN;
}

TEST(Expr, LeavesAndOperators) {
  EXPECT_EQ(*evaluate({Expr::Const, 42}), 42);
  EXPECT_EQ(*Expr::constant(-5).evaluate({}), -5);
  EXPECT_EQ(*evaluate({Expr::Dim, 0}), 7);
  EXPECT_EQ(*evaluate({Expr::Dim, 1}), -3);
  EXPECT_EQ(binary(Expr::Add, 2, 3), 5);
  EXPECT_EQ(binary(Expr::Mul, -2, 3), -6);
  EXPECT_EQ(binary(Expr::Min, -2, 3), -2);
  EXPECT_EQ(binary(Expr::Max, -2, 3), 3);
  // (7 + 9) * 2 - 1, in postfix
  const Code nested = {Expr::Dim, 0, Expr::Const, 9, Expr::Add, 0, Expr::Const, 2, Expr::Mul, 0, Expr::Const, -1,
                       Expr::Add, 0};
  EXPECT_EQ(*evaluate(nested), 31);
}

TEST(Expr, SaysWhichDimsItReads) {
  // 1 + dim 3 * 2: neither an opcode's unused argument nor a constant is taken for a dim.
  const Expr e{{Expr::Const, Expr::Dim, Expr::Dim, 3, Expr::Const, 2, Expr::Mul, 0, Expr::Add, 0}};
  EXPECT_TRUE(e.reads_dim());
  EXPECT_TRUE(e.reads_dim(3));
  EXPECT_FALSE(e.reads_dim(2));
  EXPECT_TRUE((Expr{{Expr::Const, 1, Expr::Const, 2, Expr::Add, 0, Expr::Dim, 2, Expr::Mul, 0}}).reads_dim(2)) << "after an operator";
  EXPECT_FALSE(Expr::constant(Expr::Dim).reads_dim());
}

TEST(Expr, DivisionRoundsTowardsTheNamedSide) {
  for (int64_t a = -12; a <= 12; ++a) {
    for (int64_t b = 1; b <= 5; ++b) {
      const int64_t down = binary(Expr::FloorDiv, a, b), up = binary(Expr::CeilDiv, a, b);
      const int64_t rest = binary(Expr::Mod, a, b);
      EXPECT_LE(down * b, a);
      EXPECT_GT((down + 1) * b, a);
      EXPECT_GE(up * b, a);
      EXPECT_LT((up - 1) * b, a);
      EXPECT_EQ(down * b + rest, a);
    }
  }
}

TEST(Expr, ErrorsAreValues) {
  const std::pair<Code, const char*> cases[] = {
      {{}, "0 values at the end"},
      {{Expr::Const}, "1 words"},
      {{Expr::Const, 1, Expr::Const, 2}, "2 values at the end"},
      {{Expr::Add, 0}, "0 values, expected 2"},
      {{Expr::Const, 1, Expr::Mul, 0}, "1 values, expected 2"},
      {{9, 0}, "opcode 9"},
      {{-1, 0}, "opcode -1"},
      {{INT64_MAX, 0}, "opcode 9223372036854775807"},
      {{Expr::Dim, 4}, "dim 4"},
      {{Expr::Dim, -1}, "dim -1"},
      {{Expr::Const, 1, Expr::Const, 0, Expr::FloorDiv, 0}, "divisor 0"},
      {{Expr::Const, 1, Expr::Dim, 2, Expr::CeilDiv, 0}, "divisor 0"},
      {{Expr::Const, INT64_MIN, Expr::Const, -1, Expr::FloorDiv, 0}, "divisor -1"},
      {{Expr::Const, 1, Expr::Const, 0, Expr::Mod, 0}, "divisor 0"},
      {{Expr::Dim, 3, Expr::Const, 1, Expr::Add, 0}, "64 bits"},
      {{Expr::Const, INT64_MIN, Expr::Const, -1, Expr::Mul, 0}, "64 bits"},
  };
  for (const auto& [code, text] : cases) {
    const auto r = evaluate(code);
    ASSERT_FALSE(r) << text;
    EXPECT_NE(r.message().find(text), std::string::npos) << r.message();
  }
}

TEST(Expr, DepthIsBounded) {
  Code code;
  for (int i = 0; i < 64; ++i) code.insert(code.end(), {Expr::Const, 1});
  for (int i = 0; i < 63; ++i) code.insert(code.end(), {Expr::Add, 0});
  EXPECT_EQ(*evaluate(code), 64);
  code.insert(code.begin(), {Expr::Const, 1});
  EXPECT_FALSE(evaluate(code));
  EXPECT_FALSE(evaluate(Code(1 << 20, Expr::Const)));
}

}  // namespace
}  // namespace prism::rt
