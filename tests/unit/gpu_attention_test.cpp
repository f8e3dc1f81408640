// Append and attention as they come out of the pipeline, chunk after chunk into one cache.
#include "gpu_compiles.h"

namespace prism {
namespace {

struct Case {
  std::string name;
  int64_t heads, kv_heads, size, window;
  double softcap;
};

std::string attention_graphs(const std::vector<Case>& cases, int64_t most) {
  std::string text = "module @attention level=graph {\n  dim ?seq in [1," + std::to_string(most) + "]\n  dim ?past in [0,128]\n";
  for (const Case& c : cases) {
    const std::string h = std::to_string(c.heads), k = std::to_string(c.kv_heads), d = std::to_string(c.size), width = std::to_string(c.heads * c.size);
    const std::string q = "f32[?seq," + h + "," + d + "]", kv = "f32[?seq," + k + "," + d + "]", cache = "kv<f16>[?past+?seq," + k + "," + d + "]";
    text += "  graph @" + c.name + "(%q: " + q + ", %k: " + kv + ", %v: " + kv + ", %kv: kv<f16>[?past," + k + "," + d + "]) -> (f32[?seq," + width + "], " + cache + ") {\n"
            "    %p = positions() {start=\"?past\", count=\"?seq\"} : i32[?seq]\n"
            "    %qr = rope(%q, %p) {base=10000.0, mode=half} : " + q + "\n    %kr = rope(%k, %p) {base=10000.0, mode=half} : " + kv + "\n"
            "    %kv2 = kv_append(%kv, %kr, %v) : " + cache + "\n"
            "    %a = attention(%qr, %kv2) {scale=0.125, window=" + std::to_string(c.window) + ", softcap=" + std::to_string(c.softcap) + "} : " + q + "\n"
            "    %y = reshape(%a) {shape=\"?seq," + width + "\"} : f32[?seq," + width + "]\n    return %y, %kv2\n  }\n";
  }
  return text + "}\n";
}

void check_attention(GpuRows rows, int64_t most, const std::vector<int64_t>& chunks, double tolerance) {
  const std::vector<Case> cases = {{"gqa", 9, 3, 64, 0, 0}, {"wide", 2, 1, 128, 20, 0}, {"capped", 2, 2, 80, 0, 5.0}};
  auto fixture = GpuKernelFixture::create(attention_graphs(cases, most), rows);
  ASSERT_TRUE(fixture) << fixture.message();
  GpuKernelFixture& f = **fixture;
  expect_compiles(f);
  ir::Evaluator evaluator(f.original());
  for (const Case& c : cases) {
    std::vector<std::vector<uint8_t>> planes(2, std::vector<uint8_t>(size_t(c.kv_heads * GpuKernelFixture::kContext * c.size) * 2));
    ir::Tensor cache = tensor_of({0, c.kv_heads, c.size}, {});
    int64_t past = 0;
    for (int64_t seq : chunks) {
      const auto q = normal_floats(size_t(seq * c.heads * c.size), unsigned(past + 1)), k = normal_floats(size_t(seq * c.kv_heads * c.size), unsigned(past + 2)),
                 v = normal_floats(size_t(seq * c.kv_heads * c.size), unsigned(past + 3));
      auto want = evaluator.run(*f.original().graph(c.name), {{"q", tensor_of({seq, c.heads, c.size}, q)}, {"k", tensor_of({seq, c.kv_heads, c.size}, k)},
                                                              {"v", tensor_of({seq, c.kv_heads, c.size}, v)}, {"kv", cache}}, {{"seq", seq}, {"past", past}});
      ASSERT_TRUE(want) << want.message();
      const auto got = f.run(c.name, {q.data(), k.data(), v.data()}, {{"seq", seq}, {"past", past}}, &planes);
      ASSERT_TRUE(got) << got.message();
      EXPECT_LT(largest_relative_error(as_floats((*got)[0]), (*want)[0].f), tolerance) << c.name << " past " << past << " seq " << seq;
      cache = (*want)[1];
      past += seq;
    }
  }
}

// Rotated keys near the middle between two f16 may be rounded apart: 2^-11 of a key.
TEST(GpuAttention, FewTokens) { check_attention(GpuRows::Few, 16, {16, 1, 13, 1, 16, 16, 1, 5}, 1e-3); }
TEST(GpuAttention, ManyTokens) { check_attention(GpuRows::Many, 64, {20, 1, 47, 60, 13}, 2e-3); }

}  // namespace
}  // namespace prism
