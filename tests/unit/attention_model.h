// A layer of attention as a language model, whose KV cache passes change, and sessions with it.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "codegen/fill_weight.h"
#include "codegen/generate.h"
#include "ir/eval.h"
#include "ir/text.h"
#include "passes/pass.h"
#include "runtime/session.h"
#include "tests/unit/isas.h"

namespace prism {

inline constexpr int64_t kVocab = 48, kPositions = 420;

struct Shape {
  int64_t heads, kv_heads, size;
  std::string bits;
  int64_t window = 0, step = 512;   ///< step: the most tokens at once
  int64_t second_window = 0;        ///< of a second reader of the cache, if there is one
  int64_t kept = 0;                 ///< > 0: positions that evict-kv keeps
};

inline std::string name_of(const Shape& s) {
  return s.bits + "_" + std::to_string(s.heads) + "x" + std::to_string(s.kv_heads) + "x" + std::to_string(s.size) + (s.window ? "_window" : "") + (s.kept ? "_evicting" : "");
}

/// One block: keys have a mean that is far larger than what varies, and a channel that stands out.
class Model {
 public:
  explicit Model(const Shape& s) : kept_(s.kept) {
    const std::string width = std::to_string(s.heads * s.size), kv_width = std::to_string(s.kv_heads * s.size), size = std::to_string(s.size);
    const std::string kv = "," + std::to_string(s.kv_heads) + "," + size + "]", q = "f32[?seq," + std::to_string(s.heads) + "," + size + "]";
    text_ = "module @m level=graph {\n  dim ?out in [1,512]\n  dim ?past in [0,4096]\n  dim ?seq in [1," + std::to_string(s.step) + "]\n  attr context_length=4096\n  attr vocab_size=48\n"
            "  weight @embd : f32[48," + width + "]\n  weight @q : f32[" + width + "," + width + "]\n  weight @k : f32[" + kv_width + "," + width +
            "]\n  weight @kb : f32[" + kv_width + "]\n  weight @v : f32[" + kv_width + "," + width + "]\n  weight @o : f32[48," + width + "]\n"
            "  graph @forward(%ids: i32[?seq], %kv0: kv<f16>[?past" + kv + ") -> (f32[?out,48], kv<f16>[?past+?seq" + kv + ") {\n"
            "    %pos = positions() {count=\"?seq\", start=\"?past\"} : i32[?seq]\n"
            "    %x = embedding(%ids, @embd) : f32[?seq," + width + "]\n"
            "    %ql = linear(%x, @q) : f32[?seq," + width + "]\n    %kl = linear(%x, @k) : f32[?seq," + kv_width + "]\n"
            "    %ka = add(%kl, @kb) : f32[?seq," + kv_width + "]\n    %vl = linear(%x, @v) : f32[?seq," + kv_width + "]\n"
            "    %qr = reshape(%ql) {shape=\"?seq," + std::to_string(s.heads) + "," + size + "\"} : " + q + "\n"
            "    %kr = reshape(%ka) {shape=\"?seq," + std::to_string(s.kv_heads) + "," + size + "\"} : f32[?seq" + kv + "\n"
            "    %vr = reshape(%vl) {shape=\"?seq," + std::to_string(s.kv_heads) + "," + size + "\"} : f32[?seq" + kv + "\n"
            "    %qp = rope(%qr, %pos) {mode=half} : " + q + "\n    %kp = rope(%kr, %pos) {mode=half} : f32[?seq" + kv + "\n"
            "    %kv1 = kv_append(%kv0, %kp, %vr) : kv<f16>[?past+?seq" + kv + "\n"
            "    %a = attention(%qp, %kv1) {scale=" + std::to_string(1 / std::sqrt(double(s.size))) + ", window=" + std::to_string(s.window) + "} : " + q + "\n"
            "    %rows" + (s.second_window ? "1" : "") + " = reshape(%a) {shape=\"?seq," + width + "\"} : f32[?seq," + width + "]\n" +
            (s.second_window ? "    %b = attention(%qp, %kv1) {scale=0.1, window=" + std::to_string(s.second_window) + "} : " + q + "\n    %rows2 = reshape(%b) {shape=\"?seq," + width +
                                   "\"} : f32[?seq," + width + "]\n    %rows = add(%rows1, %rows2) : f32[?seq," + width + "]\n" : "") +
            "    %y = linear(%rows, @o) : f32[?seq,48]\n    %t = tail(%y) {rows=\"?out\"} : f32[?out,48]\n    return %t, %kv1\n  }\n}\n";
    fill();
    if (const auto kb = weights_.find("kb"); kb != weights_.end()) kb->second[size_t(s.size) / 2 + 3] = 40;
  }
  explicit Model(std::string text) : text_(std::move(text)) { fill(); }

