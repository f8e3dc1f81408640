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

}  // namespace
}  // namespace prism
