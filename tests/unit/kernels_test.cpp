// Every kind of kernel, compiled for every instruction set of this machine, against the reference evaluator.
#include <gtest/gtest.h>

#include <cmath>

#include "codegen/kir/kir.h"
#include "ir/eval.h"
#include "kernel_fixture.h"

namespace prism {
namespace {

std::vector<float> random_floats(size_t n, unsigned seed, float scale = 1) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> d(0, scale);
  std::vector<float> v(n);
  for (float& x : v) x = d(rng);
  return v;
}

std::vector<float> floats(const std::vector<uint8_t>& bytes) {
  std::vector<float> v(bytes.size() / 4);
  memcpy(v.data(), bytes.data(), v.size() * 4);
  return v;
}

/// Largest difference relative to the largest magnitude.
double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  if (got.size() != want.size()) return 1e9;
  double top = 0, diff = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(got[i])) return 1e9;
    top = std::max(top, double(std::abs(want[i])));
    diff = std::max(diff, std::abs(double(got[i]) - want[i]));
  }
  return diff / std::max(top, 1e-30);
}

ir::Tensor tensor(std::vector<int64_t> shape, std::vector<float> f) { return {std::move(shape), std::move(f), {}}; }

class Kernels : public testing::TestWithParam<rt::Isa> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(rt::runs_here(rt::Isa::Generic));
  }
  /// From the first instruction set on that multiplies something in bf16, weights, keys and values are rounded to it, by 2^-9 at
  /// most, where the evaluator's are not.
  static double tolerance(double exact, rt::Isa bf16_from) { return GetParam() >= bf16_from ? 1e-2 : exact; }
};

constexpr int64_t kSeqs[] = {1, 3, 13, 40};

/// Checks one entry of inputs f32[?seq,width] at several lengths; also that one row at a time gives the same bits.
void check_rows(KernelFixture& f, const std::string& name, int64_t width, double tolerance, float scale = 1) {
  ir::Evaluator evaluator(f.original());
  for (int64_t seq : kSeqs) {
    const auto x = random_floats(size_t(seq * width), unsigned(seq), scale);
    auto want = evaluator.run(*f.original().graph(name), {{"x", tensor({seq, width}, x)}}, {{"seq", seq}, {"past", 0}});
    ASSERT_TRUE(want) << name << ": " << want.message();
    const auto got = f.run_entry(name, {x.data()}, {{"seq", seq}}, 1);
    EXPECT_LT(relative_error(floats(got[0]), (*want)[0].f), tolerance) << name << " seq " << seq;
    EXPECT_EQ(f.run_entry(name, {x.data()}, {{"seq", seq}}, 3), got) << name << ": bits differ when tasks are split";
    std::vector<uint8_t> rows;
    for (int64_t r = 0; r < seq; ++r) {
      const auto row = f.run_entry(name, {x.data() + r * width}, {{"seq", 1}}, 1);
      rows.insert(rows.end(), row[0].begin(), row[0].end());
    }
    EXPECT_EQ(rows, got[0]) << name << " seq " << seq << ": bits differ one row at a time";
  }
}

TEST_P(Kernels, LinearOfEveryFormat) {
  std::string weights, graphs;
  std::vector<std::string> names;
  for (DType t : kFormats) {
    const std::string f(ir::info(t).name);
    weights += "  weight @w50_" + f + " : " + f + "[50,512]\n  weight @gu_" + f + " : " + f + "[512,512]\n  weight @down_" + f + " : " + f + "[48,256]\n";
    graphs += "  graph @plain_" + f + "(%x: f32[?seq,512]) -> (f32[?seq,50]) {\n"
              "    %y = linear(%x, @w50_" + f + ") : f32[?seq,50]\n    return %y\n  }\n";
    graphs += "  graph @mlp_" + f + "(%x: f32[?seq,512]) -> (f32[?seq,48]) {\n"
              "    %y = linear(%x, @gu_" + f + ") : f32[?seq,512]\n    %g = glu(%y) {act=silu, group=16} : f32[?seq,256]\n"
              "    %z = linear(%g, @down_" + f + ", @bias) : f32[?seq,48]\n    %a = softcap(%z) {cap=3.0} : f32[?seq,48]\n    return %a\n  }\n";
    names.push_back("plain_" + f);
    names.push_back("mlp_" + f);
  }
  auto fixture = KernelFixture::create("module @linears level=graph {\n  dim ?seq in [1,64]\n  weight @bias : f32[48]\n" + weights + graphs + "}\n", GetParam());
  ASSERT_TRUE(fixture) << fixture.message();
  KernelFixture& f = **fixture;
  // In mlp the second linear's input is quantized inside the kernel: where the evaluator's sum rounds the other way, one
  // activation of 256 moves by 1/127 of its block's largest.
  for (const std::string& name : names) {
    const bool mlp = name.starts_with("mlp");  // small inputs, lest the cap make large sums into signs
    const bool dense = name.ends_with("f16") || name.ends_with("f32");
    check_rows(f, name, 512, tolerance(mlp ? 1e-3 : 1e-5, dense ? rt::Isa::Avx512 : rt::Isa::Amx), mlp ? 0.01f : 1.0f);
  }
}

