// Small graphs compiled for GPUs and run on the emulated device, kernel by kernel, without a session; and what NVRTC makes of them.
#pragma once

#include <gtest/gtest.h>

#include <map>

#include "codegen/cuda/nvrtc.h"
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

  /// The graphs of `text` compiled for the emulated device, by a pipeline made for the number of rows or by another.
  static Result<std::unique_ptr<GpuKernelFixture>> create(const std::string& text, GpuRows rows, std::string pipeline = "") {
    std::unique_ptr<GpuKernelFixture> f(new GpuKernelFixture);
    PRISM_TRY(f->original_, ir::parse(text, "text"));
    PRISM_TRY(auto module, ir::parse(text, "text"));
    std::mt19937 rng(7);
    for (auto& w : f->original_->weights) {
      f->data_[w->value.name] = random_weights(w->value.type.dtype, *w->value.type.elements(), rng);
      w->data = f->data_[w->value.name].data();
      w->bytes = f->data_[w->value.name].size();
    }
    const bool many = rows == GpuRows::Many;
    const std::string types = std::string("quantize-activations{bf16_layout=row_major") + (many ? ",bf16_rows=2}" : "}");
    PRISM_CHECK(run_passes(*f->original_, types));  // what the kernels compute
    if (pipeline.empty())
      pipeline = std::string("fuse-attention{tile_q=") + (many ? "64}," : "16},") + types + ",pack-weights{dense=row_major},dce,fuse-epilogues,plan-memory";
    PRISM_CHECK(run_passes(*module, pipeline));
    codegen::GenerateOptions options;
    options.target = "emu";
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

  /// The results as bytes. Inputs are raw bytes in argument order; `kv`: the planes K, V of each layer, f16, kept between calls.
  Result<std::vector<std::vector<uint8_t>>> run(const std::string& name, const std::vector<const void*>& inputs, const std::map<std::string, int64_t>& dims,
                                                std::vector<std::vector<uint8_t>>* kv = nullptr) {
    const rt::Program& p = executable_->program();
    const rt::EntryPoint& e = *executable_->entry(name);
    rt::gpu::Driver& driver = executable_->gpu()->driver();
    std::vector<int64_t> values;
    for (const std::string& d : p.dims) values.push_back(dims.count(d) ? dims.at(d) : d == "ctx" ? kContext : 0);
    auto bytes_of = [&](const rt::Slot& s) {
      int64_t n = 1;
      for (const rt::Expr& x : s.shape) n *= *x.evaluate(values);
      const ir::DTypeInfo& f = ir::info(*ir::dtype_from_name(s.dtype));
      return size_t(n / int64_t(f.block) * int64_t(f.bytes));
    };
    std::vector<rt::gpu::Address> memory;  // arena, dims, planes
    auto allocate = [&](size_t bytes) {
      memory.push_back(*driver.allocate(bytes, "test"));
      return memory.back();
    };
    const auto arena = allocate(e.arena_bytes), dims_at = allocate(values.size() * 8);
    EXPECT_TRUE(driver.upload(dims_at, values.data(), values.size() * 8));
    for (size_t i = 0; i < e.inputs.size(); ++i) EXPECT_TRUE(driver.upload(arena + e.inputs[i].offset, inputs[i], bytes_of(e.inputs[i])));
    std::vector<rt::gpu::Address> planes;
    for (size_t i = 0; kv && i < kv->size(); ++i) {
      planes.push_back(allocate((*kv)[i].size()));
      EXPECT_TRUE(driver.upload(planes[i], (*kv)[i].data(), (*kv)[i].size()));
    }
    Status status = ok();
    for (const rt::Launch& l : e.launches) {
      std::vector<rt::gpu::Address> args;
      for (const rt::Arg& a : l.args) {
        if (a.space == rt::Space::Arena) args.push_back(arena + a.offset);
        else if (a.space == rt::Space::Weight) args.push_back(executable_->gpu()->weights() + p.weights[a.index].offset + a.offset);
        else args.push_back(planes.at(a.index * 2 + (a.space == rt::Space::KvV)));
      }
      args.push_back(dims_at);
      const rt::Kernel& k = p.kernels[l.kernel];
      if (status) status = driver.launch({executable_->gpu()->function(l.kernel), *l.tasks.evaluate(values), int(k.block_threads), k.shared_bytes, args, true});
    }
    std::vector<std::vector<uint8_t>> out;
    for (const rt::Slot& s : e.outputs) {
      out.emplace_back(bytes_of(s));
      EXPECT_TRUE(driver.download(out.back().data(), arena + s.offset, out.back().size()));
    }
    for (size_t i = 0; i < planes.size(); ++i) EXPECT_TRUE(driver.download((*kv)[i].data(), planes[i], (*kv)[i].size()));
    for (auto m : memory) driver.free(m);
    if (!status) return status.err();
    return out;
  }

  /// NVRTC takes all kernels for both architectures; those whose name begins with one of `hot` do not spill.
  void expect_compiles(const std::vector<std::string>& hot = {""}) const {
    for (const char* arch : {"sm_80", "sm_90a"}) {
      auto cubin = codegen::compile_cuda(text_.at("kernels.cu"), arch);
      ASSERT_TRUE(cubin) << cubin.message();
      EXPECT_EQ(cubin->kernels.size(), program().kernels.size());
      for (const auto& k : cubin->kernels)
        for (const std::string& prefix : hot)
          if (k.name.starts_with(prefix)) {
            EXPECT_EQ(k.spill_bytes, 0) << k.name << " on " << arch;
          }
    }
  }

 private:
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
