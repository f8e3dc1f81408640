// Linears of few rows on the emulated device, every format, against the reference evaluator.
#include "gpu_compiles.h"

namespace prism {
namespace {

struct Shape {
  int64_t n, k;
};

/// Runs f32[?seq,k] -> f32 entries at several lengths; one row at a time gives the same bits.
void check(GpuKernelFixture& f, const std::string& name, int64_t width, double tolerance, float scale = 1) {
  ir::Evaluator evaluator(f.original());
  for (int64_t seq : {1, 3, 8, 13}) {
    const auto x = normal_floats(size_t(seq * width), unsigned(seq), scale);
    auto want = evaluator.run(*f.original().graph(name), {{"x", tensor_of({seq, width}, x)}}, {{"seq", seq}, {"past", 0}});
    ASSERT_TRUE(want) << name << ": " << want.message();
    const auto got = f.run(name, {x.data()}, {{"seq", seq}});
    ASSERT_TRUE(got) << name << ": " << got.message();
    EXPECT_LT(largest_relative_error(as_floats((*got)[0]), (*want)[0].f), tolerance) << name << " seq " << seq;
    for (int64_t r : {int64_t(0), seq - 1}) {
      const auto row = f.run(name, {x.data() + r * width}, {{"seq", 1}});
      ASSERT_TRUE(row) << row.message();
      const size_t bytes = (*got)[0].size() / size_t(seq);
      EXPECT_EQ((*row)[0], std::vector<uint8_t>((*got)[0].begin() + ptrdiff_t(size_t(r) * bytes), (*got)[0].begin() + ptrdiff_t(size_t(r + 1) * bytes)))
          << name << " seq " << seq << " row " << r << ": bits differ alone";
    }
  }
}

std::string graph(const std::string& name, const std::string& rows, const std::string& format, Shape s) {
  const std::string n = std::to_string(s.n), k = std::to_string(s.k);
  return "  graph @" + name + "(%x: f32[" + rows + "," + k + "]) -> (f32[" + rows + "," + n + "]) {\n    %y = linear(%x, @w_" + format + "_" + n + "_" + k +
         ") : f32[" + rows + "," + n + "]\n    return %y\n  }\n";
}

void check_format(DType t, const std::string& dense, const std::vector<Shape>& shapes) {
  const std::string f(ir::info(t).name);
  std::string text = "module @linears level=graph {\n  dim ?seq in [1,64]\n", graphs;
  for (Shape s : shapes) {
    text += "  weight @w_" + f + "_" + std::to_string(s.n) + "_" + std::to_string(s.k) + " : " + f + "[" + std::to_string(s.n) + "," + std::to_string(s.k) + "]\n";
    graphs += graph("rows_" + std::to_string(s.n), "?seq", f, s) + graph("row_" + std::to_string(s.n), "1", f, s);
  }
  auto fixture = GpuKernelFixture::create(text + graphs + "}\n", GpuRows::Few, GpuKernelFixture::pipeline_for(GpuRows::Few, dense));
  ASSERT_TRUE(fixture) << fixture.message();
  expect_compiles(**fixture);
  for (Shape s : shapes) {
    check(**fixture, "rows_" + std::to_string(s.n), s.k, 1e-5);
    // The kernel for one row has the same bits as that for several.
    const auto x = normal_floats(size_t(s.k), 5);
    const auto one = (*fixture)->run("row_" + std::to_string(s.n), {x.data()}, {}), same = (*fixture)->run("rows_" + std::to_string(s.n), {x.data()}, {{"seq", 1}});
    ASSERT_TRUE(one && same);
    EXPECT_EQ((*one)[0], (*same)[0]) << f << " " << s.n;
  }
}

TEST(GpuGemv, EveryFormatAtManyShapes) {
  for (DType t : kFormats) check_format(t, "row_major", {{50, 512}, {16, 256}, {33, 768}, {96, 2048}, {17, 1536}});
}

TEST(GpuGemv, SwizzledTiles) { check_format(DType::BF16, "swizzled", {{50, 512}, {16, 64}, {96, 1088}, {48, 32}, {21, 96}, {130, 576}}); }

TEST(GpuGemv, BlocksOf32AndOddColumns) {
  // 576 columns are no multiple of 256; 37 fill no 16 bytes.
  std::string text = "module @linears level=graph {\n  dim ?seq in [1,64]\n", graphs;
  std::vector<std::pair<std::string, int64_t>> names;
  for (DType t : kFormats) {
    if (ir::info(t).block > 32) continue;
    const std::string f(ir::info(t).name);
    for (Shape s : {Shape{40, 576}, Shape{48, 32}, Shape{21, ir::info(t).quantized ? 96 : 37}}) {
      text += "  weight @w_" + f + "_" + std::to_string(s.n) + "_" + std::to_string(s.k) + " : " + f + "[" + std::to_string(s.n) + "," + std::to_string(s.k) + "]\n";
      names.push_back({f + "_" + std::to_string(s.n), s.k});
      graphs += graph(names.back().first, "?seq", f, s);
    }
  }
  auto fixture = GpuKernelFixture::create(text + graphs + "}\n", GpuRows::Few);
  ASSERT_TRUE(fixture) << fixture.message();
  expect_compiles(**fixture);
  for (const auto& [name, k] : names) check(**fixture, name, k, 1e-5);
}

TEST(GpuGemv, Epilogues) {
  std::string weights, graphs;
  std::vector<std::string> names;
  for (const std::string f : {"bf16", "q4_1", "q6_k"}) {
    weights += "  weight @gu_" + f + " : " + f + "[512,512]\n  weight @down_" + f + " : " + f + "[48,256]\n  weight @same_" + f + " : " + f + "[512,512]\n";
    graphs += "  graph @mlp_" + f + "(%x: f32[?seq,512]) -> (f32[?seq,48]) {\n"
              "    %y = linear(%x, @gu_" + f + ") : f32[?seq,512]\n    %g = glu(%y) {act=silu, group=16} : f32[?seq,256]\n"
              "    %z = linear(%g, @down_" + f + ", @bias) : f32[?seq,48]\n    %a = softcap(%z) {cap=3.0} : f32[?seq,48]\n    return %a\n  }\n";
    graphs += "  graph @residual_" + f + "(%x: f32[?seq,512]) -> (f32[?seq,512]) {\n"
              "    %y = linear(%x, @same_" + f + ") : f32[?seq,512]\n    %r = add(%y, %x) : f32[?seq,512]\n    %s = mul(%r, @scale) : f32[?seq,512]\n"
              "    %g = gelu(%s) {approximate=tanh} : f32[?seq,512]\n    return %g\n  }\n";
    names.push_back("mlp_" + f);
    names.push_back("residual_" + f);
  }
  auto fixture = GpuKernelFixture::create("module @m level=graph {\n  dim ?seq in [1,64]\n  weight @bias : f32[48]\n  weight @scale : f32[512]\n" + weights + graphs + "}\n", GpuRows::Few);
  ASSERT_TRUE(fixture) << fixture.message();
  expect_compiles(**fixture);
  // Where the evaluator's sum rounds the other way in mlp, one activation of 256 moves by 1/127 of its block's largest.
  for (const std::string& name : names) check(**fixture, name, 512, name.starts_with("mlp") ? 1e-3 : 1e-5, 0.01f);
}

// The norm of one row is computed by the linear's blocks, a residual is loaded before the sums: the same bits as from kernels apart.
TEST(GpuGemv, NormsOfOneRow) {
  std::string weights, graphs;
  struct Case {
    std::string format;
    int64_t k;
  };
  const std::vector<Case> cases = {{"bf16", 512}, {"f32", 576}, {"q8_0", 576}, {"q8_0", 4096}, {"q4_k", 512}, {"q6_k", 256}};
  const auto name_of = [](const Case& c) { return c.format + "_" + std::to_string(c.k); };
  for (const Case& c : cases) {
    const std::string name = name_of(c), k = std::to_string(c.k);
    weights += "  weight @w_" + name + " : " + c.format + "[90," + k + "]\n  weight @n_" + name + " : f32[" + k + "]\n";
    for (const std::string rows : {"1", "?seq"})
      graphs += "  graph @" + std::string(rows == "1" ? "row_" : "rows_") + name + "(%x: f32[" + rows + "," + k + "], %r: f32[" + rows + ",90]) -> (f32[" + rows + ",90]) {\n" +
                "    %n = rms_norm(%x, @n_" + name + ") {eps=0.00001} : f32[" + rows + "," + k + "]\n    %y = linear(%n, @w_" + name + ") : f32[" + rows + ",90]\n" +
                "    %s = add(%y, %r) : f32[" + rows + ",90]\n    return %s\n  }\n";
  }
  auto fixture = GpuKernelFixture::create("module @m level=graph {\n  dim ?seq in [1,64]\n" + weights + graphs + "}\n", GpuRows::Few);
  ASSERT_TRUE(fixture) << fixture.message();
  expect_compiles(**fixture);
  ir::Evaluator evaluator((*fixture)->original());
  const auto launches = [&](const std::string& entry) {
    for (const rt::EntryPoint& e : (*fixture)->program().entries)
      if (e.name == entry) return e.launches.size();
    return size_t(0);
  };
  for (const Case& c : cases) {
    const std::string name = name_of(c);
    EXPECT_EQ(launches("row_" + name), 1u) << name;
    EXPECT_EQ(launches("rows_" + name), 2u) << name;
    const auto x = normal_floats(size_t(c.k), 3), r = normal_floats(90, 4);
    const auto want = evaluator.run(*(*fixture)->original().graph("row_" + name), {{"x", tensor_of({1, c.k}, x)}, {"r", tensor_of({1, 90}, r)}}, {{"past", 0}});
    ASSERT_TRUE(want) << want.message();
    const auto row = (*fixture)->run("row_" + name, {x.data(), r.data()}, {}), rows = (*fixture)->run("rows_" + name, {x.data(), r.data()}, {{"seq", 1}});
    ASSERT_TRUE(row) << row.message();
    ASSERT_TRUE(rows) << rows.message();
    // Where the evaluator's norm rounds the other way, a byte of many moves by one.
    EXPECT_LT(largest_relative_error(as_floats((*row)[0]), (*want)[0].f), c.format[0] == 'q' ? 1e-3 : 1e-5) << name;
    EXPECT_EQ((*row)[0], (*rows)[0]) << name;
  }
}

// Linears of two formats that read one norm: two launches, each with the norm, and no third.
TEST(GpuGemv, LinearsThatShareANorm) {
  auto fixture = GpuKernelFixture::create(R"(module @m level=graph {
  weight @n : f32[512]
  weight @a : q4_k[96,512]
  weight @b : q6_k[32,512]
  graph @g(%x: f32[1,512]) -> (f32[1,96], f32[1,32]) {
    %n1 = rms_norm(%x, @n) {eps=0.00001} : f32[1,512]
    %ya = linear(%n1, @a) : f32[1,96]
    %yb = linear(%n1, @b) : f32[1,32]
    return %ya, %yb
  }
}
)", GpuRows::Few);
  ASSERT_TRUE(fixture) << fixture.message();
  expect_compiles(**fixture);
  EXPECT_EQ((*fixture)->program().entries[0].launches.size(), 2u);
  ir::Evaluator evaluator((*fixture)->original());
  const auto x = normal_floats(512, 3);
  const auto want = evaluator.run(*(*fixture)->original().graph("g"), {{"x", tensor_of({1, 512}, x)}}, {});
  ASSERT_TRUE(want) << want.message();
  const auto got = (*fixture)->run("g", {x.data()}, {});
  ASSERT_TRUE(got) << got.message();
  for (size_t i = 0; i < 2; ++i) EXPECT_LT(largest_relative_error(as_floats((*got)[i]), (*want)[i].f), 1e-3) << i;
}

// A dense linear's blocks have 16 rows, or 8 or 4 where multiprocessors get evener shares of these: the same bits as of several tokens.
TEST(GpuGemv, EvenShares) {
  struct Case {
    int64_t n, k, blocks;
    std::string format;
  };
  const std::vector<Case> cases = {{2112, 64, 132, "bf16"}, {3072, 96, 384, "bf16"}, {576, 64, 72, "f16"}, {1584, 40, 396, "f32"}, {3070, 64, 192, "bf16"}};
  std::string weights, graphs;
  const auto name_of = [](const Case& c) { return c.format + "_" + std::to_string(c.n); };
  for (const Case& c : cases) {
    weights += "  weight @w_" + name_of(c) + " : " + c.format + "[" + std::to_string(c.n) + "," + std::to_string(c.k) + "]\n";
    for (const std::string rows : {"1", "?seq"}) {
      const std::string x = "f32[" + rows + "," + std::to_string(c.k) + "]", y = "f32[" + rows + "," + std::to_string(c.n) + "]";
      graphs += "  graph @" + std::string(rows == "1" ? "row_" : "rows_") + name_of(c) + "(%x: " + x + ") -> (" + y + ") {\n    %y = linear(%x, @w_" + name_of(c) + ") : " + y + "\n    return %y\n  }\n";
    }
  }
  auto fixture = GpuKernelFixture::create("module @m level=graph {\n  dim ?seq in [1,64]\n" + weights + graphs + "}\n", GpuRows::Few);
  ASSERT_TRUE(fixture) << fixture.message();
  expect_compiles(**fixture);
  for (const Case& c : cases) {
    for (const rt::EntryPoint& e : (*fixture)->program().entries) {
      if (e.name == "row_" + name_of(c)) {
        EXPECT_EQ(*e.launches.at(0).tasks.evaluate({}), c.blocks) << name_of(c);
      }
    }
    const auto x = normal_floats(size_t(c.k), 3);
    const auto row = (*fixture)->run("row_" + name_of(c), {x.data()}, {}), rows = (*fixture)->run("rows_" + name_of(c), {x.data()}, {{"seq", 1}});
    ASSERT_TRUE(row) << row.message();
    ASSERT_TRUE(rows) << rows.message();
    EXPECT_EQ((*row)[0], (*rows)[0]) << name_of(c);
  }
  if (GpuKernelFixture::target() != "emu") return;
  auto smaller = GpuKernelFixture::create("module @m level=graph {\n  dim ?seq in [1,64]\n" + weights + graphs + "}\n", GpuRows::Few, "", {"sm_80"});   // 108 multiprocessors
  ASSERT_TRUE(smaller) << smaller.message();
  for (const rt::EntryPoint& e : (*smaller)->program().entries) {
    if (e.name == "row_bf16_3072") {
      EXPECT_EQ(*e.launches.at(0).tasks.evaluate({}), 192);
    }
  }
}

}  // namespace
}  // namespace prism