TEST_P(Kernels, RowWise) {
  const std::vector<std::pair<std::string, std::string>> chains = {
      {"rms", "%y = rms_norm(%x, @w) {eps=1e-5} : f32[?seq,W]"},
      {"layer", "%y = layer_norm(%x, @w, @b) {eps=1e-5} : f32[?seq,W]"},
      {"softmax", "%y = softmax(%x) : f32[?seq,W]"},
      {"gelu", "%a = gelu(%x) : f32[?seq,W]\n %y = add(%a, %x) : f32[?seq,W]"},
      {"gelu_tanh", "%y = gelu(%x) {approximate=tanh} : f32[?seq,W]"},
      {"gelu_quick", "%y = gelu(%x) {approximate=quick} : f32[?seq,W]"},
      {"mixed", "%a = silu(%x) : f32[?seq,W]\n %c = mul(%a, @w) : f32[?seq,W]\n %d = tanh(%c) : f32[?seq,W]\n"
                " %e = sub(%d, %x) : f32[?seq,W]\n %g = sigmoid(%e) : f32[?seq,W]\n %y = scale(%g) {by=2.0, plus=1.0} : f32[?seq,W]"},
      {"extremes", "%a = relu(%x) : f32[?seq,W]\n %c = maximum(%a, @w) : f32[?seq,W]\n %d = minimum(%c, @b) : f32[?seq,W]\n"
                   " %e = exp(%d) : f32[?seq,W]\n %g = neg(%e) : f32[?seq,W]\n %y = div(%g, %e) : f32[?seq,W]"},
  };
  for (int64_t width : {37, 96}) {
    std::string graphs;
    const std::string w = std::to_string(width);
    for (const auto& [name, ops] : chains) {
      graphs += "  graph @" + name + "(%x: f32[?seq,W]) -> (f32[?seq,W]) {\n    " + ops + "\n    return %y\n  }\n";
    }
    std::string text = "module @rows level=graph {\n  dim ?seq in [1,64]\n  weight @w : f32[W]\n  weight @b : f32[W]\n" + graphs + "}\n";
    for (size_t at; (at = text.find('W')) != std::string::npos;) text.replace(at, 1, w);
    auto fixture = KernelFixture::create(text, GetParam());
    ASSERT_TRUE(fixture) << fixture.message();
    KernelFixture& f = **fixture;
    for (const auto& [name, ops] : chains) check_rows(f, name, width, 2e-5);
  }
}

TEST_P(Kernels, EmbeddingOfEveryFormat) {
  std::string text = "module @tables level=graph {\n  dim ?seq in [1,64]\n";
  for (DType t : kFormats) {
    const std::string f(ir::info(t).name);
    text += "  weight @t_" + f + " : " + f + "[40,256]\n  graph @e_" + f + "(%ids: i32[?seq]) -> (f32[?seq,256]) {\n    %y = embedding(%ids, @t_" + f +
            ") : f32[?seq,256]\n    return %y\n  }\n";
  }
  auto fixture = KernelFixture::create(text + "}\n", GetParam());
  ASSERT_TRUE(fixture) << fixture.message();
  KernelFixture& f = **fixture;
  ir::Evaluator evaluator(f.original());
  const std::vector<int32_t> ids = {0, 39, 17, 16, 15, 5, 5};
  for (DType t : kFormats) {
    const std::string name = "e_" + std::string(ir::info(t).name);
    ir::Tensor in;
    in.shape = {int64_t(ids.size())};
    in.i.assign(ids.begin(), ids.end());
    auto want = evaluator.run(*f.original().graph(name), {{"ids", in}}, {});
    ASSERT_TRUE(want) << want.message();
    EXPECT_LT(relative_error(floats(f.run_entry(name, {ids.data()}, {{"seq", int64_t(ids.size())}}, 2)[0]), (*want)[0].f), 1e-6) << name;
  }
}

