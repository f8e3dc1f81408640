#include "runtime/cpu.h"

#include <gtest/gtest.h>

namespace prism::rt {
namespace {

TEST(Cpu, NamesRoundTrip) {
  for (Isa isa : {Isa::Generic, Isa::Avx2, Isa::Avx512, Isa::Amx}) EXPECT_EQ(isa_from_name(isa_name(isa)), isa);
  for (const char* name : {"", "avx", "AVX2", "avx512 ", "sse"}) EXPECT_FALSE(isa_from_name(name)) << name;
}

TEST(Cpu, EachIncludesTheOnesBefore) {
  EXPECT_LT(Isa::Generic, Isa::Avx2);
  EXPECT_LT(Isa::Avx2, Isa::Avx512);
  EXPECT_LT(Isa::Avx512, Isa::Amx);
  EXPECT_TRUE(runs_here(Isa::Generic));
  EXPECT_TRUE(runs_here(best_isa()));
}

#if defined(__x86_64__)
TEST(Cpu, AgreesWithTheCompilersDetection) {
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
  // gcc 12 cannot ask for AMX; it comes only on top of avx512.
  const Isa without_amx = best_isa() == Isa::Amx ? Isa::Avx512 : best_isa();
  EXPECT_EQ(without_amx, avx512 ? Isa::Avx512 : avx2 ? Isa::Avx2 : Isa::Generic);
}
#endif

}  // namespace
}  // namespace prism::rt
