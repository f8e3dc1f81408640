#include "ir/text.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "ir/op_info.h"
#include "ir/verifier.h"

namespace prism::ir {
namespace {

namespace fs = std::filesystem;

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in) << path;
  return (std::ostringstream() << in.rdbuf()).str();
}

/// The valid modules of tests/ir.
std::vector<std::string> samples() {
  const fs::path folder = fs::path(PRISM_SOURCE_DIR) / "tests/ir";
  return {read(folder / "roundtrip.prism"), read(folder / "kernel.prism")};
}

void expect_roundtrip(const std::string& text) {
  auto m = parse(text, "t");
  ASSERT_TRUE(m) << m.message();
  auto status = verify(**m);
  ASSERT_TRUE(status) << status.message();
  const std::string once = print(**m);
  auto again = parse(once, "t");
  ASSERT_TRUE(again) << again.message() << "\n" << once;
  EXPECT_EQ(print(**again), once);
}

TEST(Text, RoundTrips) {
  for (const std::string& text : samples()) expect_roundtrip(text);
}

TEST(Text, DocumentedSamplesAreValidAndCanonical) {
  const std::string page = read(fs::path(PRISM_SOURCE_DIR) / "docs/ir.md");
  int found = 0;
  for (size_t at = 0; (at = page.find("```prism\n", at)) != std::string::npos; ++found) {
    at += 9;
    const std::string text = page.substr(at, page.find("```", at) - at);
    expect_roundtrip(text);
    auto m = parse(text, "docs/ir.md");
    ASSERT_TRUE(m);
    EXPECT_EQ(print(**m), text.substr(text.find("module")));
  }
  EXPECT_EQ(found, 2);
}

std::string with_op(const std::string& line) {
  return "module @m level=graph {\n  dim ?n in [1,9]\n  weight @w : f32[8]\n  graph @f(%x: f32[?n,8]) -> (f32[?n,8]) "
         "{\n" +
         line + "\n    return %x\n  }\n}\n";
}

TEST(Text, ErrorsNameThePlace) {
  const std::pair<std::string, const char*> cases[] = {
      {"", "t:1:1: found the end of the file, expected 'module'"},
      {"module m", "t:1:8: found 'm', expected '@' and the module's name"},
      {"module @m level=high {", "t:1:17: found 'high', expected graph, fused, kernel or plan"},
      {"module @m level=graph {\n  wait", "t:2:3: found 'wait', expected dim, attr, weight, graph or '}'"},
      {"module @m level=graph {\n  dim ?n in [1,9]\n  dim ?n in [1,9]",
       "t:3:7: found '?n', expected a dim that is not declared yet"},
      {"module @m level=graph {\n  weight @w : f99[8]", "t:2:15: found type 'f99[8]', expected a known element type"},
      {"module @m level=graph {\n  attr a=\"x", "t:2:10: found '\"x', expected a word or string"},
      {"module @m level=graph {} x", "t:1:26: found 'x', expected the end of the file"},
      {with_op("%y = frob(%x) : f32[8]"), "t:5:6: found 'frob', expected an op"},
      {with_op("%y = relu(%z) : f32[8]"), "t:5:11: found '%z', expected a value that is defined before"},
      {with_op("%y = relu(@z) : f32[8]"), "t:5:11: found '@z', expected a weight that is declared before"},
      {with_op("%x = relu(%x) : f32[8]"), "t:5:1: found '%x', expected a name that is not used yet"},
      {with_op("%y, %y = relu(%x) : f32[8], f32[8]"), "t:5:5: found '%y', expected a name that is not used yet"},
      {with_op("%y = relu(%x) {by=2} : f32[8]"), "t:5:16: found 'by', expected an attribute of relu"},
      {with_op("%y = scale(%x) {by=two} : f32[8]"), "t:5:20: found 'two', expected a number"},
      {with_op("%y = scale(%x) {by=1, by=2} : f32[8]"), "t:5:23: found 'by', expected each attribute once"},
      {with_op("%y = scale(%x) {by=1e999} : f32[8]"), "t:5:20: found '1e999', expected a number"},
      {with_op("%y = softmax(%x) : f32[8"), "t:5:20: found type 'f32[8', expected dtype[dims] or kv<dtype>[dims]"},
      {with_op("%y = softmax(%x) : f32[?]"), "t:5:20: dim '?': found the end, expected a symbol's name"},
      {with_op("%y = softmax(%x) : f32[8], f32[8]"), "t:5:6: found 2 types, expected 1"},
      {with_op("%y = kernel(%x) : f32[8]"), "t:6:5: found 'return', expected '{'"},
      {"module @m level=graph { graph @f(%x: f32[8]) -> (f32[9]) { return %x } }",
       "t:1:31: graph @f returns f32[8] as value 0, expected f32[9]"},
      {"module @m level=graph { graph @f(%x: f32[8]) -> () { return %x } }",
       "t:1:31: graph @f returns 1 values, expected 0"},
      {"module @m level=graph { graph @f() -> () { return } graph @f() -> () { return } }",
       "t:1:59: found '@f', expected a graph that is not defined yet"},
  };
  for (const auto& [text, message] : cases) {
    auto m = parse(text, "t");
    ASSERT_FALSE(m) << text;
    EXPECT_EQ(m.message(), message);
  }
}

