// The loops that measure the machine do all they are counted for: a compiler that dropped some would make it faster than any.
#include "codegen/limits.h"

#include <gtest/gtest.h>

#include "tests/unit/isas.h"

namespace prism::codegen {
namespace {

TEST(Limits, AreThoseOfARealMachine) {
  constexpr double kClock = 7e9;  // more than any has
  for (rt::Isa isa : isas_here()) {
    for (unsigned threads : {1u, 2u}) {
      SCOPED_TRACE(std::string(rt::isa_name(isa)) + ", " + std::to_string(threads) + " threads");
      const auto l = measure_limits(isa, threads);
      ASSERT_TRUE(l) << l.message();
      const double vectors = 2 * kClock * threads;  // instructions
      const double lanes = isa >= rt::Isa::Avx512 ? 16 : isa == rt::Isa::Avx2 ? 8 : 4;
      EXPECT_GT(l->f32, 1e6);
      EXPECT_LT(l->f32, vectors * lanes * 2);
      EXPECT_GT(l->int8, 1e6);
      EXPECT_LT(l->int8, vectors * lanes * 8);
      EXPECT_GT(l->read, 1e6);
      EXPECT_LT(l->read, kClock * threads * 64);
      EXPECT_EQ(l->bf16 > 0, isa >= rt::Isa::Avx512);
      EXPECT_LT(l->bf16, isa == rt::Isa::Amx ? kClock * threads * 16 * 16 * 32 * 2 / 16 : vectors * lanes * 4);  // a product of matrix registers takes 16 cycles
    }
  }
}

}  // namespace
}  // namespace prism::codegen
