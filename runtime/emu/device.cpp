#include "runtime/emu/device.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <numbers>
#include <optional>
#include <random>
#include <utility>

#include "runtime/base/half.h"
#include "runtime/emu/fiber.h"
#include "runtime/emu/host.h"
#include "runtime/emu/mbarrier.h"
#include "runtime/emu/shared.h"
#include "runtime/emu/warp.h"
#include "runtime/emu/wgmma.h"

namespace prism::rt::emu {
namespace {

constexpr size_t kStackBytes = (64 << 10) + 320;   // not a power of two: the stacks' tops would share a few lines of the cache
constexpr int kWarp = 32;
constexpr uint64_t kMbarrier = 0x726569727261626d;   // what one looks like in memory
const char* const kWarpOps[] = {"warp_sync", "shuffle", "ld_matrix", "mma", "mma", "mma", "wgmma", "wgmma_fence", "wgmma_commit", "wgmma_wait"};

struct Copy {
  size_t at;
  const uint8_t* from;
  int bytes;                     ///< the rest of 16 become zero
};

struct Thread {
  enum class State { Ready, Barrier, Warp, Counter, Mbarrier, Left } state = State::Ready;
  bool waited = false;           ///< for the kernels before
  int block, index;              ///< slot, thread of the block
  void* stack_pointer = nullptr;
  int line = 0;                  ///< where it waits
  uint32_t fences = 0;
  KnownPhases known;
  std::vector<std::vector<Copy>> copies;   ///< groups under way, oldest first
  std::vector<Copy> open;                  ///< the group not yet closed
  // what it waits for
  WarpOp op = WarpOp::Sync;
  int parameter = 0;
  const void* in = nullptr;
  void* out = nullptr;
  int64_t counter_index = 0;
  const uint8_t* counter = nullptr;
  uint32_t target = 0;
  int mbarrier = 0, parity = 0;
};

struct Warp {
  uint32_t epoch = 0;
  int arrived = 0, left = 0;
  int first = 0;                 ///< the thread that arrived first
  WarpProducts products;
};

struct Block {
  int64_t id = -1;               ///< -1: the slot is free
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<uint32_t> fenced;  ///< of each thread: its fences before the last barrier
  uint32_t epoch = 0;
  int at_barrier = 0, left = 0;
  SharedMemory shared;
  Mbarriers mbarriers;
};

/// One launch. Kernels reach it through `current_`: they run on the thread that called launch().
class Launch {
 public:
  Launch(const Kernel& kernel, const Options& options)
      : kernel_(kernel), early_(options.early), random_(options.seed), landing_(uint64_t(1) << options.seed % 10),
        blocks_(size_t(options.blocks_at_once > 0 ? options.blocks_at_once : 2 + int(options.seed % 3))) {}
  ~Launch() {
    if (stacks_ != MAP_FAILED) munmap(stacks_, stack_bytes());
  }

  Status run(void (*function)(const void*), const void* args, Host** host, int64_t count) {
    stacks_ = mmap(nullptr, stack_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks_ == MAP_FAILED) return error("kernel '", kernel_.name, "': no memory for the stacks of its threads");
    function_ = function;
    args_ = args;
    host_ = table();
    host_.blocks = int32_t(count);
    *host = &host_;
    Launch* const outer = std::exchange(current_, this);
    schedule(count);
    current_ = outer;
    *host = nullptr;
    return error_.empty() ? ok() : Status(Error{error_});
  }

 private:
  size_t stack_bytes() const { return blocks_.size() * size_t(kernel_.block_threads) * kStackBytes; }

