#include "ir/type.h"

#include <gtest/gtest.h>

namespace prism::ir {
namespace {

TEST(Type, PrintsAndParses) {
  for (const char* text : {"f32[?seq,576]", "q4_1[960,576]{rows16}", "kv<f16>[?past+?seq,3,64]", "kv<f16,k4v3>[?p,3,64]", "kv<f16,ring=1024>[?p,3,64]", "kv<bf16,k4v3,ring=64>[?p,3,64]", "i32[]",
                           "q6_k[(?h+1)/2,256]", "q8a[?seq,64]", "bf16[100,96]{swizzled}"}) {
    auto t = Type::parse(text);
    ASSERT_TRUE(t) << t.message();
    EXPECT_EQ(t->str(), text);
  }
  EXPECT_EQ(Type::parse("f32[?seq,576]")->dim(-1), Dim(576));
  EXPECT_EQ(*Type::parse("kv<f16>[?p,3,64]"), Type::kv(DType::F16, Dim::symbol("p"), 3, 64));
  EXPECT_NE(*Type::parse("f32[4,16]"), *Type::parse("f32[4,16]{rows16}"));
}

TEST(Type, RejectsMalformedText) {
  for (const char* text :
       {"", "f32", "f33[1]", "f32[1", "f32 1]", "f32]1[", "f32[1]{rows17}", "f32[1]x", "kv<f16>[1,2]", "kv<f16[1,2,3]", "kv<f16,>[1,2,3]", "kv<f16,ring=>[1,2,3]", "kv<f16,ring=0>[1,2,3]", "kv<f16,ring=-64>[1,2,3]", "kv<f16,ring=65>[1,2,3]", "kv<f16,ring=64x>[1,2,3]",
        "kv<f16,ring=99999999999999999968>[1,2,3]", "kv<f16,k4>[1,2,3]", "f16,ring=64[1,2,3]",
        "kv<f16>[1,2,3]{rows16}", "f32[-1]", "f32[1,,2]", "f32[,]", "f32[1,2,3,4,5,6,7,8,9]"})
    EXPECT_FALSE(Type::parse(text)) << text;
}

TEST(Type, CountsElementsAndBytes) {
  auto bytes = [](const char* text) { return Type::parse(text)->bytes(); };
  EXPECT_EQ(Type::parse("f32[2,3,4]")->elements(), 24);
  EXPECT_EQ(Type::parse("f32[]")->elements(), 1);
  EXPECT_EQ(bytes("f16[2,3]"), 12);
  EXPECT_EQ(bytes("f64[]"), 8);
  EXPECT_EQ(bytes("q4_1[960,576]"), 960 * 576 / 32 * 20);
  EXPECT_EQ(bytes("q6_k[4,512]"), 4 * 2 * 210);
  EXPECT_EQ(bytes("q4_1[17,32]{rows16}"), 32 * 20);  // whole groups of 16 rows
  EXPECT_EQ(bytes("bf16[65,96]{swizzled}"), 128 * 128 * 2);   // whole tiles of 64 by 64
  EXPECT_EQ(bytes("bf16[2,9223372036854775807]{swizzled}"), std::nullopt);
  EXPECT_EQ(bytes("kv<f16>[10,3,64]"), 2 * 10 * 3 * 64 * 2);
  EXPECT_EQ(bytes("q4_1[4,33]"), std::nullopt);
  EXPECT_EQ(bytes("f32[?n]"), std::nullopt);
  EXPECT_EQ(bytes("f32[0,7]"), 0);
  EXPECT_EQ(bytes("f32[4611686018427387904]"), std::nullopt);
  EXPECT_EQ(bytes("f32[9223372036854775807,9223372036854775807]"), std::nullopt);
  EXPECT_EQ(Type::parse("f32[9223372036854775807,2]")->elements(), std::nullopt);
}

}  // namespace
}  // namespace prism::ir
