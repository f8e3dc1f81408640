// One attention kernel: lowered from a graph, run on the emulated device with a cache made up, and what the evaluator says.
#pragma once

#include <bit>

#include "codegen/kernels/gpu/gpu.h"
#include "gpu_fixture.h"
#include "ir/eval.h"
#include "ir/text.h"
#include "passes/pass.h"

namespace prism::gpu_test {

struct Attention {
  int64_t heads, kv_heads, size;
  int64_t window = 0;
  double softcap = 0;
  std::string end = "f32";       ///< how the region ends: f32, bf16, q8a
  std::string queries = "f32";
  bool causal = true;
  double scale = 0.2;
};

inline std::string describe(const Attention& a) {
  return std::to_string(a.heads) + "/" + std::to_string(a.kv_heads) + "x" + std::to_string(a.size) + " window " + std::to_string(a.window) + " softcap " +
         std::to_string(a.softcap) + " " + a.queries + " to " + a.end;
}

class FlashKernel {
 public:
  /// `most`: tokens at once; more than 16: the kernel for many. `positions`: of the cache, at most.
  FlashKernel(const Attention& a, int64_t most, int64_t positions = 448) : a_(a) {
    const std::string h = std::to_string(a.heads), d = std::to_string(a.size), kv = std::to_string(a.kv_heads), width = std::to_string(a.heads * a.size);
    const std::string q = a.queries + "[?seq," + h + "," + d + "]", y = "f32[?seq," + width + "]";
    std::string text = "module @m level=graph {\n  dim ?seq in [1," + std::to_string(most) + "]\n  dim ?past in [0," + std::to_string(positions - 64) + "]\n  graph @g(%q: " + q + ", %kv: kv<f16>[?past+?seq," + kv + "," + d +
                       "]) -> (RESULT) {\n    %a = attention(%q, %kv) {scale=" + std::to_string(a.scale) + ", causal=" + (a.causal ? "true" : "false") + ", window=" + std::to_string(a.window) + ", softcap=" + std::to_string(a.softcap) + "} : " + q +
                       "\n    %y = reshape(%a) {shape=\"?seq," + width + "\"} : " + a.queries + "[?seq," + width + "]\n";
    const std::string type = result() + "[?seq," + width + "]";
    if (a.end == "q8a") text += "    %z = quantize(%y) {format=q8a} : " + type + "\n";
    if (a.end == "bf16") text += "    %z = cast(%y) {to=bf16} : " + type + "\n";
    text += std::string("    return %") + (a.end == "f32" ? "y" : "z") + "\n  }\n}\n";
    text.replace(text.find("RESULT"), 6, type);
    auto module = ir::parse(text, "text"), reference = ir::parse(text, "text");
    EXPECT_TRUE(module) << module.message() << "\n" << text;
    if (!module) return;
    auto steps = passes::parse_pipeline("bound-kv-caches,fuse-attention,fuse-epilogues");
    EXPECT_TRUE(steps) << steps.message();
    const Status status = passes::Manager().run(**module, *steps);
    EXPECT_TRUE(status) << status.message();
    module_ = std::move(*module);
    reference_ = std::move(*reference);
    for (const ir::Operation& op : module_->graphs[0]->ops) {
      if (op.op != ir::Op::Kernel) continue;
      auto k = codegen::lower_gpu_kernel(op, most > 16 ? "prefill" : "decode", {"seq", "past", "ctx"});
      if (k) lowered_ = std::move(*k);
      else error_ = k.message();
    }
    // Values do not depend on how many tokens are computed at once.
    queries_ = random_floats(size_t(positions * a.heads * a.size), 1);
    for (float& x : queries_) x = rounded(2 * x, a.queries);
    for (int plane = 0; plane < 2; ++plane) {
      cache_[plane] = random_floats(size_t(positions * a.kv_heads * a.size), uint32_t(2 + plane));
      for (float& x : cache_[plane]) x = rounded(x, "f16");
    }
  }

  const Kernel& kernel() const {
    EXPECT_EQ(error_, "");
    return lowered_.kernel;
  }
  const std::string& lowering_error() const { return error_; }
  const codegen::LoweredKernel& lowered() const { return lowered_; }

  struct Result {
    std::string error;
    std::vector<uint8_t> bytes;
    std::vector<float> values;
  };