  void schedule(int64_t count) {
    int64_t next = 0;
    while (error_.empty()) {
      for (Block& b : blocks_)
        if (b.id < 0 && next < count) start(b, next++);
      if (ready_.empty() || random_() % 16 == 0) wake_waiting();
      if (copying_ > 0 && random_() % landing_ == 0) land_bulk_copy();
      while (ready_.empty() && copying_ > 0 && error_.empty()) land_bulk_copy();
      if (!error_.empty()) return;
      if (ready_.empty()) {
        const auto stuck = std::find_if(blocks_.begin(), blocks_.end(), [](const Block& b) { return b.id >= 0; });
        if (stuck != blocks_.end()) explain(*stuck);
        return;
      }
      std::swap(ready_[random_() % ready_.size()], ready_.back());
      running_ = ready_.back();
      ready_.pop_back();
      host_.block = int32_t(block().id);
      host_.thread = running_->index;
      host_.must_wait = early_ && !running_->waited;
      prism_switch_fiber(&scheduler_, running_->stack_pointer);
    }
  }

  void start(Block& b, int64_t id) {
    const size_t slot = size_t(&b - blocks_.data());
    b.id = id;
    b.threads.assign(size_t(kernel_.block_threads), {});
    b.warps.assign(size_t(kernel_.block_threads / kWarp), {});
    b.fenced.assign(size_t(kernel_.block_threads), 0);
    b.epoch = 0;
    b.at_barrier = b.left = 0;
    b.shared.reset(size_t(kernel_.shared_bytes));
    b.mbarriers = {};
    for (size_t i = 0; i < b.threads.size(); ++i) {
      Thread& t = b.threads[i];
      t.block = int(slot);
      t.index = int(i);
      uint8_t* stack = static_cast<uint8_t*>(stacks_) + (slot * b.threads.size() + i) * kStackBytes;
      t.stack_pointer = prepare_fiber(stack, kStackBytes, [] { current_->thread_main(); });
      ready_.push_back(&t);
    }
  }

  void thread_main() {
    function_(args_);
    Block& b = block();
    running_->state = Thread::State::Left;
    ++b.left;
    Warp& warp = b.warps[size_t(running_->index / kWarp)];
    ++warp.left;
    if (b.left == kernel_.block_threads) {
      if (!b.mbarriers.copies().empty()) fail_copy(b, b.mbarriers.copies().front(), "is under way when its block ends");
      b.id = -1;
    } else {
      check_barrier(b);
      if (warp.arrived) fail_at(b.threads[size_t(warp.first)], "waits for its warp, which thread ", running_->index, " has left");
    }
    leave();
    __builtin_unreachable();
  }

  /// Back to the scheduler.
  void leave() { prism_switch_fiber(&running_->stack_pointer, scheduler_); }

  Block& block() { return blocks_[size_t(running_->block)]; }
  std::span<Thread> warp_of(const Thread& t) {
    return std::span(blocks_[size_t(t.block)].threads).subspan(size_t(t.index / kWarp * kWarp), kWarp);
  }
  Access now() {
    Block& b = block();
    return {{running_->index, b.epoch, b.warps[size_t(running_->index / kWarp)].epoch, running_->fences}, running_->known.ended()};
  }

  // --- errors: the first one ends the launch -------------------------------------------------------------------------

  template <class... P>
  void fail_at(const Thread& t, const P&... parts) {
    if (error_.empty())
      error_ = error("kernel '", kernel_.name, "', line ", t.line, ": block ", blocks_[size_t(t.block)].id, ", thread ", t.index, ": ", parts...).message;
  }

  template <class... P>
  void fail(int line, const P&... parts) {
    running_->line = line;
    fail_at(*running_, parts...);
  }

  void fail_copy(const Block& b, const BulkCopy& c, const std::string& problem) {
    Thread issuer = b.threads[size_t(c.thread)];
    issuer.line = c.line;
    fail_at(issuer, "its bulk copy ", problem);
  }

  /// A fiber that met an error never returns: call it where the frame owns nothing.
  void stop_on_error() {
    if (!error_.empty()) leave();
  }

