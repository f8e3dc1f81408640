// Linears of many rows on the emulated device, every format and everything that may follow, against the reference evaluator.
#include "codegen/kernels/gpu/gpu.h"
#include "codegen/pack.h"
#include "gpu_compiles.h"
#include "gpu_fixture.h"
#include "kir_mutate.h"

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

/// What kernels are made for: any GPU (mma), or Hopper (wgmma).
using Archs = std::vector<std::string>;
const Archs kTargets[] = {{}, {"sm_90a"}};
Archs compiled(const Archs& target) { return target.empty() ? Archs{"sm_80", "sm_90a"} : target; }

void check_format(DType t, const Archs& target, const std::string& dense = "row_major") {
  const Shape shapes[] = {{50, 512}, {96, 768}, {1100, 256}, {50, 576}, {96, 32}, {512, 96}};
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
  auto fixture = GpuKernelFixture::create(text + graphs + "}\n", GpuRows::Many, GpuKernelFixture::pipeline_for(GpuRows::Many, dense), target);
  ASSERT_TRUE(fixture) << fixture.message();
  expect_compiles(**fixture, {""}, compiled(target));
  const int64_t seqs[] = {1, 17, 130, 3, 65};
  size_t i = size_t(t);
  for (const auto& [name, k] : names) {
    check(**fixture, name, k, seqs[i++ % 5], tolerance(t));
    check(**fixture, name, k, seqs[i % 5], tolerance(t));
  }
}

TEST(GpuGemm, EveryFormatAtManyShapes) {
  for (const Archs& target : kTargets)
    for (DType t : kFormats) check_format(t, target);
}

TEST(GpuGemm, SwizzledTiles) {
  for (const Archs& target : kTargets) check_format(DType::BF16, target, "swizzled");
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
  expect_compiles(**fixture);
  for (DType t : formats)
    for (const auto& [name, ops] : chains)
      for (int64_t seq : {3, 70}) {
        // Where the evaluator's sum rounds the other way, a value between two linears moves by 2^-8 of itself in bf16, by 1/127 of its block's largest in q8a.
        const bool narrowed = name == "narrow" || name == "mlp" || name.ends_with("q8a");
        check(**fixture, name + "_" + std::string(ir::info(t).name), 96, seq, narrowed ? std::max(tolerance(t), 1e-3) : tolerance(t));
      }
}

