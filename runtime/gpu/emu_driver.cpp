// The emulated device as a driver: device memory is the host's, and a launch runs to its end before it returns.
#include <sys/mman.h>

#include <cstring>
#include <functional>
#include <map>

#include "runtime/emu/device.h"
#include "runtime/emu/host.h"
#include "runtime/gpu/driver.h"

namespace prism::rt::gpu {
namespace {

struct EmulatedFunction {
  const CodeObject* code;
  emu::Kernel kernel;
};

class EmulatedModule final : public Module {
 public:
  EmulatedModule(CodeObject code, std::string name) : code_(std::move(code)), name_(std::move(name)) {}

  Result<Function> function(const std::string& symbol, int64_t shared_bytes) override {
    if (!code_.symbol(symbol)) return error(name_, ": kernel '", symbol, "': found no such symbol in the code");
    auto f = std::make_unique<EmulatedFunction>();
    f->code = &code_;
    f->kernel.name = symbol;
    f->kernel.shared_bytes = shared_bytes;
    functions_.push_back(std::move(f));
    return Function{functions_.back().get()};
  }

 private:
  CodeObject code_;
  std::string name_;
  std::vector<std::unique_ptr<EmulatedFunction>> functions_;
};

struct EmulatedGraph final : Graph {
  std::vector<std::function<Status()>> steps;
};

class EmulatedDriver final : public Driver {
 public:
  explicit EmulatedDriver(uint64_t seed) : seed_(seed) {
    info_ = {"the emulated device", "emu", 2, uint64_t(1) << 40, 232448};  // shared memory as an H200's
  }
  ~EmulatedDriver() override {
    for (const auto& [at, bytes] : memory_) munmap(reinterpret_cast<void*>(at), bytes);
  }

  const DeviceInfo& info() const override { return info_; }

  Result<Address> allocate(uint64_t bytes, const std::string& what) override {
    bytes = std::max<uint64_t>(bytes, 1);
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return error(what, ": cannot get ", bytes, " bytes of memory: ", std::strerror(errno));
    memory_[Address(at)] = bytes;
    return Address(at);
  }
  void free(Address memory) override {
    const auto it = memory_.find(memory);
    if (it == memory_.end()) return;
    munmap(reinterpret_cast<void*>(it->first), it->second);
    memory_.erase(it);
  }
  Status zero(Address to, uint64_t bytes) override {
    return todo([=] {
      std::memset(reinterpret_cast<void*>(to), 0, bytes);
      return ok();
    });
  }
  Status upload(Address to, const void* from, uint64_t bytes) override { return upload_later(to, from, bytes); }
  Status download(void* to, Address from, uint64_t bytes) override { return download_later(to, from, bytes); }
  Result<void*> allocate_host(uint64_t bytes) override { return ::operator new(bytes, std::align_val_t(64)); }
  void free_host(void* memory) override { ::operator delete(memory, std::align_val_t(64)); }
  Status upload_later(Address to, const void* from, uint64_t bytes) override { return copy(reinterpret_cast<void*>(to), from, bytes); }
  Status download_later(void* to, Address from, uint64_t bytes) override { return copy(to, reinterpret_cast<const void*>(from), bytes); }

  Result<std::unique_ptr<Module>> load(std::span<const uint8_t> code, const std::string& name) override {
    PRISM_TRY(CodeObject object, CodeObject::load(code, name));
    return std::unique_ptr<Module>(std::make_unique<EmulatedModule>(std::move(object), name));
  }

  Result<int> blocks_per_multiprocessor(Function, int, int64_t) override { return 1; }

  Status launch(const Launch& l) override {
    PRISM_TRY(auto args, memories(l.args));
    auto& f = *static_cast<EmulatedFunction*>(l.function.handle);
    f.kernel.block_threads = l.threads;
    f.kernel.shared_bytes = l.shared_bytes;
    const int at_once = l.together ? int(l.blocks) : 0;
    return todo([this, args = std::move(args), &f, blocks = l.blocks, at_once, early = l.early] {
      return emu::launch(*f.code, f.kernel, blocks, args, {.seed = seed_++, .blocks_at_once = at_once, .early = early});
    });
  }

  Result<std::vector<uint8_t>> argument_bytes(std::span<const Address> args) const override {
    PRISM_TRY(const auto list, memories(args));
    std::vector<uint8_t> bytes;
    for (const emu::Memory& m : list) {
      const emu::GlobalMemory g = {static_cast<uint8_t*>(m.data), int64_t(m.bytes), int64_t(bytes.size() / sizeof(emu::GlobalMemory))};
      bytes.insert(bytes.end(), reinterpret_cast<const uint8_t*>(&g), reinterpret_cast<const uint8_t*>(&g + 1));
    }
    return bytes;
  }

  Status begin_recording() override {
    recording_ = std::make_unique<EmulatedGraph>();
    return ok();
  }
  Result<std::unique_ptr<Graph>> end_recording() override { return std::unique_ptr<Graph>(std::move(recording_)); }
  Status replay(const Graph& g) override {
    for (const auto& step : static_cast<const EmulatedGraph&>(g).steps) PRISM_CHECK(step());
    return ok();
  }
  Status synchronize() override { return ok(); }

 private:
  /// Each address with the bytes from there to the end of its memory.
  Result<std::vector<emu::Memory>> memories(std::span<const Address> args) const {
    std::vector<emu::Memory> list;
    for (Address a : args) {
      const auto after = memory_.upper_bound(a);
      if (after == memory_.begin()) return error("launch: argument ", list.size(), " is no address");
      const auto& [at, bytes] = *std::prev(after);
      if (a >= at + bytes) return error("launch: argument ", list.size(), " is past the end of its memory");
      list.push_back({reinterpret_cast<void*>(a), size_t(at + bytes - a)});
    }
    return list;
  }
  Status todo(std::function<Status()> step) {
    if (!recording_) return step();
    recording_->steps.push_back(std::move(step));
    return ok();
  }
  Status copy(void* to, const void* from, uint64_t bytes) {
    return todo([=] {
      if (bytes) std::memcpy(to, from, bytes);
      return ok();
    });
  }

  uint64_t seed_;
  DeviceInfo info_;
  std::map<Address, uint64_t> memory_;       // bytes of each allocation
  std::unique_ptr<EmulatedGraph> recording_;
};

}  // namespace

Result<std::unique_ptr<Driver>> open_emulated(uint64_t seed) { return std::unique_ptr<Driver>(std::make_unique<EmulatedDriver>(seed)); }

}  // namespace prism::rt::gpu