struct AttentionCase {
  std::string name;
  int64_t heads, kv_heads, size, window;
  double softcap;
  std::string mode;
  int64_t rotated;
};

TEST_P(Kernels, AppendAndAttention) {
  const std::vector<AttentionCase> cases = {
      {"gqa3", 9, 3, 64, 0, 0, "adjacent", 0}, {"gqa7", 14, 2, 128, 0, 0, "half", 0}, {"mha", 4, 4, 80, 0, 0, "half", 32},
      {"window", 4, 1, 256, 20, 0, "half", 0},  {"softcap", 2, 1, 32, 70, 5.0, "adjacent", 16},
  };
  std::string text = "module @attention level=graph {\n  dim ?seq in [1,64]\n  dim ?past in [0,128]\n  weight @factors : f32[16]\n";
  for (const AttentionCase& c : cases) {
    const std::string h = std::to_string(c.heads), k = std::to_string(c.kv_heads), d = std::to_string(c.size);
    const std::string q = "f32[?seq," + h + "," + d + "]", kv = "f32[?seq," + k + "," + d + "]";
    const std::string rope = std::string(c.rotated == 32 ? ", @factors" : "") + ") {base=10000.0, mode=" + c.mode + ", dims=" + std::to_string(c.rotated) + "}";
    text += "  weight @n_" + c.name + " : f32[" + d + "]\n  graph @" + c.name + "(%q: " + q + ", %k: " + kv + ", %v: " + kv + ", %kv: kv<f16>[?past," + k + "," + d +
            "]) -> (f32[?seq," + std::to_string(c.heads * c.size) + "], kv<f16>[?past+?seq," + k + "," + d + "]) {\n"
            "    %p = positions() {start=\"?past\", count=\"?seq\"} : i32[?seq]\n"
            "    %qn = rms_norm(%q, @n_" + c.name + ") {eps=1e-6} : " + q + "\n"
            "    %qr = rope(%qn, %p" + rope + " : " + q + "\n    %kr = rope(%k, %p" + rope + " : " + kv + "\n"
            "    %kv2 = kv_append(%kv, %kr, %v) : kv<f16>[?past+?seq," + k + "," + d + "]\n"
            "    %a = attention(%qr, %kv2) {scale=0.125, window=" + std::to_string(c.window) + ", softcap=" + std::to_string(c.softcap) + "} : " + q + "\n"
            "    %y = reshape(%a) {shape=\"?seq," + std::to_string(c.heads * c.size) + "\"} : f32[?seq," + std::to_string(c.heads * c.size) + "]\n"
            "    return %y, %kv2\n  }\n";
  }
  auto fixture = KernelFixture::create(text + "}\n", GetParam());
  ASSERT_TRUE(fixture) << fixture.message();
  KernelFixture& f = **fixture;
  ir::Evaluator evaluator(f.original());
  for (const AttentionCase& c : cases) {
    // As bytes: f16 planes of the capacity.
    const size_t plane = size_t(c.kv_heads * KernelFixture::kContext * c.size) / 2 + 16;
    std::vector<std::vector<float>> planes(2, std::vector<float>(plane)), single = planes;
    ir::Tensor cache = tensor({0, c.kv_heads, c.size}, {});
    int64_t past = 0;
    for (int64_t seq : {20, 1, 47, 13, 1}) {
      const auto q = random_floats(size_t(seq * c.heads * c.size), unsigned(past + 1)), k = random_floats(size_t(seq * c.kv_heads * c.size), unsigned(past + 2)),
                 v = random_floats(size_t(seq * c.kv_heads * c.size), unsigned(past + 3));
      auto want = evaluator.run(*f.original().graph(c.name),
                                {{"q", tensor({seq, c.heads, c.size}, q)}, {"k", tensor({seq, c.kv_heads, c.size}, k)},
                                 {"v", tensor({seq, c.kv_heads, c.size}, v)}, {"kv", cache}},
                                {{"seq", seq}, {"past", past}});
      ASSERT_TRUE(want) << want.message();
      const auto got = f.run_entry(c.name, {q.data(), k.data(), v.data()}, {{"seq", seq}, {"past", past}}, 2, &planes);
      EXPECT_LT(relative_error(floats(got[0]), (*want)[0].f), tolerance(1e-3, rt::Isa::Avx512)) << c.name << " past " << past << " seq " << seq;
      std::vector<uint8_t> rows;
      for (int64_t r = 0; r < seq; ++r) {
        const int64_t qs = c.heads * c.size, ks = c.kv_heads * c.size;
        const auto row = f.run_entry(c.name, {q.data() + r * qs, k.data() + r * ks, v.data() + r * ks}, {{"seq", 1}, {"past", past + r}}, 1, &single);
        rows.insert(rows.end(), row[0].begin(), row[0].end());
      }
      EXPECT_EQ(floats(rows), floats(got[0])) << c.name << ": values differ token by token";
      cache = (*want)[1];
      past += seq;
    }
  }
}

