// Products of many rows go to cuBLASLt where it is there, others to the program's own kernels: on fakes of both libraries.
#include "runtime/executor.h"
#include "runtime/gpu/device_program.h"
#include "tests/fake_libcublaslt/fake_cublaslt.h"
#include "tests/unit/fake_gpu.h"
#include "tests/unit/gpu_kernel_fixture.h"

namespace prism::rt::gpu {
namespace {

using namespace gpu_test;

constexpr int64_t kN = 24, kK = 32, kMost = 200;
constexpr uint64_t kX = 0, kC = 16384, kY = 65536;  // places in the arena

/// y = x w^T + c as one launch; its own kernel does nothing.
Program program() {
  Program p;
  p.name = "product";
  p.dims = {"seq"};
  p.codes.push_back({"cuda", "sm_90a", "cubin", fake_cubin({"nothing_5"})});
  p.kernels.push_back({"nothing_5", "linear", 0, 128, 0});
  p.weights.push_back({"w", "bf16", "row_major", {kN, kK}, 0, kN * kK * 2, {"w"}, 0});
  p.weight_bytes = kN * kK * 2;
  EntryPoint e;
  e.name = "main";
  e.inputs.push_back({"all", "f32", {Expr::constant(64 << 10)}, 0});
  e.dim_min = {1};
  e.dim_max = {kMost};
  e.arena_bytes = 1 << 20;
  const Expr seq{{Expr::Dim, 0}};
  rt::Launch l{0, {{Space::Arena, 0, kX}, {Space::Weight, 0, 0}, {Space::Arena, 0, kC}, {Space::Arena, 0, kY}}, seq, {}};
  l.product = Product{seq, kN, kK, 0, 1, 3, 2, "f32"};
  e.launches.push_back(l);
  p.entries.push_back(e);
  return p;
}

class GpuLibrary : public testing::Test {
 protected:
  GpuLibrary() {
    void* library = dlopen(fake_library("fake_libcublaslt").c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) ADD_FAILURE() << dlerror();
    reinterpret_cast<void (*)()>(dlsym(library, "fake_cublaslt_reset"))();
    blas = reinterpret_cast<fake::CublasLt* (*)()>(dlsym(library, "fake_cublaslt"))();
    blas->multiplies = false;
    LoadOptions load;
    load.threads = 1;
    load.fill = [](const Weight&, std::span<uint8_t>) { return ok(); };
    auto loaded = Executable::from_program(program(), load);
    EXPECT_TRUE(loaded) << loaded.message();
    exe = *loaded;
  }
  ~GpuLibrary() override {
    for (const auto& [kind, count] : blas->live) EXPECT_EQ(count, 0) << kind << " alive at the end";
    for (const std::string& mistake : blas->mistakes) ADD_FAILURE() << mistake;
  }

  void run(int64_t rows) {
    auto executor = Executor::create(exe, kKvCapacityMultiple, {}, "test");
    ASSERT_TRUE(executor) << executor.message();
    const int64_t dims[] = {rows};
    const Status done = (*executor)->run(exe->program().entries[0], dims);
    EXPECT_TRUE(done) << done.message();
    EXPECT_TRUE((*executor)->read(kY, 4));
  }

