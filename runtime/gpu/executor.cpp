#include "runtime/gpu/executor.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "runtime/gpu/cublaslt.h"
#include "runtime/gpu/device_program.h"
#include "runtime/gpu/persistent.h"
#include "runtime/base/checked.h"
#include "runtime/kv_cache.h"
#include "runtime/prx_format.h"

namespace prism::rt::gpu {
namespace {

/// Memory of a driver, given back when it goes out of scope.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(DeviceMemory&& o) noexcept { *this = std::move(o); }
  DeviceMemory& operator=(DeviceMemory&& o) noexcept {
    std::swap(driver_, o.driver_);
    std::swap(at_, o.at_);
    return *this;
  }
  ~DeviceMemory() {
    if (at_) driver_->free(at_);
  }
  static Result<DeviceMemory> zeroed(Driver& driver, uint64_t bytes, const std::string& what) {
    DeviceMemory m;
    m.driver_ = &driver;
    PRISM_TRY(m.at_, driver.allocate(bytes, what));
    PRISM_CHECK(driver.zero(m.at_, bytes));
    return m;
  }
  Address operator+(uint64_t offset) const { return at_ + offset; }

 private:
  Driver* driver_ = nullptr;
  Address at_ = 0;
};

class HostMemory {
 public:
  explicit HostMemory(Driver& driver) : driver_(driver) {}
  HostMemory(const HostMemory&) = delete;
  ~HostMemory() {
    if (data_) driver_.free_host(data_);
  }
  /// At least `bytes` bytes, as they were if there were enough.
  Status reserve(uint64_t bytes) {
    if (bytes <= bytes_) return ok();
    if (data_) driver_.free_host(data_);
    data_ = nullptr;
    bytes_ = 0;
    PRISM_TRY(data_, driver_.allocate_host(bytes));
    bytes_ = bytes;
    return ok();
  }
  uint8_t* data() const { return static_cast<uint8_t*>(data_); }

 private:
  Driver& driver_;
  void* data_ = nullptr;
  uint64_t bytes_ = 0;
};

class GpuExecutor final : public Executor {
 public:
  GpuExecutor(std::shared_ptr<const Executable> exe, const std::string& name)
      : Executor(std::move(exe), name), program_(*exe_->gpu()), driver_(program_.driver()), result_(driver_) {}

  ~GpuExecutor() override { static_cast<void>(finish()); }  // before its memory goes

  Status init(int64_t capacity, bool persistent) {
    const Program& p = exe_->program();
    const std::string cache = kv_cache_name(name_, capacity);
    PRISM_TRY(kv_, KvLayout::create(p.kv, capacity, cache));
    PRISM_TRY(cache_, DeviceMemory::zeroed(driver_, kv_.bytes(), cache));
    PRISM_TRY(arena_, DeviceMemory::zeroed(driver_, arena_bytes(), name_ + ": arena"));
    dims_bytes_ = p.dims.size() * sizeof(int64_t);
    PRISM_TRY(dims_, DeviceMemory::zeroed(driver_, std::max<uint64_t>(dims_bytes_, sizeof(int64_t)), name_ + ": dims"));
    for (const EntryPoint& e : p.entries) {
      entries_.push_back(bind(e));
      entries_.back().room = most_input_bytes(e);
      entries_.back().staged = std::make_unique<HostMemory>(driver_);
      PRISM_CHECK(entries_.back().staged->reserve(dims_bytes_ + entries_.back().room));
      if (persistent && e.persistent >= 0) PRISM_CHECK(make_persistent(e, entries_.back()));
    }
    return open_library();
  }

  Status write(uint64_t offset, std::span<const uint8_t> from) override {
    // One input at a time is all that entry points have so far; it goes along with the dims.
    input_.assign(from.begin(), from.end());
    input_at_ = offset;
    return ok();
  }

