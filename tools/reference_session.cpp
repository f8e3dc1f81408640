// A session that evaluates the frontend's graph op by op: slow, and the truth.
#include "frontends/gguf/model.h"
#include "ir/eval.h"
#include "tools/model.h"

namespace prism::tools {

namespace {

class ReferenceSession final : public rt::Session {
 public:
  ReferenceSession(std::unique_ptr<ir::Module> m, Observer observe) : module_(std::move(m)), evaluator_(*module_) {
    evaluator_.observe = std::move(observe);
    for (const auto& [key, value] : module_->attrs) {
      if (key == "vocab_size") vocab_ = std::get<int64_t>(value);
      if (key == "context_length") context_ = std::get<int64_t>(value);
    }
  }

  Status feed(std::span<const int32_t> ids) override { return forward(ids, 1); }
  Status step(int32_t id) override { return feed({&id, 1}); }

  Result<std::span<const float>> logits() override {
    if (int64_t(logits_.size()) != vocab_) return error("logits: found none, expected a feed or a step just before");
    return std::span<const float>(logits_);
  }

  Status score(std::span<const int32_t> ids, const std::function<void(size_t, std::span<const float>)>& row) override {
    PRISM_CHECK(forward(ids, int64_t(ids.size())));
    for (size_t i = 0; i < ids.size(); ++i) row(i, std::span<const float>(logits_).subspan(i * size_t(vocab_), size_t(vocab_)));
    logits_.clear();
    return ok();
  }

  int64_t rewind(int64_t positions) override {
    for (auto& [name, t] : caches_) {
      const size_t plane = size_t(positions * t.shape[1] * t.shape[2]), old = t.f.size() / 2;
      std::vector<float> kept(t.f.begin(), t.f.begin() + long(plane));
      kept.insert(kept.end(), t.f.begin() + long(old), t.f.begin() + long(old + plane));
      t.f = std::move(kept);
      t.shape[0] = positions;
    }
    past_ = positions;
    logits_.clear();
    return past_;
  }
  int64_t position() const override { return past_; }
  rt::KvStats kv_stats() const override {
    rt::KvStats s;
    s.dtype = "f32";
    s.positions = past_;
    s.capacity = context_;
    for (const auto& [name, t] : caches_) s.bytes_used += t.f.size() * 4;
    s.bytes_allocated = s.bytes_f32 = s.bytes_used;
    s.bytes_per_position = past_ ? s.bytes_used / uint64_t(past_) : 0;
    return s;
  }

 private:
  Status forward(std::span<const int32_t> ids, int64_t rows) {
    const ir::Graph& g = *module_->graph("forward");
    if (ids.empty()) return error("no ids to evaluate");
    if (past_ + int64_t(ids.size()) > context_) return error("context full: ", past_ + int64_t(ids.size()), " positions, the model has ", context_);
    for (int32_t id : ids)
      if (id < 0 || id >= vocab_) return error("id ", id, " is outside the vocabulary, expected 0 to ", vocab_ - 1);
    std::map<std::string, ir::Tensor> inputs = caches_;
    ir::Tensor t;
    t.shape = {int64_t(ids.size())};
    t.i.assign(ids.begin(), ids.end());
    inputs["ids"] = std::move(t);
    PRISM_TRY(auto out, evaluator_.run(g, inputs, {{"past", past_}, {"seq", int64_t(ids.size())}, {"out", rows}}));
    logits_ = std::move(out[0].f);
    for (size_t i = 1; i < out.size(); ++i) caches_[g.args[i]->name] = std::move(out[i]);
    past_ += int64_t(ids.size());
    return ok();
  }

  std::unique_ptr<ir::Module> module_;
  ir::Evaluator evaluator_;
  std::map<std::string, ir::Tensor> caches_;
  std::vector<float> logits_;
  int64_t past_ = 0, vocab_ = 0, context_ = 0;
};

}  // namespace

Result<std::unique_ptr<rt::Session>> reference_session(const std::string& path, const std::string& kv, Observer observe) {
  if (!kv.empty() && kv != "f32") return error("--kv: found ", kv, ", expected f32: that is the cache of --reference");
  PRISM_TRY(FileKind kind, file_kind(path));
  if (kind != FileKind::Gguf) return error(path, ": --reference evaluates a model file, expected .gguf");
  PRISM_TRY(auto file, gguf::File::open(path));
  PRISM_TRY(auto module, gguf::build_module(file, {.kv_dtype = ir::DType::F32}));
  return std::unique_ptr<rt::Session>(std::make_unique<ReferenceSession>(std::move(module), std::move(observe)));
}

}  // namespace prism::tools
