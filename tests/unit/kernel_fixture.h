// Small graphs compiled to kernels that run without a session: for the kernel tests and for bench/kernels.cpp.
#pragma once

#include <cstring>
#include <map>
#include <random>

#include "codegen/fill_weight.h"
#include "codegen/generate.h"
#include "ir/text.h"
#include "passes/pass.h"
#include "runtime/base/half.h"
#include "runtime/executable.h"

namespace prism {

using ir::DType;

constexpr DType kFormats[] = {DType::F32,  DType::F16,  DType::BF16, DType::Q4_0, DType::Q4_1, DType::Q5_0,   DType::Q5_1,  DType::Q8_0,
                              DType::Q2_K, DType::Q3_K, DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::IQ4_NL, DType::IQ4_XS};

/// Where the f16 scale of a block stands; a minimum comes after it.
inline size_t scale_at(DType t) { return t == DType::Q2_K ? 80 : t == DType::Q3_K ? 108 : t == DType::Q6_K ? 208 : 0; }
inline bool has_minimum(DType t) { return t == DType::Q4_1 || t == DType::Q5_1 || t == DType::Q2_K || t == DType::Q4_K || t == DType::Q5_K; }

/// Random bytes in the format's layout with scales of a sane size.
inline std::vector<uint8_t> random_weights(DType t, int64_t elements, std::mt19937& rng) {
  const ir::DTypeInfo& f = ir::info(t);
  const size_t blocks = size_t(elements) / f.block;
  std::vector<uint8_t> bytes(blocks * f.bytes);
  std::uniform_real_distribution<float> value(-0.1f, 0.1f);
  for (size_t b = 0; b < blocks; ++b) {
    uint8_t* p = bytes.data() + b * f.bytes;
    auto half = [&](size_t at, float v) {
      const uint16_t h = f32_to_f16(v);
      memcpy(p + at, &h, 2);
    };
    if (t == DType::F32) {
      const float v = value(rng);
      memcpy(p, &v, 4);
    } else if (t == DType::F16) {
      half(0, value(rng));
    } else if (t == DType::BF16) {
      const uint16_t h = f32_to_bf16(value(rng));
      memcpy(p, &h, 2);
    } else {
      for (size_t i = 0; i < f.bytes; ++i) p[i] = uint8_t(rng());
      const float scale = f.block == 256 ? 0.01f : 0.1f;
      half(scale_at(t), value(rng) * scale);
      if (has_minimum(t)) half(scale_at(t) + 2, value(rng) * scale);
    }
  }
  return bytes;
}

/// A module from text, its random weights, and the program compiled from it.
class KernelFixture {
 public:
  static Result<std::unique_ptr<KernelFixture>> create(const std::string& text, rt::Isa isa) {
    std::unique_ptr<KernelFixture> f(new KernelFixture);
    PRISM_CHECK(f->compile(text, isa));
    return f;
  }

  const ir::Module& original() const { return *original_; }
  rt::Executable& executable() { return *executable_; }