  Status run(const EntryPoint& entry, std::span<const int64_t> dims) override {
    PRISM_CHECK(check_dims(entry, dims));
    for (int64_t d : dims)
      if (d > INT32_MAX) return error(name_, ": entry point ", quoted(entry.name), ": found a dim of ", d, ", a GPU's kernels expect at most ", INT32_MAX);
    BoundEntry& bound = entries_[size_t(&entry - exe_->program().entries.data())];
    if (input_.size() > bound.room)
      return error(name_, ": entry point ", quoted(entry.name), ": found an input of ", input_.size(), " bytes, expected at most ", bound.room);
    for (size_t i = 0; i < bound.launches.size(); ++i) {
      PRISM_TRY(bound.launches[i].blocks, tasks(entry, i, dims, INT32_MAX));
      if (!blas_ || !entry.launches[i].product) continue;
      PRISM_TRY(const int64_t rows, entry.launches[i].product->m.evaluate(dims));
      bound.products[i].m = rows;
    }
    if (bound.run > waited_) PRISM_CHECK(finish());  // what it staged may not have been read yet
    bound.run = ++runs_;
    std::memcpy(bound.staged->data(), dims.data(), dims.size_bytes());
    std::memcpy(bound.staged->data() + dims_bytes_, input_.data(), input_.size());
    if (!bound.replayable) return submit(bound);
    const std::pair<uint64_t, uint64_t> input(input_at_, input_.size());
    if (!bound.graph || bound.recorded != input) {
      PRISM_CHECK(driver_.begin_recording());
      const Status submitted = submit(bound);
      auto graph = driver_.end_recording();  // ends it also when something failed
      PRISM_CHECK(submitted);
      if (!graph) return graph.err();
      bound.graph = std::move(*graph);
      bound.recorded = input;
    }
    return driver_.replay(*bound.graph);
  }

  Result<const uint8_t*> read(uint64_t offset, uint64_t bytes) override {
    PRISM_CHECK(result_.reserve(bytes));
    PRISM_CHECK(driver_.download_later(result_.data(), arena_ + offset, bytes));
    PRISM_CHECK(finish());
    return result_.data();
  }

  KvStats kv_stats(int64_t positions, int64_t capacity) const override { return kv_.stats(positions, capacity); }

 private:
  struct BoundEntry {
    std::vector<Address> args;  // of all launches
    std::vector<Launch> launches;
    std::vector<Matmul> products;  // as launches, if there is a library
    bool replayable = true;     // every number of blocks is constant
    DeviceMemory table;         // persistent: one launch for all, by this table and then a counter for each
    uint64_t counter_bytes = 0, counters_at = 0;
    std::vector<Address> persistent_args;
    std::optional<Launch> persistent;
    std::unique_ptr<Graph> graph;
    std::pair<uint64_t, uint64_t> recorded;   // the input's place and size
    std::unique_ptr<HostMemory> staged;       // dims and then the input: an entry point's own, so that another may follow at once
    uint64_t room = 0;                        // for the input
    uint64_t run = 0;                         // number of its last run
  };

  Status finish() {
    waited_ = runs_;
    return driver_.synchronize();
  }

  static uint64_t most_input_bytes(const EntryPoint& e) {
    uint64_t bytes = 0;
    for (const Slot& s : e.inputs) {
      uint64_t values = 1;
      for (const Expr& d : s.shape) values *= uint64_t(*d.evaluate(e.dim_max));  // validated
      bytes = std::max(bytes, values * sizeof(float));
    }
    return bytes;
  }

  BoundEntry bind(const EntryPoint& entry) const {
    const Program& p = exe_->program();
    const auto address = [&](const Arg& a) -> Address {
      switch (a.space) {
        case Space::Arena: return arena_ + a.offset;
        case Space::Weight: return program_.weights() + p.weights[a.index].offset + a.offset;
        case Space::KvK: return cache_ + (kv_.k(a.index) + a.offset);
        case Space::KvV: return cache_ + (kv_.v(a.index) + a.offset);
      }
      __builtin_unreachable();  // validated
    };
    BoundEntry bound;
    for (const rt::Launch& l : entry.launches) {
      for (const Arg& a : l.args) bound.args.push_back(address(a));
      bound.args.push_back(dims_ + 0);
    }
    const Address* args = bound.args.data();
    for (const rt::Launch& l : entry.launches) {
      const Kernel& k = p.kernels[l.kernel];
      const size_t count = l.args.size() + 1;
      // The first one follows a copy; the others may begin early, as they wait themselves.
      bound.launches.push_back({program_.function(l.kernel), 0, int(k.block_threads), k.shared_bytes, {args, count}, !bound.launches.empty()});
      args += count;
      bound.replayable = bound.replayable && !l.tasks.reads_dim();
    }
    return bound;
  }

