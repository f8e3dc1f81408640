#include "runtime/session.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/checked.h"
#include "runtime/base/kv_pages.h"
#include "runtime/executor.h"
#include "runtime/prx_format.h"
#include "runtime/step_dims.h"

namespace prism::rt {
namespace {

constexpr int64_t kDefaultContext = 4096;

/// What follows an entry point where logits are far away: temperature in, the largest logits of its first row out.
struct Largest {
  const EntryPoint* entry = nullptr;
  uint64_t temperature = 0, logits = 0, ids = 0, sum = 0;  // offsets in the arena
  size_t count = 0;
};

/// An entry point of a language model: ids in, logits of the last `out` positions out.
struct Step {
  const EntryPoint* entry = nullptr;
  uint64_t ids = 0, logits = 0;  // offsets in the arena
  int64_t max_seq = 1, max_out = 1;
  Largest largest;
};

class LanguageSession final : public Session {
 public:
  static Result<std::unique_ptr<Session>> create(std::shared_ptr<Executable> exe, const SessionOptions& options) {
    const Program& p = exe->program();
    std::unique_ptr<LanguageSession> s(new LanguageSession);
    s->name_ = p.name.empty() ? "program" : p.name;
    s->program_ = &p;
    s->vocab_ = p.vocab;
    if (p.vocab <= 0) return error(s->name_, ": vocabulary size: found ", p.vocab, ", expected at least 1");
    PRISM_TRY(s->at_, StepDims::of(p, s->name_));
    s->dims_.resize(p.dims.size());
    PRISM_CHECK(s->choose_capacity(options.context, p.context_length));
    PRISM_TRY(s->prefill_, s->find_step(*exe, "prefill"));
    PRISM_TRY(s->decode_, s->find_step(*exe, "decode"));
    PRISM_TRY(s->verify_, s->find_step(*exe, "verify"));
    if (!s->prefill_.entry && !s->decode_.entry)
      return error(s->name_, ": entry points: found neither \"prefill\" nor \"decode\", expected at least one");
    PRISM_TRY(s->executor_, Executor::create(exe, round_up_context(s->capacity_), options, s->name_));
    return std::unique_ptr<Session>(std::move(s));
  }

  Status feed(std::span<const int32_t> ids) override { return advance(step_for(How::Feed), ids); }
  Status step(int32_t id) override { return advance(step_for(How::Step), {&id, 1}); }

  Result<std::span<const float>> logits() override {
    PRISM_CHECK(check_logits());
    return rows(*last_, 1);
  }

  Result<int32_t> sample(Sampler& sampler) override {
    PRISM_CHECK(check_logits());
    if (last_->largest.entry) {
      PRISM_TRY(const auto id, sample_largest(last_->largest, sampler));
      if (id) return *id;
    }
    return Session::sample(sampler);
  }

  Status score(std::span<const int32_t> ids,
               const std::function<void(size_t, std::span<const float>)>& report) override {
    PRISM_CHECK(check(ids));
    last_ = nullptr;
    const int64_t before = position_;
    const Step& step = step_for(How::Score);
    const auto most = size_t(at_once(How::Score));
    for (size_t done = 0; done < ids.size();) {
      const auto chunk = ids.subspan(done).first(std::min(ids.size() - done, most));
      if (Status s = run(step, chunk, int64_t(chunk.size())); !s) {
        position_ = before;
        return s;
      }
      const auto logits = rows(step, chunk.size());
      if (!logits) {
        position_ = before;
        return logits.err();
      }
      for (size_t i = 0; i < chunk.size(); ++i) report(done + i, logits->subspan(i * size_t(vocab_), size_t(vocab_)));
      done += chunk.size();
    }
    return ok();
  }

  int64_t rewind(int64_t positions) override {
    position_ = std::clamp<int64_t>(positions, 0, position_);
    if (!kept(position_)) position_ = 0;
    if (position_ == 0) reached_ = 0;
    last_ = nullptr;
    return position_;
  }
  int64_t position() const override { return position_; }
  KvStats kv_stats() const override { return executor_->kv_stats(position_, capacity_); }

  Result<Amounts> amounts(int64_t position, int64_t count, How how) const override {
    const Step& step = step_for(how);
    std::vector<int64_t> dims = dims_;
    Amounts sum;
    for (const int64_t end = position + count; position < end;) {
      const int64_t piece = std::min(end - position, at_once(how));
      set_dims(dims, piece, position, how == How::Score ? piece : 1);
      PRISM_TRY(const Amounts a, amounts_of(*program_, *step.entry, dims));
      sum += a;
      position += piece;
    }
    return sum;
  }