/// Few tokens whose keys are split over tasks: more pieces than parts, and a window that begins late.
TEST_P(Kernels, AttentionOfFewTokensInALongContext) {
  constexpr int64_t kHeads = 6, kKvHeads = 2, kSize = 32, kPast = 4700, kSeq = 3, kCapacity = 4736;
  const std::string q = "f32[?seq,6,32]", kv = "f32[?seq,2,32]";
  std::string text = "module @attention level=graph {\n  dim ?seq in [1,16]\n  dim ?past in [0,8192]\n";
  for (int window : {0, 700})
    text += "  graph @window" + std::to_string(window) + "(%q: " + q + ", %k: " + kv + ", %v: " + kv + ", %kv: kv<f16>[?past,2,32]) -> (f32[?seq,192]) {\n"
            "    %kv2 = kv_append(%kv, %k, %v) : kv<f16>[?past+?seq,2,32]\n"
            "    %a = attention(%q, %kv2) {scale=0.5, window=" + std::to_string(window) + "} : " + q + "\n"
            "    %y = reshape(%a) {shape=\"?seq,192\"} : f32[?seq,192]\n    return %y\n  }\n";
  auto fixture = KernelFixture::create(text + "}\n", GetParam());
  ASSERT_TRUE(fixture) << fixture.message();
  KernelFixture& f = **fixture;

  // The cache as the evaluator has it, then in the planes' layouts.
  ir::Tensor cache = tensor({kPast, kKvHeads, kSize}, random_floats(size_t(kPast * kKvHeads * kSize * 2), 5));
  std::vector<std::vector<float>> planes(2, std::vector<float>(size_t(kKvHeads * kCapacity * kSize / 2)));
  for (float& x : cache.f) x = f16_to_f32(f32_to_f16(x));
  auto *keys = reinterpret_cast<uint16_t*>(planes[0].data()), *values = reinterpret_cast<uint16_t*>(planes[1].data());
  for (int64_t t = 0; t < kPast; ++t)
    for (int64_t h = 0; h < kKvHeads; ++h)
      for (int64_t i = 0; i < kSize; ++i) {
        const size_t at = size_t((t * kKvHeads + h) * kSize + i), half = cache.f.size() / 2;
        keys[h * kCapacity * kSize + t / 16 * (kSize * 16) + i * 16 + t % 16] = f32_to_f16(cache.f[at]);
        values[(h * kCapacity + t) * kSize + i] = f32_to_f16(cache.f[half + at]);
      }
  const auto query = random_floats(size_t(kSeq * kHeads * kSize), 1), k = random_floats(size_t(kSeq * kKvHeads * kSize), 2), v = random_floats(size_t(kSeq * kKvHeads * kSize), 3);
  for (const std::string name : {"window0", "window700"}) {
    auto want = ir::Evaluator(f.original()).run(*f.original().graph(name), {{"q", tensor({kSeq, kHeads, kSize}, query)}, {"k", tensor({kSeq, kKvHeads, kSize}, k)},
                                                                          {"v", tensor({kSeq, kKvHeads, kSize}, v)}, {"kv", cache}}, {{"seq", kSeq}, {"past", kPast}});
    ASSERT_TRUE(want) << want.message();
    auto run = [&](int64_t first, int64_t seq, int64_t parts) {
      return f.run_entry(name, {query.data() + first * kHeads * kSize, k.data() + first * kKvHeads * kSize, v.data() + first * kKvHeads * kSize},
                         {{"seq", seq}, {"past", kPast + first}, {"ctx", kCapacity}}, parts, &planes)[0];
    };
    const auto got = run(0, kSeq, 1);
    EXPECT_LT(relative_error(floats(got), (*want)[0].f), 1e-5) << name;
    EXPECT_EQ(floats(run(0, kSeq, -5)), floats(got)) << name << ": whichever part is last";
    std::vector<uint8_t> rows;
    for (int64_t r = 0; r < kSeq; ++r) {
      const auto row = run(r, 1, 2);
      rows.insert(rows.end(), row.begin(), row.end());
    }
    EXPECT_EQ(floats(rows), floats(got)) << name << ": token by token";
  }
}

