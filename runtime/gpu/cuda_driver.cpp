// The driver of NVIDIA GPUs: one stream in the device's primary context.
#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <unordered_set>
#include <utility>

#include "runtime/gpu/cubin.h"
#include "runtime/gpu/cuda_api.h"
#include "runtime/gpu/driver.h"
#include "runtime/memory.h"

namespace prism::rt::gpu {
namespace {

constexpr uint64_t kStagingBytes = uint64_t(16) << 20;  // large enough that starting a copy costs nothing against the copy
constexpr int64_t kSharedWithoutAsking = 48 << 10;      // a kernel that wants more must say so before
constexpr int kEarlyRecordedSince = 12030;              // drivers before CUDA 12.3 cannot record launches that may begin early

/// After these nothing works any more in this process.
bool is_lasting(int code) {
  return code == cuda::kEccUncorrectable || code == cuda::kNvlinkUncorrectable || code == cuda::kContained || code == cuda::kIllegalAddress ||
         code == cuda::kLaunchTimeout || code == cuda::kAssert || (code >= cuda::kHardwareStackError && code <= cuda::kLaunchFailed);
}

/// What Function::handle points to.
struct LoadedKernel {
  cuda::Kernel handle = nullptr;
  std::string name;            ///< "llama: linear_1"
  int64_t shared_bytes = 0;    ///< most it may be launched with
};
const LoadedKernel& loaded(Function f) { return *static_cast<const LoadedKernel*>(f.handle); }

class CudaDriver final : public Driver {
 public:
  explicit CudaDriver(const cuda::Api& api) : cu_(api) {}
  ~CudaDriver() override;
  Status open(int device);

  const DeviceInfo& info() const override { return info_; }
  Result<Address> allocate(uint64_t bytes, const std::string& what) override;
  void free(Address memory) override;
  Status zero(Address to, uint64_t bytes) override;
  Status upload(Address to, const void* from, uint64_t bytes) override;
  Status download(void* to, Address from, uint64_t bytes) override;
  Result<void*> allocate_host(uint64_t bytes) override;
  void free_host(void* memory) override;
  Status upload_later(Address to, const void* from, uint64_t bytes) override;
  Status download_later(void* to, Address from, uint64_t bytes) override;
  Result<std::unique_ptr<Module>> load(std::span<const uint8_t> code, const std::string& name) override;
  Result<int> blocks_per_multiprocessor(Function f, int threads, int64_t shared_bytes) override;
  Status launch(const Launch& l) override;
  Result<std::vector<uint8_t>> argument_bytes(std::span<const Address> args) const override {
    const auto* bytes = reinterpret_cast<const uint8_t*>(args.data());
    return std::vector<uint8_t>(bytes, bytes + args.size_bytes());
  }
  Status begin_recording() override;
  Result<std::unique_ptr<Graph>> end_recording() override;
  Status replay(const Graph& g) override;
  Status synchronize() override;
  Result<void*> stream() override;

  const cuda::Api& cu() const { return cu_; }
  /// An error unless `code` is 0; `call` is the function of libcuda it came from.
  Status check(int code, const std::string& call);
  /// Before every use: the device becomes the calling thread's.
  Status enter();
  /// Frees something when the device no longer uses it: now, or when what is being recorded has an end.
  void give_back(std::function<void()> f);

 private:
  /// Half of a copy that does not go from or to the caller's memory at once, and when the device is done with it.
  struct Staging {
    void* memory = nullptr;
    cuda::Event done = nullptr;
    bool busy = false;
  };

  /// enter(), for what cannot be recorded.
  Status enter_unrecorded(const char* what);
  /// The error of something recordable ends the recording it is in.
  Status recorded(Status status);
  cuda::Recording stop_recording(int& code);
  Status make_staging();
  Status wait_for(Staging& s);
  /// Remembers that the device uses `s` until what was queued up to now is done; `code` is that of the copy.
  Status queued(Staging& s, int code, const char* call);
  Error no_memory(uint64_t bytes, const std::string& what);
  Status try_launch(const Launch& l);