  /// Nobody can run: the first thread that waits in vain.
  void explain(const Block& b) {
    for (const Block& any : blocks_)
      for (const Thread& t : any.threads)
        if (any.id >= 0 && t.state == Thread::State::Warp)
          for (const Thread& other : warp_of(t))
            if (other.state != Thread::State::Warp)
              return fail_at(t, "waits for its warp in ", kWarpOps[size_t(t.op)], ", thread ", other.index, " waits in line ", other.line);
    for (const Block& any : blocks_)
      for (const Thread& t : any.threads)
        if (any.id >= 0 && t.state == Thread::State::Mbarrier)
          return fail_at(t, "waits for a phase of parity ", t.parity, " of an mbarrier to end: ", any.mbarriers.state(t.mbarrier));
    for (const Block& any : blocks_)
      for (const Thread& t : any.threads)
        if (any.id >= 0 && t.state == Thread::State::Counter)
          return fail_at(t, "waits for ", name_of(t.counter_index), " to reach ", t.target, ", it stays ", value_of(t));
    fail_at(b.threads[0], "waits for ever");
  }

  static uint32_t value_of(const Thread& t) {
    uint32_t value;
    std::memcpy(&value, t.counter, sizeof value);
    return value;
  }

  // --- synchronization -----------------------------------------------------------------------------------------------

  void make_ready(Thread& t) {
    t.state = Thread::State::Ready;
    ready_.push_back(&t);
  }

  void wake_waiting() {
    std::erase_if(waiting_, [&](Thread* t) {
      if (value_of(*t) < t->target) return false;
      make_ready(*t);
      return true;
    });
  }

  void check_barrier(Block& b) {
    if (b.at_barrier == 0 || b.at_barrier + b.left < kernel_.block_threads) return;
    const Thread& first = *std::find_if(b.threads.begin(), b.threads.end(), [](const Thread& t) { return t.state == Thread::State::Barrier; });
    for (const Thread& t : b.threads) {
      if (t.state == Thread::State::Left) return fail_at(first, "waits at a barrier that thread ", t.index, " never reached");
      if (t.line != first.line) return fail_at(first, "waits at a barrier, thread ", t.index, " at another one in line ", t.line);
    }
    b.at_barrier = 0;
    ++b.epoch;
    share_phases(b, b.threads);
    for (Thread& t : b.threads) {
      b.fenced[size_t(t.index)] = t.fences;
      make_ready(t);
    }
  }

  void barrier(int line) {
    Block& b = block();
    running_->state = Thread::State::Barrier;
    running_->line = line;
    ++b.at_barrier;
    check_barrier(b);
    leave();
  }

  void warp(WarpOp op, int parameter, const void* in, void* out, int line) {
    Thread& self = *running_;
    self.state = Thread::State::Warp;
    self.line = line;
    self.op = op;
    self.parameter = parameter;
    self.in = in;
    self.out = out;
    Warp& w = block().warps[size_t(self.index / kWarp)];
    if (w.arrived++ == 0) w.first = self.index;
    const Thread& first = block().threads[size_t(w.first)];
    if (w.left)
      fail(line, "waits for its warp, which ", w.left, " of its threads have left");
    else if (first.line != line || first.op != op || first.parameter != parameter)
      fail(line, "does ", kWarpOps[size_t(op)], " while thread ", first.index, " of its warp does ", kWarpOps[size_t(first.op)], " in line ", first.line);
    stop_on_error();
    if (w.arrived == kWarp) {
      w.arrived = 0;
      const auto lanes = warp_of(self);
      compute(lanes);
      if (op == WarpOp::Sync) {
        ++w.epoch;
        share_phases(block(), lanes);
      }
      for (Thread& t : lanes) make_ready(t);
    }
    leave();
  }