std::vector<rt::Isa> isas_here() {
  std::vector<rt::Isa> list;
  for (int i = 0; i <= int(rt::best_isa()); ++i) list.push_back(rt::Isa(i));
  return list;
}

INSTANTIATE_TEST_SUITE_P(Isa, Kernels, testing::ValuesIn(isas_here()),
                         [](const auto& info) { return std::string(rt::isa_name(info.param)); });

TEST(Pack, InterleavedGateAndUpRowsAlternateInGroups) {
  std::vector<float> gate(32 * 4), up(32 * 4);
  for (size_t i = 0; i < gate.size(); ++i) {
    gate[i] = float(i);
    up[i] = float(1000 + i);
  }
  rt::Weight w{"gu", "f32", "rows16", {64, 4}, 0, 64 * 4 * 4, {"gate", "up"}, 16};
  std::vector<uint8_t> out(w.bytes);
  ASSERT_TRUE(codegen::fill_weight(w, [&](const std::string& n) -> Result<codegen::SourceTensor> {
    return codegen::SourceTensor{DType::F32, {32, 4}, reinterpret_cast<const uint8_t*>((n == "gate" ? gate : up).data())};
  }, out));
  // Group 1 is up's rows 0-15: column 2 of row 3.
  EXPECT_EQ(floats(out)[64 * 1 + 2 * 16 + 3], up[3 * 4 + 2]);
  // Group 2 is gate's rows 16-31.
  EXPECT_EQ(floats(out)[64 * 2 + 1 * 16 + 5], gate[(16 + 5) * 4 + 1]);
  w.layout = "row_major";
  ASSERT_TRUE(codegen::fill_weight(w, [&](const std::string& n) -> Result<codegen::SourceTensor> {
    return codegen::SourceTensor{DType::F32, {32, 4}, reinterpret_cast<const uint8_t*>((n == "gate" ? gate : up).data())};
  }, out));
  EXPECT_EQ(floats(out)[(16 + 3) * 4 + 2], up[3 * 4 + 2]);
  EXPECT_EQ(floats(out)[(32 + 5) * 4 + 1], gate[(16 + 5) * 4 + 1]);
}

TEST(Pack, SwizzledTilesArePaddedAndTheirChunksTradePlaces) {
  constexpr int64_t rows = 70, columns = 96;   // of two by two tiles
  std::vector<uint16_t> source(rows * columns);
  for (size_t i = 0; i < source.size(); ++i) source[i] = uint16_t(i + 1);
  const rt::Weight w{"w", "bf16", "swizzled", {rows, columns}, 0, 4 * 8192, {"w"}, 0};
  std::vector<uint8_t> out(w.bytes, 0xff);
  const auto fill = [&](const rt::Weight& weight, std::span<uint8_t> to) {
    return codegen::fill_weight(weight, [&](const std::string&) -> Result<codegen::SourceTensor> {
      return codegen::SourceTensor{DType::BF16, {rows, columns}, reinterpret_cast<const uint8_t*>(source.data())};
    }, to);
  };
  ASSERT_TRUE(fill(w, out));
  std::vector<uint16_t> packed(out.size() / 2);
  std::memcpy(packed.data(), out.data(), out.size());
  for (size_t row = 0; row < 128; ++row)
    for (size_t column = 0; column < 128; ++column) {
      const size_t tile = row / 64 * 2 + column / 64, chunk = column % 64 / 8 ^ row % 8;
      const uint16_t expected = row < rows && column < columns ? source[row * columns + column] : 0;
      ASSERT_EQ(packed[tile * 4096 + row % 64 * 64 + chunk * 8 + column % 8], expected) << row << " " << column;
    }
  EXPECT_FALSE(fill(w, std::span(out).first(out.size() - 1)));
  const auto status = fill({"w", "f16", "swizzled", {rows, columns}, 0, 4 * 8192, {"w"}, 0}, out);
  EXPECT_EQ(status.message(), "weight w: f16 has no swizzled layout");
}

