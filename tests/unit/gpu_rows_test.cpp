// Row-wise GPU kernels generated from graphs, on the emulated device, against the reference evaluator.
#include "gpu_compiles.h"

namespace prism {
namespace {

constexpr int64_t kSeqs[] = {1, 3, 13};

/// Runs f32[?seq,width] -> f32 entries at several lengths.
void check_rows(GpuKernelFixture& f, const std::string& name, int64_t width, double tolerance) {
  ir::Evaluator evaluator(f.original());
  for (int64_t seq : kSeqs) {
    const auto x = normal_floats(size_t(seq * width), unsigned(seq));
    auto want = evaluator.run(*f.original().graph(name), {{"x", tensor_of({seq, width}, x)}}, {{"seq", seq}, {"past", 0}});
    ASSERT_TRUE(want) << name << ": " << want.message();
    const auto got = f.run(name, {x.data()}, {{"seq", seq}});
    ASSERT_TRUE(got) << name << ": " << got.message();
    EXPECT_LT(largest_relative_error(as_floats((*got)[0]), (*want)[0].f), tolerance) << name << " seq " << seq;
  }
}

TEST(GpuRows, NormsSoftmaxAndElementwise) {
  const std::vector<std::pair<std::string, std::string>> chains = {
      {"rms", "%y = rms_norm(%x, @w) {eps=1e-5} : f32[?seq,W]"},
      {"layer", "%y = layer_norm(%x, @w, @b) {eps=1e-5} : f32[?seq,W]"},
      {"softmax", "%y = softmax(%x) : f32[?seq,W]"},
      {"gelu", "%a = gelu(%x) : f32[?seq,W]\n %y = add(%a, %x) : f32[?seq,W]"},
      {"mixed", "%a = silu(%x) : f32[?seq,W]\n %c = mul(%a, @w) : f32[?seq,W]\n %d = tanh(%c) : f32[?seq,W]\n"
                " %e = sub(%d, %x) : f32[?seq,W]\n %g = sigmoid(%e) : f32[?seq,W]\n %y = scale(%g) {by=2.0, plus=1.0} : f32[?seq,W]"},
      {"hadamard", "%a = silu(%x) : f32[?seq,W]\n %c = hadamard(%a) : f32[?seq,W]\n %y = add(%c, %x) : f32[?seq,W]"},
      {"affine", "%a = quantize(%x) {format=u8, scale=0.015625, zero_point=97} : u8[?seq,W]\n %y = dequantize(%a) {scale=0.015625, zero_point=97} : f32[?seq,W]"},
      {"normed", "%a = rms_norm(%x, @w) {eps=1e-5} : f32[?seq,W]\n %c = add(%a, %x) : f32[?seq,W]\n %y = rms_norm(%c, @b) {eps=1e-5} : f32[?seq,W]"},
  };
  for (int64_t width : {1, 37, 96, 257, 1100}) {
    std::string graphs;
    for (const auto& [name, ops] : chains)
      graphs += "  graph @" + name + "(%x: f32[?seq,W]) -> (f32[?seq,W]) {\n    " + ops + "\n    return %y\n  }\n";
    std::string text = "module @rows level=graph {\n  dim ?seq in [1,64]\n  weight @w : f32[W]\n  weight @b : f32[W]\n" + graphs + "}\n";
    for (size_t at; (at = text.find('W')) != std::string::npos;) text.replace(at, 1, std::to_string(width));
    auto fixture = GpuKernelFixture::create(text, GpuRows::Few);
    ASSERT_TRUE(fixture) << fixture.message();
    expect_compiles(**fixture);
    for (const auto& [name, ops] : chains) check_rows(**fixture, name, width, 2e-5);
  }
}

TEST(GpuRows, EmbeddingOfEveryFormat) {
  std::string text = "module @tables level=graph {\n  dim ?seq in [1,64]\n";
  for (DType t : kFormats) {
    const std::string f(ir::info(t).name);
    text += "  weight @t_" + f + " : " + f + "[40,256]\n  graph @e_" + f + "(%ids: i32[?seq]) -> (f32[?seq,256]) {\n    %y = embedding(%ids, @t_" + f +
            ") : f32[?seq,256]\n    return %y\n  }\n";
  }
  auto fixture = GpuKernelFixture::create(text + "}\n", GpuRows::Few);
  ASSERT_TRUE(fixture) << fixture.message();
  GpuKernelFixture& f = **fixture;
  expect_compiles(f);
  ir::Evaluator evaluator(f.original());
  const std::vector<int32_t> ids = {0, 39, 17, 16, 15, 5, 5};
  for (DType t : kFormats) {
    const std::string name = "e_" + std::string(ir::info(t).name);
    ir::Tensor in;
    in.shape = {int64_t(ids.size())};
    in.i.assign(ids.begin(), ids.end());
    auto want = evaluator.run(*f.original().graph(name), {{"ids", in}}, {});
    ASSERT_TRUE(want) << want.message();
    const auto got = f.run(name, {ids.data()}, {{"seq", int64_t(ids.size())}});
    ASSERT_TRUE(got) << got.message();
    EXPECT_LT(largest_relative_error(as_floats((*got)[0]), (*want)[0].f), 1e-6) << name;
  }
}

TEST(GpuRows, AppendAndRope) {
  struct Case {
    std::string name;
    int64_t heads, kv_heads, size;
    std::string mode;
    int64_t rotated;
  };
  const std::vector<Case> cases = {{"gqa", 9, 3, 64, "adjacent", 0}, {"half", 4, 2, 128, "half", 0}, {"part", 3, 1, 80, "half", 32},
                                   {"wide", 2, 1, 256, "half", 0}, {"small", 2, 1, 32, "adjacent", 16}};
  std::string text = "module @append level=graph {\n  dim ?seq in [1,64]\n  dim ?past in [0,128]\n  weight @factors : f32[16]\n";
  for (const Case& c : cases) {
    const std::string h = std::to_string(c.heads), k = std::to_string(c.kv_heads), d = std::to_string(c.size);
    const std::string q = "f32[?seq," + h + "," + d + "]", kv = "f32[?seq," + k + "," + d + "]";
    const std::string rope = std::string(c.rotated == 32 ? ", @factors" : "") + ") {base=10000.0, mode=" + c.mode + ", dims=" + std::to_string(c.rotated) + "}";
    text += "  weight @n_" + c.name + " : f32[" + d + "]\n  graph @" + c.name + "(%q: " + q + ", %k: " + kv + ", %v: " + kv + ", %kv: kv<f16>[?past," + k + "," + d +
            "]) -> (" + q + ", kv<f16>[?past+?seq," + k + "," + d + "]) {\n"
            "    %p = positions() {start=\"?past\", count=\"?seq\"} : i32[?seq]\n"
            "    %qn = rms_norm(%q, @n_" + c.name + ") {eps=1e-6} : " + q + "\n"
            "    %qr = rope(%qn, %p" + rope + " : " + q + "\n    %kr = rope(%k, %p" + rope + " : " + kv + "\n"
            "    %kv2 = kv_append(%kv, %kr, %v) : kv<f16>[?past+?seq," + k + "," + d + "]\n"
            "    return %qr, %kv2\n  }\n";
  }
  auto fixture = GpuKernelFixture::create(text + "}\n", GpuRows::Few);
  ASSERT_TRUE(fixture) << fixture.message();
  GpuKernelFixture& f = **fixture;
  expect_compiles(f);
  ir::Evaluator evaluator(f.original());
  for (const Case& c : cases) {
    std::vector<std::vector<uint8_t>> planes(2, std::vector<uint8_t>(size_t(c.kv_heads * GpuKernelFixture::kContext * c.size) * 2));
    ir::Tensor cache = tensor_of({0, c.kv_heads, c.size}, {});
    int64_t past = 0;
    for (int64_t seq : {20, 1, 13}) {
      const auto q = normal_floats(size_t(seq * c.heads * c.size), unsigned(past + 1)), k = normal_floats(size_t(seq * c.kv_heads * c.size), unsigned(past + 2)),
                 v = normal_floats(size_t(seq * c.kv_heads * c.size), unsigned(past + 3));
      auto want = evaluator.run(*f.original().graph(c.name), {{"q", tensor_of({seq, c.heads, c.size}, q)}, {"k", tensor_of({seq, c.kv_heads, c.size}, k)},
                                                              {"v", tensor_of({seq, c.kv_heads, c.size}, v)}, {"kv", cache}}, {{"seq", seq}, {"past", past}});
      ASSERT_TRUE(want) << want.message();
      const auto got = f.run(c.name, {q.data(), k.data(), v.data()}, {{"seq", seq}, {"past", past}}, &planes);
      ASSERT_TRUE(got) << got.message();
      EXPECT_LT(largest_relative_error(as_floats((*got)[0]), (*want)[0].f), 1e-5) << c.name << " past " << past;
      cache = (*want)[1];
      past += seq;
    }
    // What the planes hold is what the evaluator's cache holds: K [head][position/16][size][16], V [head][position][size].
    const ir::Tensor& all = cache;
    const auto half = [](const std::vector<uint8_t>& plane, int64_t i) {
      uint16_t h;
      memcpy(&h, plane.data() + 2 * i, 2);
      return f16_to_f32(h);
    };
    ASSERT_EQ(all.shape[0], past);
    for (int64_t p = 0; p < past; ++p)
      for (int64_t h = 0; h < c.kv_heads; ++h)
        for (int64_t i = 0; i < c.size; ++i) {
          const float key = half(planes[0], h * GpuKernelFixture::kContext * c.size + p / 16 * (c.size * 16) + i * 16 + p % 16);
          const float value = half(planes[1], (h * GpuKernelFixture::kContext + p) * c.size + i);
          ASSERT_NEAR(key, all.f[size_t((p * c.kv_heads + h) * c.size + i)], 2e-3) << c.name;
          ASSERT_NEAR(value, all.f[size_t(all.elements() + (p * c.kv_heads + h) * c.size + i)], 2e-3) << c.name;
        }
  }
}

}  // namespace
}  // namespace prism
