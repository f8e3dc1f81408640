// Attention on GPUs, for few tokens and for many: right numbers in every order of blocks and threads, and mistakes noticed.
#include "gpu_flash_fixture.h"
#include "kir_mutate.h"

namespace prism::gpu_test {
namespace {

struct Chunk {
  int64_t tokens, past;
};

/// How far a value may be from the evaluator's, relative to the largest: rounding to the result's type comes on top.
double tolerance(const Attention& a, double exact) { return exact + (a.end == "q8a" ? 1.0 / 127 : a.end == "bf16" || a.queries == "bf16" ? 1.0 / 256 : 0); }

const std::vector<Attention> kDecodeCases = {
    {9, 3, 64},
    {14, 2, 128},
    {4, 4, 80, 0, 0, "bf16"},
    {4, 1, 256, 20, 0, "q8a"},
    {2, 1, 32, 100, 5.0},
    {12, 1, 96, 0, 0, "q8a", "f16"},
    {2, 2, 48, 0, 0, "f32", "f32", false},
};

TEST(GpuFlash, DecodeAndVerify) {
  for (const Attention& a : kDecodeCases) {
    const FlashKernel f(a, 16);
    expect_compiles(f.kernel());
    Emulated code(f.kernel());
    uint64_t seed = 1;
    for (const Chunk& c : {Chunk{1, 0}, {3, 0}, {1, 63}, {1, 64}, {16, 60}, {2, 130}, {1, 383}}) {
      std::string why;
      EXPECT_LT(f.error(code, c.tokens, c.past, seed++, &why), tolerance(a, 1e-3)) << describe(a) << ", tokens " << c.tokens << " past " << c.past << " " << why;
    }
  }
}

}  // namespace
}  // namespace prism::gpu_test