  void compute(std::span<Thread> lanes) {
    const Thread& self = *running_;
    if (self.op == WarpOp::ShuffleXor) {
      for (Thread& t : lanes) std::memcpy(t.out, lanes[size_t(t.index % kWarp ^ self.parameter) % kWarp].in, 4);
    } else if (self.op == WarpOp::LdMatrix) {
      struct Row {
        SharedRef buffer;
        int64_t offset;
      };
      std::array<std::array<uint16_t, 8>, kWarp> rows;
      Thread* const caller = running_;
      for (size_t i = 0; i < kWarp; ++i) {
        running_ = &lanes[i];  // an error is the lane's that gave the address
        Row row;
        std::memcpy(&row, lanes[i].in, sizeof row);
        const size_t at = shared_at(row.buffer, row.offset, 16, 16, self.line, "reads");
        const std::string problem = error_.empty() ? block().shared.read(at, rows[i].data(), 16, now()) : "";
        if (!problem.empty()) fail_at(*running_, "reads shared ", place(row.buffer, row.offset), ": ", problem);
        if (!error_.empty()) break;
      }
      running_ = caller;
      if (!error_.empty()) return;
      give(lanes, ld_matrix(rows, self.parameter != 0));
    } else if (self.op >= WarpOp::Wgmma) {
      wgmma(lanes);
    } else if (self.op != WarpOp::Sync) {
      std::array<MmaInput, kWarp> inputs;
      for (size_t i = 0; i < kWarp; ++i) std::memcpy(&inputs[i], lanes[i].in, sizeof(MmaInput));
      give(lanes, mma(self.op, inputs));
    }
  }

  void wgmma(std::span<Thread> lanes) {
    const Thread& self = *running_;
    Block& b = block();
    WarpProducts& products = b.warps[size_t(self.index / kWarp)].products;
    if (self.op == WarpOp::WgmmaFence) return products.fence();
    if (self.op == WarpOp::WgmmaCommit) return products.commit();
    if (self.op == WarpOp::WgmmaWait) return products.wait(b.shared, size_t(self.parameter), now());
    struct Input {
      float* sums;
      int32_t n;
      SharedRef a, b;
      int64_t a_offset, b_offset;
    } in, first;
    Product p;
    std::memcpy(&first, lanes[0].in, sizeof first);
    for (size_t i = 0; i < kWarp; ++i) {
      std::memcpy(&in, lanes[i].in, sizeof in);
      p.sums[i] = in.sums;
      if (in.a_offset != first.a_offset || in.b_offset != first.b_offset) return fail(self.line, "does wgmma with other matrices than thread ", lanes[0].index, " of its warp");
    }
    const auto within = [&](SharedRef ref, int64_t offset, int64_t rows) {
      return offset >= 0 && offset / 1024 * 1024 + rows * 128 <= ref.bytes ? true : (fail(self.line, "does wgmma with ", rows, " rows of shared ", place(ref, offset), ", which has ", ref.bytes), false);
    };
    if (!within(in.a, in.a_offset, 64) || !within(in.b, in.b_offset, in.n)) return;
    p.n = in.n;
    p.a = size_t(in.a.begin + in.a_offset) + size_t(self.index / kWarp % 4 * 16 * 128);
    p.b = size_t(in.b.begin + in.b_offset);
    Access access = now();
    KnownPhases common = self.known;
    for (const Thread& t : lanes) common.keep_common(t.known);
    access.ended = common.ended();
    if (const std::string problem = products.issue(b.shared, p, access, b.fenced); !problem.empty()) fail(self.line, problem);
  }

  static void give(std::span<Thread> lanes, const std::array<Fragment, kWarp>& results) {
    for (size_t i = 0; i < kWarp; ++i) std::memcpy(lanes[i].out, results[i].data(), sizeof(Fragment));
  }

  void wait_at_least(int64_t index, const uint8_t* counter, uint32_t value, int line) {
    Thread& self = *running_;
    self.line = line;
    self.counter_index = index;
    self.counter = counter;
    self.target = value;
    self.state = Thread::State::Counter;
    waiting_.push_back(&self);
    leave();
  }

  // --- memory --------------------------------------------------------------------------------------------------------

  std::string place(SharedRef b, int64_t offset) const {
    std::string name;
    for (const Kernel::Shared& s : kernel_.shared)
      if (s.begin == b.begin) name = s.name;
    return "'" + name + "' at byte " + std::to_string(offset);
  }

