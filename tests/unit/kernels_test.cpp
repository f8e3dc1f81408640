// Every kind of kernel, compiled for every instruction set of this machine, against the reference evaluator.
#include <gtest/gtest.h>

#include <cmath>

#include "codegen/kir/kir.h"
#include "ir/eval.h"
#include "codegen/pack.h"
#include "kernel_fixture.h"
#include "tests/unit/isas.h"

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

constexpr int64_t kSeqs[] = {1, 2, 5, 7, 13, 40};

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
      {"affine", "%q = quantize(%x) {format=u8, scale=0.015625, zero_point=97} : u8[?seq,W]\n %y = dequantize(%q) {scale=0.015625, zero_point=97} : f32[?seq,W]"},
      {"symmetric", "%q = quantize(%x) {format=i8, scale=0.0078125} : i8[?seq,W]\n %y = dequantize(%q) {scale=0.0078125} : f32[?seq,W]"},
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

/// Rows of one block, of several, and of more than a block's 512; in a kernel of its own, and followed by q8a and integer products.
TEST_P(Kernels, HadamardAndWhatIsQuantizedAfterIt) {
  for (int64_t width : {16, 96, 576, 1024, 1536}) {
    const std::string w = std::to_string(width);
    std::string graphs = "  graph @alone(%x: f32[?seq," + w + "]) -> (f32[?seq," + w + "]) {\n    %n = silu(%x) : f32[?seq," + w + "]\n    %y = hadamard(%n) : f32[?seq," + w +
                         "]\n    return %y\n  }\n";
    if (width % 32 == 0)
      graphs += "  graph @product(%x: f32[?seq," + w + "]) -> (f32[?seq,48]) {\n    %r = hadamard(%x) : f32[?seq," + w + "]\n    %q = quantize(%r) {format=q8a} : q8a[?seq," + w +
                "]\n    %y = linear(%q, @w) : f32[?seq,48]\n    return %y\n  }\n";
    auto fixture = KernelFixture::create("module @m level=graph {\n  dim ?seq in [1,64]\n  weight @w : q8_0[48," + std::to_string((width + 31) / 32 * 32) + "]\n" + graphs + "}\n", GetParam());
    ASSERT_TRUE(fixture) << fixture.message();
    check_rows(**fixture, "alone", width, 1e-6);
    if (width % 32 == 0) check_rows(**fixture, "product", width, tolerance(1e-3, rt::Isa::Amx));  // a rounding may go the other way
  }
}

