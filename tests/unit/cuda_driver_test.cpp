// The driver of NVIDIA GPUs on a fake libcuda, which does what is queued as late as it may and counts what is alive.
#include "runtime/gpu/cubin.h"
#include "tests/unit/fake_gpu.h"

#include <functional>
#include <numeric>
#include <thread>

namespace prism::rt::gpu {
namespace {

using namespace gpu_test;

std::vector<uint8_t> pattern(size_t n, uint32_t seed = 1) {
  std::vector<uint8_t> bytes(n);
  for (uint8_t& byte : bytes) byte = uint8_t((seed = seed * 1664525 + 1013904223) >> 24);
  return bytes;
}

/// The one line that opening answers with.
std::string refusal(int device = 0) {
  auto driver = open_cuda(device);
  EXPECT_FALSE(driver);
  return driver ? "" : driver.message();
}

void expect_contains(const std::string& message, const std::vector<std::string>& parts) {
  EXPECT_EQ(message.find('\n'), message.npos) << message;
  for (const std::string& part : parts) EXPECT_NE(message.find(part), message.npos) << "'" << part << "' in: " << message;
}

#define EXPECT_OK(expr)                                    \
  do {                                                     \
    const auto& result_ = (expr);                          \
    EXPECT_TRUE(result_) << (result_ ? "" : result_.message()); \
  } while (0)

class CudaDriver : public testing::Test {
 protected:
  std::unique_ptr<Driver> open(int device = 0) {
    auto driver = open_cuda(device);
    if (driver) return *std::move(driver);
    ADD_FAILURE() << driver.message();
    std::abort();
  }
  FakeGpu fake;
};

template <class T>
T value(Result<T> result) {
  if (result) return *std::move(result);
  ADD_FAILURE() << result.message();
  return T();
}

// ---- opening

TEST_F(CudaDriver, SaysWhatTheDeviceIs) {
  auto driver = open();
  EXPECT_EQ(driver->info().name, "Fake GPU");
  EXPECT_EQ(driver->info().arch, "sm_90a");
  EXPECT_EQ(driver->info().multiprocessors, 132);
  EXPECT_EQ(driver->info().memory_bytes, uint64_t(1) << 30);
  EXPECT_EQ(driver->info().shared_bytes, 227 << 10);
}

TEST_F(CudaDriver, NamesArchitecturesAsTheCompilerDoes) {
  const std::tuple<int, int, const char*> cases[] = {{8, 0, "sm_80"}, {8, 9, "sm_89"}, {9, 0, "sm_90a"}, {10, 0, "sm_100a"}, {12, 0, "sm_120a"}};
  for (const auto& [major, minor, arch] : cases) {
    fake->capability_major = major;
    fake->capability_minor = minor;
    EXPECT_EQ(open()->info().arch, arch);
  }
}

TEST_F(CudaDriver, WithoutADriverSaysSo) {
  Variable none("PRISM_LIBCUDA", "libcuda_that_is_not_there.so.1");
  expect_contains(refusal(), {"no NVIDIA driver: ", "libcuda_that_is_not_there.so.1", "install the driver"});
}

TEST_F(CudaDriver, WithALibraryThatIsNoneSaysSo) {
  Variable other("PRISM_LIBCUDA", "libm.so.6");
  expect_contains(refusal(), {"libm.so.6: found no cuDriverGetVersion", "expected the NVIDIA driver's libcuda"});
}

TEST_F(CudaDriver, WithASymbolMissingSaysWhich) {
  Variable other("PRISM_LIBCUDA", fake_library("fake_libcuda_incomplete"));
  expect_contains(refusal(), {"found no cuGraphLaunch", "CUDA 12.0", "update the NVIDIA driver"});
}

TEST_F(CudaDriver, WithoutADeviceSaysSo) {
  fake->devices = 0;
  expect_contains(refusal(), {"cuInit failed: CUDA_ERROR_NO_DEVICE (text)", "CUDA_VISIBLE_DEVICES"});
}

TEST_F(CudaDriver, WithAnOldDriverSaysSo) {
  fake->version = 11080;
  expect_contains(refusal(), {"found one for CUDA 11.8", "expected CUDA 12.0", "update the driver"});
}

TEST_F(CudaDriver, WithADeviceOutOfRangeSaysSo) {
  fake->devices = 2;
  expect_contains(refusal(2), {"GPU 2: found 2 GPUs", "CUDA_VISIBLE_DEVICES"});
  expect_contains(refusal(-1), {"GPU -1: found 2 GPUs"});
}

TEST_F(CudaDriver, GivesAdviceForEveryReasonNotToStart) {
  const std::pair<int, const char*> cases[] = {{34, "error 34; this is the toolkit's stub"}, {803, "restart the machine"},
        {802, "fabric manager"}, {804, "compatibility"}, {999, "nvidia-smi"}};
  for (const auto& [code, advice] : cases) {
    fake.reset();
    fake->fault = {"cuInit", 1, code};
    expect_contains(refusal(), {"NVIDIA driver: cuInit failed: ", advice});
  }
}

// ---- memory

TEST_F(CudaDriver, CopiesOfEverySizeArriveWhole) {
  auto driver = open();
  for (size_t bytes : {size_t(0), size_t(1), size_t(4099), size_t(1) << 20, size_t(16) << 20, (size_t(16) << 20) + 1, (size_t(40) << 20) + 3}) {
    const Address memory = value(driver->allocate(bytes, "test"));
    EXPECT_NE(memory, 0u);
    EXPECT_EQ(memory % 256, 0u);
    const std::vector<uint8_t> sent = pattern(bytes, uint32_t(bytes));
    std::vector<uint8_t> scratch = sent, received(bytes, 0);
    EXPECT_OK(driver->upload(memory, scratch.data(), bytes));
    std::fill(scratch.begin(), scratch.end(), 0);  // may be reused at once
    EXPECT_OK(driver->download(received.data(), memory, bytes));
    EXPECT_TRUE(received == sent) << bytes;
    driver->free(memory);
  }
}

TEST_F(CudaDriver, CopiesInARowDoNotDisturbEachOther) {
  auto driver = open();
  constexpr size_t kBytes = 5000;
  const Address memory = value(driver->allocate(64 * kBytes, "test"));
  const std::vector<uint8_t> sent = pattern(64 * kBytes);
  for (size_t i = 0; i < 64; ++i) EXPECT_OK(driver->upload(memory + i * kBytes, sent.data() + i * kBytes, kBytes));
  std::vector<uint8_t> received(sent.size());
  for (size_t i = 0; i < 64; i += 2) EXPECT_OK(driver->download(received.data() + i * kBytes, memory + i * kBytes, 2 * kBytes));
  EXPECT_TRUE(received == sent);
  EXPECT_OK(driver->zero(memory + kBytes, kBytes));
  EXPECT_OK(driver->download(received.data(), memory, 3 * kBytes));
  EXPECT_TRUE(std::equal(sent.begin(), sent.begin() + kBytes, received.begin()));
  EXPECT_EQ(std::accumulate(received.begin() + kBytes, received.begin() + 2 * kBytes, 0), 0);
  EXPECT_TRUE(std::equal(sent.begin() + 2 * kBytes, sent.begin() + 3 * kBytes, received.begin() + 2 * kBytes));
}

TEST_F(CudaDriver, ACopyThatFailsHalfwayDoesNotDisturbTheNext) {
  auto driver = open();
  const Address memory = value(driver->allocate(1000, "test"));
  const std::vector<uint8_t> sent = pattern(1000);
  std::vector<uint8_t> received(1000);
  fake->fault = {"cuEventRecord", 1, 2};  // the copy is queued, but not when it is done
  EXPECT_FALSE(driver->download(received.data(), memory, 1000));
  EXPECT_OK(driver->upload(memory, sent.data(), 1000));
  EXPECT_OK(driver->download(received.data(), memory, 1000));
  EXPECT_EQ(received, sent);
}

TEST_F(CudaDriver, LaterCopiesAreDoneBySynchronize) {
  auto driver = open();
  const Address memory = value(driver->allocate(1000, "test"));
  auto* host = static_cast<uint8_t*>(value(driver->allocate_host(2000)));
  const std::vector<uint8_t> sent = pattern(1000);
  std::memcpy(host, sent.data(), 1000);
  EXPECT_OK(driver->upload_later(memory, host, 1000));
  EXPECT_OK(driver->download_later(host + 1000, memory, 1000));
  EXPECT_OK(driver->upload_later(memory, host, 0));
  EXPECT_OK(driver->download_later(host, memory, 0));
  EXPECT_OK(driver->zero(memory, 0));
  EXPECT_FALSE(std::equal(sent.begin(), sent.end(), host + 1000)) << "the fake copies later";
  EXPECT_OK(driver->synchronize());
  EXPECT_TRUE(std::equal(sent.begin(), sent.end(), host + 1000));
  driver->free_host(host);
}

TEST_F(CudaDriver, TooLittleMemorySaysForWhatAndHowMuch) {
  auto driver = open();
  const Address most = value(driver->allocate(uint64_t(1000) << 20, "test"));
  auto refused = driver->allocate(uint64_t(96) << 20, "llama: kv cache");
  ASSERT_FALSE(refused);
  expect_contains(refused.message(), {"llama: kv cache: found 24.0 MiB free of 1.0 GiB on GPU 0 (Fake GPU), expected 96.0 MiB", "smaller model"});
  driver->free(most);
  EXPECT_OK(driver->allocate(uint64_t(96) << 20, "llama: kv cache"));  // freed with its driver
}

TEST_F(CudaDriver, FreeingWaitsForTheDeviceAndTakesNothingTwice) {
  auto driver = open();
  const Address memory = value(driver->allocate(1000, "test"));
  void* host = value(driver->allocate_host(1000));
  EXPECT_OK(driver->upload_later(memory, host, 1000));
  driver->free(memory);
  driver->free(memory);
  driver->free(0);
  driver->free_host(host);
  driver->free_host(nullptr);
}

// ---- launches

struct Kernels {
  std::unique_ptr<Module> module;
  Function increment, nothing, crash;
};
Kernels load(Driver& driver) {
  const std::vector<uint8_t> code = fake_cubin({"increment_1", "nothing_0", "crash_0"});
  Kernels k;
  k.module = value(driver.load(code, "model"));
  k.increment = value(k.module->function("increment_1", 0));
  k.nothing = value(k.module->function("nothing_0", 0));
  k.crash = value(k.module->function("crash_0", 0));
  return k;
}

TEST_F(CudaDriver, LaunchesWhatItIsTold) {
  auto driver = open();
  Kernels k = load(*driver);
  const Function large = value(k.module->function("nothing_0", 200 << 10));
  Address memory = value(driver->allocate(512, "test"));
  EXPECT_OK(driver->zero(memory, 512));
  std::vector<Address> args = {memory};
  EXPECT_OK(driver->launch({.function = k.increment, .blocks = 4, .threads = 128, .args = args}));
  args[0] = 0;  // read before launch() returned
  EXPECT_OK(driver->launch({.function = large, .blocks = INT32_MAX, .threads = 32, .shared_bytes = 200 << 10, .early = true}));
  EXPECT_OK(driver->launch({.function = k.nothing, .blocks = 0, .threads = 32}));
  EXPECT_OK(driver->launch({.function = k.nothing, .blocks = 2, .threads = 32, .together = true}));
  std::vector<uint8_t> received(512);
  EXPECT_OK(driver->download(received.data(), memory, 512));
  EXPECT_EQ(received, std::vector<uint8_t>(512, 1));
  ASSERT_EQ(fake->launched.size(), 3u);
  EXPECT_EQ(fake->launched[0].blocks, 4);
  EXPECT_EQ(fake->launched[0].threads, 128);
  EXPECT_EQ(fake->launched[0].shared_bytes, 0);
  EXPECT_FALSE(fake->launched[0].early);
  EXPECT_EQ(fake->launched[0].args, std::vector<uint64_t>{memory});
  EXPECT_EQ(fake->launched[1].blocks, INT32_MAX);
  EXPECT_EQ(fake->launched[1].shared_bytes, 200 << 10);
  EXPECT_TRUE(fake->launched[1].early);
  EXPECT_FALSE(fake->launched[1].together);
  EXPECT_TRUE(fake->launched[2].together);
  EXPECT_EQ(value(driver->blocks_per_multiprocessor(large, 512, 0)), 4);
  EXPECT_EQ(value(driver->blocks_per_multiprocessor(large, 128, 200 << 10)), 1);
}

TEST_F(CudaDriver, NothingStartsEarlyWhereItCannot) {
  // capability, driver; launched, recorded
  const std::tuple<int, int, bool, bool> cases[] = {{8, 12040, false, false}, {9, 12020, true, false}, {9, 12030, true, true}};
  for (const auto& [capability, version, launched, recorded] : cases) {
    fake.reset();
    fake->capability_major = capability;
    fake->version = version;
    auto driver = open();
    Kernels k = load(*driver);
    const Launch early = {.function = k.nothing, .blocks = 1, .threads = 32, .early = true};
    EXPECT_OK(driver->launch(early));
    EXPECT_OK(driver->begin_recording());
    EXPECT_OK(driver->launch(early));
    auto graph = value(driver->end_recording());
    EXPECT_OK(driver->replay(*graph));
    EXPECT_OK(driver->synchronize());
    ASSERT_EQ(fake->launched.size(), 2u);
    EXPECT_EQ(fake->launched[0].early, launched);
    EXPECT_EQ(fake->launched[1].early, recorded);
  }
}

TEST_F(CudaDriver, LaunchesThatCannotBeAreRefusedByName) {
  auto driver = open();
  Kernels k = load(*driver);
  expect_contains(driver->launch({.function = k.nothing, .blocks = int64_t(1) << 31, .threads = 32}).message(),
                  {"model: nothing_0: found a launch of 2147483648 blocks"});
  expect_contains(driver->launch({.function = k.nothing, .blocks = -1, .threads = 32}).message(), {"-1 blocks"});
  expect_contains(driver->launch({.function = k.nothing, .blocks = 1, .threads = 32, .shared_bytes = 50 << 10}).message(),
                  {"51200 bytes of shared memory", "49152"});
  expect_contains(driver->launch({.function = k.nothing, .blocks = 1, .threads = 2000}).message(),
                  {"cuLaunchKernelEx of model: nothing_0 failed: CUDA_ERROR_INVALID_VALUE"});
  expect_contains(k.module->function("other_0", 0).message(), {"model: other_0: found no such kernel"});
  expect_contains(k.module->function("nothing_0", 228 << 10).message(), {"model: nothing_0", "233472 bytes", "at most 232448"});
  EXPECT_OK(driver->launch({.function = k.nothing, .blocks = 1, .threads = 32}));  // none of it is lasting
}

TEST_F(CudaDriver, RefusedCodeSaysWhatIsExpected) {
  auto driver = open();
  const std::vector<uint8_t> code = fake_cubin({"nothing_0"});
  for (int number : {200, 209, 218, 222}) {
    fake->fault = {"cuModuleLoadDataEx", 1, number};
    expect_contains(driver->load(code, "model.prx").message(),
                    {"model.prx: GPU 0 (Fake GPU) with a driver for CUDA 12.4 refuses the code", "sm_90a", "update the NVIDIA driver"});
  }
  fake->fault = {"cuModuleLoadDataEx", 1, 2};
  expect_contains(driver->load(code, "model.prx").message(), {"model.prx: code: found 1.0 GiB free of 1.0 GiB on GPU 0 (Fake GPU)"});
  EXPECT_OK(driver->load(code, "model.prx"));
}

TEST_F(CudaDriver, CodeThatIsNoCubinNeverReachesTheDriver) {
  auto driver = open();
  std::vector<uint8_t> code = fake_cubin({"nothing_0", "increment_1"});
  EXPECT_OK(driver->load(code, "model"));
  for (size_t bytes = 0; bytes < code.size(); ++bytes) {
    const std::vector<uint8_t> part(code.begin(), code.begin() + ptrdiff_t(bytes));
    auto refused = driver->load(part, "model");
    ASSERT_FALSE(refused) << bytes;
    expect_contains(refused.message(), {"model: found", bytes < 64 ? "expected a cubin" : "cut off"});
  }
  for (size_t at = 0; at < 64; ++at)  // whatever the header says, nothing is read outside
    for (uint8_t byte : {0x00, 0x7f, 0x80, 0xff}) {
      std::vector<uint8_t> damaged = code;
      damaged[at] = byte;
      (void)check_cubin(damaged, "model");
    }
  code[18] = 62;  // x86-64
  expect_contains(driver->load(code, "model").message(), {"no cubin"});
}

// ---- recording

TEST_F(CudaDriver, ARecordingIsDoneWhenItIsReplayed) {
  auto driver = open();
  Kernels k = load(*driver);
  const Address memory = value(driver->allocate(256, "test"));
  auto* host = static_cast<uint8_t*>(value(driver->allocate_host(512)));
  std::vector<Address> args = {memory};
  ASSERT_TRUE(driver->begin_recording());
  EXPECT_OK(driver->upload_later(memory, host, 256));
  for (int i = 0; i < 3; ++i) EXPECT_OK(driver->launch({.function = k.increment, .blocks = 2, .threads = 128, .args = args, .early = i > 0}));
  EXPECT_OK(driver->zero(memory + 10, 5));
  EXPECT_OK(driver->download_later(host + 256, memory, 256));
  auto graph = value(driver->end_recording());
  EXPECT_OK(driver->synchronize());
  EXPECT_TRUE(fake->launched.empty());
  for (uint8_t round : {7, 70, 255}) {
    std::memset(host, round, 256);
    EXPECT_OK(driver->replay(*graph));
    EXPECT_OK(driver->synchronize());
    EXPECT_EQ(host[256], uint8_t(round + 3));
    EXPECT_EQ(host[256 + 12], 0);
    EXPECT_EQ(host[511], uint8_t(round + 3));
  }
  ASSERT_EQ(fake->launched.size(), 9u);
  EXPECT_FALSE(fake->launched[0].early);
  EXPECT_TRUE(fake->launched[1].early);
  EXPECT_EQ(fake->live["graph"], 0) << "what can be replayed does not need what was recorded";
}

TEST_F(CudaDriver, AnEmptyRecordingAndOneThatIsLeftOpen) {
  auto driver = open();
  EXPECT_OK(driver->begin_recording());
  auto graph = value(driver->end_recording());
  EXPECT_OK(driver->replay(*graph));
  EXPECT_OK(driver->begin_recording());
  graph = nullptr;
  driver = nullptr;
}

TEST_F(CudaDriver, WhatIsFreedInARecordingIsFreedAfterIt) {
  auto driver = open();
  Kernels k = load(*driver);
  const Address memory = value(driver->allocate(256, "test"));
  void* host = value(driver->allocate_host(256));
  EXPECT_OK(driver->begin_recording());
  auto first = value(driver->end_recording());
  EXPECT_OK(driver->begin_recording());
  driver->free(memory);
  driver->free_host(host);
  k.module = nullptr;
  first = nullptr;
  EXPECT_EQ(fake->live["memory"], 1);
  EXPECT_OK(driver->end_recording());
  for (const char* kind : {"memory", "host memory", "module", "graph", "graph exec"}) EXPECT_EQ(fake->live[kind], 0) << kind;
}

TEST_F(CudaDriver, AnErrorInARecordingEndsIt) {
  auto driver = open();
  Kernels k = load(*driver);
  const Address memory = value(driver->allocate(256, "test"));
  std::vector<uint8_t> bytes(256);
  EXPECT_OK(driver->begin_recording());
  auto graph = value(driver->end_recording());
  const auto mistakes = std::vector<std::function<Status()>>{
      [&] { return driver->launch({.function = k.nothing, .blocks = 1, .threads = 4096}); },
      [&] { return driver->launch({.function = k.nothing, .blocks = int64_t(1) << 40, .threads = 32}); },
      [&] { return driver->zero(memory, 257); },
      [&] { return driver->upload(memory, bytes.data(), 256); },
      [&] { return driver->download(bytes.data(), memory, 256); },
      [&] { return driver->synchronize(); },
      [&] { return driver->replay(*graph); },
      [&] { return driver->begin_recording(); },
      [&]() -> Status { auto r = driver->allocate(1, "test"); return r ? ok() : Status(r.err()); },
      [&]() -> Status { auto r = driver->allocate_host(1); return r ? ok() : Status(r.err()); },
      [&]() -> Status { auto r = driver->load(fake_cubin({}), "test"); return r ? ok() : Status(r.err()); },
  };
  for (size_t i = 0; i < mistakes.size(); ++i) {
    EXPECT_OK(driver->begin_recording());
    EXPECT_OK(driver->launch({.function = k.nothing, .blocks = 1, .threads = 32}));
    EXPECT_FALSE(mistakes[i]()) << i;
    auto ended = driver->end_recording();
    ASSERT_FALSE(ended) << i;
    expect_contains(ended.message(), {"GPU 0 (Fake GPU): found no recording to end"});
    EXPECT_OK(driver->upload(memory, bytes.data(), 256));  // and everything works again
    EXPECT_EQ(fake->live["graph"], 0);
  }
  EXPECT_OK(driver->synchronize());
  EXPECT_TRUE(fake->launched.empty());
}

// ---- several threads and devices

TEST_F(CudaDriver, AnyThreadMayUseItInTurn) {
  auto driver = open();
  const std::vector<uint8_t> sent = pattern(1000);
  std::vector<uint8_t> received(1000);
  Address memory = 0;
  std::thread([&] {
    memory = value(driver->allocate(1000, "test"));
    EXPECT_OK(driver->upload(memory, sent.data(), 1000));
  }).join();
  EXPECT_OK(driver->download(received.data(), memory, 1000));
  EXPECT_EQ(received, sent);
  std::thread([&] { driver->free(memory); }).join();
  EXPECT_EQ(fake->live["memory"], 0);
  std::thread([&] { driver = nullptr; }).join();
}

TEST_F(CudaDriver, DevicesDoNotDisturbEachOther) {
  fake->devices = 2;
  auto first = open(0), second = open(1), again = open(0);
  for (Driver* driver : {first.get(), second.get(), again.get(), first.get()}) {
    const Address memory = value(driver->allocate(100, "test"));
    EXPECT_OK(driver->zero(memory, 100));
    EXPECT_NE(value(driver->stream()), nullptr);
    EXPECT_OK(driver->synchronize());
  }
  first = nullptr;
  EXPECT_OK(again->synchronize());
  EXPECT_OK(second->synchronize());
}

// ---- what goes wrong

TEST_F(CudaDriver, ACrashIsToldOnceAndEndsTheDevice) {
  auto driver = open();
  Kernels k = load(*driver);
  const Address memory = value(driver->allocate(256, "test"));
  EXPECT_OK(driver->begin_recording());
  auto graph = value(driver->end_recording());
  EXPECT_OK(driver->launch({.function = k.crash, .blocks = 1, .threads = 32}));
  auto crashed = driver->synchronize();
  ASSERT_FALSE(crashed);
  expect_contains(crashed.message(),
                  {"GPU 0 (Fake GPU): cuStreamSynchronize failed: CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access", "compute-sanitizer"});
  const int64_t calls = fake->calls;
  auto after = driver->launch({.function = k.nothing, .blocks = 1, .threads = 32});
  ASSERT_FALSE(after);
  expect_contains(after.message(), {"GPU 0 (Fake GPU): cannot be used any more since cuStreamSynchronize failed", "start the program again"});
  EXPECT_FALSE(driver->allocate(1, "test"));
  EXPECT_FALSE(driver->begin_recording());
  EXPECT_EQ(fake->calls, calls);
  driver->free(memory);
}

/// All that a program does; every error comes back.
Status life() {
  PRISM_TRY(auto driver, open_cuda());
  PRISM_TRY(const Address memory, driver->allocate(20 << 20, "test"));
  PRISM_TRY(void* host, driver->allocate_host(256));
  static const std::vector<uint8_t> sent = pattern((17 << 20) + 5);
  PRISM_CHECK(driver->upload(memory, sent.data(), sent.size()));
  PRISM_CHECK(driver->upload(memory, sent.data(), 100));  // a third half
  PRISM_TRY(auto module, driver->load(fake_cubin({"increment_1"}), "model"));
  PRISM_TRY(const Function increment, module->function("increment_1", 100 << 10));
  PRISM_TRY(const int blocks, driver->blocks_per_multiprocessor(increment, 128, 0));
  const Address args[] = {memory};
  const Launch launch = {.function = increment, .blocks = blocks, .threads = 128, .args = args, .early = true};
  PRISM_CHECK(driver->launch(launch));
  PRISM_CHECK(driver->begin_recording());
  PRISM_CHECK(driver->zero(memory + 2048, 8));
  PRISM_CHECK(driver->launch(launch));
  PRISM_CHECK(driver->download_later(host, memory, 256));
  PRISM_TRY(const auto graph, driver->end_recording());
  PRISM_CHECK(driver->replay(*graph));
  PRISM_CHECK(driver->replay(*graph));
  PRISM_CHECK(driver->upload_later(memory, host, 256));
  std::vector<uint8_t> received(sent.size()), expected = sent;
  PRISM_CHECK(driver->download(received.data(), memory, sent.size()));
  PRISM_CHECK(driver->synchronize());
  for (int i = 0; i < blocks * 128; ++i) expected[size_t(i)] += 3;
  std::memset(expected.data() + 2048, 0, 8);
  if (blocks * 128 > 2048)
    for (int i = 2048; i < std::min(blocks * 128, 2056); ++i) expected[size_t(i)] = 1;
  driver->free(memory);
  driver->free_host(host);
  return received == expected ? ok() : Status(error("wrong data"));
}

TEST_F(CudaDriver, WhicheverCallFailsNothingLeaksAndTheDataIsRight) {
  EXPECT_OK(life());
  const int64_t calls = fake->calls;
  ASSERT_GT(calls, 60);
  for (const fake::Fault& kind : {fake::Fault{"", 0, 1}, {"", 0, 2}, {"", 0, 700, true}}) {
    for (int nth = 1; nth <= calls; ++nth) {
      fake.reset();
      fake->fault = kind;
      fake->fault.nth = nth;
      const Status status = life();
      const std::string& failed = fake->failed;
      const std::string where = "after call " + std::to_string(nth) + ", " + failed + ", failed with " + std::to_string(kind.code)
            + (status ? "" : ": " + status.message());
      ASSERT_NE(failed, "") << where;
      fake.expect_clean(where);
      // Those that give something back, or only say more about an error, fail without consequence.
      const bool harmless = failed.find("Free") != failed.npos || failed.find("Destroy") != failed.npos || failed.find("Unload") != failed.npos ||
                            failed.find("Release") != failed.npos || failed == "cuStreamSynchronize" || failed == "cuCtxSetCurrent";
      EXPECT_TRUE(!status || harmless) << where;
      EXPECT_TRUE(status || status.message() != "wrong data") << where;
      if (!status) expect_contains(status.message(), {kind.code == 2 ? "" : " failed: "});
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace prism::rt::gpu
