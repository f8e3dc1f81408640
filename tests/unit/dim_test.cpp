#include "ir/dim.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "runtime/program.h"

namespace prism::ir {
namespace {

Dim dim(std::string_view text) {
  auto d = Dim::parse(text);
  EXPECT_TRUE(d) << text << ": " << (d ? "" : d.message());
  return d ? *d : Dim(-1);
}
const Dim::Ranges ranges = [](std::string_view s) {
  if (s == "seq") return Range{1, 4096};
  if (s == "past") return Range{0, 131072};
  return Range{};
};

TEST(Dim, PrintsCanonically) {
  const std::pair<const char*, const char*> cases[] = {{"64", "64"},
                                                       {"?seq + ?past", "?past+?seq"},
                                                       {"?n*2+1", "2*?n+1"},
                                                       {"(?h+1)/2", "(?h+1)/2"},
                                                       {"?n%4", "?n%4"},
                                                       {"?n/4", "?n/4"},
                                                       {"?n-?n", "0"},
                                                       {"-?b+?a", "?a-?b"},
                                                       {"-?a", "-?a"},
                                                       {"2*(?h/3)", "2*(?h/3)"},
                                                       {"2*?h/3", "(2*?h)/3"},
                                                       {"(2*?h+3)/2", "?h+1"},
                                                       {"(?h/2)/3", "?h/6"},
                                                       {"(8*?h+5)%4", "1"},
                                                       {"(?h%4)%4", "?h%4"},
                                                       {"?b*?a", "?a*?b"},
                                                       {"(?h+1)*2*?w", "2*(?h+1)*?w"},
                                                       {"(2*?h+2)*?w", "2*(?h+1)*?w"},
                                                       {"(1-?a)*?b", "-(?a-1)*?b"},
                                                       {"(?a*?b)/2", "(?a*?b)/2"},
                                                       {"?x/1", "?x"},
                                                       {"7/2", "3"},
                                                       {"(0-7)/2", "-4"},
                                                       {"(0-7)%4", "1"},
                                                       {"?a*0", "0"},
                                                       {"(?a/2)*?b", "(?a/2)*?b"}};
  for (auto [in, out] : cases) {
    EXPECT_EQ(dim(in).str(), out) << in;
    EXPECT_EQ(dim(out), dim(in)) << in;
  }
}

TEST(Dim, RejectsMalformedText) {
  const char* cases[] = {"",
                         "?",
                         "?1",
                         "1+",
                         "(1",
                         "1)",
                         "?a/0",
                         "?a/?b",
                         "?a%-1",
                         "99999999999999999999",
                         "a",
                         "?a b",
                         "1 2",
                         "9223372036854775807+1",
                         "4611686018427387904*2*?n"};
  for (const char* text : cases) {
    auto d = Dim::parse(text);
    EXPECT_FALSE(d) << text << " gave " << d->str();
    if (!d) {
      EXPECT_EQ(d.message().find('\n'), std::string::npos);
    }
  }
  EXPECT_FALSE(Dim::parse(std::string(100'000, '(')));
  EXPECT_FALSE(Dim::parse(std::string(3000, '(') + "1" + std::string(3000, ')')));
}

TEST(Dim, OverflowIsContagious) {
  const Dim huge = dim("4611686018427387904*?n");
  const Dim over = huge + huge;
  EXPECT_TRUE(over.is_overflow());
  EXPECT_TRUE((over - over).is_overflow());
  EXPECT_TRUE((over * Dim(0)).is_overflow());
  EXPECT_FALSE(over.is_constant());
  EXPECT_FALSE(over.evaluate([](auto) { return 1; }));
  EXPECT_EQ(equal(over, over, ranges), Answer::Unknown);
  Dim grows = Dim::symbol("a");
  for (int i = 0; i < 100; ++i) grows = grows * (grows + Dim::symbol("b"));
  EXPECT_TRUE(grows.is_overflow());
}

TEST(Dim, Questions) {
  EXPECT_EQ(equal(dim("?seq+1"), dim("1+?seq"), ranges), Answer::Yes);
  EXPECT_EQ(equal(dim("?seq+1"), dim("?seq"), ranges), Answer::No);
  EXPECT_EQ(equal(dim("?seq"), dim("?past"), ranges), Answer::Unknown);
  EXPECT_EQ(less_equal(dim("?seq"), dim("?past+?seq"), ranges), Answer::Yes);
  EXPECT_EQ(less_equal(dim("5000"), dim("?seq"), ranges), Answer::No);
  EXPECT_EQ(less_equal(dim("?past"), dim("?seq"), ranges), Answer::Unknown);
  EXPECT_EQ(divides(4, dim("8*?seq+4"), ranges), Answer::Yes);
  EXPECT_EQ(divides(4, dim("8*?seq+2"), ranges), Answer::No);
  EXPECT_EQ(divides(4, dim("?seq"), ranges), Answer::Unknown);
  EXPECT_EQ(dim("(?seq+7)/8").bounds(ranges), (Range{1, 512}));
  EXPECT_EQ(dim("3-2*?seq").bounds(ranges), (Range{3 - 8192, 1}));
  EXPECT_EQ(dim("?seq%8192").bounds(ranges), (Range{1, 4096}));
  EXPECT_EQ(dim("?seq%8").bounds(ranges), (Range{0, 7}));
  EXPECT_EQ(dim("?free*?free").bounds(ranges).hi, INT64_MAX);
}

TEST(Dim, Substitutes) {
  auto by = [](std::string_view s) -> std::optional<Dim> {
    if (s == "seq") return Dim(1);
    if (s == "past") return Dim::symbol("n") - 1;
    return std::nullopt;
  };
  EXPECT_EQ(dim("?past+?seq").substitute(by).str(), "?n");
  EXPECT_EQ(dim("(?past+?seq)/2").substitute(by).str(), "?n/2");
  EXPECT_EQ(dim("?past*?seq*?k").substitute(by).str(), "?k*(?n-1)");
  EXPECT_EQ(dim("(?seq+6)%4").substitute(by).constant(), 3);
}

TEST(Dim, CollectsSymbols) {
  std::vector<std::string_view> names;
  dim("(?a+1)/2+?b*(?c%3)").collect_symbols(names);
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string_view>{"a", "b", "c"}));
}

/// Builds random expressions as text next to their value: every way to compute a Dim must agree.
struct RandomDim {
  std::mt19937 rng;
  int64_t symbols[3];
  int pick(int n) { return int(rng() % unsigned(n)); }
  int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

  std::pair<std::string, int64_t> make(int depth) {
    if (depth == 0 || pick(4) == 0) {
      if (pick(2)) {
        const int s = pick(3);
        return {std::string("?") + "abc"[s], symbols[s]};
      }
      const int64_t v = pick(10);
      return {std::to_string(v), v};
    }
    auto [a, x] = make(depth - 1);
    const int kind = pick(5);
    if (kind < 3) {
      auto [b, y] = make(depth - 1);
      return {"(" + a + ")" + "+-*"[kind] + "(" + b + ")", kind == 0 ? x + y : kind == 1 ? x - y : x * y};
    }
    const int64_t by = 1 + pick(7);
    const int64_t q = floor_div(x, by);
    return {"(" + a + ")" + (kind == 3 ? "/" : "%") + std::to_string(by), kind == 3 ? q : x - q * by};
  }
};

TEST(Dim, NormalisingKeepsTheValue) {
  RandomDim random{std::mt19937(7), {}};
  for (int i = 0; i < 20'000; ++i) {
    for (auto& s : random.symbols) s = random.pick(50);
    const auto [text, value] = random.make(4);
    const Dim d = dim(text);
    auto env = [&](std::string_view s) { return std::optional(random.symbols[s[0] - 'a']); };
    ASSERT_EQ(d.evaluate(env), value) << text << " = " << d.str();
    ASSERT_EQ(dim(d.str()), d) << text << " = " << d.str();
    const Range r = d.bounds([](auto) { return Range{0, 49}; });
    ASSERT_TRUE(r.lo <= value && value <= r.hi) << text;
    ASSERT_EQ(d.substitute([&](std::string_view s) { return std::optional(Dim(*env(s))); }).constant(), value) << text;
  }
}

TEST(Dim, PostfixIsARuntimeProgram) {
  using Code = rt::Expr::Code;
  auto index = [](std::string_view s) { return int64_t(s == "a" ? 5 : 6); };
  EXPECT_EQ(dim("12").postfix(index), (std::vector<int64_t>{Code::Const, 12}));
  EXPECT_EQ(dim("?a").postfix(index), (std::vector<int64_t>{Code::Dim, 5}));
  EXPECT_EQ(dim("2*?a+?b+1").postfix(index),
            (std::vector<int64_t>{Code::Dim, 5, Code::Const, 2, Code::Mul, 0, Code::Dim, 6, Code::Add, 0, Code::Const,
                                  1, Code::Add, 0}));
  EXPECT_EQ(dim("(?a+1)/2").postfix(index),
            (std::vector<int64_t>{Code::Dim, 5, Code::Const, 1, Code::Add, 0, Code::Const, 2, Code::FloorDiv, 0}));
  EXPECT_EQ(dim("(?a%3)*?b").postfix(index),
            (std::vector<int64_t>{Code::Dim, 5, Code::Const, 3, Code::Mod, 0, Code::Dim, 6, Code::Mul, 0}));
}

}  // namespace
}  // namespace prism::ir
