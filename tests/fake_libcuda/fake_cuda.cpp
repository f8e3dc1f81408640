#include "tests/fake_libcuda/fake_cuda.h"

#include <elf.h>

#include <cstring>
#include <deque>
#include <functional>
#include <set>
#include <string_view>
#include <type_traits>

#include "runtime/gpu/cuda_api.h"

namespace prism::rt::gpu::cuda {

struct Work {
  std::function<int()> run;        // its code
  OpaqueEvent* event = nullptr;    // or: reached here
};
struct OpaqueContext { int retained = 0; };
struct OpaqueEvent { OpaqueStream* pending_in = nullptr; };
struct OpaqueGraph { std::vector<Work> work; };
struct OpaqueGraphExec { std::vector<Work> work; };
struct OpaqueStream {
  OpaqueContext* context = nullptr;
  std::deque<Work> queue;
  bool capturing = false, invalidated = false;
  std::vector<Work> captured;
};
struct OpaqueModule { std::vector<std::string> names; };
struct OpaqueFunction {
  std::string name;
  int max_shared = 48 << 10;
};

namespace {

constexpr int kInvalidValue = 1, kInvalidContext = 201, kInvalidHandle = 400, kCaptureUnsupported = 900, kCaptureInvalidated = 901;
constexpr Address kFirstAddress = Address(7) << 60;  // nothing that the host could use by mistake

struct State {
  fake::Cuda shown;
  int lasting = 0;    // the code of every call from now on
  uint64_t used_bytes = 0;
  Address next_address = kFirstAddress;
  std::map<int, OpaqueContext> contexts;
  std::map<Address, std::vector<uint8_t>> memory;
  std::map<void*, std::vector<uint8_t>> host_memory;
  std::set<OpaqueStream*> streams;
  std::set<void*> objects;            // all that have a handle
  std::deque<OpaqueFunction> functions;
};

State* state = new State;
thread_local OpaqueContext* current = nullptr;

int mistake(const std::string& what, int code = kInvalidValue) {
  state->shown.mistakes.push_back(what);
  return code;
}

int fault(const char* function) {
  fake::Fault& f = state->shown.fault;
  ++state->shown.calls;
  if (state->lasting && !std::string_view(function).starts_with("cuGetError")) return state->lasting;
  if (f.nth == 0 || (!f.function.empty() && f.function != function) || ++f.seen != f.nth) return 0;
  state->shown.failed = function;
  if (f.lasting) state->lasting = f.code;
  return f.code;
}

template <class T>
int create(T** out, const char* kind) {
  *out = new T;
  state->objects.insert(*out);
  ++state->shown.live[kind];
  return 0;
}

template <class T>
int destroy(T* object, const char* kind) {
  if (!state->objects.erase(object)) return mistake(std::string("destroyed what is no ") + kind, kInvalidHandle);
  --state->shown.live[kind];
  delete object;
  return 0;
}

bool exists(const void* object) { return state->objects.contains(const_cast<void*>(object)); }

// ---- streams

int run_front(OpaqueStream& s) {
  const Work work = std::move(s.queue.front());
  s.queue.pop_front();
  if (work.event) {
    if (exists(work.event)) work.event->pending_in = nullptr;
    return 0;
  }
  if (state->lasting) return state->lasting;  // a broken device does nothing
  const int code = work.run();
  if (code) state->lasting = code;
  return code;
}

int run_all(OpaqueStream& s) {
  int first = 0;
  while (!s.queue.empty())
    if (const int code = run_front(s); code && !first) first = code;
  return first;
}

bool in_use() {
  bool any = false;
  for (OpaqueStream* s : state->streams)
    for (const Work& w : s->queue) any |= !w.event && s->context == current;
  return any;
}

/// What no thread may do while it captures.
bool captures() {
  bool any = false;
  for (OpaqueStream* s : state->streams)
    if (s->capturing) any = s->invalidated = true;
  return any;
}

int in_context(const char* what) { return current && current->retained > 0 ? 0 : mistake(std::string(what) + " without a context", kInvalidContext); }

int check_stream(OpaqueStream* s, const char* what) {
  if (!exists(s)) return mistake(std::string(what) + ": no stream", kInvalidHandle);
  if (const int code = in_context(what)) return code;
  return s->context == current ? 0 : mistake(std::string(what) + ": a stream of another context", kInvalidContext);
}

int push(OpaqueStream* s, const char* what, std::function<int()> run) {
  if (const int code = check_stream(s, what)) return code;
  if (s->capturing)
    s->captured.push_back({std::move(run)});
  else
    s->queue.push_back({std::move(run)});
  return 0;
}

// ---- memory

/// The host's memory behind `bytes` bytes at `at`, or null.
uint8_t* device_memory(Address at, size_t bytes) {
  auto found = state->memory.upper_bound(at);
  if (found == state->memory.begin()) return nullptr;
  --found;
  const Address offset = at - found->first;
  return offset <= found->second.size() && bytes <= found->second.size() - offset ? found->second.data() + offset : nullptr;
}

bool is_pinned(const void* at, size_t bytes) {
  auto found = state->host_memory.upper_bound(const_cast<void*>(at));
  if (found == state->host_memory.begin()) return false;
  --found;
  const size_t offset = size_t(static_cast<const uint8_t*>(at) - static_cast<const uint8_t*>(found->first));
  return offset <= found->second.size() && bytes <= found->second.size() - offset;
}

int copy(bool to_device, void* host, Address device, size_t bytes) {
  uint8_t* memory = device_memory(device, bytes);
  if (!memory) return kIllegalAddress;
  if (!is_pinned(host, bytes)) return mistake("copied memory of the host that was freed", kIllegalAddress);
  std::memcpy(to_device ? memory : host, to_device ? host : memory, bytes);
  return 0;
}

int queue_copy(const char* what, bool to_device, void* host, Address device, size_t bytes, Stream s) {
  if (!device_memory(device, bytes)) return kInvalidValue;
  if (!is_pinned(host, bytes)) return mistake(std::string(what) + ": memory of the host that is not pinned");
  return push(s, what, [=] { return copy(to_device, host, device, bytes); });
}

int run_kernel(const fake::Launched& l) {
  state->shown.launched.push_back(l);
  if (l.kernel.starts_with("crash")) return kIllegalAddress;
  if (!l.kernel.starts_with("increment")) return 0;
  uint8_t* bytes = device_memory(l.args[0], size_t(l.blocks * l.threads));
  if (!bytes) return kIllegalAddress;
  for (int64_t i = 0; i < l.blocks * l.threads; ++i) ++bytes[i];
  return 0;
}

/// The strings of all string tables of an ELF file.
std::vector<std::string> elf_strings(const uint8_t* image) {
  Elf64_Ehdr header;
  std::memcpy(&header, image, sizeof header);
  std::vector<std::string> strings;
  for (int i = 0; i < header.e_shnum; ++i) {
    Elf64_Shdr section;
    std::memcpy(&section, image + header.e_shoff + size_t(i) * sizeof section, sizeof section);
    if (section.sh_type != SHT_STRTAB) continue;
    const std::string text(reinterpret_cast<const char*>(image + section.sh_offset), section.sh_size);
    for (size_t at = 0; at < text.size(); at += strings.back().size() + 1) strings.emplace_back(text.c_str() + at);
  }
  return strings;
}

}  // namespace

// A call that is to fail does nothing, but one that gives something back does: the driver's own also report there what went
// wrong before.
#define FAKE(name) \
  if (const int fault_code = fault(#name)) return fault_code
#define FAKE_RELEASE(name) const int fault_code = fault(#name)
#define FAKE_UNCAPTURED(name) \
  FAKE(name);                 \
  if (captures()) return kCaptureUnsupported

extern "C" {

fake::Cuda* fake_cuda() { return &state->shown; }

void fake_cuda_reset() {
  delete state;
  state = new State;
  current = nullptr;
}

int cuDriverGetVersion(int* version) {
  FAKE(cuDriverGetVersion);
  *version = state->shown.version;
  return 0;
}
int cuInit(unsigned flags) {
  FAKE(cuInit);
  return flags ? kInvalidValue : state->shown.devices ? 0 : kNoDevice;
}
int cuGetErrorName(int code, const char** text) {
  FAKE(cuGetErrorName);
  static const std::map<int, const char*> names = {{1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {100, "CUDA_ERROR_NO_DEVICE"},
      {209, "CUDA_ERROR_NO_BINARY_FOR_GPU"}, {700, "CUDA_ERROR_ILLEGAL_ADDRESS"}, {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"}};
  const auto found = names.find(code);
  *text = found == names.end() ? nullptr : found->second;
  return found == names.end() ? kInvalidValue : 0;
}
int cuGetErrorString(int code, const char** text) {
  FAKE(cuGetErrorString);
  *text = code == kIllegalAddress ? "an illegal memory access was encountered" : "text";
  return 0;
}

int cuDeviceGetCount(int* count) {
  FAKE(cuDeviceGetCount);
  *count = state->shown.devices;
  return 0;
}
int cuDeviceGet(Device* device, int ordinal) {
  FAKE(cuDeviceGet);
  if (ordinal < 0 || ordinal >= state->shown.devices) return mistake("cuDeviceGet: no such device");
  *device = ordinal;
  return 0;
}
int cuDeviceGetName(char* name, int bytes, Device device) {
  FAKE(cuDeviceGetName);
  std::strncpy(name, "Fake GPU", size_t(bytes));
  return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, Device) {
  FAKE(cuDeviceTotalMem_v2);
  *bytes = state->shown.memory_bytes;
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, Device) {
  FAKE(cuDeviceGetAttribute);
  switch (attribute) {
    case kMultiprocessors: *value = 132; return 0;
    case kCapabilityMajor: *value = state->shown.capability_major; return 0;
    case kCapabilityMinor: *value = state->shown.capability_minor; return 0;
    case kSharedBytesPerBlock: *value = state->shown.shared_bytes; return 0;
    default: return kInvalidValue;
  }
}

int cuDevicePrimaryCtxRetain(Context* context, Device device) {
  FAKE(cuDevicePrimaryCtxRetain);
  *context = &state->contexts[device];
  ++(*context)->retained;
  ++state->shown.live["context"];
  return 0;
}
int cuDevicePrimaryCtxRelease_v2(Device device) {
  FAKE_RELEASE(cuDevicePrimaryCtxRelease_v2);
  OpaqueContext& context = state->contexts[device];
  if (context.retained == 0) return mistake("released a context too often");
  --context.retained;
  --state->shown.live["context"];
  return fault_code;
}
int cuCtxSetCurrent(Context context) {
  FAKE(cuCtxSetCurrent);
  if (context && context->retained == 0) return mistake("cuCtxSetCurrent: a context that is gone", kInvalidContext);
  current = context;
  return 0;
}

int cuMemGetInfo_v2(size_t* free, size_t* total) {
  FAKE(cuMemGetInfo_v2);
  *total = state->shown.memory_bytes;
  *free = *total - state->used_bytes;
  return in_context("cuMemGetInfo");
}
int cuMemAlloc_v2(Address* memory, size_t bytes) {
  FAKE_UNCAPTURED(cuMemAlloc_v2);
  if (const int code = in_context("cuMemAlloc")) return code;
  if (bytes == 0) return mistake("cuMemAlloc of nothing");
  if (bytes > state->shown.memory_bytes - state->used_bytes) return kOutOfMemory;
  *memory = state->next_address;
  state->next_address += (bytes + 511) / 256 * 256;  // a gap between any two
  state->used_bytes += bytes;
  state->memory[*memory].assign(bytes, 0xA5);
  ++state->shown.live["memory"];
  return 0;
}
int cuMemFree_v2(Address memory) {
  FAKE_RELEASE(cuMemFree_v2);
  if (captures()) return kCaptureUnsupported;
  if (const int code = in_context("cuMemFree")) return code;
  const auto found = state->memory.find(memory);
  if (found == state->memory.end()) return mistake("freed what is no memory");
  if (in_use()) return mistake("freed memory in use");
  state->used_bytes -= found->second.size();
  state->memory.erase(found);
  --state->shown.live["memory"];
  return fault_code;
}
int cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
  FAKE_UNCAPTURED(cuMemHostAlloc);
  if (const int code = in_context("cuMemHostAlloc")) return code;
  if (bytes == 0) return mistake("cuMemHostAlloc of nothing");
  std::vector<uint8_t> bytes_held(bytes, 0x5A);
  *memory = bytes_held.data();
  state->host_memory[*memory] = std::move(bytes_held);
  ++state->shown.live["host memory"];
  return 0;
}
int cuMemFreeHost(void* memory) {
  FAKE_RELEASE(cuMemFreeHost);
  if (captures()) return kCaptureUnsupported;
  if (const int code = in_context("cuMemFreeHost")) return code;
  if (!state->host_memory.contains(memory)) return mistake("freed what is no memory of the host");
  if (in_use()) return mistake("freed memory of the host in use");
  state->host_memory.erase(memory);
  --state->shown.live["host memory"];
  return fault_code;
}

int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Stream s) {
  FAKE(cuMemcpyHtoDAsync_v2);
  return queue_copy("cuMemcpyHtoDAsync", true, const_cast<void*>(from), to, bytes, s);
}
int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Stream s) {
  FAKE(cuMemcpyDtoHAsync_v2);
  return queue_copy("cuMemcpyDtoHAsync", false, to, from, bytes, s);
}
int cuMemsetD8Async(Address to, unsigned char value, size_t bytes, Stream s) {
  FAKE(cuMemsetD8Async);
  if (!device_memory(to, bytes)) return kInvalidValue;
  return push(s, "cuMemsetD8Async", [=] {
    uint8_t* memory = device_memory(to, bytes);
    if (memory) std::memset(memory, value, bytes);
    return memory ? 0 : int(kIllegalAddress);
  });
}

int cuStreamCreate(Stream* s, unsigned flags) {
  FAKE(cuStreamCreate);
  if (const int code = in_context("cuStreamCreate")) return code;
  if (flags != kNonBlocking) return mistake("a stream that waits for others");
  create(s, "stream");
  (*s)->context = current;
  state->streams.insert(*s);
  return 0;
}
int cuStreamSynchronize(Stream s) {
  FAKE_RELEASE(cuStreamSynchronize);  // with an error too the work has an end
  if (const int code = check_stream(s, "cuStreamSynchronize")) return code;
  if (captures()) return kCaptureUnsupported;
  const int code = run_all(*s);
  return fault_code ? fault_code : code;
}
int cuStreamDestroy_v2(Stream s) {
  FAKE_RELEASE(cuStreamDestroy_v2);
  if (const int code = check_stream(s, "cuStreamDestroy")) return code;
  if (s->capturing) return mistake("destroyed a stream that captures");
  run_all(*s);
  state->streams.erase(s);
  destroy(s, "stream");
  return fault_code;
}
int cuStreamBeginCapture_v2(Stream s, int mode) {
  FAKE(cuStreamBeginCapture_v2);
  if (const int code = check_stream(s, "cuStreamBeginCapture")) return code;
  if (mode != kThreadLocal || s->capturing) return mistake("cuStreamBeginCapture: the wrong mode, or twice");
  s->capturing = true;
  return 0;
}
int cuStreamEndCapture(Stream s, Recording* recording) {
  FAKE_RELEASE(cuStreamEndCapture);
  if (const int code = check_stream(s, "cuStreamEndCapture")) return code;
  if (!s->capturing) return mistake("cuStreamEndCapture of none");
  std::vector<Work> work = std::move(s->captured);
  const bool invalidated = s->invalidated;
  s->captured = {};
  s->capturing = s->invalidated = false;
  *recording = nullptr;
  if (fault_code) return fault_code;
  if (invalidated) return kCaptureInvalidated;
  create(recording, "graph");
  (*recording)->work = std::move(work);
  return 0;
}

int cuEventCreate(Event* event, unsigned flags) {
  FAKE(cuEventCreate);
  if (const int code = in_context("cuEventCreate")) return code;
  if (flags != kNoTiming) return mistake("an event that takes time");
  return create(event, "event");
}
int cuEventRecord(Event event, Stream s) {
  FAKE(cuEventRecord);
  if (const int code = check_stream(s, "cuEventRecord")) return code;
  if (!exists(event) || s->capturing) return mistake("cuEventRecord: no event, or in a capture");
  if (event->pending_in) std::erase_if(event->pending_in->queue, [&](const Work& w) { return w.event == event; });  // the newest counts
  event->pending_in = s;
  s->queue.push_back({{}, event});
  return 0;
}
int cuEventSynchronize(Event event) {
  FAKE_RELEASE(cuEventSynchronize);
  if (const int code = in_context("cuEventSynchronize")) return code;
  if (!exists(event)) return mistake("cuEventSynchronize: no event", kInvalidHandle);
  int first = 0;
  while (event->pending_in)
    if (const int code = run_front(*event->pending_in); code && !first) first = code;
  return fault_code ? fault_code : first;
}
int cuEventDestroy_v2(Event event) {
  FAKE_RELEASE(cuEventDestroy_v2);
  if (const int code = destroy(event, "event")) return code;
  return fault_code;
}

int cuModuleLoadDataEx(Code* code, const void* image, unsigned options, int*, void**) {
  FAKE_UNCAPTURED(cuModuleLoadDataEx);
  if (const int context_code = in_context("cuModuleLoadDataEx")) return context_code;
  if (options) return kInvalidValue;
  create(code, "module");
  (*code)->names = elf_strings(static_cast<const uint8_t*>(image));
  return 0;
}
int cuModuleUnload(Code code) {
  FAKE_RELEASE(cuModuleUnload);
  if (captures()) return kCaptureUnsupported;
  if (const int context_code = in_context("cuModuleUnload")) return context_code;
  if (in_use()) return mistake("unloaded code in use");
  if (const int destroy_code = destroy(code, "module")) return destroy_code;
  return fault_code;
}
int cuModuleGetFunction(Kernel* kernel, Code code, const char* symbol) {
  FAKE(cuModuleGetFunction);
  if (!exists(code)) return mistake("cuModuleGetFunction: no module", kInvalidHandle);
  for (const std::string& name : code->names)
    if (name == symbol) {
      *kernel = &state->functions.emplace_back();
      (*kernel)->name = name;
      return 0;
    }
  return kNotFound;
}
int cuFuncSetAttribute(Kernel kernel, int attribute, int value) {
  FAKE(cuFuncSetAttribute);
  if (attribute != kDynamicSharedBytes || value > state->shown.shared_bytes) return kInvalidValue;
  kernel->max_shared = value;
  return 0;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int threads, size_t shared_bytes) {
  FAKE(cuOccupancyMaxActiveBlocksPerMultiprocessor);
  *blocks = std::min(2048 / threads, shared_bytes ? int(size_t(state->shown.shared_bytes + 1024) / (shared_bytes + 1024)) : 32);
  return 0;
}
int cuLaunchKernelEx(const LaunchConfig* c, Kernel kernel, void** parameters, void** extra) {
  FAKE(cuLaunchKernelEx);
  const uint64_t threads = uint64_t(c->threads_x) * c->threads_y * c->threads_z;
  if (c->blocks_x == 0 || c->blocks_x > INT32_MAX || c->blocks_y != 1 || c->blocks_z != 1 || threads == 0 || threads > 1024 || extra) return kInvalidValue;
  if (int(c->shared_bytes) > kernel->max_shared) return kInvalidValue;
  fake::Launched l = {kernel->name, c->blocks_x, int64_t(threads), c->shared_bytes, false, false, {}};
  for (unsigned i = 0; i < c->attribute_count; ++i) {
    l.early |= c->attributes[i].id == kEarlyStart && c->attributes[i].value == 1;
    l.together |= c->attributes[i].id == kCooperative && c->attributes[i].value == 1;
  }
  l.args.resize(size_t(std::stoi(kernel->name.substr(kernel->name.rfind('_') + 1))));
  if (!l.args.empty()) {
    if (!parameters) return mistake("cuLaunchKernelEx without parameters");
    std::memcpy(l.args.data(), parameters[0], l.args.size() * sizeof l.args[0]);
  }
  return push(c->stream, "cuLaunchKernelEx", [l] { return run_kernel(l); });
}

int cuGraphInstantiateWithFlags(Playable* playable, Recording recording, unsigned long long flags) {
  FAKE(cuGraphInstantiateWithFlags);
  if (!exists(recording) || flags) return mistake("cuGraphInstantiate: no graph");
  create(playable, "graph exec");
  (*playable)->work = recording->work;
  return 0;
}
int cuGraphDestroy(Recording recording) {
  FAKE_RELEASE(cuGraphDestroy);
  if (const int code = destroy(recording, "graph")) return code;
  return fault_code;
}
#ifndef FAKE_INCOMPLETE
int cuGraphLaunch(Playable playable, Stream s) {
  FAKE(cuGraphLaunch);
  if (!exists(playable)) return mistake("cuGraphLaunch: no graph", kInvalidHandle);
  if (const int code = check_stream(s, "cuGraphLaunch")) return code;
  if (s->capturing) return mistake("cuGraphLaunch in a capture");
  s->queue.insert(s->queue.end(), playable->work.begin(), playable->work.end());
  return 0;
}
#endif
int cuGraphExecDestroy(Playable playable) {
  FAKE_RELEASE(cuGraphExecDestroy);
  if (const int code = destroy(playable, "graph exec")) return code;
  return fault_code;
}

}  // extern "C"

#ifndef FAKE_INCOMPLETE
// All that the driver calls is here, with the same parameters.
#define PRISM_CUDA(member, name, suffix, parameters) static_assert(std::is_same_v<decltype(&name##suffix), decltype(Api::member)>);
#include "runtime/gpu/cuda_api.def"
#endif

}  // namespace prism::rt::gpu::cuda