  /// Runs an entry point on one thread in `parts` pieces of every launch, the last first if negative. Inputs are raw bytes in
  /// argument order.
  std::vector<std::vector<uint8_t>> run_entry(const std::string& name, const std::vector<const void*>& inputs,
                                              std::map<std::string, int64_t> dims, int64_t parts,
                                              std::vector<std::vector<float>>* kv_planes = nullptr) {
    const rt::Program& p = executable_->program();
    const rt::EntryPoint& e = *executable_->entry(name);
    std::vector<int64_t> values;
    for (const std::string& d : p.dims) values.push_back(dims.count(d) ? dims[d] : d == "ctx" ? kContext : 0);
    std::vector<uint8_t> arena_bytes(e.arena_bytes + 256), scratch_bytes(1 << 22);
    auto align = [](std::vector<uint8_t>& v) { return reinterpret_cast<uint8_t*>(round_up_(uint64_t(v.data()))); };
    uint8_t *arena = align(arena_bytes), *scratch = align(scratch_bytes);
    auto bytes_of = [&](const rt::Slot& s) {
      int64_t n = 1;
      for (const rt::Expr& x : s.shape) n *= *x.evaluate(values);
      const ir::DTypeInfo& f = ir::info(*ir::dtype_from_name(s.dtype));
      return size_t(n / int64_t(f.block) * int64_t(f.bytes));
    };
    const size_t steps = kv_planes ? 2 : 1;  // a second step finds the counters of kernels as the first left them
    for (size_t launch = 0; launch < steps * e.launches.size(); ++launch) {
      if (launch % e.launches.size() == 0)
        for (size_t i = 0; i < e.inputs.size(); ++i) memcpy(arena + e.inputs[i].offset, inputs[i], bytes_of(e.inputs[i]));
      const rt::Launch& l = e.launches[launch % e.launches.size()];
      std::vector<void*> args;
      for (const rt::Arg& a : l.args) {
        if (a.space == rt::Space::Arena) args.push_back(arena + a.offset);
        else if (a.space == rt::Space::Weight) args.push_back(const_cast<uint8_t*>(executable_->weight(a.index)) + a.offset);
        else args.push_back((*kv_planes)[a.index * 2 + (a.space == rt::Space::KvV)].data());
      }
      const int64_t tasks = *l.tasks.evaluate(values);
      const int64_t n = std::abs(parts);
      for (int64_t part = 0; part < n; ++part) {
        const int64_t i = parts < 0 ? n - 1 - part : part;
        executable_->kernel(l.kernel)(args.data(), values.data(), tasks * i / n, tasks * (i + 1) / n, scratch);
      }
    }
    std::vector<std::vector<uint8_t>> out;
    for (const rt::Slot& s : e.outputs) out.emplace_back(arena + s.offset, arena + s.offset + bytes_of(s));
    return out;
  }

  static constexpr int64_t kContext = 192;

 private:
  KernelFixture() = default;

  Status compile(const std::string& text, rt::Isa isa) {
    PRISM_TRY(original_, ir::parse(text, "text"));
    PRISM_TRY(module_, ir::parse(text, "text"));
    std::mt19937 rng(7);
    for (auto& w : original_->weights) {
      data_[w->value.name] = random_weights(w->value.type.dtype, *w->value.type.elements(), rng);
      w->data = data_[w->value.name].data();
      w->bytes = data_[w->value.name].size();
    }
    PRISM_TRY(auto steps, passes::parse_pipeline(codegen::default_pipeline("cpu", isa)));
    std::erase_if(steps, [](const passes::PipelineStep& s) { return s.pass->name != std::string_view("quantize-activations"); });
    const std::string types = passes::print_pipeline(steps);
    PRISM_CHECK(run(*original_, types));  // what the int8 kernels compute, exactly
    PRISM_CHECK(run(*module_, "fuse-attention," + types + ",pack-weights,dce,fuse-epilogues,plan-memory"));
    PRISM_TRY(auto program, codegen::generate(*module_, {isa}));
    rt::LoadOptions load;
    load.fill = [this](const rt::Weight& w, std::span<uint8_t> dst) {
      return codegen::fill_weight(w, [&](const std::string& name) -> Result<codegen::SourceTensor> {
        const ir::Type& t = original_->weight(name)->value.type;
        std::vector<int64_t> shape;
        for (ir::Dim d : t.shape) shape.push_back(*d.constant());
        return codegen::SourceTensor{t.dtype, shape, data_.at(name).data()};
      }, dst);
    };
    PRISM_TRY(executable_, rt::Executable::from_program(std::move(program), load));
    return ok();
  }

  static uint64_t round_up_(uint64_t v) { return (v + 63) / 64 * 64; }
  static Status run(ir::Module& m, const std::string& pipeline) {
    PRISM_TRY(auto steps, passes::parse_pipeline(pipeline));
    return passes::Manager().run(m, steps);
  }

  std::unique_ptr<ir::Module> original_, module_;
  std::map<std::string, std::vector<uint8_t>> data_;
  std::shared_ptr<rt::Executable> executable_;
};

}  // namespace prism