 private:
  const Step& step_for(How how) const {
    if (how == How::Score && verify_.entry) return verify_;
    if (how == How::Feed) return prefill_.entry ? prefill_ : decode_;
    return decode_.entry ? decode_ : prefill_;
  }
  int64_t at_once(How how) const {
    if (how == How::Feed) return step_for(how).max_seq;
    return how == How::Score && verify_.entry ? std::min(verify_.max_seq, verify_.max_out) : 1;
  }
  static int64_t round_up_context(int64_t n) { return int64_t(round_up(uint64_t(n), kKvCapacityMultiple)); }

  /// context_length 0: the model does not say.
  Status choose_capacity(int64_t requested, int64_t context_length) {
    if (requested < 0 || (context_length > 0 && requested > context_length))
      return error(name_, ": context: found ", requested, " positions, expected 0 to ", context_length,
                   ", what the model was made for");
    constexpr int64_t kMost = int64_t(1) << 40;
    if (requested > kMost) return error(name_, ": context: found ", requested, " positions, expected at most ", kMost);
    const int64_t length = context_length > 0 ? context_length : kDefaultContext;
    // Memory does not grow with positions where all layers have rings.
    const bool bounded = !program_->kv.empty() && std::ranges::all_of(program_->kv, [](const KvLayer& l) { return l.ring > 0; });
    const int64_t rounded = round_up_context(requested ? requested : bounded ? length : std::min(length, kDefaultContext));
    capacity_ = context_length > 0 ? std::min(rounded, context_length) : rounded;
    return ok();
  }

  /// The entry point of that name, if there is one, checked to have the inputs and outputs of a language model.
  Result<Step> find_step(const Executable& exe, std::string_view entry_name) const {
    Step step;
    step.entry = exe.entry(entry_name);
    if (!step.entry) return step;
    const EntryPoint& e = *step.entry;
    if (at_.seq) step.max_seq = e.dim_max[*at_.seq];
    PRISM_TRY(step.max_out, most_logits(e));
    step.max_out = std::min(step.max_out, step.max_seq);
    if (step.max_seq < 1 || step.max_out < 1)
      return error(name_, ": entry point ", quoted(e.name), ": found at most ", step.max_seq, " ids and ", step.max_out,
                   " logits, expected at least 1");
    PRISM_TRY(step.ids, find_slot(e, e.inputs, "ids", "i32", uint64_t(step.max_seq), 1));
    PRISM_TRY(step.logits, find_slot(e, e.outputs, "logits", "f32", uint64_t(step.max_out), uint64_t(vocab_)));
    PRISM_TRY(step.largest, find_largest(exe.entry(e.name + kLargestSuffix)));
    return step;
  }

  /// Rows of logits at most.
  Result<int64_t> most_logits(const EntryPoint& e) const {
    for (const Slot& s : e.outputs)
      if (s.name == "logits" && s.shape.size() > 1) {
        const auto most = s.shape.front().evaluate(e.dim_max);
        return most ? *most : Result<int64_t>(error(name_, ": entry point ", quoted(e.name), ": rows of logits: ", most.message()));
      }
    return at_.out ? e.dim_max[*at_.out] : 1;
  }

  Result<Largest> find_largest(const EntryPoint* e) const {
    Largest l;
    l.entry = e;
    if (!e) return l;
    l.count = size_t(std::min(kMostLargest, vocab_));
    PRISM_TRY(l.temperature, find_slot(*e, e->inputs, "temperature", "f32", 1, 1));
    PRISM_TRY(l.logits, find_slot(*e, e->outputs, "logits", "f32", 1, l.count));
    PRISM_TRY(l.ids, find_slot(*e, e->outputs, "ids", "i32", 1, l.count));
    PRISM_TRY(l.sum, find_slot(*e, e->outputs, "sum", "f32", 1, 1));
    if (l.logits > l.ids || l.ids > l.sum || l.sum - l.logits > 4 * kMostLargest * sizeof(float))
      return error(name_, ": entry point ", quoted(e->name), ": found outputs at ", l.logits, ", ", l.ids, " and ", l.sum, ", expected them side by side");
    return l;
  }

  Result<uint64_t> find_slot(const EntryPoint& e, const std::vector<Slot>& slots, const char* slot_name,
                             const char* dtype, uint64_t rows, uint64_t columns) const {
    for (const Slot& s : slots) {
      if (s.name != slot_name) continue;
      const std::string what = name_ + ": entry point " + quoted(e.name) + ": slot " + quoted(s.name);
      if (s.dtype != dtype) return error(what, ": found dtype ", quoted(s.dtype), ", expected ", quoted(dtype));
      const auto values = checked_mul(rows, columns);
      const auto bytes = values ? checked_mul(*values, 4) : std::nullopt;
      const auto end = bytes ? checked_add(*bytes, s.offset) : std::nullopt;
      if (!end || *end > e.arena_bytes || s.offset % 4)
        return error(what, ": found offset ", s.offset, " in an arena of ", e.arena_bytes, " bytes, expected room for ",
                     rows, " x ", columns, " values, aligned");
      return s.offset;
    }
    return error(name_, ": entry point ", quoted(e.name), ": found no slot ", quoted(slot_name), ", expected one");
  }