/// One linear's kernel with its weights, and what it should give.
class LinearKernel {
 public:
  LinearKernel(DType t, const Archs& target, int64_t m, int64_t n, int64_t k, const std::string& dense) : m_(m), n_(n) {
    const std::string f(ir::info(t).name), rows = "[?seq," + str(k) + "]", result = "f32[?seq," + str(n) + "]";
    auto module = ir::parse("module @m level=graph {\n  dim ?seq in [1,64]\n  weight @w : " + f + "[" + str(n) + "," + str(k) + "]\n  graph @g(%x: bf16" + rows + ") -> (" + result +
                            ") {\n    %y = linear(%x, @w) : " + result + "\n    return %y\n  }\n}\n", "text");
    EXPECT_TRUE(module) << module.message();
    const Status status = passes::Manager().run(**module, *passes::parse_pipeline("pack-weights{dense=" + dense + "},fuse-epilogues"));
    EXPECT_TRUE(status) << status.message();
    for (const ir::Operation& op : (*module)->graphs[0]->ops)
      if (op.op == ir::Op::Kernel) {
        auto lowered = codegen::lower_gpu_kernel(op, "linear", {"seq"}, codegen::gpu_target(target));
        EXPECT_TRUE(lowered) << lowered.message();
        kernel_ = lowered->kernel;
        tasks_ = *lowered->tasks.evaluate([&](std::string_view) { return std::optional(m); });
      }
    std::mt19937 rng(3);
    const auto rows_of_w = random_weights(t, n * k, rng);
    std::vector<float> values(size_t(n * k));
    ir::dequantize_row(t, rows_of_w.data(), values.data(), values.size());
    weights_ = rows_of_w;
    const auto row = [&](int64_t r) { return rows_of_w.data() + size_t(r) * rows_of_w.size() / size_t(n); };
    if (dense == "swizzled") {
      weights_.assign(size_t((n + 63) / 64 * codegen::swizzled_group_bytes(k)), 0);
      codegen::pack_swizzled(n, k, row, 0, (n + 63) / 64, weights_.data());
    } else if (ir::info(t).quantized) {
      weights_.assign(size_t(codegen::rows16_bytes(t, n, k)), 0);
      codegen::pack_rows16(t, n, k, row, 0, (n + 15) / 16, weights_.data());
    }
    for (float x : normal_floats(size_t(m * k), 5)) x_.push_back(f32_to_bf16(x));
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t c = 0; c < k; ++c) sum += double(bf16_to_f32(x_[size_t(i * k + c)])) * values[size_t(j * k + c)];
        expected_.push_back(float(sum));
      }
  }

  const kir::Kernel& kernel() const { return kernel_; }

  /// "" if the kernel's results are right in several orders, else what is wrong.
  std::string wrong(const kir::Kernel& kernel, double tolerance) {
    gpu_test::Emulated code(kernel, false);
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      std::vector<float> y(size_t(m_ * n_), NAN);
      const std::string error = code.run(tasks_, {gpu_test::memory(x_), gpu_test::memory(weights_), gpu_test::memory(y)}, {m_}, seed);
      if (!error.empty()) return error;
      if (const double e = largest_relative_error(y, expected_); !(e < tolerance)) return "off by " + std::to_string(e);
    }
    return "";
  }

 private:
  int64_t m_, n_, tasks_ = 0;
  kir::Kernel kernel_;
  std::vector<uint16_t> x_;
  std::vector<uint8_t> weights_;
  std::vector<float> expected_;
};

void check_mistakes(DType t, const Archs& target, const std::string& dense = "row_major", int64_t n = 50) {
  using Kind = kir::Stmt::Kind;
  LinearKernel linear(t, target, 23, n, 416, dense);
  const kir::Kernel& k = linear.kernel();
  const double most = tolerance(t);
  const std::string f = std::string(ir::info(t).name) + (target.empty() ? " " : " by wgmma ") + dense;
  ASSERT_EQ(linear.wrong(k, most), "") << f;
  for (Kind kind : {Kind::Barrier, Kind::AsyncWait, Kind::AsyncCopy, Kind::AsyncFence, Kind::Wgmma, Kind::WgmmaFence, Kind::WgmmaWait, Kind::MbarrierInit,
                    Kind::MbarrierExpect, Kind::MbarrierWait, Kind::BulkCopy})
    for (int i = 0; i < kir::count(k, kir::of_kind(kind)); ++i)
      EXPECT_NE(linear.wrong(kir::without(k, kir::of_kind(kind), i), most), "") << f << " without statement " << i << " of kind " << int(kind);
  for (int i = 0; i < kir::count(k, kir::store_to(k, "w_tile")); i += 5)
    EXPECT_NE(linear.wrong(kir::without(k, kir::store_to(k, "w_tile"), i), most), "") << f << " without store " << i << " of weights";
  // Two registers of the fragments, or of the sums, change places.
  const kir::Ty fragment = target.empty() ? kir::Ty{kir::Elem::U32, 4} : kir::Ty{kir::Elem::F32, n > 64 ? 64 : 32};
  EXPECT_NE(linear.wrong(kir::rewritten(k, [&](const kir::Ref& r) -> kir::Ref {
    if (r->kind != kir::Kind::Lane || r->args[0]->ty != fragment || r->ival < 1 || r->ival > 2) return nullptr;
    return kir::lane(kir::Ex(r->args[0]), 3 - int(r->ival)).node;
  }), most), "") << f;
  // Each swizzle, one after the other, is left out.
  int swizzles = 0;
  kir::rewritten(k, [&](const kir::Ref& r) -> kir::Ref { swizzles += r->kind == kir::Kind::Xor; return nullptr; });
  ASSERT_GT(swizzles, 0);
  for (int i = 0; i < swizzles; ++i) {
    int n = i;
    EXPECT_NE(linear.wrong(kir::rewritten(k, [&](const kir::Ref& r) -> kir::Ref { return r->kind == kir::Kind::Xor && n-- == 0 ? r->args[0] : nullptr; }), most), "")
        << f << " without swizzle " << i;
  }
  // Whole chunks are copied where zeros belong: of rows or columns past the end.
  EXPECT_NE(linear.wrong(kir::rewritten(k, [](const kir::Ref& r) -> kir::Ref {
    const bool bytes = r->kind == kir::Kind::Select && r->args[2]->kind == kir::Kind::IntConst && r->args[2]->ival == 0;
    return bytes ? r->args[1] : nullptr;
  }), most), "") << f;
}

