// Small graphs compiled for GPUs and run kernel by kernel, without a session: on the emulated device, or, with the variable
// PRISM_GPU_TARGET=cuda, on this machine's GPU. For the kernel tests and for bench/gpu_kernels.cpp.
#pragma once

#include <cmath>
#include <cstdlib>
#include <map>

#include "codegen/fill_weight.h"
#include "codegen/generate.h"
#include "ir/eval.h"
#include "ir/text.h"
#include "kernel_fixture.h"
#include "passes/pass.h"
#include "runtime/gpu/device_program.h"

namespace prism {

/// Few rows (decode, verify): int8 or f32 activations. Many (prefill): bf16 and matrix products.
enum class GpuRows { Few, Many };

class GpuKernelFixture {
 public:
  static constexpr int64_t kContext = 192;

  /// "emu" or "cuda".
  static std::string target() {
    const char* name = std::getenv("PRISM_GPU_TARGET");
    return name && *name ? name : "emu";
  }

  /// dense: of pack-weights.
  static std::string pipeline_for(GpuRows rows, const std::string& dense = "mixed") {
    return "fuse-attention," + narrow(rows) + ",pack-weights{dense=" + dense + "},dce,fuse-epilogues{norms=linear,appends=joined},plan-memory";
  }

  /// The graphs of `text` compiled for the device, by a pipeline made for the number of rows or by another; emu: for what `archs` have.
  static Result<std::unique_ptr<GpuKernelFixture>> create(const std::string& text, GpuRows rows, std::string pipeline = "", std::vector<std::string> archs = {}) {
    std::unique_ptr<GpuKernelFixture> f(new GpuKernelFixture);
    PRISM_TRY(f->original_, ir::parse(text, "text"));
    PRISM_TRY(auto module, ir::parse(text, "text"));
    std::mt19937 rng(7);
    for (auto& w : f->original_->weights) {
      f->data_[w->value.name] = random_weights(w->value.type.dtype, *w->value.type.elements(), rng);
      w->data = f->data_[w->value.name].data();
      w->bytes = f->data_[w->value.name].size();
    }
    PRISM_CHECK(run_passes(*f->original_, narrow(rows)));  // what the kernels compute
    PRISM_CHECK(run_passes(*module, pipeline.empty() ? pipeline_for(rows) : pipeline));
    codegen::GenerateOptions options;
    options.target = target();
    options.archs = std::move(archs);   // what kernels are made for
    if (options.target == "cuda") {
      PRISM_TRY(const auto device, rt::gpu::open_cuda());
      options.archs = {device->info().arch};
    }
    options.dump = [&](const std::string& name, const std::string& text) { f->text_[name] = text; };
    PRISM_TRY(auto program, codegen::generate(*module, options));
    rt::LoadOptions load;
    load.fill = [&f](const rt::Weight& w, std::span<uint8_t> dst) {
      return codegen::fill_weight(w, [&](const std::string& name) -> Result<codegen::SourceTensor> {
        const ir::Type& t = f->original_->weight(name)->value.type;
        std::vector<int64_t> shape;
        for (ir::Dim d : t.shape) shape.push_back(*d.constant());
        return codegen::SourceTensor{t.dtype, shape, f->data_.at(name).data()};
      }, dst);
    };
    PRISM_TRY(f->executable_, rt::Executable::from_program(std::move(program), load));
    return f;
  }

  const ir::Module& original() const { return *original_; }
  const std::string& text(const std::string& name) const { return text_.at(name); }   ///< "kernels.cu", "kernels.kir"
  const rt::Program& program() const { return executable_->program(); }

  /// Memory of one entry point on the device and its launches, ready to be done any number of times.
  class Run {
   public:
    explicit Run(rt::gpu::Driver& driver) : driver_(&driver) {}
    Run(Run&& o) noexcept : driver_(o.driver_), memory_(std::move(o.memory_)), args_(std::move(o.args_)), launches_(std::move(o.launches_)) {}
    ~Run() {
      for (auto m : memory_) driver_->free(m);
    }
    Status launch() const {
      for (const rt::gpu::Launch& l : launches_) PRISM_CHECK(driver_->launch(l));
      return ok();
    }

   private:
    friend class GpuKernelFixture;
    Result<rt::gpu::Address> allocate(uint64_t bytes) {
      PRISM_TRY(const auto at, driver_->allocate(bytes, "test"));
      memory_.push_back(at);
      PRISM_CHECK(driver_->zero(at, bytes));
      return at;
    }
    rt::gpu::Driver* driver_;
    std::vector<rt::gpu::Address> memory_;                 ///< arena, dims, planes
    std::vector<std::vector<rt::gpu::Address>> args_;
    std::vector<rt::gpu::Launch> launches_;
  };

  rt::gpu::Driver& driver() const { return executable_->gpu()->driver(); }