  Result run(OnTarget& code, int64_t tokens, int64_t past, uint64_t seed = 1) const {
    const int64_t total = past + tokens, context = (total + 63) / 64 * 64 + 64, width = a_.heads * a_.size;
    auto q = encoded(queries_.data() + past * width, size_t(tokens * width), a_.queries);
    const int64_t ring = module_->graphs[0]->args[1]->type.ring, room = ring ? std::min(ring, context) : context;
    // Past the end: what an earlier conversation left.
    std::vector<uint16_t> keys(size_t(room * a_.kv_heads * a_.size), f32_to_f16(300.f)), values(keys.size(), f32_to_f16(-900.f));
    for (int64_t p = 0; p < total; ++p)
      for (int64_t h = 0; h < a_.kv_heads; ++h)
        for (int64_t i = 0; i < a_.size; ++i) {
          const size_t from = size_t((p * a_.kv_heads + h) * a_.size + i);
          const int64_t at = p % room;
          keys[size_t(h * room * a_.size + at / 16 * (a_.size * 16) + i * 16 + at % 16)] = f32_to_f16(cache_[0][from]);
          values[size_t((h * room + at) * a_.size + i)] = f32_to_f16(cache_[1][from]);
        }
    Result r;
    r.bytes.resize(size_t(tokens * width) * (result() == "q8a" ? 48 : result() == "f32" ? 128 : 64) / 32);
    std::vector<float> workspace(size_t(lowered_.workspace_bytes) / 4, NAN);
    std::vector<uint32_t> counters(size_t(lowered_.counters));
    std::vector<rt::emu::Memory> args;
    using From = codegen::ArgSource::From;
    for (const codegen::ArgSource& s : lowered_.args)
      args.push_back(s.from == From::KeyPlane ? memory(keys) : s.from == From::ValuePlane ? memory(values) : s.from == From::Workspace ? memory(workspace)
                     : s.from == From::Counters ? memory(counters) : s.from == From::Result ? memory(r.bytes) : memory(q));
    const auto tasks = lowered_.tasks.evaluate([&](std::string_view name) { return std::optional(name == "seq" ? tokens : past); });
    EXPECT_FALSE(lowered_.tasks.str().find("past") != std::string::npos) << "a recorded launch is replayed at other positions";
    r.error = code.run(*tasks, args, {tokens, past, context}, seed);
    if (r.error.empty() && counters != std::vector<uint32_t>(counters.size())) r.error = "counters are left raised";
    r.values = decoded(r.bytes, size_t(tokens), size_t(width));
    return r;
  }

  std::vector<float> expected(int64_t tokens, int64_t past) const {
    const int64_t total = past + tokens, width = a_.heads * a_.size, kv = a_.kv_heads * a_.size;
    ir::Tensor q{{tokens, a_.heads, a_.size}, {queries_.begin() + past * width, queries_.begin() + total * width}, {}}, cache{{total, a_.kv_heads, a_.size}, {}, {}};
    for (const auto& plane : cache_) cache.f.insert(cache.f.end(), plane.begin(), plane.begin() + total * kv);
    ir::Evaluator evaluator(*reference_);
    auto out = evaluator.run(*reference_->graphs[0], {{"q", q}, {"kv", cache}}, {{"seq", tokens}, {"past", past}});
    EXPECT_TRUE(out) << out.message();
    return out ? (*out)[0].f : std::vector<float>{};
  }

  /// Largest difference to the evaluator, relative to the largest value; 1e9 for an error of the device.
  double error(OnTarget& code, int64_t tokens, int64_t past, uint64_t seed = 1, std::string* why = nullptr) const {
    const Result r = run(code, tokens, past, seed);
    if (why) *why = r.error;
    if (!r.error.empty()) return 1e9;
    const auto want = expected(tokens, past);
    double top = 0, diff = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      if (!std::isfinite(r.values[i])) return 1e9;
      top = std::max(top, double(std::abs(want[i])));
      diff = std::max(diff, double(std::abs(r.values[i] - want[i])));
    }
    return diff / top;
  }

 private:
  std::string result() const { return a_.end == "f32" ? a_.queries : a_.end; }
  static float rounded(float x, const std::string& type) { return type == "f16" ? f16_to_f32(f32_to_f16(x)) : type == "bf16" ? bf16_to_f32(f32_to_bf16(x)) : x; }

  static std::vector<uint8_t> encoded(const float* x, size_t n, const std::string& type) {
    std::vector<uint8_t> out;
    for (size_t i = 0; i < n; ++i) {
      uint8_t bytes[4];
      const uint16_t half = type == "f16" ? f32_to_f16(x[i]) : f32_to_bf16(x[i]);
      if (type == "f32") std::memcpy(bytes, x + i, 4);
      else std::memcpy(bytes, &half, 2);
      out.insert(out.end(), bytes, bytes + (type == "f32" ? 4 : 2));
    }
    return out;
  }

  std::vector<float> decoded(const std::vector<uint8_t>& bytes, size_t rows, size_t width) const {
    std::vector<float> out(rows * width);
    if (result() == "f32") std::memcpy(out.data(), bytes.data(), bytes.size());
    for (size_t i = 0; bytes.size() == 2 * out.size() && i < out.size(); ++i) {
      uint16_t half;
      std::memcpy(&half, bytes.data() + 2 * i, 2);
      out[i] = result() == "f16" ? f16_to_f32(half) : bf16_to_f32(half);
    }
    for (size_t row = 0; result() == "q8a" && row < rows; ++row) {
      const uint8_t* p = bytes.data() + row * (width / 32 * 48);
      const auto scale = [&](size_t at) {
        float f;
        std::memcpy(&f, p + at, 4);
        return f;
      };
      for (size_t block = 0; block < width / 32; ++block) {
        const float d = scale(width + 4 * block);
        int32_t halves[2] = {};
        for (size_t i = 0; i < 32; ++i) {
          const auto v = int8_t(p[block * 32 + i]);
          out[row * width + block * 32 + i] = d * float(v);
          halves[i / 16] += v;
        }
        const auto sum = [&](size_t at) { return std::bit_cast<int32_t>(scale(at)); };
        EXPECT_EQ(sum(width + width / 8 + 4 * block), -(halves[0] + halves[1]));
        for (size_t i = 0; i < 2; ++i) EXPECT_EQ(sum(width + width / 4 + 8 * block + 4 * i), -halves[i]);
      }
    }
    return out;
  }

  Attention a_;
  std::unique_ptr<ir::Module> module_, reference_;
  codegen::LoweredKernel lowered_;
  std::string error_;
  std::vector<float> queries_, cache_[2];
};

}  // namespace prism::gpu_test