  const cuda::Api cu_;
  DeviceInfo info_;
  std::string label_;                  ///< "GPU 0 (NVIDIA H200)", which begins errors
  std::string lost_;                   ///< why the device cannot be used any more, or ""
  cuda::Device device_ = 0;
  cuda::Context context_ = nullptr;
  cuda::Stream stream_ = nullptr;
  bool can_start_early_ = false;
  bool recording_ = false;
  Staging staging_[2];
  int next_staging_ = 0;
  std::unordered_set<Address> memory_;
  std::unordered_set<void*> host_memory_;
  std::vector<std::function<void()>> given_back_;  ///< during a recording
};

class CudaModule final : public Module {
 public:
  CudaModule(CudaDriver& driver, cuda::Code code, std::string name) : driver_(driver), code_(code), name_(std::move(name)) {}
  ~CudaModule() override {
    driver_.give_back([&cu = driver_.cu(), code = code_] { cu.module_unload(code); });
  }
  Result<Function> function(const std::string& symbol, int64_t shared_bytes) override;

 private:
  CudaDriver& driver_;
  cuda::Code code_;
  std::string name_;
  std::map<std::string, LoadedKernel> kernels_;
};

class CudaGraph final : public Graph {
 public:
  CudaGraph(CudaDriver& driver, cuda::Playable playable) : driver_(driver), playable_(playable) {}
  ~CudaGraph() override {
    driver_.give_back([&cu = driver_.cu(), playable = playable_] { cu.graph_release(playable); });
  }
  cuda::Playable playable() const { return playable_; }