  Status advance(const Step& step, std::span<const int32_t> ids) {
    PRISM_CHECK(check(ids));
    last_ = nullptr;
    const int64_t before = position_;
    while (!ids.empty()) {
      const auto chunk = ids.first(std::min(ids.size(), size_t(step.max_seq)));
      if (Status s = run(step, chunk, 1); !s) {
        position_ = before;
        return s;
      }
      ids = ids.subspan(chunk.size());
    }
    last_ = &step;
    return ok();
  }

  Status check_logits() const {
    return last_ ? ok() : Status(error(name_, ": logits: found none, expected a feed or a step just before"));
  }

  /// nullopt: the sampler needs all logits.
  Result<std::optional<int32_t>> sample_largest(const Largest& l, Sampler& sampler) {
    const float temperature = sampler.temperature();
    PRISM_CHECK(executor_->write(l.temperature, {reinterpret_cast<const uint8_t*>(&temperature), sizeof temperature}));
    PRISM_CHECK(executor_->run(*l.entry, dims_));
    PRISM_TRY(const uint8_t* found, executor_->read(l.logits, l.sum + sizeof(float) - l.logits));
    const auto* ids = reinterpret_cast<const int32_t*>(found + (l.ids - l.logits));
    const float sum = *reinterpret_cast<const float*>(found + (l.sum - l.logits));
    return sampler.sample({{reinterpret_cast<const float*>(found), l.count}, {ids, l.count}, sum, vocab_});
  }

  Status check(std::span<const int32_t> ids) const {
    if (ids.empty()) return error(name_, ": ids: found none, expected at least 1");
    if (ids.size() > uint64_t(capacity_ - position_))
      return error(name_, ": context full: found ", position_, " + ", ids.size(), " positions, expected at most ",
                   capacity_, ", use --ctx");
    for (size_t i = 0; i < ids.size(); ++i)
      if (ids[i] < 0 || ids[i] >= vocab_)
        return error(name_, ": id ", i, ": found ", ids[i], ", expected 0 to ", vocab_ - 1);
    return ok();
  }

  void set_dims(std::vector<int64_t>& dims, int64_t seq, int64_t past, int64_t out) const { at_.set(dims, seq, past, out, round_up_context(capacity_)); }

  Status run(const Step& step, std::span<const int32_t> ids, int64_t out) {
    set_dims(dims_, int64_t(ids.size()), position_, out);
    PRISM_CHECK(executor_->write(step.ids, {reinterpret_cast<const uint8_t*>(ids.data()), ids.size_bytes()}));
    PRISM_CHECK(executor_->run(*step.entry, dims_));
    position_ += int64_t(ids.size());
    reached_ = std::max(reached_, position_);
    return ok();
  }

  /// Can a step begin at `positions`, after the cache has held `reached_`? What it reads exactly must still be there.
  bool kept(int64_t positions) const {
    if (positions == 0) return true;
    for (const KvLayer& l : program_->kv)
      if (const int64_t room = l.room(round_up_context(capacity_)); l.ring && std::max<int64_t>(positions - l.window + 1, l.sinks) + room - l.sinks < reached_) return false;
    if (!at_.demoted) return true;
    const int64_t groups = ceil_div(reached_, kKvGroup) - demoted_pages(positions) * (kKvPage / kKvGroup);
    return groups <= kKvRing;
  }

  Result<std::span<const float>> rows(const Step& step, size_t count) const {
    const size_t values = count * size_t(vocab_);
    PRISM_TRY(const uint8_t* logits, executor_->read(step.logits, values * sizeof(float)));
    return std::span(reinterpret_cast<const float*>(logits), values);
  }

  std::string name_;
  const Program* program_ = nullptr;  // the executor's
  int64_t vocab_ = 0;
  int64_t capacity_ = 0;  // positions that may be used; the planes hold a multiple of 64
  int64_t position_ = 0;
  int64_t reached_ = 0;   // the most positions since the cache was empty
  StepDims at_;
  std::vector<int64_t> dims_;
  Step prefill_, decode_, verify_;
  const Step* last_ = nullptr;  // whose first row of logits follows the last id
  std::unique_ptr<Executor> executor_;
};

}  // namespace

Result<int32_t> Session::sample(Sampler& sampler) {
  PRISM_TRY(const auto all, logits());
  return sampler.sample(all);
}

Result<Amounts> Session::amounts(int64_t, int64_t, How) const { return Amounts{}; }

Result<std::unique_ptr<Session>> Session::create(std::shared_ptr<Executable> exe, const SessionOptions& options) {
  return LanguageSession::create(std::move(exe), options);
}

}  // namespace prism::rt