  /// Inputs are zero. `kv_bytes`: of each of the planes K, V of each layer.
  Result<Run> prepare(const std::string& name, const std::map<std::string, int64_t>& dims, const std::vector<uint64_t>& kv_bytes = {}) {
    const rt::Program& p = program();
    const rt::EntryPoint& e = *executable_->entry(name);
    const auto values = values_of(dims);
    Run run(driver());
    PRISM_TRY(const auto arena, run.allocate(e.arena_bytes));
    PRISM_TRY(const auto dims_at, run.allocate(values.size() * 8));
    PRISM_CHECK(driver().upload(dims_at, values.data(), values.size() * 8));
    for (uint64_t bytes : kv_bytes) PRISM_CHECK(run.allocate(bytes));
    for (const rt::Launch& l : e.launches) {
      auto& args = run.args_.emplace_back();
      for (const rt::Arg& a : l.args) {
        if (a.space == rt::Space::Arena) args.push_back(arena + a.offset);
        else if (a.space == rt::Space::Weight) args.push_back(executable_->gpu()->weights() + p.weights[a.index].offset + a.offset);
        else args.push_back(run.memory_.at(2 + a.index * 2 + (a.space == rt::Space::KvV)));
      }
      args.push_back(dims_at);
      const rt::Kernel& k = p.kernels[l.kernel];
      PRISM_TRY(const int64_t blocks, l.tasks.evaluate(values));
      run.launches_.push_back({executable_->gpu()->function(l.kernel), blocks, int(k.block_threads), k.shared_bytes, {}, true});
    }
    for (size_t i = 0; i < run.args_.size(); ++i) run.launches_[i].args = run.args_[i];
    return run;
  }

  /// The results as bytes. Inputs are raw bytes in argument order; `kv`: the planes K, V of each layer, f16, kept between calls.
  Result<std::vector<std::vector<uint8_t>>> run(const std::string& name, const std::vector<const void*>& inputs, const std::map<std::string, int64_t>& dims,
                                                std::vector<std::vector<uint8_t>>* kv = nullptr) {
    const rt::EntryPoint& e = *executable_->entry(name);
    const auto values = values_of(dims);
    auto bytes_of = [&](const rt::Slot& s) {
      int64_t n = 1;
      for (const rt::Expr& x : s.shape) n *= *x.evaluate(values);
      const ir::DTypeInfo& f = ir::info(*ir::dtype_from_name(s.dtype));
      return size_t(n / int64_t(f.block) * int64_t(f.bytes));
    };
    std::vector<uint64_t> kv_bytes;
    for (size_t i = 0; kv && i < kv->size(); ++i) kv_bytes.push_back((*kv)[i].size());
    PRISM_TRY(const Run run, prepare(name, dims, kv_bytes));
    for (size_t i = 0; i < e.inputs.size(); ++i) PRISM_CHECK(driver().upload(run.memory_[0] + e.inputs[i].offset, inputs[i], bytes_of(e.inputs[i])));
    for (size_t i = 0; i < kv_bytes.size(); ++i) PRISM_CHECK(driver().upload(run.memory_[2 + i], (*kv)[i].data(), kv_bytes[i]));
    PRISM_CHECK(run.launch());
    std::vector<std::vector<uint8_t>> out;
    for (const rt::Slot& s : e.outputs) {
      out.emplace_back(bytes_of(s));
      PRISM_CHECK(driver().download(out.back().data(), run.memory_[0] + s.offset, out.back().size()));
    }
    for (size_t i = 0; i < kv_bytes.size(); ++i) PRISM_CHECK(driver().download((*kv)[i].data(), run.memory_[2 + i], kv_bytes[i]));
    return out;
  }

 private:
  std::vector<int64_t> values_of(const std::map<std::string, int64_t>& dims) const {
    std::vector<int64_t> values;
    for (const std::string& d : program().dims) values.push_back(dims.count(d) ? dims.at(d) : d == "ctx" ? kContext : 0);
    return values;
  }

  static std::string narrow(GpuRows rows) { return std::string("quantize-activations{bf16_layout=row_major") + (rows == GpuRows::Many ? ",bf16_rows=2}" : "}"); }

  static Status run_passes(ir::Module& m, const std::string& pipeline) {
    PRISM_TRY(auto steps, passes::parse_pipeline(pipeline));
    return passes::Manager().run(m, steps);
  }

  std::unique_ptr<ir::Module> original_;
  std::map<std::string, std::vector<uint8_t>> data_;
  std::map<std::string, std::string> text_;
  std::shared_ptr<rt::Executable> executable_;
};

inline std::vector<float> normal_floats(size_t n, unsigned seed, float scale = 1) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> d(0, scale);
  std::vector<float> v(n);
  for (float& x : v) x = d(rng);
  return v;
}

inline std::vector<float> as_floats(const std::vector<uint8_t>& bytes) {
  std::vector<float> v(bytes.size() / 4);
  memcpy(v.data(), bytes.data(), v.size() * 4);
  return v;
}

/// Largest difference relative to the largest magnitude.
inline double largest_relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  if (got.size() != want.size()) return 1e9;
  double top = 0, diff = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(got[i])) return 1e9;
    top = std::max(top, double(std::abs(want[i])));
    diff = std::max(diff, std::abs(double(got[i]) - want[i]));
  }
  return diff / std::max(top, 1e-30);
}

inline ir::Tensor tensor_of(std::vector<int64_t> shape, std::vector<float> f) { return {std::move(shape), std::move(f), {}}; }

}  // namespace prism