  /// Where the access is in the block's shared memory, if it is within its buffer.
  size_t shared_at(SharedRef b, int64_t offset, int bytes, int align, int line, const char* verb) {
    if (offset < 0 || offset + bytes > b.bytes)
      fail(line, verb, " ", bytes, " bytes of shared ", place(b, offset), ", which has ", b.bytes);
    else if (offset % align)
      fail(line, verb, " ", bytes, " bytes of shared ", place(b, offset), ", expected a multiple of ", align);
    return size_t(b.begin + offset);
  }

  /// An access by the running thread: ends it if something is wrong.
  template <class F>
  size_t access(SharedRef b, int64_t offset, int bytes, int line, const char* verb, F&& check) {
    const size_t at = shared_at(b, offset, bytes, bytes, line, verb);
    stop_on_error();
    if (const std::string problem = check(at); !problem.empty()) fail(line, verb, " shared ", place(b, offset), ": ", problem);
    stop_on_error();
    return at;
  }

  std::string name_of(int64_t index) const {
    return size_t(index) < kernel_.args.size() ? "'" + kernel_.args[size_t(index)] + "'" : "argument " + std::to_string(index);
  }

  void bad_global(int64_t index, int64_t offset, int64_t size, int bytes, int line) {
    const bool inside = offset >= 0 && offset + bytes <= size;
    fail(line, "accesses ", bytes, " bytes of ", name_of(index), " at byte ", offset,
         size < 0 ? " before grid_wait" : inside ? ", which is not aligned" : ", which has " + std::to_string(size));
    stop_on_error();
  }

  void async_copy(SharedRef b, int64_t offset, const uint8_t* from, int bytes, int line) {
    if (bytes < 0 || bytes > 16) fail(line, "copies ", bytes, " bytes, expected 0 to 16");
    stop_on_error();
    const size_t at = access(b, offset, 16, line, "copies to", [&](size_t to) { return block().shared.begin_copy(to, 16, now()); });
    running_->open.push_back({at, from, bytes});
  }

  void async_wait(size_t groups) {
    if (random_() % 2) {  // waiting lets others run
      make_ready(*running_);
      leave();
    }
    auto& copies = running_->copies;
    for (; copies.size() > groups; copies.erase(copies.begin()))
      for (const Copy& c : copies.front()) block().shared.land_copy(c.at, c.from, size_t(c.bytes), size_t(16 - c.bytes), now());
  }

  // --- mbarriers and bulk copies -------------------------------------------------------------------------------------

  /// One of the copies under way, of any block, comes.
  void land_bulk_copy() {
    size_t which = random_() % copying_--;
    for (Block& b : blocks_) {
      if (which >= b.mbarriers.copies().size()) {
        which -= b.mbarriers.copies().size();
        continue;
      }
      const BulkCopy copy = b.mbarriers.copies()[which];
      if (const std::string problem = b.mbarriers.land(b.shared, which); !problem.empty()) fail_copy(b, copy, "to shared byte " + std::to_string(copy.to) + ": " + problem);
      return wake_phase(b, copy.mbarrier);
    }
  }

  void wake_phase(Block& b, int mbarrier) {
    for (Thread& t : b.threads)
      if (t.state == Thread::State::Mbarrier && t.mbarrier == mbarrier && b.mbarriers.ended(mbarrier, t.parity)) {
        t.known.learn(mbarrier, b.mbarriers.phase(mbarrier));
        make_ready(t);
      }
  }

  /// Threads that meet know what each of them knew.
  static void share_phases(const Block& b, std::span<Thread> threads) {
    if (b.mbarriers.empty()) return;
    KnownPhases all;
    for (const Thread& t : threads) all.learn(t.known);
    for (Thread& t : threads) t.known = all;
  }

