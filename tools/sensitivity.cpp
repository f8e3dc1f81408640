#include "tools/sensitivity.h"

#include "analysis/divergence.h"
#include "runtime/session.h"
#include "tools/model.h"
#include "tools/quantize/model.h"

namespace prism::tools {

namespace {

/// The coarsest format: what it does is seen best above rounding.
constexpr ir::DType kProbe = ir::DType::Q4_0;

/// A model in f32, compiled once, whose weights are filled anew for every variant.
class Probe {
 public:
  static Result<Probe> create(std::shared_ptr<gguf::File> file, const quantize::Calibration& calibration, int64_t tokens, unsigned threads) {
    PRISM_TRY(auto plain, quantize::quantized_file(file, quantize::uniform_types(*file, ir::DType::F32)));
    PRISM_TRY(auto compiled, compile_gguf(plain, {.kv = ir::DType::F32}));
    const auto ids = std::span(calibration.ids).first(std::min(calibration.ids.size(), size_t(tokens)));
    return Probe(std::move(compiled.program), ids, calibration.window, threads);
  }

  /// Calls row(i, logits after token i).
  Status score(std::shared_ptr<gguf::File> file, const std::function<void(size_t, std::span<const float>)>& row) {
    PRISM_TRY(const auto plain, quantize::quantized_file(file, quantize::uniform_types(*file, ir::DType::F32)));
    PRISM_TRY(const auto executable, rt::Executable::from_program(program_, {threads_, filler(plain), {}}));
    PRISM_TRY(const auto session, rt::Session::create(executable, {threads_, std::min<int64_t>(window_, int64_t(ids_.size()))}));
    for (size_t at = 0; at < ids_.size(); at += size_t(window_)) {
      session->rewind(0);
      const auto piece = ids_.subspan(at, std::min(size_t(window_), ids_.size() - at));
      PRISM_CHECK(session->score(piece, [&](size_t i, std::span<const float> logits) { row(at + i, logits); }));
    }
    return ok();
  }
  size_t tokens() const { return ids_.size(); }

 private:
  Probe(rt::Program program, std::span<const int32_t> ids, int64_t window, unsigned threads)
      : program_(std::move(program)), ids_(ids), window_(window), threads_(threads) {}
  rt::Program program_;
  std::span<const int32_t> ids_;
  int64_t window_;
  unsigned threads_;
};

}  // namespace

Status measure_sensitivities(std::shared_ptr<gguf::File> file, quantize::Calibration& c, int64_t tokens, unsigned threads) {
  PRISM_TRY(auto probe, Probe::create(file, c, tokens, threads));
  const rt::Progress progress = stderr_progress();
  std::vector<float> base;
  PRISM_CHECK(about(file->name(), probe.score(file, [&](size_t, std::span<const float> logits) { base.insert(base.end(), logits.begin(), logits.end()); })));
  const size_t vocab = base.size() / probe.tokens();
  const auto unchanged = std::make_shared<const quantize::Calibration>(c);
  std::vector<ir::DType> types;
  for (const gguf::TensorInfo& t : file->tensors()) types.push_back(t.dtype);
  for (size_t i = 0; i < types.size(); ++i) {
    const gguf::TensorInfo& t = file->tensors()[i];
    progress("measuring sensitivities", double(i) / double(types.size()));
    if (!quantize::is_matrix(t) || t.shape.back() % int64_t(ir::info(kProbe).block) != 0) continue;
    std::vector<ir::DType> variant = types;
    variant[i] = kProbe;
    PRISM_TRY(const auto quantized, quantize::quantized_file(file, variant, unchanged));
    Status status = ok();
    double divergence = 0;
    PRISM_CHECK(about(file->name(), probe.score(quantized, [&](size_t row, std::span<const float> logits) {
      const auto compared = analysis::compare(std::span(base).subspan(row * vocab, vocab), logits, -1);
      if (compared) divergence += compared->kl;
      else status = compared.err();
    })));
    if (!status) return error(file->name(), ": with ", t.name, " in ", ir::info(kProbe).name, ": ", status.message());
    const double cost = quantize::sampled_error(*file, t, kProbe, unchanged->find(t.name)).error;
    c.inputs[t.name].sensitivity = cost > 0 ? float(divergence / double(probe.tokens()) / cost) : 0;
  }
  progress("measuring sensitivities", 1);
  return ok();
}

}  // namespace prism::tools
