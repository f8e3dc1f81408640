// Products by cuBLASLt on a fake one, which computes what its descriptors say.
#include "runtime/gpu/cublaslt.h"

#include <cmath>
#include <functional>

#include "runtime/base/half.h"
#include "tests/fake_libcublaslt/fake_cublaslt.h"
#include "tests/unit/fake_gpu.h"

namespace prism::rt::gpu {
namespace {

using namespace gpu_test;

class CublasLt : public testing::Test {
 protected:
  CublasLt() : chosen("PRISM_LIBCUBLASLT", fake_library("fake_libcublaslt")) {
    void* library = dlopen(fake_library("fake_libcublaslt").c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) ADD_FAILURE() << dlerror();
    get = reinterpret_cast<fake::CublasLt* (*)()>(dlsym(library, "fake_cublaslt"));
    reset = reinterpret_cast<void (*)()>(dlsym(library, "fake_cublaslt_reset"));
    reset();
  }
  ~CublasLt() override { expect_clean(); }
  fake::CublasLt& fake() { return *get(); }
  void expect_clean() {
    for (const auto& [kind, count] : fake().live) EXPECT_EQ(count, 0) << kind << " alive at the end, " << fake().failed << " failed";
    for (const std::string& mistake : fake().mistakes) ADD_FAILURE() << mistake;
  }
  std::unique_ptr<Blas> open() {
    auto blas = Blas::open();
    if (blas) return *std::move(blas);
    ADD_FAILURE() << blas.message();
    std::abort();
  }

  Variable chosen;
  fake::CublasLt* (*get)() = nullptr;
  void (*reset)() = nullptr;
};

float to_f32(uint16_t bits, Float type) { return type == Float::F16 ? f16_to_f32(bits) : bf16_to_f32(bits); }
uint16_t from_f32(float f, Float type) { return type == Float::F16 ? f32_to_f16(f) : f32_to_bf16(f); }
template <class T>
Address at(std::vector<T>& v) {
  return reinterpret_cast<Address>(v.data());
}

/// x, w and c of small whole numbers, so that every sum is exact.
struct Problem {
  Problem(int64_t m, int64_t n, int64_t k, Float in, Float out)
      : x(size_t(m * k)), w(size_t(n * k)), y16(size_t(m * n), 0x7fff), c(size_t(m * n)), y(size_t(m * n), NAN), workspace(1 << 16) {
    uint32_t seed = uint32_t(m * 31 + n * 7 + k);
    const auto number = [&] { return float(int((seed = seed * 1664525 + 1013904223) >> 24) % 9 - 4); };
    for (uint16_t& v : x) v = from_f32(number(), in);
    for (uint16_t& v : w) v = from_f32(number(), in);
    for (float& v : c) v = number();
    p = {.in = in, .out = out, .m = m, .n = n, .k = k, .x = at(x), .w = at(w), .y = out == Float::F32 ? at(y) : at(y16), .workspace = at(workspace),
         .workspace_bytes = workspace.size(), .stream = this};
  }
  float expected(int64_t row, int64_t column, float beta) const {
    float sum = beta * c[size_t(row * p.n + column)];
    for (int64_t i = 0; i < p.k; ++i) sum += to_f32(x[size_t(row * p.k + i)], p.in) * to_f32(w[size_t(column * p.k + i)], p.in);
    return sum;
  }
  void expect_product(float beta) {
    for (int64_t row = 0; row < p.m; ++row)
      for (int64_t column = 0; column < p.n; ++column) {
        const size_t i = size_t(row * p.n + column);
        const float found = p.out == Float::F32 ? reinterpret_cast<const float*>(p.y)[i] : to_f32(y16[i], p.out);
        const float exact = expected(row, column, beta);
        ASSERT_EQ(found, p.out == Float::F32 ? exact : to_f32(from_f32(exact, p.out), p.out)) << row << "," << column << " of " << p.m << "," << p.n << "," << p.k;
      }
  }