  FakeGpu fake;
  fake::CublasLt* blas = nullptr;
  std::shared_ptr<Executable> exe;
};

TEST_F(GpuLibrary, DoesProductsOfManyRows) {
  Variable library("PRISM_LIBCUBLASLT", fake_library("fake_libcublaslt"));
  run(130);
  EXPECT_TRUE(fake->launched.empty());
  ASSERT_EQ(blas->noted.size(), 1u);
  // By columns: y^T = w x^T + c^T.
  const auto& done = blas->noted[0];
  const auto apart = [](const void* from, const void* to) { return static_cast<const char*>(to) - static_cast<const char*>(from); };
  EXPECT_EQ(std::tuple(done.rows, done.columns, done.depth), std::tuple(uint64_t(kN), uint64_t(130), uint64_t(kK)));
  EXPECT_EQ(done.a, reinterpret_cast<const void*>(exe->gpu()->weights()));
  EXPECT_EQ(apart(done.b, done.c), ptrdiff_t(kC - kX));
  EXPECT_EQ(apart(done.b, done.d), ptrdiff_t(kY - kX));
}

TEST_F(GpuLibrary, LeavesFewRowsToTheKernel) {
  Variable library("PRISM_LIBCUBLASLT", fake_library("fake_libcublaslt"));
  run(5);
  EXPECT_TRUE(blas->noted.empty());
  EXPECT_EQ(fake->launched.size(), 1u);
}

TEST_F(GpuLibrary, IsNotNeeded) {
  Variable library("PRISM_LIBCUBLASLT", "libcublasLt_that_is_not_there.so");
  run(130);
  EXPECT_EQ(fake->launched.size(), 1u);
}

TEST(GpuProduct, WithoutRoomForItsMatricesIsRefused) {
  FakeGpu fake;
  const std::pair<const char*, void (*)(Product&)> cases[] = {
      {"product: x: found argument 9", [](Product& p) { p.x = 9; }},
      {"product: w: found 4096 x 32 values", [](Product& p) { p.n = 4096; }},
      {"product: y: found 200 x 24 values", [](Product& p) { p.y = 1; }},
      {"product: found a result of \"i8\"", [](Product& p) { p.result = "i8"; }},
      {"product: k: found 0", [](Product& p) { p.k = 0; }},
  };
  for (const auto& [message, breaks] : cases) {
    Program p = program();
    breaks(*p.entries[0].launches[0].product);
    LoadOptions load;
    load.fill = [](const Weight&, std::span<uint8_t>) { return ok(); };
    const auto loaded = Executable::from_program(std::move(p), load);
    ASSERT_FALSE(loaded) << message;
    EXPECT_NE(loaded.message().find(message), std::string::npos) << loaded.message();
  }
}

TEST(GpuProduct, LinearsOfBf16AreProducts) {
  const std::string text = "module @m level=graph {\n  dim ?seq in [1,64]\n  weight @w : bf16[64,64]\n  weight @v : bf16[64,64]\n  weight @q : q8_0[64,64]\n"
      "  graph @plain(%x: f32[?seq,64]) -> (f32[?seq,64]) {\n    %y = linear(%x, @w) : f32[?seq,64]\n    return %y\n  }\n"
      "  graph @residual(%x: f32[?seq,64]) -> (f32[?seq,64]) {\n    %y = linear(%x, @w) : f32[?seq,64]\n    %z = add(%x, %y) : f32[?seq,64]\n    return %z\n  }\n"
      "  graph @two(%x: f32[?seq,64]) -> (f32[?seq,64]) {\n    %y = linear(%x, @w) : f32[?seq,64]\n    %z = linear(%y, @w) : f32[?seq,64]\n    return %z\n  }\n"
      "  graph @gelu(%x: f32[?seq,64]) -> (f32[?seq,64]) {\n    %y = linear(%x, @v) : f32[?seq,64]\n    %z = gelu(%y) : f32[?seq,64]\n    return %z\n  }\n"
      "  graph @quantized(%x: f32[?seq,64]) -> (f32[?seq,64]) {\n    %y = linear(%x, @q) : f32[?seq,64]\n    return %y\n  }\n}\n";
  const auto products = [&](GpuRows rows, const std::string& entry) {
    auto fixture = GpuKernelFixture::create(text, rows);
    EXPECT_TRUE(fixture) << fixture.message();
    std::string found;
    for (const EntryPoint& e : (*fixture)->program().entries)
      for (const rt::Launch& l : e.launches)
        if (e.name == entry && l.product) {
          const Product& p = *l.product;
          EXPECT_EQ(std::pair(p.n, p.k), std::pair(int64_t(64), int64_t(64)));
          EXPECT_EQ(*p.m.evaluate(std::vector<int64_t>((*fixture)->program().dims.size(), 7)), 7);
          EXPECT_EQ(l.args[p.w].space, Space::Weight);
          found += p.result + (p.c < 0 ? " " : "+c ");
        }
    return found;
  };
  EXPECT_EQ(products(GpuRows::Many, "plain"), "f32 ");
  EXPECT_EQ(products(GpuRows::Many, "residual"), "f32+c ");
  EXPECT_EQ(products(GpuRows::Many, "two"), "bf16 f32 ");
  EXPECT_EQ(products(GpuRows::Many, "gelu"), "");
  EXPECT_EQ(products(GpuRows::Many, "quantized"), "");
  EXPECT_EQ(products(GpuRows::Few, "plain"), "");
}

}  // namespace
}  // namespace prism::rt::gpu