  const std::vector<int32_t>& ids() const { return ids_; }

  /// Logits of all positions by the evaluator, with everything in f16 if there are no bits.
  std::vector<float> evaluate(const std::string& bits, int64_t positions = kPositions, int64_t out_rows = kPositions) {
    auto m = module(bits);
    m->dims["seq"].hi = 512;   // it takes all at once
    ir::Evaluator evaluator(*m);
    ir::Tensor ids;
    ids.shape = {positions};
    ids.i.assign(ids_.begin(), ids_.begin() + positions);
    auto out = evaluator.run(*m->graph("forward"), {{"ids", std::move(ids)}}, {{"past", 0}, {"seq", positions}, {"out", out_rows}});
    EXPECT_TRUE(out) << out.message();
    return out ? out->front().f : std::vector<float>();
  }

  std::shared_ptr<rt::Executable> compile(rt::Isa isa, const std::string& bits, bool ring = true) { return compile(codegen::GenerateOptions{isa}, bits, ring); }

  std::shared_ptr<rt::Executable> compile(const codegen::GenerateOptions& options, const std::string& bits, bool ring = true) {
    auto m = module(bits);
    auto pipeline = passes::parse_pipeline(codegen::default_pipeline(options.target, options.isa));
    if (!ring) std::erase_if(*pipeline, [](const passes::PipelineStep& s) { return std::string_view(s.pass->name) == "bound-kv-caches"; });
    const Status ran = passes::Manager().run(*m, *pipeline);
    EXPECT_TRUE(ran) << ran.message();
    auto program = codegen::generate(*m, options);
    EXPECT_TRUE(program) << program.message();
    if (!program) return nullptr;
    rt::LoadOptions load;
    load.fill = [&](const rt::Weight& w, std::span<uint8_t> dst) {
      return codegen::fill_weight(w, [&](const std::string& name) -> Result<codegen::SourceTensor> {
        std::vector<int64_t> shape;
        for (ir::Dim d : module_->weight(name)->value.type.shape) shape.push_back(*d.constant());
        return codegen::SourceTensor{ir::DType::F32, shape, reinterpret_cast<const uint8_t*>(weights_.at(name).data())};
      }, dst);
    };
    auto exe = rt::Executable::from_program(std::move(*program), load);
    EXPECT_TRUE(exe) << exe.message();
    return exe ? *exe : nullptr;
  }

 private:
  /// Random weights of a sane size, and ids.
  void fill() {
    std::mt19937 rng(5);
    std::normal_distribution<float> normal;
    const auto m = module("");
    for (auto& w : m->weights) {
      std::vector<float>& v = weights_[w->value.name];
      v.resize(size_t(*w->value.type.elements()));
      const bool matrix = w->value.type.rank() == 2 && w->value.name != "embd";
      const float spread = matrix ? 1.2f / std::sqrt(float(*w->value.type.dim(1).constant())) : 1;
      for (float& x : v) x = spread * normal(rng);
    }
    for (int64_t i = 0; i < kPositions; ++i) ids_.push_back(int32_t(rng() % kVocab));
  }