TEST(Pack, SourceOfAnotherTypeIsAnError) {
  rt::Weight w{"w", "q4_0", "rows16", {16, 32}, 0, 288, {"a"}, 0};
  std::vector<uint8_t> out(w.bytes), data(4096);
  auto status = codegen::fill_weight(w, [&](const std::string&) -> Result<codegen::SourceTensor> {
    return codegen::SourceTensor{DType::Q4_1, {16, 32}, data.data()};
  }, out);
  ASSERT_FALSE(status);
  EXPECT_NE(status.message().find("weight w"), std::string::npos) << status.message();
}

TEST(Pack, WeightsThatTheirSourcesDoNotFillAreErrors) {
  std::vector<uint8_t> data(4096);
  const auto fill = [&](rt::Weight w, size_t bytes) {
    std::vector<uint8_t> out(bytes);
    return bool(codegen::fill_weight(w, [&](const std::string& n) -> Result<codegen::SourceTensor> {
      return codegen::SourceTensor{DType::F32, {n == "small" ? 8 : 16, 4}, data.data()};
    }, out));
  };
  EXPECT_TRUE(fill({"w", "f32", "rows16", {16, 4}, 0, 256, {"a"}, 0}, 256));
  EXPECT_FALSE(fill({"w", "f32", "rows16", {16, 4}, 0, 256, {"a"}, 0}, 255));
  EXPECT_FALSE(fill({"w", "f32", "row_major", {16, 4}, 0, 256, {"a"}, 0}, 255));
  EXPECT_FALSE(fill({"w", "f32", "rows16", {24, 4}, 0, 512, {"a", "small"}, 8}, 512)) << "sources of 16 and 8 rows interleaved";
}

TEST(Pack, SourcesAreReleasedAsTheyAreRead) {
  std::vector<uint8_t> data(32 * 4 * 4);
  for (int64_t interleave : {0, 16}) {
    size_t released = 0;
    rt::Weight w{"gu", "f32", "rows16", {64, 4}, 0, 64 * 4 * 4, {"gate", "up"}, interleave};
    std::vector<uint8_t> out(w.bytes);
    ASSERT_TRUE(codegen::fill_weight(w, [&](const std::string&) -> Result<codegen::SourceTensor> {
      return codegen::SourceTensor{DType::F32, {32, 4}, data.data(), [&](const uint8_t*, size_t n) { released += n; }};
    }, out));
    EXPECT_EQ(released, 2 * data.size());
  }
}

TEST(Kir, PrintsAndVerifies) {
  kir::Builder b("k", {"n"});
  const kir::Buffer x = b.arg("x", kir::Elem::F32), y = b.arg("y", kir::Elem::F32, true);
  b.for_(0, b.dim("n"), 16, [&](kir::Ex i) { b.store(y, i, kir::fma(b.load(x, i, 16), kir::Ex(2.0), b.load(x, i, 16))); });
  const kir::Kernel k = b.finish();
  EXPECT_TRUE(kir::verify(k));
  EXPECT_EQ(kir::print(k),
            "kernel k(x: f32, out y: f32) {\n"
            "  for v1 in 0..?n step 16 {\n"
            "    y[v1] = fma(x[v1]:f32x16, splat.f32x16(2), x[v1]:f32x16)\n"
            "  }\n"
            "}\n");
}

TEST(Kir, VerifierRejectsStoresToInputsAndMixedTypes) {
  kir::Builder b("k", {});
  const kir::Buffer x = b.arg("x", kir::Elem::F32);
  b.store(x, 0, kir::Ex(1.0));
  auto status = kir::verify(b.finish());
  ASSERT_FALSE(status);
  EXPECT_NE(status.message().find("read-only buffer x"), std::string::npos) << status.message();

  kir::Builder c("k", {});
  const kir::Buffer f = c.arg("f", kir::Elem::F32), i = c.arg("i", kir::Elem::I32), out = c.arg("out", kir::Elem::F32, true);
  c.store(out, 0, c.load(f, 0) + c.load(i, 0));
  EXPECT_FALSE(kir::verify(c.finish()));

  kir::Builder d("k", {});
  const kir::Buffer n = d.arg("n", kir::Elem::I32, true);
  d.store(n, 0, kir::lookup(kir::Fn::LookupLow, d.load(n, 0), {}));
  status = kir::verify(d.finish());
  ASSERT_FALSE(status);
  EXPECT_NE(status.message().find("lookup_low of i32, expected u32"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace prism