 private:
  CudaDriver& driver_;
  cuda::Playable playable_;
};

// ---- from opening to closing

Status CudaDriver::open(int device) {
  label_ = "GPU " + std::to_string(device);
  int count = 0;
  PRISM_CHECK(check(cu_.device_count(&count), "cuDeviceGetCount"));
  if (device < 0 || device >= count)
    return error(label_, ": found ", count, count == 1 ? " GPU" : " GPUs", ", counted from 0, expected one with this number: nvidia-smi lists them, "
                 "CUDA_VISIBLE_DEVICES can hide some");
  PRISM_CHECK(check(cu_.device_get(&device_, device), "cuDeviceGet"));
  char name[256] = {};
  PRISM_CHECK(check(cu_.device_name(name, sizeof name - 1, device_), "cuDeviceGetName"));
  info_.name = name;
  label_ += " (" + info_.name + ")";

  int major = 0, minor = 0, shared_bytes = 0;
  const std::pair<int, int*> attributes[] = {{cuda::kCapabilityMajor, &major},
                                             {cuda::kCapabilityMinor, &minor},
                                             {cuda::kMultiprocessors, &info_.multiprocessors},
                                             {cuda::kSharedBytesPerBlock, &shared_bytes}};
  for (const auto& [attribute, value] : attributes)
    PRISM_CHECK(check(cu_.device_attribute(value, attribute, device_), "cuDeviceGetAttribute"));
  size_t bytes = 0;
  PRISM_CHECK(check(cu_.device_memory(&bytes, device_), "cuDeviceTotalMem"));
  // From Hopper on, the instructions that matter most are only in the variant of exactly this chip.
  info_.arch = "sm_" + std::to_string(major) + std::to_string(minor) + (major >= 9 ? "a" : "");
  info_.shared_bytes = shared_bytes;
  info_.memory_bytes = bytes;
  can_start_early_ = major >= 9;

  PRISM_CHECK(check(cu_.context_retain(&context_, device_), "cuDevicePrimaryCtxRetain"));
  PRISM_CHECK(enter());
  return check(cu_.stream_create(&stream_, cuda::kNonBlocking), "cuStreamCreate");
}

// Codes are ignored: whatever went wrong before, everything is given back.
CudaDriver::~CudaDriver() {
  if (!context_) return;
  cu_.context_set(context_);
  int code = 0;
  if (cuda::Recording unfinished = stop_recording(code)) cu_.graph_destroy(unfinished);
  if (stream_) cu_.stream_wait(stream_);
  for (Address memory : memory_) cu_.memory_free(memory);
  for (void* memory : host_memory_) cu_.host_free(memory);
  for (Staging& s : staging_) {
    if (s.memory) cu_.host_free(s.memory);
    if (s.done) cu_.event_destroy(s.done);
  }
  if (stream_) cu_.stream_destroy(stream_);
  cu_.context_set(nullptr);
  cu_.context_release(device_);
}

Status CudaDriver::check(int code, const std::string& call) {
  if (code == 0) return ok();
  const std::string what = call + " failed: " + cu_.describe(code);
  if (!is_lasting(code)) return error(label_, ": ", what);
  if (lost_.empty()) lost_ = what;
  return error(label_, ": ", what, "; an earlier launch may be the cause: start the program again, under compute-sanitizer to find it");
}

Status CudaDriver::enter() {
  if (!lost_.empty()) return error(label_, ": cannot be used any more since ", lost_, ": start the program again");
  return check(cu_.context_set(context_), "cuCtxSetCurrent");
}

Status CudaDriver::enter_unrecorded(const char* what) {
  if (recording_) return recorded(error(label_, ": found ", what, " in a recording, expected launches and copies: do it before or after"));
  return enter();
}

void CudaDriver::give_back(std::function<void()> f) {
  if (recording_) {
    given_back_.push_back(std::move(f));
    return;
  }
  cu_.context_set(context_);
  cu_.stream_wait(stream_);
  f();
}

Status CudaDriver::synchronize() {
  PRISM_CHECK(enter_unrecorded("a wait"));
  return check(cu_.stream_wait(stream_), "cuStreamSynchronize");
}

Result<void*> CudaDriver::stream() {
  PRISM_CHECK(recorded(enter()));
  return static_cast<void*>(stream_);
}

// ---- memory

Error CudaDriver::no_memory(uint64_t bytes, const std::string& what) {
  size_t free = 0, total = 0;
  if (cu_.memory_info(&free, &total) != 0) return error(what, ": found too little memory on ", label_, ", expected ", format_bytes(bytes), " free");
  return error(what, ": found ", format_bytes(free), " free of ", format_bytes(total), " on ", label_, ", expected ", format_bytes(bytes),
               ": end other programs that use it (nvidia-smi lists them), or take a smaller model or context");
}

Result<Address> CudaDriver::allocate(uint64_t bytes, const std::string& what) {
  PRISM_CHECK(enter_unrecorded("an allocation"));
  Address memory = 0;
  const int code = cu_.memory_allocate(&memory, std::max<uint64_t>(bytes, 1));
  if (code == cuda::kOutOfMemory) return no_memory(bytes, what);
  PRISM_CHECK(check(code, "cuMemAlloc"));
  memory_.insert(memory);
  return memory;
}

void CudaDriver::free(Address memory) {
  if (memory_.erase(memory)) give_back([this, memory] { cu_.memory_free(memory); });
}

Result<void*> CudaDriver::allocate_host(uint64_t bytes) {
  PRISM_CHECK(enter_unrecorded("an allocation"));
  void* memory = nullptr;
  const int code = cu_.host_allocate(&memory, std::max<uint64_t>(bytes, 1), 0);
  if (code == cuda::kOutOfMemory)
    return error(label_, ": found too little memory of the host, expected ", format_bytes(bytes),
                 " that can be pinned: raise the limit (ulimit -l) or free memory");
  PRISM_CHECK(check(code, "cuMemHostAlloc"));
  host_memory_.insert(memory);
  return memory;
}

void CudaDriver::free_host(void* memory) {
  if (host_memory_.erase(memory)) give_back([this, memory] { cu_.host_free(memory); });
}

Status CudaDriver::zero(Address to, uint64_t bytes) {
  PRISM_CHECK(recorded(enter()));
  return bytes ? recorded(check(cu_.fill_bytes(to, 0, bytes, stream_), "cuMemsetD8Async")) : ok();
}

Status CudaDriver::upload_later(Address to, const void* from, uint64_t bytes) {
  PRISM_CHECK(recorded(enter()));
  return bytes ? recorded(check(cu_.copy_to_device(to, from, bytes, stream_), "cuMemcpyHtoDAsync")) : ok();
}

Status CudaDriver::download_later(void* to, Address from, uint64_t bytes) {
  PRISM_CHECK(recorded(enter()));
  return bytes ? recorded(check(cu_.copy_to_host(to, from, bytes, stream_), "cuMemcpyDtoHAsync")) : ok();
}

// ---- copies by way of pinned memory: while the device copies one half, this thread copies the other

Status CudaDriver::make_staging() {
  for (Staging& s : staging_) {
    if (!s.memory) PRISM_CHECK(check(cu_.host_allocate(&s.memory, kStagingBytes, 0), "cuMemHostAlloc"));
    if (!s.done) PRISM_CHECK(check(cu_.event_create(&s.done, cuda::kNoTiming), "cuEventCreate"));
  }
  return ok();
}

Status CudaDriver::wait_for(Staging& s) {
  return std::exchange(s.busy, false) ? check(cu_.event_wait(s.done), "cuEventSynchronize") : ok();
}

Status CudaDriver::queued(Staging& s, int code, const char* call) {
  PRISM_CHECK(check(code, call));
  Status status = check(cu_.event_record(s.done, stream_), "cuEventRecord");
  s.busy = bool(status);
  if (!status) cu_.stream_wait(stream_);
  return status;
}

Status CudaDriver::upload(Address to, const void* from, uint64_t bytes) {
  PRISM_CHECK(enter_unrecorded("an upload"));
  PRISM_CHECK(make_staging());
  for (uint64_t at = 0; at < bytes; at += kStagingBytes, next_staging_ ^= 1) {
    const uint64_t n = std::min(kStagingBytes, bytes - at);
    Staging& s = staging_[next_staging_];
    PRISM_CHECK(wait_for(s));
    std::memcpy(s.memory, static_cast<const uint8_t*>(from) + at, n);
    PRISM_CHECK(queued(s, cu_.copy_to_device(to + at, s.memory, n, stream_), "cuMemcpyHtoDAsync"));
  }
  return ok();
}

Status CudaDriver::download(void* to, Address from, uint64_t bytes) {
  PRISM_CHECK(enter_unrecorded("a download"));
  PRISM_CHECK(make_staging());
  const auto size_at = [&](uint64_t at) { return std::min(kStagingBytes, bytes - at); };
  const auto start = [&](uint64_t at, Staging& s) -> Status {
    return queued(s, cu_.copy_to_host(s.memory, from + at, size_at(at), stream_), "cuMemcpyDtoHAsync");
  };
  if (bytes) PRISM_CHECK(start(0, staging_[next_staging_]));
  for (uint64_t at = 0; at < bytes; at += kStagingBytes) {
    Staging& s = staging_[next_staging_];
    next_staging_ ^= 1;
    if (bytes - at > kStagingBytes) PRISM_CHECK(start(at + kStagingBytes, staging_[next_staging_]));
    PRISM_CHECK(wait_for(s));
    std::memcpy(static_cast<uint8_t*>(to) + at, s.memory, size_at(at));
  }
  return bytes ? ok() : synchronize();
}

// ---- code and launches

Result<std::unique_ptr<Module>> CudaDriver::load(std::span<const uint8_t> code, const std::string& name) {
  PRISM_CHECK(check_cubin(code, name));
  PRISM_CHECK(enter_unrecorded("loading of code"));
  cuda::Code loaded = nullptr;
  const int result = cu_.module_load(&loaded, code.data(), 0, nullptr, nullptr);
  if (result == cuda::kInvalidImage || result == cuda::kNoBinaryForGpu || result == cuda::kInvalidPtx || result == cuda::kUnsupportedPtx)
    return error(name, ": ", label_, " with a driver for CUDA ", cuda::version_text(cu_.version), " refuses the code: ", cu_.describe(result),
                 "; expected a cubin for ", info_.arch, ": compile it for this GPU, or update the NVIDIA driver");
  if (result == cuda::kOutOfMemory) return no_memory(code.size(), name + ": code");
  PRISM_CHECK(check(result, "cuModuleLoadDataEx"));
  return std::unique_ptr<Module>(new CudaModule(*this, loaded, name));
}

Result<Function> CudaModule::function(const std::string& symbol, int64_t shared_bytes) {
  const std::string name = name_ + ": " + symbol;
  const int64_t limit = driver_.info().shared_bytes;
  if (shared_bytes < 0 || shared_bytes > limit)
    return error(name, ": found a kernel with ", shared_bytes, " bytes of shared memory, expected at most ", limit, ", which a block of ",
                 driver_.info().name, " can have: compile it for this GPU");
  PRISM_CHECK(driver_.enter());
  LoadedKernel kernel = {nullptr, name, kSharedWithoutAsking};
  if (const auto found = kernels_.find(symbol); found != kernels_.end()) {
    kernel = found->second;
  } else {
    const int code = driver_.cu().module_function(&kernel.handle, code_, symbol.c_str());
    if (code == cuda::kNotFound) return error(name, ": found no such kernel in the code, expected one: compile it again");
    PRISM_CHECK(driver_.check(code, "cuModuleGetFunction for " + name));
  }
  if (shared_bytes > kernel.shared_bytes) {
    PRISM_CHECK(driver_.check(driver_.cu().function_set(kernel.handle, cuda::kDynamicSharedBytes, int(shared_bytes)), "cuFuncSetAttribute for " + name));
    kernel.shared_bytes = shared_bytes;
  }
  return Function{&(kernels_[symbol] = kernel)};
}

Result<int> CudaDriver::blocks_per_multiprocessor(Function f, int threads, int64_t shared_bytes) {
  PRISM_CHECK(enter());
  int blocks = 0;
  PRISM_CHECK(check(cu_.function_blocks(&blocks, loaded(f).handle, threads, size_t(shared_bytes)), "cuOccupancyMaxActiveBlocksPerMultiprocessor"));
  return blocks;
}

Status CudaDriver::try_launch(const Launch& l) {
  const LoadedKernel& kernel = loaded(l.function);
  if (l.blocks < 0 || l.blocks > INT32_MAX) return error(kernel.name, ": found a launch of ", l.blocks, " blocks, expected 0 to ", INT32_MAX);
  if (l.shared_bytes < 0 || l.shared_bytes > kernel.shared_bytes)
    return error(kernel.name, ": found a launch with ", l.shared_bytes, " bytes of shared memory, expected at most the ", kernel.shared_bytes,
                 " it was loaded for");
  PRISM_CHECK(enter());
  if (l.blocks == 0) return ok();
  cuda::LaunchAttribute attributes[2];
  cuda::LaunchConfig config = {.blocks_x = unsigned(l.blocks), .threads_x = unsigned(l.threads), .shared_bytes = unsigned(l.shared_bytes), .stream = stream_};
  config.attributes = attributes;
  if (l.together) attributes[config.attribute_count++] = {.id = cuda::kCooperative, .value = 1};
  if (l.early && can_start_early_ && (!recording_ || cu_.version >= kEarlyRecordedSince))
    attributes[config.attribute_count++] = {.id = cuda::kEarlyStart, .value = 1};
  void* parameter = const_cast<Address*>(l.args.data());  // the one struct; the driver copies it
  const int code = cu_.launch(&config, kernel.handle, l.args.empty() ? nullptr : &parameter, nullptr);
  return code == 0 ? ok() : check(code, "cuLaunchKernelEx of " + kernel.name);
}

Status CudaDriver::launch(const Launch& l) { return recorded(try_launch(l)); }

// ---- recording

Status CudaDriver::recorded(Status status) {
  int code = 0;
  if (!status)
    if (cuda::Recording unfinished = stop_recording(code)) cu_.graph_destroy(unfinished);
  return status;
}

cuda::Recording CudaDriver::stop_recording(int& code) {
  cuda::Recording recording = nullptr;
  if (!std::exchange(recording_, false)) return nullptr;
  code = cu_.capture_end(stream_, &recording);
  for (auto& f : std::exchange(given_back_, {})) give_back(std::move(f));
  return recording;
}

Status CudaDriver::begin_recording() {
  PRISM_CHECK(enter_unrecorded("the beginning of another recording"));
  PRISM_CHECK(check(cu_.capture_begin(stream_, cuda::kThreadLocal), "cuStreamBeginCapture"));
  recording_ = true;
  return ok();
}

Result<std::unique_ptr<Graph>> CudaDriver::end_recording() {
  PRISM_CHECK(recorded(enter()));
  if (!recording_) return error(label_, ": found no recording to end, expected one without an error since begin_recording");
  int code = 0;
  cuda::Recording recording = stop_recording(code);
  cuda::Playable playable = nullptr;
  Status status = check(code, "cuStreamEndCapture");
  if (status) status = check(cu_.graph_instantiate(&playable, recording, 0), "cuGraphInstantiate");
  if (recording) cu_.graph_destroy(recording);
  if (!status) return status.err();
  return std::unique_ptr<Graph>(new CudaGraph(*this, playable));
}

Status CudaDriver::replay(const Graph& g) {
  PRISM_CHECK(enter_unrecorded("a replay"));
  return check(cu_.graph_launch(static_cast<const CudaGraph&>(g).playable(), stream_), "cuGraphLaunch");
}

}  // namespace

Result<std::unique_ptr<Driver>> open_cuda(int device) {
  PRISM_TRY(const cuda::Api api, cuda::open_api());
  auto driver = std::make_unique<CudaDriver>(api);
  PRISM_CHECK(driver->open(device));
  return std::unique_ptr<Driver>(std::move(driver));
}

}  // namespace prism::rt::gpu
