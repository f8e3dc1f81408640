#include <gtest/gtest.h>

#include "ir/builder.h"

namespace prism::ir {
namespace {

/// "op(types) {attrs}" -> the inferred type, or the error.
struct Infer : ::testing::Test {
  Module m;
  Infer() {
    m.dims["seq"] = {1, 64};
    m.dims["past"] = {0, 64};
  }
  std::string operator()(Op op, std::vector<const char*> types, AttrMap attrs = {}) {
    Graph* g = m.add_graph("g");
    std::vector<Value*> operands;
    for (const char* t : types) operands.push_back(g->add_arg(*Type::parse(t), "x"));
    normalize_attrs(op, attrs);
    auto r = infer(op, operands, attrs, m);
    return r ? (*r)[0].str() : r.message();
  }
};

using Ints = std::vector<int64_t>;

TEST_F(Infer, Signatures) {
  auto& f = *this;
  EXPECT_EQ(f(Op::RmsNorm, {"f32[2,?seq,8]", "f32[8]"}), "f32[2,?seq,8]");
  EXPECT_EQ(f(Op::RmsNorm, {"f32[2,8]", "f32[9]"}),
            "rms_norm: operand w (x.1) is f32[9], expected a float tensor of shape [d=8]");
  EXPECT_EQ(f(Op::RmsNorm, {"f32[2,8]"}), "rms_norm: found 1 operands, expected (x: F[*,d], w: F[d]) -> same(x)");
  EXPECT_EQ(f(Op::RmsNorm, {"f32[2,8]", "f32[8]", "f32[8]"}),
            "rms_norm: found 3 operands, expected (x: F[*,d], w: F[d]) -> same(x)");
  EXPECT_EQ(f(Op::LayerNorm, {"f32[2,8]", "f32[8]", "f32[8]"}), "f32[2,8]");
  EXPECT_EQ(f(Op::LayerNorm, {"f32[2,8]", "f32[8]"}), "f32[2,8]");
  EXPECT_EQ(f(Op::Relu, {"i32[2]"}), "relu: operand x (x) is i32[2], expected a float tensor");
  EXPECT_EQ(f(Op::Relu, {"f32[]"}), "f32[]");
  EXPECT_EQ(f(Op::Softmax, {"f32[]"}), "softmax: operand x (x) is f32[], expected a float tensor of shape [*,d]");
  EXPECT_EQ(f(Op::BatchNorm, {"f32[1,3,4,4]", "f32[3]", "f32[3]", "f32[3]", "f32[3]"}), "f32[1,3,4,4]");
  EXPECT_EQ(f(Op::Softcap, {"f32[2]"}), "softcap: attribute 'cap' is missing, expected a number");
  EXPECT_EQ(f(Op::Softcap, {"f32[2]"}, {{"cap", 50}}), "f32[2]");
}

TEST_F(Infer, Elementwise) {
  auto& f = *this;
  EXPECT_EQ(f(Op::Add, {"f32[?seq,8]", "f32[8]"}), "f32[?seq,8]");
  EXPECT_EQ(f(Op::Mul, {"f32[3,1]", "f32[4]"}), "f32[3,4]");
  EXPECT_EQ(f(Op::Mul, {"f32[]", "f16[1,?seq]"}), "f32[1,?seq]");
  EXPECT_EQ(f(Op::Sub, {"f32[?seq]", "f32[?past]"}),
            "sub: operands are f32[?seq] and f32[?past], expected shapes that broadcast");
  EXPECT_EQ(f(Op::Cast, {"i32[?seq]"}, {{"to", "f16"}}), "f16[?seq]");
  EXPECT_EQ(f(Op::Cast, {"q4_1[4,32]"}, {{"to", "f16"}}),
            "cast: found q4_1[4,32] to f16, expected scalar element types");
  EXPECT_EQ(f(Op::Gelu, {"f32[2]"}, {{"approximate", "fast"}}),
            "gelu: attribute 'approximate' is 'fast', expected one of none, tanh, quick");
}

TEST_F(Infer, MatrixProducts) {
  auto& f = *this;
  EXPECT_EQ(f(Op::Linear, {"f32[?seq,64]", "q4_1[96,64]"}), "f32[?seq,96]");
  EXPECT_EQ(f(Op::Linear, {"q8a[?seq,64]", "q4_1[96,64]{rows16}", "f32[96]"}), "f32[?seq,96]");
  EXPECT_EQ(f(Op::Linear, {"f32[64]", "f16[96,64]"}), "f32[96]");
  EXPECT_EQ(f(Op::Linear, {"f32[?seq,32]", "q4_1[96,64]"}),
            "linear: operand w (x.1) is q4_1[96,64], expected a float or quantized tensor of shape [n=96,k=32]");
  EXPECT_EQ(f(Op::Linear, {"q4_1[4,64]", "q4_1[96,64]"}),
            "linear: operand x (x) is q4_1[4,64], expected a float or q8a tensor");
  EXPECT_EQ(f(Op::Matmul, {"f32[2,3,4]", "f32[2,4,5]"}), "f32[2,3,5]");
  EXPECT_EQ(f(Op::Matmul, {"f32[2,3,4]", "f32[2,5,4]"}, {{"transpose_b", true}}), "f32[2,3,5]");
  EXPECT_EQ(f(Op::Matmul, {"f32[2,3,4]", "f32[4,5]"}),
            "matmul: operands are f32[2,3,4] and f32[4,5], expected [*,m,k] and [*,k,n]");
  EXPECT_EQ(f(Op::Glu, {"f32[?seq,96]"}, {{"act", "silu"}, {"group", 16}}), "f32[?seq,48]");
  EXPECT_EQ(f(Op::Glu, {"f32[?seq,96]"}, {{"act", "silu"}, {"group", 36}}),
            "glu: x is f32[?seq,96], expected a last axis divisible by 72");
}

TEST_F(Infer, Transformer) {
  auto& f = *this;
  EXPECT_EQ(f(Op::Embedding, {"i32[?seq]", "q6_k[100,256]{rows16}"}), "f32[?seq,256]");
  EXPECT_EQ(f(Op::Positions, {}, {{"start", "?past"}, {"count", "?seq"}}), "i32[?seq]");
  EXPECT_EQ(f(Op::Rope, {"f32[?seq,2,32]", "i32[?seq]"}, {{"mode", "half"}}), "f32[?seq,2,32]");
  EXPECT_EQ(f(Op::Rope, {"f32[?seq,2,32]", "i32[?seq]", "f32[8]"}, {{"mode", "half"}, {"dims", 16}}), "f32[?seq,2,32]");
  EXPECT_EQ(f(Op::Rope, {"f32[?seq,2,32]", "i32[?seq]", "f32[8]"}, {{"mode", "half"}}),
            "rope: factors are f32[8], expected [16]");
  EXPECT_EQ(f(Op::Rope, {"f32[?seq,2,32]", "i32[?past]"}, {{"mode", "half"}}),
            "rope: operand pos (x.1) is i32[?past], expected an integer tensor of shape [s=?seq]");
  EXPECT_EQ(f(Op::Rope, {"f32[?seq,2,32]", "i32[?seq]"}, {{"mode", "half"}, {"dims", 34}}),
            "rope: rotates 34 of f32[?seq,2,32], expected an even number up to the last axis");
  EXPECT_EQ(f(Op::KvAppend, {"kv<f16>[?past,1,32]", "f32[?seq,1,32]", "f32[?seq,1,32]"}), "kv<f16>[?past+?seq,1,32]");
  EXPECT_EQ(f(Op::KvAppend, {"f16[?past,1,32]", "f32[?seq,1,32]", "f32[?seq,1,32]"}),
            "kv_append: operand kv (x) is f16[?past,1,32], expected a kv cache");
  EXPECT_EQ(f(Op::Attention, {"f32[?seq,6,32]", "kv<f16>[?past+?seq,2,32]"}, {{"scale", 0.5}}), "f32[?seq,6,32]");
  EXPECT_EQ(
      f(Op::Attention, {"f32[?seq,5,32]", "kv<f16>[?past+?seq,2,32]"}, {{"scale", 0.5}}),
      "attention: q is f32[?seq,5,32] and kv is kv<f16>[?past+?seq,2,32], expected heads to be a multiple of kv heads");
  EXPECT_EQ(f(Op::FlashAttention, {"f32[?seq,6,32]", "kv<f16>[?past+?seq,2,32]"},
              {{"scale", 0.5}, {"most_tokens", 4}, {"tile_k", 0}}),
            "flash_attention: tile_k is 0, expected at least 1");
  EXPECT_EQ(f(Op::Tail, {"f32[?seq,8]"}, {{"rows", "1"}}), "f32[1,8]");
  EXPECT_EQ(f(Op::Tail, {"f32[?seq,8]"}, {{"rows", "?seq+1"}}), "tail: rows is ?seq+1, expected at most ?seq");
}

TEST_F(Infer, Quantization) {
  auto& f = *this;
  EXPECT_EQ(f(Op::Quantize, {"f32[?seq,64]"}, {{"format", "q8a"}}), "q8a[?seq,64]");
  EXPECT_EQ(f(Op::Quantize, {"f32[?seq,65]"}, {{"format", "q8a"}}),
            "quantize: x is f32[?seq,65], expected a last axis divisible by 32");
  EXPECT_EQ(f(Op::Quantize, {"f32[3]"}, {{"format", "u8"}, {"scale", 0.5}}), "u8[3]");
  EXPECT_EQ(f(Op::Quantize, {"f32[3]"}, {{"format", "u8"}}), "quantize: scale is 0, expected > 0 for u8");
  EXPECT_EQ(f(Op::Dequantize, {"q4_1[2,32]"}), "f32[2,32]");
  EXPECT_EQ(f(Op::Dequantize, {"i8[2,3]"}, {{"scale", 0.5}, {"to", "f16"}}), "f16[2,3]");
  EXPECT_EQ(f(Op::Dequantize, {"f32[2,3]"}),
            "dequantize: found f32[2,3] to f32, expected a quantized tensor to a float type");
}

TEST_F(Infer, Vision) {
  auto& f = *this;
  const AttrMap conv = {{"stride", Ints{2, 2}}, {"padding", Ints{3, 3, 3, 3}}, {"dilation", Ints{1, 1}}};
  EXPECT_EQ(f(Op::Conv2d, {"f32[1,3,224,224]", "f32[64,3,7,7]", "f32[64]"}, conv), "f32[1,64,112,112]");
  EXPECT_EQ(f(Op::Conv2d, {"f32[1,3,2*?seq,224]", "f32[64,3,7,7]"}, conv), "f32[1,64,?seq,112]");
  EXPECT_EQ(f(Op::Conv2d, {"f32[1,4,9,9]", "f32[64,3,7,7]"}, conv),
            "conv2d: x is f32[1,4,9,9] and k is f32[64,3,7,7], expected channels of 1 groups");
  EXPECT_EQ(f(Op::Conv2d, {"f32[1,3,9,9]", "f32[64,3,17,7]"}, conv),
            "conv2d: x is f32[1,3,9,9], expected room for a window of 17");
  AttrMap wrong = conv;
  wrong["stride"] = Ints{0, 1};
  EXPECT_EQ(f(Op::Conv2d, {"f32[1,3,9,9]", "f32[64,3,7,7]"}, wrong),
            "conv2d: attribute 'stride' holds 0, expected at least 1");
  EXPECT_EQ(f(Op::MaxPool2d, {"f32[1,64,112,112]"},
              {{"kernel", Ints{3, 3}}, {"stride", Ints{2, 2}}, {"padding", Ints{1, 1, 1, 1}}}),
            "f32[1,64,56,56]");
  EXPECT_EQ(f(Op::AvgPool2d, {"f32[1,8,7,7]"},
              {{"kernel", Ints{7, 7}}, {"stride", Ints{1, 1}}, {"padding", Ints{0, 0, 0, 0}}}),
            "f32[1,8,1,1]");
  EXPECT_EQ(f(Op::AvgPool2d, {"f32[1,8,7,7]"},
              {{"kernel", Ints{2, 2}}, {"stride", Ints{1, 1}}, {"padding", Ints{2, 0, 0, 0}}}),
            "avg_pool2d: padding is 2, expected less than the kernel");
}

TEST_F(Infer, Movement) {
  auto& f = *this;
  EXPECT_EQ(f(Op::Reshape, {"f32[?seq,576]"}, {{"shape", "?seq,9,64"}}), "f32[?seq,9,64]");
  EXPECT_EQ(f(Op::Reshape, {"f32[1,?seq+1,?past,2]"}, {{"shape", "(?seq+1)*?past*2"}}), "f32[2*?past*(?seq+1)]");
  EXPECT_EQ(f(Op::Reshape, {"f32[?seq,576]"}, {{"shape", "?past,576"}}),
            "reshape: x is f32[?seq,576], expected as many elements as [?past,576]");
  EXPECT_EQ(f(Op::Reshape, {"q4_1[2,64]"}, {{"shape", "4,32"}}),
            "reshape: x is q4_1[2,64], expected as many elements as [4,32]");
  EXPECT_EQ(f(Op::Transpose, {"f32[2,?seq,4]"}, {{"perm", Ints{2, 0, 1}}}), "f32[4,2,?seq]");
  EXPECT_EQ(f(Op::Transpose, {"f32[2,3]"}, {{"perm", Ints{1, 1}}}),
            "transpose: perm holds 1, expected a permutation of the 2 axes");
  EXPECT_EQ(f(Op::Slice, {"f32[?seq,96]"}, {{"axis", 1}, {"begin", 32}, {"end", 96}}), "f32[?seq,64]");
  EXPECT_EQ(f(Op::Slice, {"f32[?seq,96]"}, {{"axis", 1}, {"begin", 32}, {"end", 97}}),
            "slice: range is [32,97), expected within 96");
  EXPECT_EQ(f(Op::Slice, {"f32[?seq,96]"}, {{"axis", 2}, {"begin", 0}, {"end", 1}}),
            "slice: axis is 2, expected in [0,2)");
  EXPECT_EQ(f(Op::Concat, {"f32[?seq,4]", "f32[?past,4]"}, {{"axis", 0}}), "f32[?past+?seq,4]");
  EXPECT_EQ(f(Op::Concat, {"f32[?seq,4]", "f32[?past,4]"}, {{"axis", 1}}),
            "concat: operand 1 is f32[?past,4], expected f32[?seq,4] but for axis 1");
  EXPECT_EQ(f(Op::Concat, {}, {{"axis", 0}}), "concat: found no operands, expected at least 1");
  EXPECT_EQ(f(Op::Reduce, {"f32[2,3,4]"}, {{"kind", "mean"}, {"axes", Ints{0, 2}}}), "f32[3]");
  EXPECT_EQ(f(Op::Reduce, {"f32[2,3,4]"}, {{"kind", "mean"}, {"axes", Ints{0, 2}}, {"keep_dims", true}}), "f32[1,3,1]");
  EXPECT_EQ(f(Op::Reduce, {"f32[2]"}, {{"kind", "max"}, {"axes", Ints{1}}}),
            "reduce: axes hold 1, expected distinct axes of f32[2]");
  EXPECT_EQ(f(Op::Constant, {}, {{"values", std::vector<double>{1, 2}}, {"shape", "2,1"}}), "f32[2,1]");
  EXPECT_EQ(f(Op::Constant, {}, {{"values", std::vector<double>{1, 2}}, {"shape", "3"}}),
            "constant: found 2 values, expected f32[3]");
}

TEST(Builder, KeepsTheFirstError) {
  Module m;
  Graph* g = m.add_graph("f");
  Value* x = g->add_arg(*Type::parse("f32[4]"), "x");
  Builder b(g);
  Value* y = b.Softcap({x}, {}, "y");
  Value* z = b.Add({y, x});
  b.Reshape({z}, {{"shape", "nonsense"}});
  b.set_return({z});
  EXPECT_EQ(b.status().message(), "graph @f: %y: softcap: attribute 'cap' is missing, expected a number");
  EXPECT_TRUE(g->ops.empty());
  EXPECT_TRUE(g->returns.empty());
  EXPECT_TRUE(x->uses.empty());
}

TEST(Builder, InsertsBeforeAndNames) {
  Module m;
  Graph* g = m.add_graph("f");
  Value* x = g->add_arg(*Type::parse("f32[4]"), "x");
  Builder b(g);
  Value* last = b.Relu({x}, {}, "y");
  Value* first = Builder(g, last->def).Neg({x}, {}, "y");
  EXPECT_EQ(&g->ops.front(), first->def);
  EXPECT_EQ(first->name, "y.1");
  EXPECT_EQ(last->def->attr<int64_t>("none"), 0);
  EXPECT_EQ(b.Gelu({x})->def->attr<std::string>("approximate"), "none");
}

}  // namespace
}  // namespace prism::ir
