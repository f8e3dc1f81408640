// Linears of many rows on the emulated device, every format and everything that may follow, against the reference evaluator.
#include "gpu_kernel_fixture.h"

namespace prism {
namespace {

struct Shape {
  int64_t n, k;
};

std::string str(int64_t v) { return std::to_string(v); }

/// Weights are rounded to bf16, by 2^-9 at most, where the evaluator's are not.
double tolerance(DType t) { return t == DType::BF16 ? 1e-5 : 1e-2; }

/// Runs an f32[?seq,k] -> f32 entry.
void check(GpuKernelFixture& f, const std::string& name, int64_t k, int64_t seq, double tolerance, float scale = 1) {
  ir::Evaluator evaluator(f.original());
  const auto x = normal_floats(size_t(seq * k), unsigned(seq), scale);
  auto want = evaluator.run(*f.original().graph(name), {{"x", tensor_of({seq, k}, x)}}, {{"seq", seq}, {"past", 0}});
  ASSERT_TRUE(want) << name << ": " << want.message();
  const auto got = f.run(name, {x.data()}, {{"seq", seq}});
  ASSERT_TRUE(got) << name << ": " << got.message();
  EXPECT_LT(largest_relative_error(as_floats((*got)[0]), (*want)[0].f), tolerance) << name << " seq " << seq;
}

TEST(GpuGemm, EveryFormatAtManyShapes) {
  const Shape shapes[] = {{50, 512}, {96, 768}, {512, 256}, {50, 576}, {96, 32}, {512, 96}};
  for (DType t : kFormats) {
    const std::string f(ir::info(t).name);
    std::string text = "module @linears level=graph {\n  dim ?seq in [1,192]\n", graphs;
    std::vector<std::pair<std::string, int64_t>> names;
    for (Shape s : shapes) {
      if (s.k % int64_t(ir::info(t).block)) continue;
      const std::string w = "w_" + str(s.n) + "_" + str(s.k), rows = "[?seq," + str(s.k) + "]", result = " : f32[?seq," + str(s.n) + "]\n";
      text += "  weight @" + w + " : " + f + "[" + str(s.n) + "," + str(s.k) + "]\n";
      names.push_back({"g" + w, s.k});
      graphs += "  graph @g" + w + "(%x: f32" + rows + ") -> (f32[?seq," + str(s.n) + "]) {\n";
      // f32 weights are not made for bf16 by themselves
      if (t == DType::F32) graphs += "    %b = cast(%x) {to=bf16, layout=row_major} : bf16" + rows + "\n    %y = linear(%b, @" + w + ")" + result;
      else graphs += "    %y = linear(%x, @" + w + ")" + result;
      graphs += "    return %y\n  }\n";
    }
    auto fixture = GpuKernelFixture::create(text + graphs + "}\n", GpuRows::Many);
    ASSERT_TRUE(fixture) << fixture.message();
    (*fixture)->expect_compiles();
    const int64_t seqs[] = {1, 17, 130, 3, 65};
    size_t i = size_t(t);
    for (const auto& [name, k] : names) {
      check(**fixture, name, k, seqs[i++ % 5], tolerance(t));
      check(**fixture, name, k, seqs[i % 5], tolerance(t));
    }
  }
}

TEST(GpuGemm, WhatFollows) {
  // @same_*: 96 columns to 96, @gu_*: to 192 for a glu, @down_*: 96 to 50
  const std::vector<std::pair<std::string, std::string>> chains = {
      {"bias", "%y = linear(%x, @same_F, @v) : f32[?seq,96]"},
      {"residual", "%a = linear(%x, @same_F) : f32[?seq,96]\n %y = add(%a, %x) : f32[?seq,96]"},
      {"row", "%a = linear(%x, @same_F, @v) : f32[?seq,96]\n %b = mul(%a, @u) : f32[?seq,96]\n %y = add(%b, @v) : f32[?seq,96]"},
      {"relu", "%a = linear(%x, @same_F) : f32[?seq,96]\n %b = relu(%a) : f32[?seq,96]\n %y = scale(%b) {by=0.5, plus=2.0} : f32[?seq,96]"},
      {"silu", "%a = linear(%x, @same_F) : f32[?seq,96]\n %b = silu(%a) : f32[?seq,96]\n %y = sigmoid(%b) : f32[?seq,96]"},
      {"gelu", "%a = linear(%x, @same_F) : f32[?seq,96]\n %y = gelu(%a) : f32[?seq,96]"},
      {"gelu_tanh", "%a = linear(%x, @same_F) : f32[?seq,96]\n %b = gelu(%a) {approximate=tanh} : f32[?seq,96]\n %y = tanh(%b) : f32[?seq,96]"},
      {"softcap", "%a = linear(%x, @same_F) : f32[?seq,96]\n %y = softcap(%a) {cap=3.0} : f32[?seq,96]"},
      {"glu", "%a = linear(%x, @gu_F) : f32[?seq,192]\n %y = glu(%a) {act=silu, group=16} : f32[?seq,96]"},
      // the first kernel's result is bf16
      {"narrow", "%a = linear(%x, @same_F, @v) : f32[?seq,96]\n %y = linear(%a, @same_F) : f32[?seq,96]"},
      {"mlp", "%a = linear(%x, @gu_F) : f32[?seq,192]\n %g = glu(%a) {act=gelu_tanh, group=16} : f32[?seq,96]\n %y = linear(%g, @same_F, @v) : f32[?seq,96]"},
      // ... and q8a
      {"q8a", "%a = linear(%x, @same_F) : f32[?seq,96]\n %q = quantize(%a) {format=q8a} : q8a[?seq,96]\n %y = linear(%q, @next) : f32[?seq,96]"},
      {"glu_q8a", "%a = linear(%x, @gu_F) : f32[?seq,192]\n %g = glu(%a) {act=silu, group=16} : f32[?seq,96]\n %q = quantize(%g) {format=q8a} : q8a[?seq,96]\n"
                  " %y = linear(%q, @next) : f32[?seq,96]"},
  };
  std::string weights, graphs;
  const DType formats[] = {DType::BF16, DType::Q5_1};
  for (DType t : formats) {
    const std::string f(ir::info(t).name);
    weights += "  weight @same_" + f + " : " + f + "[96,96]\n  weight @gu_" + f + " : " + f + "[192,96]\n";
    for (auto [name, ops] : chains) {
      for (size_t at; (at = ops.find("_F")) != std::string::npos;) ops.replace(at, 2, "_" + f);
      graphs += "  graph @" + name + "_" + f + "(%x: f32[?seq,96]) -> (f32[?seq,96]) {\n    " + ops + "\n    return %y\n  }\n";
    }
  }
  auto fixture = GpuKernelFixture::create("module @m level=graph {\n  dim ?seq in [1,192]\n  weight @v : f32[96]\n  weight @u : f32[96]\n  weight @next : q8_0[96,96]\n" + weights + graphs + "}\n", GpuRows::Many);
  ASSERT_TRUE(fixture) << fixture.message();
  (*fixture)->expect_compiles();
  for (DType t : formats)
    for (const auto& [name, ops] : chains)
      for (int64_t seq : {3, 70}) {
        // Where the evaluator's sum rounds the other way, a value between two linears moves by 2^-8 of itself in bf16, by 1/127 of its block's largest in q8a.
        const bool narrowed = name == "narrow" || name == "mlp" || name.ends_with("q8a");
        check(**fixture, name + "_" + std::string(ir::info(t).name), 96, seq, narrowed ? std::max(tolerance(t), 1e-3) : tolerance(t));
      }
}

}  // namespace
}  // namespace prism
