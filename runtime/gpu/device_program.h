// What an executable has on a GPU: its code, its kernels and its weights, for all sessions.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/gpu/driver.h"
#include "runtime/program.h"

namespace prism::rt::gpu {

/// The device of that target: "cuda" or "emu".
Result<std::unique_ptr<Driver>> open_device(const std::string& target);

class DeviceProgram {
 public:
  /// `codes`: machine code for this device, each with some of the program's kernels.
  static Result<std::unique_ptr<DeviceProgram>> create(std::unique_ptr<Driver> driver, const Program& p,
                                                       std::span<const std::span<const uint8_t>> codes, const std::string& name);
  ~DeviceProgram();

  /// Copies the weight segment to the device.
  Status upload_weights(std::span<const uint8_t> weights);

  Driver& driver() const { return *driver_; }
  Function function(size_t kernel) const { return functions_[kernel]; }
  Address weights() const { return weights_; }

 private:
  DeviceProgram() = default;
  std::string name_;
  std::unique_ptr<Driver> driver_;   // outlives what follows
  std::vector<std::unique_ptr<Module>> modules_;
  std::vector<Function> functions_;  // as Program::kernels
  Address weights_ = 0;
};

}  // namespace prism::rt::gpu
