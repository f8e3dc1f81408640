// The formulas of what kernels move and compute, against the same counted one by one.
#include <gtest/gtest.h>

#include "tests/unit/kernel_fixture.h"

namespace prism {
namespace {

struct Amounts {
  int64_t weights, kv, activations, operations;
  bool operator==(const Amounts&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Amounts& a) {
  return out << "weights " << a.weights << ", kv " << a.kv << ", activations " << a.activations << ", operations " << a.operations;
}

/// Of the only launch of @f with so many new tokens after `past`.
Amounts amounts(const std::string& graph, int64_t seq, int64_t past) {
  auto fixture = KernelFixture::create("module @m level=graph {\n  dim ?past in [0,2048]\n  dim ?seq in [1,512]\n" + graph + "}\n", rt::Isa::Generic);
  EXPECT_TRUE(fixture) << fixture.message();
  const rt::Program& p = (*fixture)->executable().program();
  std::vector<int64_t> dims;
  for (const std::string& d : p.dims) dims.push_back(d == "seq" ? seq : d == "past" ? past : 2048);
  Amounts sum{};
  for (const rt::Launch& l : p.entries[0].launches) {
    const auto& w = p.kernels[l.kernel].work;
    EXPECT_TRUE(w) << p.kernels[l.kernel].symbol;
    sum.weights += *w->weights.evaluate(dims);
    sum.kv += *w->kv.evaluate(dims);
    sum.activations += *w->activations.evaluate(dims);
    sum.operations += *w->operations.evaluate(dims);
  }
  return sum;
}

TEST(Work, ALinearReadsItsWeightsOnce) {
  const std::string text = "  weight @w : f16[48,64]\n  graph @f(%x: f32[?seq,64], %r: f32[?seq,48]) -> (f32[?seq,48]) {\n    %y = linear(%x, @w) : f32[?seq,48]\n"
                           "    %z = add(%y, %r) : f32[?seq,48]\n    return %z\n  }\n";
  for (int64_t seq : {1, 7, 512})
    EXPECT_EQ(amounts(text, seq, 0), (Amounts{48 * 64 * 2, 0, seq * (64 + 48 + 48) * 4, seq * (2 * 48 * 64 + 48)}));
}

TEST(Work, QuantizedBlocksCountAsTheyAreStored) {
  const std::string text = "  weight @w : q4_1[32,64]\n  graph @f(%x: f32[?seq,64]) -> (f32[?seq,32]) {\n    %y = linear(%x, @w) : f32[?seq,32]\n    return %y\n  }\n";
  // Two launches: f32 to q8a, of 48 bytes for 32 values; then q8a by weights of 20 bytes for 32.
  EXPECT_EQ(amounts(text, 3, 0), (Amounts{32 * 2 * 20, 0, 3 * (64 * 4 + 96 + 96 + 32 * 4), 3 * (64 + 2 * 32 * 64)}));
}

TEST(Work, AnEmbeddingReadsARowForEachId) {
  const std::string text = "  weight @t : f32[1000,64]\n  graph @f(%i: i32[?seq]) -> (f32[?seq,64]) {\n    %y = embedding(%i, @t) : f32[?seq,64]\n    return %y\n  }\n";
  EXPECT_EQ(amounts(text, 5, 0), (Amounts{5 * 64 * 4, 0, 5 * (4 + 64 * 4), 5 * 64}));
}

TEST(Work, OnlyTheTailIsRead) {
  const std::string text = "  graph @f(%x: f32[?seq,64]) -> (f32[1,64]) {\n    %y = tail(%x) {rows=\"1\"} : f32[1,64]\n    return %y\n  }\n";
  EXPECT_EQ(amounts(text, 100, 0), (Amounts{0, 0, 2 * 64 * 4, 0}));
}

TEST(Work, AttentionSeesKeysUpToItsRowOrItsWindow) {
  for (int64_t window : {0, 1, 40, 4096})
    for (int64_t past : {0, 1, 39, 100, 1500})
      for (int64_t seq : {1, 2, 41, 300}) {
        const std::string text = "  graph @f(%q: f32[?seq,4,16], %kv: kv<f16>[?past+?seq,2,16]) -> (f32[?seq,4,16]) {\n    %a = attention(%q, %kv) {scale=0.25, window=" +
                                 std::to_string(window) + "} : f32[?seq,4,16]\n    return %a\n  }\n";
        int64_t keys = 0, first = past + seq;
        for (int64_t row = past; row < past + seq; ++row)
          for (int64_t key = 0; key <= row; ++key)
            if (window == 0 || row - key < window) {
              ++keys;
              first = std::min(first, key);
            }
        EXPECT_EQ(amounts(text, seq, past), (Amounts{0, (past + seq - first) * 2 * 16 * 2 * 2, 2 * seq * 4 * 16 * 4, keys * 4 * 16 * 4}))
            << "window " << window << " past " << past << " seq " << seq;
      }
}

TEST(Work, AppendingWritesOnlyTheNewPositions) {
  for (const auto& [dtype, bytes] : std::vector<std::pair<std::string, int64_t>>{{"f16", 2}, {"bf16", 2}, {"f32", 4}}) {
    const std::string kv = "kv<" + dtype + ">";
    const std::string text = "  graph @f(%k: f32[?seq,2,16], %v: f32[?seq,2,16], %kv: " + kv + "[?past,2,16]) -> (" + kv + "[?past+?seq,2,16]) {\n"
                             "    %a = kv_append(%kv, %k, %v) : " + kv + "[?past+?seq,2,16]\n    return %a\n  }\n";
    EXPECT_EQ(amounts(text, 7, 1000), (Amounts{0, 7 * 2 * 16 * 2 * bytes, 2 * 7 * 2 * 16 * 4, 0})) << dtype;
  }
}

}  // namespace
}  // namespace prism
