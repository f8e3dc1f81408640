// Compressed KV caches on GPUs: a layer of attention over contexts that demote pages, against the evaluator, in any pieces.
#include "codegen/cuda/nvrtc.h"
#include "gpu_kernel_fixture.h"
#include "tests/unit/attention_model.h"

namespace prism {
namespace {


class GpuCompressed : public testing::TestWithParam<Shape> {};

/// For the device that PRISM_GPU_TARGET names; the kernels' text into `text`.
std::shared_ptr<rt::Executable> compile(Model& model, const std::string& bits, std::string* text = nullptr) {
  codegen::GenerateOptions options;
  options.target = GpuKernelFixture::target();
  if (options.target == "cuda") {
    const auto device = rt::gpu::open_cuda();
    EXPECT_TRUE(device) << device.message();
    if (!device) return nullptr;
    options.archs = {(*device)->info().arch};
  }
  if (text) options.dump = [text](const std::string& name, const std::string& dumped) { if (name == "kernels.cu") *text = dumped; };
  return model.compile(options, bits);
}

TEST_P(GpuCompressed, AgreesWithTheEvaluatorInAnyPieces) {
  const Shape& shape = GetParam();
  const bool main = shape.heads == 3;            // the others are for their sizes and bits
  const size_t tokens = main ? 330 : 200;        // three pages are demoted, or one
  Model model(shape);
  const std::vector<float> want = model.evaluate(shape.bits, tokens, tokens);
  const double loss = nmse(want, model.evaluate("", tokens, tokens));
  std::string text;
  auto exe = compile(model, shape.bits, &text);
  ASSERT_TRUE(exe);
  const std::span<const int32_t> ids = std::span<const int32_t>(model.ids()).first(tokens);

  const std::vector<float> scored = score(*session(exe), ids);
  ASSERT_EQ(scored.size(), want.size());
  EXPECT_GT(loss, shape.bits == "k8v8" ? 1e-7 : 1e-5);
  // Codes that lie between two levels may fall to either; what pages become is rounded to f16.
  EXPECT_LT(nmse(scored, want), 0.02 * loss + 1e-7) << "of a loss of " << loss;
  auto s = session(exe);
  for (const size_t begin : main ? std::vector<size_t>{188, tokens - 8} : std::vector<size_t>{188}) {   // around the first page's demotion, and the end
    s->rewind(0);
    score(*s, ids.first(begin));
    expect_steps_to_say(*s, ids.subspan(begin, 8), std::span(scored).subspan(begin * kVocab));
  }

  const std::vector<float> fed = feed(*session(exe), ids, tokens / 2);
  std::vector<float> rows;
  for (size_t end = tokens / 2; end <= tokens; end += tokens / 2) rows.insert(rows.end(), want.begin() + long((end - 1) * kVocab), want.begin() + long(end * kVocab));
  EXPECT_LT(nmse(fed, rows), 0.3 * loss + 1e-5) << "of a loss of " << loss;
  if (main) {
    const std::vector<float> at_once = feed(*session(exe), ids, tokens);
    EXPECT_TRUE(std::equal(at_once.begin(), at_once.end(), fed.end() - kVocab));
  }
  for (const char* arch : {"sm_80", "sm_90a"}) {
    if (!main && arch == std::string_view("sm_80")) continue;
    const auto cubin = codegen::compile_cuda(text, arch);
    ASSERT_TRUE(cubin) << cubin.message();
    // Sums and queries of 256 channels leave few registers; the persistent kernel is all of a step's.
    for (const auto& k : cubin->kernels)
      if (k.name != "persistent") {
        EXPECT_LE(k.spill_bytes, shape.size > 128 ? 128 : 16) << k.name << " on " << arch;
      }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, GpuCompressed, testing::Values(Shape{3, 1, 64, "k4v3"}, Shape{4, 1, 128, "k6v5"}, Shape{6, 2, 32, "k8v8"}, Shape{2, 2, 96, "k5v2", 180, 64}, Shape{2, 1, 256, "k3v3"}),
                         [](const auto& info) { return name_of(info.param); });

/// Caches that keep the first positions and the newest, in f16 and demoted.
TEST(GpuEvictingCache, AgreesWithTheEvaluator) {
  for (const std::string bits : {"", "k4v3"}) {
    Model model({3, 1, 64, bits, 0, 40, 0, 256});
    auto exe = compile(model, bits);
    ASSERT_TRUE(exe);
    const std::span<const int32_t> ids = std::span<const int32_t>(model.ids()).first(400);
    const std::vector<float> want = model.evaluate(bits, 400, 400);
    auto s = session(exe, 1, 0);
    const std::vector<float> scored = score(*s, ids);
    const double loss = bits.empty() ? 0 : nmse(want, model.evaluate("", 400, 400));
    EXPECT_LT(nmse(scored, want), 1e-9 + 0.02 * loss) << bits;
    EXPECT_GT(s->kv_stats().evicted, 0);
    s->rewind(0);
    score(*s, ids.first(392));
    expect_steps_to_say(*s, ids.subspan(392), std::span(scored).subspan(392 * kVocab));
    const std::vector<float> fed = feed(*session(exe, 1, 0), ids, 40);
    EXPECT_LT(nmse(std::span(fed).last(kVocab), std::span(want).last(kVocab)), 1e-5 + 0.5 * loss) << bits;
    if (bits.empty()) continue;
    const std::vector<float> others = feed(*session(exe, 1, 0), ids, 100);
    EXPECT_TRUE(std::equal(others.end() - kVocab, others.end(), fed.end() - kVocab));
  }
}

/// Prompts, generation and drafts that are taken back, in one session and in another that was only given what remains; steps by the persistent kernel.
TEST(GpuCompressedCache, HistoriesLeaveNoTrace) {
  Model model({6, 2, 32, ""});
  auto exe = compile(model, "k4v3");
  ASSERT_TRUE(exe);
  const std::span<const int32_t> ids = model.ids();
  const auto fresh = rt::Session::create(exe, {.context = 512, .persistent = true});
  ASSERT_TRUE(fresh) << fresh.message();
  auto used = session(exe);
  const std::vector<int32_t> other(40, 7);
  feed(*used, other, 40);
  ASSERT_EQ(used->rewind(0), 0);
  for (rt::Session* s : {used.get(), fresh->get()}) {
    feed(*s, ids.first(150), 150);
    score(*s, ids.subspan(150, 39));
  }
  score(*used, std::span(other).first(16));   // demotes a page, and is taken back
  ASSERT_EQ(used->rewind(189), 189);
  for (rt::Session* s : {used.get(), fresh->get()}) feed(*s, ids.subspan(189, 70), 70);
  feed(*used, std::span(other).first(9), 9);
  ASSERT_EQ(used->rewind(259), 259);
  for (int32_t id : ids.subspan(259, 4))
    for (rt::Session* s : {used.get(), fresh->get()}) ASSERT_TRUE(s->step(id));
  const auto got = *used->logits(), want = *(*fresh)->logits();
  EXPECT_TRUE(std::ranges::equal(got, want));
  EXPECT_EQ(used->kv_stats().demoted, 128);
  EXPECT_EQ(used->kv_stats().bytes_used, (*fresh)->kv_stats().bytes_used);
}

}  // namespace
}  // namespace prism