  /// cuBLASLt, if a program for it has products of many rows. Without it the program's own kernels do them.
  Status open_library() {
    const Program& p = exe_->program();
    bool any = false;
    for (const EntryPoint& e : p.entries)
      for (const rt::Launch& l : e.launches) any = any || l.product;
    if (!any || p.codes[0].target != "cuda") return ok();
    PRISM_TRY(stream_, driver_.stream());
    auto blas = Blas::open();
    if (!blas) return ok();
    PRISM_TRY(library_memory_, DeviceMemory::zeroed(driver_, kLibraryBytes, name_ + ": cuBLASLt's workspace"));
    blas_ = *std::move(blas);
    for (size_t i = 0; i < p.entries.size(); ++i) {
      entries_[i].products.resize(entries_[i].launches.size());
      for (size_t l = 0; l < p.entries[i].launches.size(); ++l)
        if (const auto& product = p.entries[i].launches[l].product) entries_[i].products[l] = matmul(*product, entries_[i].launches[l].args);
    }
    return ok();
  }

  Matmul matmul(const Product& p, std::span<const Address> args) const {
    return {.in = Float::Bf16, .out = p.result == "f32" ? Float::F32 : Float::Bf16, .n = p.n, .k = p.k, .x = args[p.x], .w = args[p.w], .y = args[p.y],
            .c = p.c < 0 ? 0 : args[size_t(p.c)], .workspace = library_memory_ + 0, .workspace_bytes = kLibraryBytes, .stream = stream_};
  }

  Status make_persistent(const EntryPoint& e, BoundEntry& bound) {
    std::vector<TableEntry> launches;
    for (size_t i = 0; i < e.launches.size(); ++i) {
      PRISM_TRY(const int64_t blocks, tasks(e, i, {}, INT32_MAX));  // constant
      launches.push_back({e.launches[i].kernel, blocks, bound.launches[i].args});
    }
    PRISM_TRY(const auto table, persistent_table(driver_, launches));
    bound.counters_at = round_up(table.size(), 256);
    bound.counter_bytes = launches.size() * sizeof(uint32_t);
    PRISM_TRY(bound.table, DeviceMemory::zeroed(driver_, bound.counters_at + bound.counter_bytes, name_ + ": table of launches"));
    PRISM_CHECK(driver_.upload(bound.table + 0, table.data(), table.size()));
    bound.persistent_args = {bound.table + 0, bound.table + bound.counters_at};
    const Kernel& k = exe_->program().kernels[size_t(e.persistent)];
    const Function f = program_.function(size_t(e.persistent));
    PRISM_TRY(const int resident, driver_.blocks_per_multiprocessor(f, int(k.block_threads), k.shared_bytes));
    bound.persistent = Launch{f, int64_t(resident) * driver_.info().multiprocessors, int(k.block_threads), k.shared_bytes, bound.persistent_args, /*early=*/false, /*together=*/true};
    return ok();
  }

  Status submit(const BoundEntry& entry) {
    PRISM_CHECK(driver_.upload_later(dims_ + 0, entry.staged->data(), dims_bytes_));
    PRISM_CHECK(driver_.upload_later(arena_ + input_at_, entry.staged->data() + dims_bytes_, input_.size()));
    if (entry.persistent) {
      PRISM_CHECK(driver_.zero(entry.table + entry.counters_at, entry.counter_bytes));
      return driver_.launch(*entry.persistent);
    }
    for (size_t i = 0; i < entry.launches.size(); ++i) {
      const bool library = !entry.products.empty() && entry.products[i].m >= kLibraryRows && !entry.replayable;
      PRISM_CHECK(library ? blas_->matmul(entry.products[i]) : driver_.launch(entry.launches[i]));
    }
    return ok();
  }

  static constexpr int64_t kLibraryRows = 128;          // with fewer the choice of an algorithm costs more than it gains
  static constexpr uint64_t kLibraryBytes = 32 << 20;

  const DeviceProgram& program_;
  Driver& driver_;
  void* stream_ = nullptr;
  std::unique_ptr<Blas> blas_;
  DeviceMemory library_memory_;
  KvLayout kv_;
  DeviceMemory cache_, arena_, dims_;
  uint64_t dims_bytes_ = 0;
  HostMemory result_;                          // what was read
  std::vector<uint8_t> input_;                 // of the next run
  uint64_t input_at_ = 0;                      // its offset in the arena
  uint64_t runs_ = 0, waited_ = 0;             // how many there were, and how many have ended for certain
  std::vector<BoundEntry> entries_;            // as Program::entries
};

}  // namespace

Result<std::unique_ptr<Executor>> create_executor(std::shared_ptr<const Executable> exe, int64_t capacity, bool persistent,
                                                  const std::string& name) {
  auto e = std::make_unique<GpuExecutor>(std::move(exe), name);
  PRISM_CHECK(e->init(capacity, persistent));
  return std::unique_ptr<Executor>(std::move(e));
}

}  // namespace prism::rt::gpu