TEST(Text, NumbersRoundTripExactly) {
  Module m;
  m.name = "numbers";
  std::mt19937_64 rng(5);
  std::vector<double> values = {
      0.0, -0.0, 1e-5, 0.1, 1e300, 5e-324, INFINITY, -INFINITY, 16777217.0, 1e22, 123456789012345680.0};
  for (int i = 0; i < 2000; ++i) {
    const double v = std::bit_cast<double>(rng());
    if (v == v) values.push_back(v);
  }
  m.attrs.emplace_back("values", values);
  m.attrs.emplace_back("one", 10000.0);
  m.attrs.emplace_back("least", INT64_MIN);
  m.attrs.emplace_back("text", std::string("inf"));
  m.attrs.emplace_back("bytes", std::string("\x01\n\"\\\xff true"));
  auto back = parse(print(m), "t");
  ASSERT_TRUE(back) << back.message();
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_EQ(std::bit_cast<uint64_t>(std::get<std::vector<double>>((*back)->attrs[0].second)[i]),
              std::bit_cast<uint64_t>(values[i]));
  EXPECT_EQ((*back)->attrs, m.attrs);
}

TEST(Text, NestingIsBounded) {
  std::string text = "module @m level=fused { graph @f(%x: f32[8]) -> (f32[8]) {\n";
  for (int i = 0; i < 100'000; ++i) text += "%y = kernel(%x) : f32[8] { (%x: f32[8])\n";
  auto m = parse(text, "t");
  ASSERT_FALSE(m);
  EXPECT_NE(m.message().find("bodies nested at most 8 deep"), std::string::npos) << m.message();
}

TEST(Text, LargeGraphsStayLinear) {
  std::string text = "module @m level=graph { graph @f(%x: f32[8]) -> (f32[8]) {\n";
  for (int i = 0; i < 50'000; ++i) text += "%" + std::to_string(i) + " = add(%x, %x) : f32[8]\n";
  auto m = parse(text + "return %x } }", "t");  // 100,000 uses of one value are made and taken down again
  ASSERT_TRUE(m) << m.message();
  EXPECT_EQ((*m)->graphs[0]->args[0]->uses.size(), 100'000u);
}

/// Bit flips, truncations, swapped, doubled and lost tokens: no crash, one-line errors, and what parses prints to a
/// fixpoint.
TEST(Text, SurvivesMutations) {
  std::mt19937 rng(11);
  auto pick = [&](size_t n) { return size_t(rng() % n); };
  auto word_at = [&](const std::string& s) {
    size_t begin = pick(s.size()), end = begin;
    while (begin > 0 && !isspace(uint8_t(s[begin - 1]))) --begin;
    while (end < s.size() && !isspace(uint8_t(s[end]))) ++end;
    return std::pair(begin, end - begin);
  };
  const char* spices[] = {
      "}",    "{", "]",    "?n", "%x", "@w", "9223372036854775807", "-1", "\"", "kernel", "f32[?seq*?seq,(?past+1)/2]",
      "\\x0", ",", "1e308"};
  size_t parsed = 0, rounds = 0;
  for (const std::string& seed : samples()) {
    for (int i = 0; i < 4000; ++i, ++rounds) {
      std::string s = seed;
      for (size_t edits = 1 + pick(3); edits-- > 0 && !s.empty();) {
        const auto [at, length] = word_at(s);
        switch (pick(6)) {
          case 0: s[pick(s.size())] ^= char(1 << pick(8)); break;
          case 1: s.resize(pick(s.size())); break;
          case 2: s.erase(at, length); break;
          case 3: s.insert(at, s.substr(at, length) + " "); break;
          case 4: s.replace(at, length, spices[pick(std::size(spices))]); break;
          case 5: {
            const auto [other, n] = word_at(s);
            s.replace(at, length, s.substr(other, n));
          }
        }
      }
      auto m = parse(s, "t");
      if (!m) {
        ASSERT_TRUE(m.message().starts_with("t:")) << m.message();
        ASSERT_EQ(m.message().find('\n'), std::string::npos) << m.message();
        continue;
      }
      ++parsed;
      const std::string once = print(**m);
      auto again = parse(once, "t");
      ASSERT_TRUE(again) << again.message() << "\n" << s << "\n" << once;
      ASSERT_EQ(print(**again), once);
      auto status = verify(**m);
      ASSERT_TRUE(status || status.message().find('\n') == std::string::npos) << status.message();
    }
  }
  EXPECT_GT(parsed, rounds / 50);  // enough of them reach the printer
  EXPECT_LT(parsed, rounds * 9 / 10);
}

TEST(OpTable, IsConsistent) {
  for (const OpInfo& o : all_ops()) {
    EXPECT_EQ(op_from_mnemonic(o.mnemonic), o.op);
    EXPECT_EQ(info(o.op).name, o.name);
    EXPECT_LE(o.from, o.to);
    for (const AttrInfo& a : o.attrs)
      EXPECT_TRUE(!a.fallback || matches(*a.fallback, a.kind)) << o.mnemonic << "." << a.name;
  }
  EXPECT_EQ(info(Op::FlashAttention).attrs.size(), 8u);
  EXPECT_EQ(info(Op::Gelu).attrs[0].fallback, Attr(std::string("none")));
  EXPECT_EQ(info(Op::Rope).attrs[0].fallback, Attr(10000.0));
  EXPECT_FALSE(info(Op::Softcap).attrs[0].fallback);
  EXPECT_FALSE(op_from_mnemonic("frobnicate"));
}

}  // namespace
}  // namespace prism::ir