  void mbarrier_init(SharedRef ref, int64_t offset, int count, int line) {
    if (count < 1) fail(line, "makes an mbarrier of ", count, " arrivals, expected at least 1");
    stop_on_error();
    const size_t at = access(ref, offset, 8, line, "makes an mbarrier in", [&](size_t to) { return block().shared.write(to, &kMbarrier, 8, now()); });
    if (block().mbarriers.add(at, count) < 0) fail(line, "makes a second mbarrier in shared ", place(ref, offset));
    stop_on_error();
  }

  /// The number of the mbarrier there.
  int mbarrier_at(SharedRef ref, int64_t offset, int line, const char* verb) {
    uint64_t value;
    const size_t at = access(ref, offset, 8, line, verb, [&](size_t from) { return block().shared.read(from, &value, 8, now()); });
    const int number = block().mbarriers.find(at);
    if (number < 0 || value != kMbarrier) fail(line, verb, " shared ", place(ref, offset), ", where no mbarrier is");
    stop_on_error();
    return number;
  }

  void mbarrier_expect(SharedRef ref, int64_t offset, int bytes, int line) {
    const int number = mbarrier_at(ref, offset, line, "arrives at the mbarrier in");
    if (const std::string problem = block().mbarriers.arrive(number, bytes); !problem.empty()) fail(line, problem);
    stop_on_error();
    wake_phase(block(), number);
  }

  void mbarrier_wait(SharedRef ref, int64_t offset, int parity, int line) {
    const int number = mbarrier_at(ref, offset, line, "waits for the mbarrier in");
    Thread& self = *running_;
    if (parity != 0 && parity != 1) fail(line, "waits for a phase of parity ", parity, ", expected 0 or 1");
    stop_on_error();
    if (block().mbarriers.ended(number, parity)) return self.known.learn(number, block().mbarriers.phase(number));
    self.state = Thread::State::Mbarrier;
    self.line = line;
    self.mbarrier = number;
    self.parity = parity;
    leave();
  }

  void bulk_copy(SharedRef to, int64_t offset, const uint8_t* from, int bytes, SharedRef mbarrier, int64_t m_offset, int line) {
    if (bytes <= 0 || bytes % 16) fail(line, "copies ", bytes, " bytes, expected a multiple of 16");
    stop_on_error();
    const int number = mbarrier_at(mbarrier, m_offset, line, "copies with the mbarrier in");
    const size_t at = shared_at(to, offset, bytes, 16, line, "copies to");
    stop_on_error();
    if (const std::string problem = block().shared.begin_bulk(at, size_t(bytes), now(), block().fenced); !problem.empty()) fail(line, "copies to shared ", place(to, offset), ": ", problem);
    stop_on_error();
    ++copying_;
    block().mbarriers.begin({at, from, size_t(bytes), number, 0, running_->index, line});
  }

