// The evaluator against values made elsewhere: ONNX Runtime (convolution, pooling, normalisation, activations,
// affine quantization), NumPy (the rest), or by hand.
#include "ir/eval.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ir/builder.h"
#include "runtime/base/half.h"

namespace prism::ir {
namespace {

std::vector<float> ramp_values(int64_t n, int64_t seed) {
  std::vector<float> values;
  for (int64_t i = 0; i < n; ++i) values.push_back(float((i * 37 + seed * 13 + 5) % 41 - 20) / 16);
  return values;
}

Tensor floats(std::vector<int64_t> shape, std::vector<float> values) {
  return {std::move(shape), std::move(values), {}};
}
Tensor ints(std::vector<int64_t> shape, std::vector<int64_t> values) {
  return {std::move(shape), {}, std::move(values)};
}
Tensor ramp(std::vector<int64_t> shape, int64_t seed) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return floats(std::move(shape), ramp_values(n, seed));
}

struct Input {
  Type type;
  Tensor tensor;
};

Type type_of(const Tensor& t, DType dtype) { return Type::tensor(dtype, Shape(t.shape.begin(), t.shape.end())); }
Input f32(Tensor t) { return {type_of(t, DType::F32), std::move(t)}; }
Input i32(Tensor t) { return {type_of(t, DType::I32), std::move(t)}; }
Input kv(DType dtype, Tensor t) { return {Type::kv(dtype, t.shape[0], t.shape[1], t.shape[2]), std::move(t)}; }

/// The result of one op on arguments.
Result<Tensor> run(Op op, const std::vector<Input>& inputs, AttrMap attrs = {},
                   const std::map<std::string, int64_t>& dims = {}) {
  Module m;
  for (const auto& [symbol, value] : dims) m.dims[symbol] = {0, 100};
  Graph* g = m.add_graph("test");
  std::vector<Value*> args;
  std::map<std::string, Tensor> values;
  for (const Input& input : inputs) {
    const std::string name = "x" + std::to_string(args.size());
    args.push_back(g->add_arg(input.type, name));
    values[name] = input.tensor;
  }
  Builder b(g);
  Value* y = b.build(op, args, std::move(attrs));
  PRISM_CHECK(b.status());
  b.set_return({y});
  Evaluator evaluator(m);
  PRISM_TRY(auto results, evaluator.run(*g, values, dims));
  return std::move(results[0]);
}

void expect_floats(const Result<Tensor>& found, std::vector<int64_t> shape, const std::vector<float>& values) {
  ASSERT_TRUE(found) << found.message();
  EXPECT_EQ(found->shape, shape);
  ASSERT_EQ(found->f.size(), values.size());
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_NEAR(found->f[i], values[i], 2e-6 * (1 + std::abs(values[i]))) << "at " << i;
}

void expect_ints(const Result<Tensor>& found, const std::vector<int64_t>& values) {
  ASSERT_TRUE(found) << found.message();
  EXPECT_EQ(found->i, values);
}

using Ints = std::vector<int64_t>;
using Floats = std::vector<double>;

TEST(Eval, Conv2dWithGroupsDilationStridePadding) {
  expect_floats(
      run(Op::Conv2d, {f32(ramp({1, 4, 5, 4}, 1)), f32(ramp({2, 2, 3, 2}, 2)), f32(ramp({2}, 3))},
          {{"stride", Ints{2, 1}}, {"padding", Ints{1, 0, 2, 1}}, {"dilation", Ints{2, 2}}, {"groups", int64_t{2}}}),
      {1, 2, 2, 3},
      {-1.542969, -3.191406, 0.0703125, -3.265625, -2.070312, -2.652344, 0.5078125, 2.136719, 0.3320312, 0.5859375,
       3.136719, 2.753906});
}

TEST(Eval, Pools) {
  const AttrMap window = {{"kernel", Ints{3, 2}}, {"stride", Ints{2, 1}}, {"padding", Ints{1, 0, 1, 1}}};
  const Input x = f32(ramp({1, 2, 5, 4}, 1));
  expect_floats(run(Op::MaxPool2d, {x}, window), {1, 2, 3, 4},
                {1.1875, 1.1875, 0.9375, 0.6875, 1.1875, 1.1875, 1.25,   1.25,   1,     0.75,  1.25,  1.25,
                 0,      1.0625, 1.0625, 0.8125, 0.5625, 1.0625, 1.0625, 0.8125, 1.125, 0.875, 0.625, 0.375});
  expect_floats(run(Op::AvgPool2d, {x}, window), {1, 2, 3, 4},
                {-0.109375,  0.28125,    0.03125,  -0.09375, -0.1145833, 0.0625,    0.2395833, 0.5416667,
                 0.09375,    -0.15625,   0.234375, 0.75,     -0.625,     -0.234375, 0.15625,   0.03125,
                 -0.4166667, -0.2395833, -0.0625,  -0.1875,  0.21875,    -0.03125,  -0.28125,  -0.40625});
  AttrMap counting = window;
  counting["count_padding"] = true;
  // Beyond the bottom padding nothing is counted in ONNX, and nothing is beyond it here.
  expect_floats(run(Op::AvgPool2d, {x}, counting), {1, 2, 3, 4},
                {-0.07291666, 0.1875,     0.02083333, -0.03125, -0.1145833, 0.0625,      0.2395833, 0.2708333,
                 0.0625,      -0.1041667, 0.15625,    0.25,     -0.4166667, -0.15625,    0.1041667, 0.01041667,
                 -0.4166667,  -0.2395833, -0.0625,    -0.09375, 0.1458333,  -0.02083333, -0.1875,   -0.1354167});
}

TEST(Eval, Norms) {
  expect_floats(run(Op::BatchNorm,
                    {f32(ramp({1, 2, 2, 2}, 1)), f32(ramp({2}, 2)), f32(ramp({2}, 3)), f32(ramp({2}, 4)),
                     f32(floats({2}, {0.5, 2}))},
                    {{"eps", 1e-3}}),
                {1, 2, 2, 2}, {-0.9410874, -1.183913, -1.426738, -1.669563, 1.056699, 1.771913, 1.694593, 1.617272});
  expect_floats(run(Op::LayerNorm, {f32(ramp({2, 5}, 1)), f32(ramp({5}, 2)), f32(ramp({5}, 3))}, {{"eps", 1e-3}}),
                {2, 5}, {-0.0940941, 1.558129, 1, 0.7940184, 0.9401845, -0.0940941, 1.558129, 1, 0.7940184, 0.9401845});
  expect_floats(run(Op::LayerNorm, {f32(floats({1, 2}, {1, 3})), f32(floats({2}, {1, 2}))}, {{"eps", 0.0}}), {1, 2},
                {-1, 2});
  expect_floats(run(Op::RmsNorm, {f32(ramp({2, 5}, 1)), f32(ramp({5}, 2))}, {{"eps", 1e-3}}), {2, 5},
                {-0.1195625, -0.2282557, -0.1630398, 0.07608523, 0.4891193, 1.055158, 0.5301034, 0.1666039, -0.03534023,
                 -0.07572905});
  expect_floats(
      run(Op::Softmax, {f32(ramp({2, 5}, 1))}), {2, 5},
      {0.310022, 0.2414454, 0.1880379, 0.146444, 0.1140507, 0.310022, 0.2414454, 0.1880379, 0.146444, 0.1140507});
  expect_floats(run(Op::Softmax, {f32(floats({1, 2}, {1000, 1000}))}), {1, 2}, {0.5, 0.5});  // does not overflow
}

TEST(Eval, Activations) {
  const Input x = f32(floats({6}, {-6, -2, -0.5, 0, 0.75, 3}));
  expect_floats(run(Op::Gelu, {x}), {6}, {0, -0.04550028, -0.1542688, 0, 0.5800295, 2.99595});
  expect_floats(run(Op::Gelu, {x}, {{"approximate", "tanh"}}), {6},
                {0, -0.04540235, -0.154286, 0, 0.5799606, 2.996363});
  expect_floats(run(Op::Gelu, {x}, {{"approximate", "quick"}}), {6},
                {-0.0002203535, -0.06434138, -0.1496116, 0, 0.5863901, 2.981929});
  expect_floats(run(Op::Silu, {x}), {6}, {-0.01483574, -0.2384058, -0.1887703, 0, 0.509384, 2.857722});
  expect_floats(run(Op::Sigmoid, {x}), {6}, {0.002472639, 0.1192029, 0.3775407, 0.5, 0.6791787, 0.9525741});
  expect_floats(run(Op::Tanh, {x}), {6}, {-0.9999876, -0.9640276, -0.4621172, 0, 0.635149, 0.9950547});
  expect_floats(run(Op::Relu, {x}), {6}, {0, 0, 0, 0, 0.75, 3});
  expect_floats(run(Op::Neg, {x}), {6}, {6, 2, 0.5, 0, -0.75, -3});
  expect_floats(run(Op::Exp, {f32(floats({2}, {0, 1}))}), {2}, {1, 2.718281828});
  expect_floats(run(Op::Sqrt, {f32(floats({2}, {0, 2.25}))}), {2}, {0, 1.5});
  expect_floats(run(Op::Softcap, {x}, {{"cap", 2.0}}), {6}, {-1.990110, -1.523188, -0.4898374, 0, 0.7167134, 1.810297});
  expect_floats(run(Op::Scale, {x}, {{"by", 2.0}, {"plus", 1.0}}), {6}, {-11, -3, 0, 1, 2.5, 7});
}

TEST(Eval, Casts) {
  expect_ints(run(Op::Cast, {f32(floats({5}, {1.9, -1.9, 300, -300, NAN}))}, {{"to", "i8"}}), {1, -1, 127, -128, 0});
  expect_floats(run(Op::Cast, {i32(ints({2}, {3, -4}))}, {{"to", "f32"}}), {2}, {3, -4});
  expect_floats(run(Op::Cast, {f32(floats({2}, {1.0009765625, 1.00048828125}))}, {{"to", "f16"}}), {2},
                {1.0009765625, 1});
}

TEST(Eval, BroadcastingArithmetic) {
  expect_floats(
      run(Op::Add, {f32(ramp({2, 1, 3}, 1)), f32(ramp({4, 1}, 2))}), {2, 4, 3},
      {0.5625,  0.3125,  0.0625, 0.3125,  0.0625,  -0.1875, 0.0625,  -0.1875, -0.4375, -0.1875, -0.4375, -0.6875,
       -0.1875, -0.4375, 1.875,  -0.4375, -0.6875, 1.625,   -0.6875, -0.9375, 1.375,   -0.9375, -1.1875, 1.125});
  const Input a = f32(floats({2}, {6, -3})), b = f32(floats({2}, {2, 4}));
  expect_floats(run(Op::Sub, {a, b}), {2}, {4, -7});
  expect_floats(run(Op::Mul, {a, b}), {2}, {12, -12});
  expect_floats(run(Op::Div, {a, b}), {2}, {3, -0.75});
  expect_floats(run(Op::Maximum, {a, b}), {2}, {6, 4});
  expect_floats(run(Op::Minimum, {a, b}), {2}, {2, -3});
}

TEST(Eval, Products) {
  expect_floats(run(Op::Linear, {f32(ramp({2, 3}, 1)), f32(ramp({4, 3}, 2)), f32(ramp({4}, 3))}), {2, 4},
                {-1.429688, 1.726562, 0.71875, 0.03125, -1.933594, 0.9882812, 4.390625, -0.375});
  Tensor w = ramp({2, 4, 2}, 2);
  std::copy_n(w.f.begin(), 8, w.f.begin() + 8);  // the same matrix in both batches
  expect_floats(run(Op::Matmul, {f32(ramp({2, 3, 4}, 1)), f32(w)}), {2, 3, 2},
                {0.75, 1.25, -1.402344, -1.824219, 0.609375, 0.546875, -1.222656, -0.9257812, 0.46875, -0.15625,
                 0.71875, 1.09375});
  expect_floats(run(Op::Matmul, {f32(ramp({2, 2, 3}, 1)), f32(ramp({2, 2, 3}, 2))}, {{"transpose_b", true}}), {2, 2, 2},
                {-0.3671875, 0.4765625, -0.8710938, -0.2617188, -0.9453125, 1.671875, -0.4765625, -0.015625});
}

TEST(Eval, LinearIsTheSameInTwoThreads) {  // big enough to be split; one row of it alone is not
  const Tensor x = ramp({1, 1000}, 1), w = ramp({1500, 1000}, 2);
  const auto all = run(Op::Linear, {f32(x), f32(w)});
  const auto last = run(Op::Linear, {f32(x), f32(floats({1, 1000}, {w.f.end() - 1000, w.f.end()}))});
  ASSERT_TRUE(all && last);
  EXPECT_EQ(all->f.back(), last->f[0]);
  double sum = 0;
  for (int i = 0; i < 1000; ++i) sum += double(x.f[i]) * w.f[i];
  EXPECT_FLOAT_EQ(all->f[0], float(sum));
}

TEST(Eval, Reduce) {
  const Input x = f32(ramp({2, 3, 4}, 1));
  expect_floats(run(Op::Reduce, {x}, {{"kind", "sum"}, {"axes", Ints{0, 2}}}), {3}, {-3.1875, 4.1875, -1.25});
  expect_floats(run(Op::Reduce, {x}, {{"kind", "mean"}, {"axes", Ints{1}}, {"keep_dims", true}}), {2, 1, 4},
                {-0.2708333, 0.3333333, 0.08333334, -0.1666667, 0.1458333, -0.1041667, -0.3541667, 0.25});
  expect_floats(run(Op::Reduce, {x}, {{"kind", "max"}, {"axes", Ints{1, 2}}}), {2}, {1.1875, 1.25});
}

TEST(Eval, GluInHalvesAndGroups) {
  const Input x = f32(floats({1, 8}, {1, -1, 2, 3, 10, 20, 30, 40}));
  expect_floats(run(Op::Glu, {x}, {{"act", "relu"}}), {1, 4}, {10, 0, 60, 120});
  expect_floats(run(Op::Glu, {x}, {{"act", "relu"}, {"group", int64_t{2}}}), {1, 4}, {2, 0, 300, 800});
}

TEST(Eval, Movement) {
  const Input x = f32(ramp({2, 3, 4}, 1));
  expect_floats(run(Op::Transpose, {x}, {{"perm", Ints{2, 0, 1}}}), {4, 2, 3},
                {-0.125, -1.125, 0.4375,  -0.5625, 1,   0,    -0.375, 1.1875, 0.1875,  -0.8125, 0.75, -0.25,
                 -0.625, 0.9375, -0.0625, -1.0625, 0.5, -0.5, -0.875, 0.6875, -0.3125, 1.25,    0.25, -0.75});
  expect_floats(
      run(Op::Slice, {x}, {{"axis", int64_t{1}}, {"begin", int64_t{1}}, {"end", int64_t{3}}}), {2, 2, 4},
      {-1.125, 1.1875, 0.9375, 0.6875, 0.4375, 0.1875, -0.0625, -0.3125, 1, 0.75, 0.5, 0.25, 0, -0.25, -0.5, -0.75});
  expect_floats(run(Op::Reshape, {x}, {{"shape", "6,4"}}), {6, 4}, ramp_values(24, 1));
  expect_ints(run(Op::Concat, {i32(ints({2, 1}, {1, 2})), i32(ints({2, 2}, {3, 4, 5, 6}))}, {{"axis", int64_t{1}}}),
              {1, 3, 4, 2, 5, 6});
  expect_floats(run(Op::Tail, {f32(floats({3, 2}, {1, 2, 3, 4, 5, 6}))}, {{"rows", "?out"}}, {{"out", 2}}), {2, 2},
                {3, 4, 5, 6});
  expect_floats(run(Op::Constant, {}, {{"values", Floats{1.5, 2}}, {"shape", "2,1"}}), {2, 1}, {1.5, 2});
  expect_ints(run(Op::Constant, {}, {{"values", Floats{7, -2}}, {"shape", "2"}, {"dtype", "i32"}}), {7, -2});
}

TEST(Eval, EmbeddingAndPositions) {
  const Tensor table = floats({3, 2}, {1, 2, 3, 4, 5, 6});
  expect_floats(run(Op::Embedding, {i32(ints({3}, {2, 0, 2})), f32(table)}), {3, 2}, {5, 6, 1, 2, 5, 6});
  const auto outside = run(Op::Embedding, {i32(ints({1}, {3})), f32(table)});
  ASSERT_FALSE(outside);
  EXPECT_NE(outside.message().find("id 3 at 0, expected 0 to 2"), std::string::npos) << outside.message();
  expect_ints(run(Op::Positions, {}, {{"start", "?past"}, {"count", "?seq"}}, {{"past", 5}, {"seq", 3}}), {5, 6, 7});
}

TEST(Eval, Rope) {
  const Input x = f32(ramp({2, 1, 6}, 1)), pos = i32(ints({2}, {3, 7}));
  expect_floats(run(Op::Rope, {x, pos, f32(floats({2}, {1, 4}))},
                    {{"mode", "adjacent"}, {"base", 100.0}, {"dims", int64_t{4}}, {"scale", 0.5}}),
                {2, 1, 6},
                {0.3652185, -0.1512133, -0.5917558, -0.8978168, -1.125, 1.1875, -0.6367647, -0.9726732, 0.4194409,
                 0.2250151, -0.0625, -0.3125});
  expect_floats(run(Op::Rope, {x, pos}, {{"mode", "half"}, {"base", 100.0}}), {2, 1, 6},
                {0.2472291, 0.3781815, -0.7837732, 0.8486034, -1.123935, 1.089257, 0.5835984, 0.1054498, 0.5143673,
                 0.7572816, 0.6822337, -0.1564889});
}

Input attention_cache() {
  Tensor t = ramp({5, 2, 2}, 2);
  const auto values = ramp_values(20, 3);
  t.f.insert(t.f.end(), values.begin(), values.end());
  return kv(DType::F32, t);
}

TEST(Eval, AttentionWithGroupsWindowAndSoftcap) {
  const std::vector<float> expected = {0.4503636,  0.2003636,  0.5534914,  0.3034914,  -0.1595144, -0.4095144,
                                       -0.5339182, -0.7839182, 0.1059917,  -0.1440083, 0.2471381,  -0.002861914,
                                       -0.0475686, -0.2975686, -0.3906729, -0.6406729};
  AttrMap attrs = {{"scale", 0.7}, {"window", int64_t{3}}, {"softcap", 2.0}};
  expect_floats(run(Op::Attention, {f32(ramp({2, 4, 2}, 1)), attention_cache()}, attrs), {2, 4, 2}, expected);
  attrs.insert({{"most_tokens", int64_t{2}}, {"tile_k", int64_t{2}}});
  expect_floats(run(Op::FlashAttention, {f32(ramp({2, 4, 2}, 1)), attention_cache()}, attrs), {2, 4, 2}, expected);
}

TEST(Eval, AttentionNotCausal) {
  expect_floats(run(Op::Attention, {f32(ramp({2, 4, 2}, 1)), attention_cache()}, {{"scale", 0.7}, {"causal", false}}),
                {2, 4, 2},
                {0.09539516, 0.26827, 0.1952829, 0.1888985, -0.246968, -0.496968, -0.1884616, -0.4384616, -0.1093586,
                 0.2388477, 0.07647196, 0.2726667, 0.1305872, -0.1194128, -0.2527938, -0.5027938});
}

TEST(Eval, KvAppendRoundsWhatItAdds) {
  const float fine = 1.00048828125f;  // halfway between two f16
  const Tensor cache = floats({1, 1, 1}, {7, 8});
  const std::vector<Input> added = {f32(floats({2, 1, 1}, {fine, 2})), f32(floats({2, 1, 1}, {3, fine}))};
  expect_floats(run(Op::KvAppend, {kv(DType::F16, cache), added[0], added[1]}), {3, 1, 1}, {7, 1, 2, 8, 3, 1});
  const auto exact = run(Op::KvAppend, {kv(DType::F32, cache), added[0], added[1]});
  ASSERT_TRUE(exact) << exact.message();
  EXPECT_EQ(exact->f, (std::vector<float>{7, fine, 2, 8, 3, fine}));
}

TEST(Eval, AffineQuantization) {
  const Input x = f32(floats({1, 9}, {-40, -1.25, -0.75, -0.25, 0.25, 0.75, 1.3, 63.4, 70}));
  expect_ints(run(Op::Quantize, {x}, {{"format", "i8"}, {"scale", 0.5}, {"zero_point", int64_t{3}}}),
              {-77, 1, 1, 3, 3, 5, 6, 127, 127});
  expect_ints(run(Op::Quantize, {x}, {{"format", "u8"}, {"scale", 0.5}, {"zero_point", int64_t{10}}}),
              {0, 8, 8, 10, 10, 12, 13, 137, 150});
  const Tensor q = ints({1, 3}, {-128, 3, 127});
  expect_floats(run(Op::Dequantize, {{type_of(q, DType::I8), q}}, {{"scale", 0.5}, {"zero_point", int64_t{3}}}), {1, 3},
                {-65.5, 0, 62});
}

TEST(Eval, ActivationBlocksRoundToTheirGrid) {
  Tensor x = floats({1, 32}, std::vector<float>(32, 0));
  x.f[0] = 127;  // the block's step is 1
  x.f[1] = 2.4f;
  x.f[2] = -3.5f;  // a tie, to even
  Tensor expected = x;
  expected.f[1] = 2;
  expected.f[2] = -4;
  expect_floats(run(Op::Quantize, {f32(x)}, {{"format", "q8a"}}), {1, 32}, expected.f);
}

TEST(Eval, WeightsMadeOfOthers) {
  Module m;
  const std::vector<float> gate = {1, 2, 3, 4}, up = {5, 6, 7, 8};
  for (auto [name, data] : {std::pair{"gate", &gate}, {"up", &up}}) {
    Weight* w = m.add_weight(name, Type::tensor(DType::F32, {Dim(4), Dim(1)}));
    w->data = data->data();
    w->bytes = 16;
  }
  Weight* plain = m.add_weight("plain", Type::tensor(DType::F32, {Dim(8), Dim(1)}));
  Weight* pairs = m.add_weight("pairs", Type::tensor(DType::F32, {Dim(8), Dim(1)}));
  plain->sources = pairs->sources = {"gate", "up"};
  pairs->interleave = 2;
  Evaluator evaluator(m);
  EXPECT_EQ((*evaluator.weight(&plain->value))->f, (std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ((*evaluator.weight(&pairs->value))->f, (std::vector<float>{1, 2, 5, 6, 3, 4, 7, 8}));
  const auto nothing = evaluator.weight(&m.add_weight("nothing", Type::tensor(DType::F32, {Dim(1)}))->value);
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.message(), "weight @nothing has no data");
}

TEST(Eval, KernelRunsItsBody) {
  Module m;
  m.level = Level::Kernel;
  Graph* g = m.add_graph("test");
  const Type type = Type::tensor(DType::F32, {Dim(2)});
  Value* x = g->add_arg(type, "x");
  Operation* kernel = g->insert(Op::Kernel, {x, x}, {}, {type});
  kernel->body = std::make_unique<Graph>(&m);
  Value *a = kernel->body->add_arg(type, "a"), *c = kernel->body->add_arg(type, "c");
  Builder b(kernel->body.get());
  Value* product = b.Mul({a, c});
  b.set_return({product});
  g->returns = {kernel->result()};
  const auto results = Evaluator(m).run(*g, {{"x", floats({2}, {3, -4})}}, {});
  ASSERT_TRUE(results) << results.message();
  EXPECT_EQ((*results)[0].f, (std::vector<float>{9, 16}));
}

TEST(Eval, InputsAreChecked) {
  Module m;
  m.dims["n"] = {1, 4};
  Graph* g = m.add_graph("test");
  Value* x = g->add_arg(Type::tensor(DType::F32, {Dim::symbol("n"), Dim(2)}), "x");
  Builder b(g);
  b.set_return({b.Relu({x})});
  Evaluator evaluator(m);
  const auto message = [&](const std::map<std::string, Tensor>& inputs) {
    return evaluator.run(*g, inputs, {}).message();
  };
  EXPECT_EQ(message({}), "@test argument %x is not given");
  EXPECT_EQ(message({{"x", ramp({3}, 1)}}), "@test argument %x: found [3], expected f32[?n,2]");
  EXPECT_EQ(message({{"x", ramp({3, 3}, 1)}}), "@test argument %x: found [3,3] with 9 values, expected [3,2] with 9");
  EXPECT_EQ(message({{"x", ramp({5, 2}, 1)}}), "@test: ?n is 5, expected 1 to 4");
  EXPECT_EQ(message({{"x", floats({1, 2}, {1})}}),
            "@test argument %x: found [1,2] with 1 values, expected [1,2] with 2");
}

}  // namespace
}  // namespace prism::ir