  std::vector<uint16_t> x, w, y16;
  std::vector<float> c, y;
  std::vector<uint8_t> workspace;
  Matmul p;
};

#define EXPECT_OK(expr)                                         \
  do {                                                          \
    const auto& result_ = (expr);                               \
    EXPECT_TRUE(result_) << (result_ ? "" : result_.message()); \
  } while (0)

void expect_contains(const std::string& message, const std::vector<std::string>& parts) {
  EXPECT_EQ(message.find('\n'), message.npos) << message;
  for (const std::string& part : parts) EXPECT_NE(message.find(part), message.npos) << "'" << part << "' in: " << message;
}

TEST_F(CublasLt, MultipliesByRows) {
  auto blas = open();
  const std::tuple<int64_t, int64_t, int64_t> sizes[] = {{1, 1, 1}, {1, 7, 5}, {3, 1, 4}, {5, 7, 3}, {16, 48, 32}, {33, 17, 65}};
  const std::pair<Float, Float> types[] = {{Float::Bf16, Float::F32}, {Float::F16, Float::F32}, {Float::Bf16, Float::Bf16}, {Float::F16, Float::F16}};
  for (const auto& [m, n, k] : sizes)
    for (const auto& [in, out] : types) {
      Problem problem(m, n, k, in, out);
      EXPECT_OK(blas->matmul(problem.p));
      EXPECT_EQ(fake().stream, &problem);
      problem.expect_product(0);
    }
  EXPECT_EQ(fake().products, 24);
}

TEST_F(CublasLt, AddsAMatrixThatMayBeTheResult) {
  auto blas = open();
  for (float beta : {1.0f, -2.0f, 0.0f}) {
    Problem problem(5, 6, 7, Float::Bf16, Float::F32);
    problem.p.c = at(problem.c);
    problem.p.beta = beta;
    EXPECT_OK(blas->matmul(problem.p));
    problem.expect_product(beta);
    Problem in_place(5, 6, 7, Float::Bf16, Float::F32);
    in_place.y = in_place.c;
    in_place.p.y = in_place.p.c = at(in_place.y);
    in_place.p.beta = beta;
    EXPECT_OK(blas->matmul(in_place.p));
    in_place.expect_product(beta);
  }
}

TEST_F(CublasLt, AsksOnceForEveryProductAndAlignment) {
  auto blas = open();
  alignas(256) static float storage[256 + 64];
  Problem problem(4, 8, 16, Float::F16, Float::F32);
  for (size_t offset : {0, 0, 1, 1, 4, 4, 64, 64}) {  // aligned to 256, 4, 16 and 256 bytes
    problem.p.y = reinterpret_cast<Address>(storage + offset);
    EXPECT_OK(blas->matmul(problem.p));
    problem.expect_product(0);
  }
  EXPECT_EQ(fake().choices, 3);
  Problem other(4, 8, 17, Float::F16, Float::F32);
  for (int i = 0; i < 3; ++i) EXPECT_OK(blas->matmul(other.p));
  EXPECT_EQ(fake().choices, 4);
  other.p.workspace = 0;
  other.p.workspace_bytes = 0;
  for (int i = 0; i < 3; ++i) EXPECT_OK(blas->matmul(other.p));
  other.expect_product(0);
  EXPECT_EQ(fake().choices, 5);
  EXPECT_EQ(fake().live["layout"], 15);
  EXPECT_EQ(fake().live["preference"], 0);
}

TEST_F(CublasLt, ForgetsBeforeItHoldsTooMany) {
  auto blas = open();
  Problem problem(1, 1, 1, Float::F16, Float::F32);
  for (uint64_t bytes = 0; bytes < 5000; ++bytes) {
    problem.p.workspace_bytes = bytes;
    EXPECT_OK(blas->matmul(problem.p));
  }
  EXPECT_EQ(fake().choices, 5000);
  EXPECT_EQ(fake().live["operation"], 5000 - 4096);
}

TEST_F(CublasLt, NothingIsAskedForNothing) {
  auto blas = open();
  Problem problem(2, 2, 2, Float::F16, Float::F32);
  problem.p.m = 0;
  EXPECT_OK(blas->matmul(problem.p));
  problem.p.m = 2;
  problem.p.n = 0;
  EXPECT_OK(blas->matmul(problem.p));
  EXPECT_EQ(fake().products, 0);
}

TEST_F(CublasLt, WhatCannotBeSaysWhy) {
  auto blas = open();
  const auto refusal = [&](const std::function<void(Matmul&)>& change) {
    Problem problem(2, 3, 4, Float::F16, Float::F32);
    change(problem.p);
    const Status status = blas->matmul(problem.p);
    EXPECT_FALSE(status);
    return status ? "" : status.message();
  };
  expect_contains(refusal([](Matmul& p) { p.in = Float::F32; }), {"cuBLASLt: f32[2,3] = f32[2,4] * f32[3,4]^T: expected a product of f16 or bf16"});
  expect_contains(refusal([](Matmul& p) { p.out = Float::Bf16; }), {"bf16[2,3] = f16[2,4] * f16[3,4]^T: expected"});
  expect_contains(refusal([](Matmul& p) { p.out = Float::F16, p.c = p.y; }), {"an f32 matrix to add", "result is f16"});
  expect_contains(refusal([](Matmul& p) { p.k = 0; }), {"k of at least 1"});
  expect_contains(refusal([](Matmul& p) { p.m = -1; }), {"sizes of at least 0"});
  fake().algorithms = 0;
  expect_contains(refusal([](Matmul&) {}), {"found no algorithm for it"});
  fake().algorithms = 1;
  fake().fault = {"cublasLtMatmul", 1, 7};
  expect_contains(refusal([](Matmul&) {}), {"cuBLASLt: f32[2,3] = f16[2,4] * f16[3,4]^T: cublasLtMatmul failed: an unsupported value"});
}

TEST_F(CublasLt, WithoutTheLibrarySaysSo) {
  Variable none("PRISM_LIBCUBLASLT", "libcublasLt_that_is_not_there.so");
  auto blas = Blas::open();
  ASSERT_FALSE(blas);
  expect_contains(blas.message(), {"cuBLASLt cannot be loaded (libcublasLt_that_is_not_there.so", "install the CUDA 12 or 13 toolkit"});
  Variable other("PRISM_LIBCUBLASLT", "libm.so.6");
  auto wrong = Blas::open();
  ASSERT_FALSE(wrong);
  expect_contains(wrong.message(), {"libcublasLt: found no cublasLtGetStatusString"});
}

TEST_F(CublasLt, WhicheverCallFailsNothingLeaks) {
  Problem first(2, 3, 4, Float::Bf16, Float::F32), second(3, 3, 4, Float::Bf16, Float::F32);
  const auto life = [&]() -> Status {
    PRISM_TRY(auto blas, Blas::open());
    for (Problem* problem : {&first, &second, &first}) {
      std::fill(problem->y.begin(), problem->y.end(), NAN);
      PRISM_CHECK(blas->matmul(problem->p));
      problem->expect_product(0);
    }
    return ok();
  };
  EXPECT_OK(life());
  const int64_t calls = fake().calls;
  ASSERT_GT(calls, 30);
  for (int code : {3, 7, 15})
    for (int nth = 1; nth <= calls; ++nth) {
      reset();
      fake().fault = {"", nth, code};
      const Status status = life();
      EXPECT_EQ(bool(status), fake().failed.ends_with("Destroy")) << fake().failed;
      if (!status) expect_contains(status.message(), {"cuBLASLt: "});
      expect_clean();
      if (HasFailure()) return;
    }
}

}  // namespace
}  // namespace prism::rt::gpu