  Host table() {
    Host h = {};
    h.bad_global = [](int64_t index, int64_t offset, int64_t size, int32_t bytes, int32_t line) {
      current_->bad_global(index, offset, size, bytes, line);
    };
    h.grid_wait = [] {
      current_->running_->waited = true;
      current_->host_.must_wait = 0;
    };
    h.shared_read = [](SharedRef b, int64_t offset, void* to, int32_t bytes, int32_t line) {
      Launch& l = *current_;
      l.access(b, offset, bytes, line, "reads", [&](size_t at) { return l.block().shared.read(at, to, size_t(bytes), l.now()); });
    };
    h.shared_write = [](SharedRef b, int64_t offset, const void* from, int32_t bytes, int32_t line) {
      Launch& l = *current_;
      l.access(b, offset, bytes, line, "writes", [&](size_t at) { return l.block().shared.write(at, from, size_t(bytes), l.now()); });
    };
    h.shared_atomic = [](SharedRef b, int64_t offset, int32_t line) {
      Launch& l = *current_;
      return l.block().shared.data(l.access(b, offset, 4, line, "adds to", [&](size_t at) { return l.block().shared.atomic(at, 4, l.now()); }));
    };
    h.barrier = [](int32_t line) { current_->barrier(line); };
    h.warp = [](int32_t op, int32_t parameter, const void* in, void* out, int32_t line) {
      current_->warp(WarpOp(op), parameter, in, out, line);
    };
    h.async_copy = [](SharedRef b, int64_t offset, const uint8_t* from, int32_t bytes, int32_t line) {
      current_->async_copy(b, offset, from, bytes, line);
    };
    h.async_commit = [] { current_->running_->copies.push_back(std::exchange(current_->running_->open, {})); };
    h.async_wait = [](int32_t groups) { current_->async_wait(size_t(groups)); };
    h.async_fence = [] { ++current_->running_->fences; };
    h.mbarrier_init = [](SharedRef b, int64_t offset, int32_t count, int32_t line) { current_->mbarrier_init(b, offset, count, line); };
    h.mbarrier_expect = [](SharedRef b, int64_t offset, int32_t bytes, int32_t line) { current_->mbarrier_expect(b, offset, bytes, line); };
    h.mbarrier_wait = [](SharedRef b, int64_t offset, int32_t parity, int32_t line) { current_->mbarrier_wait(b, offset, parity, line); };
    h.bulk_copy = [](SharedRef to, int64_t offset, const uint8_t* from, int32_t bytes, SharedRef mbarrier, int64_t at, int32_t line) {
      current_->bulk_copy(to, offset, from, bytes, mbarrier, at, line);
    };
    h.wait_at_least = [](int64_t index, const uint8_t* counter, uint32_t value, int32_t line) {
      current_->wait_at_least(index, counter, value, line);
    };
    h.math = [](int32_t function, float x) {
      constexpr float turn = 2 * std::numbers::pi_v<float>;
      switch (Math(function)) {
        case Math::Exp: return std::exp(x);
        case Math::Tanh: return std::tanh(x);
        case Math::Erf: return std::erf(x);
        case Math::Exp2: return std::exp2(x);
        case Math::SinTurns: return std::sin(turn * x);
        case Math::CosTurns: return std::cos(turn * x);
        case Math::RoundEven: return std::nearbyint(x);
      }
      return x;
    };
    h.fma = [](float a, float b, float c) { return std::fma(a, b, c); };
    h.f16_f32 = [](uint16_t v) { return f16_to_f32(v); };
    h.f32_half = [](float f, int32_t bf16) { return bf16 ? f32_to_bf16(f) : f32_to_f16(f); };
    return h;
  }

  static thread_local Launch* current_;

  const Kernel& kernel_;
  const bool early_;
  std::mt19937_64 random_;
  size_t copying_ = 0;                     ///< bulk copies under way
  const uint64_t landing_;                 ///< one comes every so many turns of threads
  std::vector<Block> blocks_;
  void* stacks_ = MAP_FAILED;
  void (*function_)(const void*) = nullptr;
  const void* args_ = nullptr;
  Host host_ = {};
  void* scheduler_ = nullptr;
  Thread* running_ = nullptr;
  std::vector<Thread*> ready_, waiting_;   ///< waiting_: for counters
  std::string error_;
};

thread_local Launch* Launch::current_ = nullptr;

}  // namespace

Status launch(const CodeObject& code, const Kernel& kernel, int64_t blocks, std::span<const Memory> args, const Options& options) {
  auto* function = reinterpret_cast<void (*)(const void*)>(code.symbol(kernel.name));
  auto* host = reinterpret_cast<Host**>(code.symbol("prism_emu"));
  if (!function || !host) return error("kernel '", kernel.name, "': not in this code");
  std::vector<GlobalMemory> values;   // the kernel's argument struct
  for (const Memory& m : args) values.push_back({static_cast<uint8_t*>(m.data), int64_t(m.bytes), int64_t(values.size())});
  return Launch(kernel, options).run(function, values.data(), host, blocks);
}

}  // namespace prism::rt::emu