TEST(GpuGemm, MistakesAreNoticed) {
  for (const Archs& target : kTargets)
    for (DType t : {DType::BF16, DType::Q8_0, DType::F16}) check_mistakes(t, target);
}

TEST(GpuGemm, MistakesWithSwizzledTilesAreNoticed) {
  check_mistakes(DType::BF16, {}, "swizzled");
  check_mistakes(DType::BF16, {"sm_90a"}, "swizzled");
  check_mistakes(DType::BF16, {"sm_90a"}, "swizzled", 150);   // two tiles a step, the last of them not there

  using Kind = kir::Stmt::Kind;
  LinearKernel linear(DType::BF16, {"sm_90a"}, 23, 150, 416, "swizzled");
  const kir::Kernel& k = linear.kernel();
  const auto wrong = [&](Kind kind, int n, const std::function<void(kir::Stmt&)>& f) { return linear.wrong(kir::changed(k, kir::of_kind(kind), n, f), 1e-5); };
  const auto number = [](int64_t v) { return kir::constant({kir::Elem::I32, 1}, double(v)).node; };
  EXPECT_NE(wrong(Kind::MbarrierWait, 0, [](kir::Stmt& s) { s.b = (kir::Ex(1) - kir::Ex(s.b)).node; }), "");
  EXPECT_NE(wrong(Kind::MbarrierWait, 0, [&](kir::Stmt& s) { s.b = number(0); }), "");
  EXPECT_NE(wrong(Kind::MbarrierWait, 0, [&](kir::Stmt& s) { s.a = ((kir::Ex(s.a) + kir::Ex(1)) % kir::Ex(4)).node; }), "");
  for (int i = 0; i < kir::count(k, kir::of_kind(Kind::MbarrierExpect)); ++i) {
    ASSERT_EQ(kir::count(k, [&](const kir::Stmt& s) { return s.kind == Kind::MbarrierExpect && s.b->args.empty() && s.b->ival == 16384; }), 3);
    for (int64_t bytes : {8192, 16368, 16400, 24576}) EXPECT_NE(wrong(Kind::MbarrierExpect, i, [&](kir::Stmt& s) { s.b = number(bytes); }), "") << i << " expects " << bytes;
  }
  for (int i = 0; i < kir::count(k, kir::of_kind(Kind::BulkCopy)); ++i) {
    EXPECT_NE(wrong(Kind::BulkCopy, i, [](kir::Stmt& s) { s.bytes = 4096; }), "") << i;
    EXPECT_NE(wrong(Kind::BulkCopy, i, [](kir::Stmt& s) { s.c = ((kir::Ex(s.c) + kir::Ex(1)) % kir::Ex(4)).node; }), "") << i;
    EXPECT_NE(wrong(Kind::BulkCopy, i, [](kir::Stmt& s) { s.a = (kir::Ex(s.a) + kir::Ex(64)).node; }), "") << i;
  }
}

}  // namespace
}  // namespace prism