/// Integers of one scale for all blocks, of which some values are out of reach: in a kernel of rows and after a product.
TEST_P(Kernels, ProductsOfIntegersWithAScaleOfTheirOwn) {
  const std::string q = " = quantize(%a) {format=q8a, scale=0.015625} : q8a[?seq,96]\n";
  auto fixture = KernelFixture::create("module @m level=graph {\n  dim ?seq in [1,64]\n  weight @w : q8_0[48,96]\n  weight @u : q8_0[96,96]\n"
      "  graph @rows(%x: f32[?seq,96]) -> (f32[?seq,48]) {\n    %a = silu(%x) : f32[?seq,96]\n    %q" + q + "    %y = linear(%q, @w) : f32[?seq,48]\n    return %y\n  }\n"
      "  graph @product(%x: f32[?seq,96]) -> (f32[?seq,48]) {\n    %p = quantize(%x) {format=q8a} : q8a[?seq,96]\n    %a = linear(%p, @u) : f32[?seq,96]\n    %q" + q + "    %y = linear(%q, @w) : f32[?seq,48]\n    return %y\n  }\n}\n", GetParam());
  ASSERT_TRUE(fixture) << fixture.message();
  check_rows(**fixture, "rows", 96, tolerance(1e-5, rt::Isa::Amx));
  check_rows(**fixture, "product", 96, tolerance(5e-3, rt::Isa::Amx));  // a rounding may go the other way
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

/// The planes of one layer's cache as kernels have them.
struct KvPlanes {
  DType dtype;
  int64_t heads, size, capacity;
  std::vector<std::vector<float>> memory = {2, std::vector<float>(size_t(heads * capacity * size) * ir::info(dtype).bytes / 4)};

  /// K is in groups of 16 positions, [size][16].
  size_t at(int plane, int64_t position, int64_t head, int64_t i) const {
    return size_t(head * capacity * size + (plane == 0 ? position / 16 * (size * 16) + i * 16 + position % 16 : position * size + i));
  }
  float load(int plane, size_t at) const {
    if (dtype == DType::F32) return memory[size_t(plane)][at];
    const uint16_t h = reinterpret_cast<const uint16_t*>(memory[size_t(plane)].data())[at];
    return dtype == DType::F16 ? f16_to_f32(h) : bf16_to_f32(h);
  }
  void store(int plane, size_t at, float x) {
    if (dtype == DType::F32) memory[size_t(plane)][at] = x;
    else reinterpret_cast<uint16_t*>(memory[size_t(plane)].data())[at] = dtype == DType::F16 ? f32_to_f16(x) : f32_to_bf16(x);
  }
  /// As the evaluator has it.
  std::vector<float> values(int64_t positions) const {
    std::vector<float> all;
    for (int plane : {0, 1})
      for (int64_t p = 0; p < positions; ++p)
        for (int64_t h = 0; h < heads; ++h)
          for (int64_t i = 0; i < size; ++i) all.push_back(load(plane, at(plane, p, h, i)));
    return all;
  }
  /// A value that the evaluator has a little different may be rounded to the neighbour.
  double step() const { return dtype == DType::F32 ? 1e-6 : dtype == DType::F16 ? 0x1p-10 : 0x1p-7; }
};

struct AttentionCase {
  std::string name;
  int64_t heads, kv_heads, size, window;
  double softcap;
  std::string mode;
  int64_t rotated;
  DType cache = DType::F16;
  int64_t from = 0;   ///< added to positions
};

TEST_P(Kernels, AppendAndAttention) {
  const std::vector<AttentionCase> cases = {
      {"gqa3", 9, 3, 64, 0, 0, "adjacent", 0}, {"gqa7", 14, 2, 128, 0, 0, "half", 0}, {"mha", 4, 4, 80, 0, 0, "half", 32},
      {"window", 4, 1, 256, 20, 0, "half", 0},  {"softcap", 2, 1, 32, 70, 5.0, "adjacent", 16},
      {"gqa3_bf16", 9, 3, 64, 0, 0, "adjacent", 0, DType::BF16}, {"window_bf16", 4, 4, 32, 20, 0, "half", 0, DType::BF16},
      {"gqa3_f32", 9, 3, 64, 0, 0, "adjacent", 0, DType::F32},   {"window_f32", 4, 4, 32, 20, 0, "half", 0, DType::F32},
      {"far", 4, 2, 64, 0, 0, "half", 0, DType::F32, 16000000},
  };
  std::string text = "module @attention level=graph {\n  dim ?seq in [1,64]\n  dim ?past in [0,128]\n  weight @factors : f32[16]\n";
  for (const AttentionCase& c : cases) {
    const std::string h = std::to_string(c.heads), k = std::to_string(c.kv_heads), d = std::to_string(c.size);
    const std::string q = "f32[?seq," + h + "," + d + "]", kv = "f32[?seq," + k + "," + d + "]", cache = "kv<" + std::string(ir::info(c.cache).name) + ">";
    const std::string rope = std::string(c.rotated == 32 ? ", @factors" : "") + ") {base=10000.0, mode=" + c.mode + ", dims=" + std::to_string(c.rotated) + "}";
    text += "  weight @n_" + c.name + " : f32[" + d + "]\n  graph @" + c.name + "(%q: " + q + ", %k: " + kv + ", %v: " + kv + ", %kv: " + cache + "[?past," + k + "," + d +
            "]) -> (f32[?seq," + std::to_string(c.heads * c.size) + "], " + cache + "[?past+?seq," + k + "," + d + "]) {\n"
            "    %p = positions() {start=\"?past+" + std::to_string(c.from) + "\", count=\"?seq\"} : i32[?seq]\n"
            "    %qn = rms_norm(%q, @n_" + c.name + ") {eps=1e-6} : " + q + "\n"
            "    %qr = rope(%qn, %p" + rope + " : " + q + "\n    %kr = rope(%k, %p" + rope + " : " + kv + "\n"
            "    %kv2 = kv_append(%kv, %kr, %v) : " + cache + "[?past+?seq," + k + "," + d + "]\n"
            "    %a = attention(%qr, %kv2) {scale=0.125, window=" + std::to_string(c.window) + ", softcap=" + std::to_string(c.softcap) + "} : " + q + "\n"
            "    %y = reshape(%a) {shape=\"?seq," + std::to_string(c.heads * c.size) + "\"} : f32[?seq," + std::to_string(c.heads * c.size) + "]\n"
            "    return %y, %kv2\n  }\n";
  }
  auto fixture = KernelFixture::create(text + "}\n", GetParam());
  ASSERT_TRUE(fixture) << fixture.message();
  KernelFixture& f = **fixture;
  ir::Evaluator evaluator(f.original());
  for (const AttentionCase& c : cases) {
    KvPlanes planes{c.cache, c.kv_heads, c.size, KernelFixture::kContext}, single = planes;
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
      const auto got = f.run_entry(c.name, {q.data(), k.data(), v.data()}, {{"seq", seq}, {"past", past}}, 2, &planes.memory);
      EXPECT_LT(relative_error(floats(got[0]), (*want)[0].f), tolerance(planes.step(), rt::Isa::Avx512)) << c.name << " past " << past << " seq " << seq;
      EXPECT_LT(relative_error(planes.values(past + seq), (*want)[1].f), planes.step()) << c.name << ": the cache after past " << past << " seq " << seq;
      std::vector<uint8_t> rows;
      for (int64_t r = 0; r < seq; ++r) {
        const int64_t qs = c.heads * c.size, ks = c.kv_heads * c.size;
        const auto row = f.run_entry(c.name, {q.data() + r * qs, k.data() + r * ks, v.data() + r * ks}, {{"seq", 1}, {"past", past + r}}, 1, &single.memory);
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
  struct Case {
    DType cache;
    int window;
    std::string name() const { return std::string(ir::info(cache).name) + "_window" + std::to_string(window); }
  };
  const std::vector<Case> cases = {{DType::F16, 0}, {DType::F16, 700}, {DType::BF16, 0}, {DType::F32, 0}};
  const std::string q = "f32[?seq,6,32]", kv = "f32[?seq,2,32]";
  std::string text = "module @attention level=graph {\n  dim ?seq in [1,16]\n  dim ?past in [0,8192]\n";
  for (const Case& c : cases) {
    const std::string cache = "kv<" + std::string(ir::info(c.cache).name) + ">";
    text += "  graph @" + c.name() + "(%q: " + q + ", %k: " + kv + ", %v: " + kv + ", %kv: " + cache + "[?past,2,32]) -> (f32[?seq,192]) {\n"
            "    %kv2 = kv_append(%kv, %k, %v) : " + cache + "[?past+?seq,2,32]\n"
            "    %a = attention(%q, %kv2) {scale=0.5, window=" + std::to_string(c.window) + "} : " + q + "\n"
            "    %y = reshape(%a) {shape=\"?seq,192\"} : f32[?seq,192]\n    return %y\n  }\n";
  }
  auto fixture = KernelFixture::create(text + "}\n", GetParam());
  ASSERT_TRUE(fixture) << fixture.message();
  KernelFixture& f = **fixture;

  const auto values = random_floats(size_t(kPast * kKvHeads * kSize * 2), 5);
  const auto query = random_floats(size_t(kSeq * kHeads * kSize), 1), k = random_floats(size_t(kSeq * kKvHeads * kSize), 2), v = random_floats(size_t(kSeq * kKvHeads * kSize), 3);
  for (const Case& c : cases) {
    const std::string name = c.name();
    KvPlanes planes{c.cache, kKvHeads, kSize, kCapacity};
    auto value = values.begin();
    for (int plane : {0, 1})
      for (int64_t t = 0; t < kPast; ++t)
        for (int64_t h = 0; h < kKvHeads; ++h)
          for (int64_t i = 0; i < kSize; ++i) planes.store(plane, planes.at(plane, t, h, i), *value++);
    const ir::Tensor cache = tensor({kPast, kKvHeads, kSize}, planes.values(kPast));
    auto want = ir::Evaluator(f.original()).run(*f.original().graph(name), {{"q", tensor({kSeq, kHeads, kSize}, query)}, {"k", tensor({kSeq, kKvHeads, kSize}, k)},
                                                                          {"v", tensor({kSeq, kKvHeads, kSize}, v)}, {"kv", cache}}, {{"seq", kSeq}, {"past", kPast}});
    ASSERT_TRUE(want) << want.message();
    auto run = [&](int64_t first, int64_t seq, int64_t parts) {
      return f.run_entry(name, {query.data() + first * kHeads * kSize, k.data() + first * kKvHeads * kSize, v.data() + first * kKvHeads * kSize},
                         {{"seq", seq}, {"past", kPast + first}, {"ctx", kCapacity}}, parts, &planes.memory)[0];
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

/// Prompts go on with the reference of earlier tiles' weights as long as they can: scores that rise by so much that they can, that
/// they cannot, that rise a little in a tile that some pieces see whole, and that fall again.
TEST_P(Kernels, AttentionOfManyTokensWhoseScoresRise) {
  constexpr int64_t kPast = 400, kSeq = 60, kHeads = 6, kKvHeads = 2, kSize = 32, kCapacity = 512;
  std::string text = "module @attention level=graph {\n  dim ?seq in [1,64]\n  dim ?past in [0,512]\n";
  const std::string q = "f32[?seq,6,32]", kv = "f32[?seq,2,32]";
  for (int window : {0, 250})
    text += "  graph @window" + std::to_string(window) + "(%q: " + q + ", %k: " + kv + ", %v: " + kv + ", %kv: kv<f16>[?past,2,32]) -> (f32[?seq,192]) {\n"
            "    %kv2 = kv_append(%kv, %k, %v) : kv<f16>[?past+?seq,2,32]\n"
            "    %a = attention(%q, %kv2) {scale=0.0625, window=" + std::to_string(window) + "} : " + q + "\n"
            "    %y = reshape(%a) {shape=\"?seq,192\"} : f32[?seq,192]\n    return %y\n  }\n";
  auto fixture = KernelFixture::create(text + "}\n", GetParam());
  ASSERT_TRUE(fixture) << fixture.message();
  KernelFixture& f = **fixture;

  auto query = random_floats(size_t(kSeq * kHeads * kSize), 1), k = random_floats(size_t(kSeq * kKvHeads * kSize), 2);
  const auto v = random_floats(size_t(kSeq * kKvHeads * kSize), 3), values = random_floats(size_t(kPast * kKvHeads * kSize * 2), 5);
  for (size_t i = 0; i < query.size(); i += kSize) query[i] = 1;   // times the rise, without rounding
  for (const auto& [early, late] : {std::pair{512.0f, 544.0f}, {2048.0f, 2080.0f}, {0.0f, 512.0f}, {512.0f, 0.0f}}) {
    for (size_t i = 0; i < k.size(); i += kSize) k[i] = late;
    KvPlanes planes{DType::F16, kKvHeads, kSize, kCapacity};
    auto value = values.begin();
    for (int plane : {0, 1})
      for (int64_t t = 0; t < kPast; ++t)
        for (int64_t h = 0; h < kKvHeads; ++h)
          for (int64_t i = 0; i < kSize; ++i, ++value) planes.store(plane, planes.at(plane, t, h, i), plane == 0 && i == 0 ? (t < 200 ? 0 : t < 384 ? early : late) : *value);
    const ir::Tensor cache = tensor({kPast, kKvHeads, kSize}, planes.values(kPast));
    for (const std::string name : {"window0", "window250"}) {
      auto want = ir::Evaluator(f.original()).run(*f.original().graph(name), {{"q", tensor({kSeq, kHeads, kSize}, query)}, {"k", tensor({kSeq, kKvHeads, kSize}, k)},
                                                                            {"v", tensor({kSeq, kKvHeads, kSize}, v)}, {"kv", cache}}, {{"seq", kSeq}, {"past", kPast}});
      ASSERT_TRUE(want) << want.message();
      auto run = [&](int64_t first, int64_t seq) {
        return floats(f.run_entry(name, {query.data() + first * kHeads * kSize, k.data() + first * kKvHeads * kSize, v.data() + first * kKvHeads * kSize},
                                  {{"seq", seq}, {"past", kPast + first}, {"ctx", kCapacity}}, 2, &planes.memory)[0]);
      };
      const auto got = run(0, kSeq);
      EXPECT_LT(relative_error(got, (*want)[0].f), tolerance(0x1p-10, rt::Isa::Avx512)) << name << " early " << early << " late " << late;
      auto pieces = run(0, 7);
      for (const auto& [first, seq] : {std::pair<int64_t, int64_t>{7, 40}, {47, 13}}) {
        const auto piece = run(first, seq);
        pieces.insert(pieces.end(), piece.begin(), piece.end());
      }
      EXPECT_EQ(pieces, got) << name << " early " << early << " late " << late << ": in pieces";
    }
  }
}

TEST(KernelErrors, AttentionOfMoreTokensThanItSays) {
  auto fixture = KernelFixture::create(
      "module @m level=fused {\n  dim ?seq in [1,64]\n  dim ?past in [0,128]\n  graph @g(%q: f32[?seq,2,32], %kv: kv<f16>[?past+?seq,1,32]) -> (f32[?seq,2,32]) {\n"
      "    %a = flash_attention(%q, %kv) {scale=0.5, tile_k=64, most_tokens=16} : f32[?seq,2,32]\n    return %a\n  }\n}\n", rt::Isa::Generic);
  EXPECT_EQ(fixture.message(), "graph @g: flash_attention: most_tokens: found 16, expected at least 64");
}

/// What was appended to a compressed cache lies aside until it is read; a second reader after another cache's append would not find it.
TEST(KernelErrors, ACompressedCacheIsReadBeforeTheNextIsAppendedTo) {
  const auto append = [](const std::string& n) {
    return "    %a" + n + " = kv_append(%kv" + n + ", %k, %v) {most_tokens=64} : kv<f16,k4v4>[?past+?seq,1,32]\n    %d" + n + " = kv_demote(%a" + n + ") {most_tokens=64} : kv<f16,k4v4>[?past+?seq,1,32]\n";
  };
  const auto read = [](const std::string& out, const std::string& q, const std::string& n) {
    return "    " + out + " = flash_attention(" + q + ", %d" + n + ") {scale=0.5, tile_k=64, most_tokens=64} : f32[?seq,1,32]\n";
  };
  const auto message = [&](const std::string& body) {
    const auto made = KernelFixture::create("module @m level=fused {\n  dim ?seq in [1,64]\n  dim ?past in [0,128]\n  graph @g(%q: f32[?seq,1,32], %k: f32[?seq,1,32], %v: f32[?seq,1,32], %kv0: kv<f16,k4v4>[?past,1,32], "
                                 "%kv1: kv<f16,k4v4>[?past,1,32]) -> (f32[?seq,1,32], kv<f16,k4v4>[?past+?seq,1,32], kv<f16,k4v4>[?past+?seq,1,32]) {\n" + body + "    return %y, %d0, %d1\n  }\n}\n", rt::Isa::Generic);
    return made ? std::string() : made.message();
  };
  EXPECT_EQ(message(append("0") + append("1") + read("%x", "%q", "0") + read("%y", "%x", "1")), "") << "the passes bring each append to its reader";
  EXPECT_EQ(message(append("0") + read("%x", "%q", "0") + append("1") + read("%z", "%x", "1") + read("%y", "%z", "0")),
            "graph @g: flash_attention of KV cache 0: found an append to another compressed cache before it, expected it right after its own");
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

/// Packed weights of sources in another type, against the evaluator's, which are row after row.
TEST(Pack, ConvertedSourcesAreTheEvaluators) {
  constexpr int64_t rows = 32, columns = 96;
  std::mt19937 rng(3);
  const std::vector<uint8_t> a = random_weights(DType::F32, rows * columns, rng), c = random_weights(DType::F32, rows * columns, rng);
  for (DType type : {DType::Q8_0, DType::F16, DType::BF16, DType::F32})
    for (ir::Scales scales : {ir::Scales::Block, ir::Scales::Row, ir::Scales::Tensor})
      for (bool hadamard : {false, true})
        for (int64_t interleave : {0, 16}) {
          ir::Module m;
          for (const auto& [name, data] : {std::pair("a", &a), {"c", &c}}) {
            ir::Weight* w = m.add_weight(name, ir::Type::tensor(DType::F32, {ir::Dim(rows), ir::Dim(columns)}));
            w->data = data->data();
            w->bytes = data->size();
          }
          ir::Weight* w = m.add_weight("w", ir::Type::tensor(type, {ir::Dim(2 * rows), ir::Dim(columns)}));
          w->sources = {"a", "c"};
          w->interleave = interleave;
          w->conversion = {hadamard, scales};
          ir::Evaluator evaluator(m);  // keeps the values
          const auto want = evaluator.weight(&w->value);
          ASSERT_TRUE(want) << want.message();
          const auto made = [&](const std::string& layout, size_t bytes) {
            rt::Weight made{"w", std::string(ir::info(type).name), layout, {2 * rows, columns}, 0, bytes, {"a", "c"}, interleave, hadamard, std::string(ir::scales_name(scales))};
            std::vector<uint8_t> out(bytes);
            const Status status = codegen::fill_weight(made, [&](const std::string& n) -> Result<codegen::SourceTensor> {
              return codegen::SourceTensor{DType::F32, {rows, columns}, (n == "a" ? a : c).data()};
            }, out);
            EXPECT_TRUE(status) << status.message();
            return out;
          };
          const size_t row_bytes = size_t(columns) / ir::info(type).block * ir::info(type).bytes;
          const auto straight = made("row_major", 2 * rows * row_bytes);
          std::vector<float> values(2 * rows * columns);
          for (size_t r = 0; r < 2 * rows; ++r) ir::dequantize_row(type, &straight[r * row_bytes], &values[r * columns], columns);
          EXPECT_EQ(values, (*want)->f) << ir::info(type).name << " " << int(scales) << hadamard << interleave;
          std::vector<uint8_t> packed(size_t(codegen::rows16_bytes(type, 2 * rows, columns)));
          codegen::pack_rows16(type, 2 * rows, columns, [&](int64_t r) { return &straight[size_t(r) * row_bytes]; }, 0, 2 * rows / 16, packed.data());
          EXPECT_EQ(made("rows16", packed.size()), packed) << ir::info(type).name << " " << int(scales) << hadamard << interleave;
        }
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

TEST(Pack, RowsThatAreNoWholeBlocksAreErrors) {
  std::vector<uint8_t> data(4096);
  for (const char* layout : {"row_major", "rows16"}) {
    const auto status = codegen::fill_weight({"w", "q8_0", layout, {16, 1}, 0, 0, {"a"}, 0}, [&](const std::string&) -> Result<codegen::SourceTensor> {
      return codegen::SourceTensor{DType::Q8_0, {16, 1}, data.data()};
    }, {});
    ASSERT_FALSE(status) << layout;
    EXPECT_EQ(status.message(), "weight w: found 1 columns, expected whole blocks of q8_0 and q8_0");
  }
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
