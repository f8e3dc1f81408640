#include "runtime/gpu/device_program.h"

#include "runtime/prx_format.h"

namespace prism::rt::gpu {

Result<std::unique_ptr<Driver>> open_device(const std::string& target) {
  if (target == "emu") return open_emulated();
  return open_cuda();
}

Result<std::unique_ptr<DeviceProgram>> DeviceProgram::create(std::unique_ptr<Driver> driver, const Program& p,
                                                             std::span<const std::span<const uint8_t>> codes, const std::string& name) {
  std::unique_ptr<DeviceProgram> d(new DeviceProgram);
  d->name_ = name;
  d->driver_ = std::move(driver);
  const DeviceInfo& info = d->driver_->info();
  for (const auto code : codes) {
    PRISM_TRY(auto module, d->driver_->load(code, name));
    d->modules_.push_back(std::move(module));
  }
  for (const Kernel& k : p.kernels) {
    if (k.shared_bytes > info.shared_bytes)
      return error(name, ": kernel ", quoted(k.symbol), ": needs ", k.shared_bytes, " bytes of shared memory, ", info.name, " has ", info.shared_bytes);
    Function f;
    std::string why = "no code";
    for (const auto& module : d->modules_) {
      auto found = module->function(k.symbol, k.shared_bytes);
      if (found) f = *found;
      else why = found.message();
      if (f.handle) break;
    }
    if (!f.handle) return error(name, ": kernel ", quoted(k.symbol), ": ", why);
    d->functions_.push_back(f);
  }
  return d;
}

DeviceProgram::~DeviceProgram() {
  if (weights_) driver_->free(weights_);
}

Status DeviceProgram::upload_weights(std::span<const uint8_t> weights) {
  PRISM_TRY(weights_, driver_->allocate(weights.size(), name_ + ": weights"));
  PRISM_CHECK(driver_->upload(weights_, weights.data(), weights.size()));
  return driver_->synchronize();
}

}  // namespace prism::rt::gpu
