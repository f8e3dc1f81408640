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

struct Step {
  std::string name;
  int64_t heads, kv_heads, size, window;
  std::string rope;   ///< mode
  bool norms;
};

/// A single token whose queries, key and value are parts of one row.
std::string step_graphs(const std::vector<Step>& steps) {
  std::string weights, graphs;
  for (const Step& s : steps) {
    const std::string h = std::to_string(s.heads), k = std::to_string(s.kv_heads), d = std::to_string(s.size), width = std::to_string(s.heads * s.size);
    const std::string cache = "kv<f16>[?past+1," + k + "," + d + "]", row = std::to_string((s.heads + 2 * s.kv_heads) * s.size);
    weights += "  weight @norm_" + s.name + " : f32[" + d + "]\n";
    graphs += "  graph @" + s.name + "(%x: f32[1," + row + "], %kv: kv<f16>[?past," + k + "," + d + "]) -> (f32[1," + width + "], " + cache + ") {\n    %p = positions() {start=\"?past\", count=\"1\"} : i32[1]\n";
    int64_t at = 0;
    const auto part = [&](const std::string& name, int64_t heads) {
      const std::string n = std::to_string(heads), type = "f32[1," + n + "," + d + "]", begin = std::to_string(at), end = std::to_string(at + heads * s.size);
      graphs += "    %" + name + "0 = slice(%x) {axis=1, begin=" + begin + ", end=" + end + "} : f32[1," + std::to_string(heads * s.size) + "]\n    %" + name + "1 = reshape(%" + name +
                "0) {shape=\"1," + n + "," + d + "\"} : " + type + "\n";
      at += heads * s.size;
      if (name == "v") return;
      if (s.norms) graphs += "    %" + name + "2 = rms_norm(%" + name + "1, @norm_" + s.name + ") {eps=0.00001} : " + type + "\n";
      graphs += "    %" + name + " = rope(%" + name + (s.norms ? "2" : "1") + ", %p) {base=10000.0, mode=" + s.rope + "} : " + type + "\n";
    };
    part("q", s.heads);
    part("k", s.kv_heads);
    part("v", s.kv_heads);
    graphs += "    %kv2 = kv_append(%kv, %k, %v1) : " + cache + "\n    %a = attention(%q, %kv2) {scale=0.125, window=" + std::to_string(s.window) + "} : f32[1," + h + "," + d +
              "]\n    %y = reshape(%a) {shape=\"1," + width + "\"} : f32[1," + width + "]\n    return %y, %kv2\n  }\n";
  }
  return "module @steps level=graph {\n  dim ?past in [0,190]\n" + weights + graphs + "}\n";
}

/// A cache of `past` positions as a tensor and as the kernels have it; elsewhere lies what another conversation left.
struct MadeCache {
  MadeCache(const Step& s, int64_t past) : tensor(tensor_of({past, s.kv_heads, s.size}, {})), size(s.size) {
    for (int plane = 0; plane < 2; ++plane) {
      planes.emplace_back(size_t(s.kv_heads * GpuKernelFixture::kContext * s.size) * 2);
      for (size_t i = 0; i < planes[size_t(plane)].size() / 2; ++i) half(size_t(plane), i) = f32_to_f16(plane ? -900.f : 300.f);
      const auto values = normal_floats(size_t(past * s.kv_heads * s.size), unsigned(11 + plane));
      for (int64_t i = 0; i < int64_t(values.size()); ++i) {
        const int64_t position = i / (s.kv_heads * s.size), head = i / s.size % s.kv_heads, channel = i % s.size;
        const uint16_t bits = f32_to_f16(values[size_t(i)]);
        half(size_t(plane), place(plane == 0, position, head, channel)) = bits;
        tensor.f.push_back(f16_to_f32(bits));
      }
    }
  }
  size_t place(bool keys, int64_t position, int64_t head, int64_t channel) const {
    const int64_t begin = head * GpuKernelFixture::kContext * size;
    return size_t(keys ? begin + position / 16 * (size * 16) + channel * 16 + position % 16 : begin + position * size + channel);
  }
  uint16_t& half(size_t plane, size_t i) { return reinterpret_cast<uint16_t*>(planes[plane].data())[i]; }

  std::vector<std::vector<uint8_t>> planes;
  ir::Tensor tensor;
  int64_t size;
};

// One launch: attention computes its queries and appends first. Positions 128 and on belong to the second of the blocks that share the keys; of 16 heads that share a
// KV head two blocks append the same.
TEST(GpuAttention, SingleTokenAppends) {
  const std::vector<Step> steps = {{"gqa", 9, 3, 64, 0, "half", false}, {"wide", 2, 1, 128, 20, "adjacent", true},
                                   {"shared", 16, 1, 32, 0, "half", true}, {"large", 4, 4, 256, 0, "adjacent", false}};
  auto fixture = GpuKernelFixture::create(step_graphs(steps), GpuRows::Few);
  ASSERT_TRUE(fixture) << fixture.message();
  GpuKernelFixture& f = **fixture;
  expect_compiles(f);
  ir::Evaluator evaluator(f.original());
  for (const Step& s : steps) {
    for (const rt::EntryPoint& e : f.program().entries) {
      if (e.name == s.name) {
        EXPECT_EQ(e.launches.size(), 1u) << s.name;
      }
    }
    for (int64_t past : {0, 1, 63, 64, 127, 128, 190}) {
      MadeCache cache(s, past);
      const std::vector<std::vector<uint8_t>> before = cache.planes;
      const int64_t width = (s.heads + 2 * s.kv_heads) * s.size;
      const auto x = normal_floats(size_t(width), unsigned(past + 1));
      auto want = evaluator.run(*f.original().graph(s.name), {{"x", tensor_of({1, width}, x)}, {"kv", cache.tensor}}, {{"past", past}});
      ASSERT_TRUE(want) << want.message();
      const auto got = f.run(s.name, {x.data()}, {{"past", past}}, &cache.planes);
      ASSERT_TRUE(got) << got.message();
      const std::string where = s.name + " past " + std::to_string(past);
      EXPECT_LT(largest_relative_error(as_floats((*got)[0]), (*want)[0].f), 1e-3) << where;
      // The token's own place holds what the evaluator appended, all others what they did.
      const std::vector<float>& appended = (*want)[1].f;
      auto expected = before;
      for (size_t plane = 0; plane < 2; ++plane)
        for (int64_t i = 0; i < s.kv_heads * s.size; ++i) {
          const size_t at = cache.place(plane == 0, past, i / s.size, i % s.size);
          const float value = appended[plane * appended.size() / 2 + size_t(past * s.kv_heads * s.size + i)];
          EXPECT_NEAR(f16_to_f32(cache.half(plane, at)), value, 1e-3 * std::max(1.f, std::abs(value))) << where << " plane " << plane << " element " << i;
          std::memcpy(expected[plane].data() + 2 * at, cache.planes[plane].data() + 2 * at, 2);
        }
      EXPECT_TRUE(cache.planes == expected) << where;
    }
  }
}

}  // namespace
}  // namespace prism