  std::unique_ptr<ir::Module> module(const std::string& bits) {
    auto m = ir::parse(text_, "text");
    EXPECT_TRUE(m) << m.message();
    for (auto& w : (*m)->weights) {
      w->data = reinterpret_cast<const uint8_t*>(weights_[w->value.name].data());
      w->bytes = weights_[w->value.name].size() * sizeof(float);
    }
    if (kept_) {
      const Status ran = passes::Manager().run(**m, *passes::parse_pipeline("evict-kv{positions=" + std::to_string(kept_) + "}"));
      EXPECT_TRUE(ran) << ran.message();
    }
    if (!bits.empty()) {
      const Status ran = passes::Manager().run(**m, *passes::parse_pipeline("plan-kv-compression{bits=" + bits + "}"));
      EXPECT_TRUE(ran) << ran.message();
    }
    module_ = *ir::parse(text_, "text");
    return std::move(*m);
  }

  std::string text_;
  int64_t kept_ = 0;
  std::map<std::string, std::vector<float>> weights_;
  std::unique_ptr<ir::Module> module_;
  std::vector<int32_t> ids_;
};

inline double nmse(std::span<const float> got, std::span<const float> want) {
  double error = 0, power = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (double(got[i]) - want[i]) * (double(got[i]) - want[i]);
    power += double(want[i]) * want[i];
  }
  return error / power;
}

inline std::unique_ptr<rt::Session> session(const std::shared_ptr<rt::Executable>& exe, unsigned threads = 2, int64_t context = 512) {
  auto s = rt::Session::create(exe, {threads, context});
  EXPECT_TRUE(s) << s.message();
  return std::move(*s);
}

inline std::vector<float> score(rt::Session& s, std::span<const int32_t> ids) {
  std::vector<float> all;
  const Status scored = s.score(ids, [&](size_t, std::span<const float> row) { all.insert(all.end(), row.begin(), row.end()); });
  EXPECT_TRUE(scored) << scored.message();
  return all;
}

/// Logits after each piece.
inline std::vector<float> feed(rt::Session& s, std::span<const int32_t> ids, size_t piece) {
  std::vector<float> all;
  for (size_t at = 0; at < ids.size(); at += piece) {
    const Status fed = s.feed(ids.subspan(at, std::min(piece, ids.size() - at)));
    EXPECT_TRUE(fed) << fed.message();
    const auto row = s.logits();
    EXPECT_TRUE(row) << row.message();
    all.insert(all.end(), row->begin(), row->end());
  }
  return all;
}

/// One id at a time, the logits that scoring them had.
inline void expect_steps_to_say(rt::Session& s, std::span<const int32_t> ids, std::span<const float> scored) {
  for (size_t i = 0; i < ids.size(); ++i) {
    ASSERT_TRUE(s.step(ids[i]));
    const auto row = s.logits();
    ASSERT_TRUE(std::equal(row->begin(), row->end(), scored.begin() + long(i * kVocab))) << "position " << i;
  }
}

/// Positions that are appended and taken back change nothing of what follows; `gone`: a position too far back.
inline void expect_drafts_leave_no_trace(const std::shared_ptr<rt::Executable>& exe, std::span<const int32_t> ids, const std::vector<float>& want, int64_t gone) {
  auto s = session(exe);
  const std::vector<int32_t> drafts(16, 3);
  for (size_t at = 0; at + 7 <= ids.size(); at += 7) {
    score(*s, drafts);
    ASSERT_EQ(s->rewind(int64_t(at)), int64_t(at));
    const std::vector<float> got = score(*s, ids.subspan(at, 7));
    ASSERT_TRUE(std::equal(got.begin(), got.end(), want.begin() + long(at) * kVocab)) << "from " << at;
  }
  EXPECT_EQ(s->rewind(gone), 0) << "what is too far back is gone";
  EXPECT_EQ(score(*s, ids.first(20)), std::vector<float>(want.begin(), want.begin() + 20 * kVocab));
}

}  // namespace prism
