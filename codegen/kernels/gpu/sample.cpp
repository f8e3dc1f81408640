// The largest logits in order, and what all of them sum to. A warp keeps a falling list of 64, two elements a lane (lane and
// lane + 32): it sorts 64 logits at a time and merges them in, as lists are merged between warps and then between blocks, by
// the block that comes last.
#include <cmath>

#include "codegen/kernels/gpu/gpu.h"

namespace prism::codegen {

using namespace kir;

namespace {

constexpr int kList = int(rt::kMostLargest), kThreads = 256, kWarps = kThreads / 32, kBatches = 2;
constexpr int kListsAtOnce = 4;       ///< of other blocks, that a warp reads together
constexpr int kBlockLogits = kBatches * kList * kWarps;
constexpr int kPlace = 2 * kList + 1;  ///< of a block in the workspace: logits, ids, sum
static_assert(kList == 64, "two elements a lane");

Ex integer(int v) { return constant({Elem::I32, 1}, v); }

class LargestLogits {
 public:
  LargestLogits(const std::string& name, const std::vector<std::string>& dims, int64_t vocab)
      : vocab_(vocab), blocks_((vocab + kBlockLogits - 1) / kBlockLogits), b_(name, dims, kThreads), work_(b_) {}

  LoweredKernel run() {
    const Buffer temperature = b_.arg("temperature", Elem::F32), logits = b_.arg("logits", Elem::F32);
    const Buffer largest = b_.arg("largest", Elem::F32, true), ids = b_.arg("ids", Elem::I32, true), sum = b_.arg("sum", Elem::F32, true);
    found_ = b_.arg("workspace", Elem::F32, true);
    const Buffer counter = b_.arg("counter", Elem::U32, true);
    values_ = b_.shared("values", Elem::F32, kWarps * kList);
    ids_ = b_.shared("ids", Elem::I32, kWarps * kList);
    const Buffer arrived = b_.shared("arrived", Elem::U32, 1);
    b_.grid_wait();
    lane_ = b_.let(b_.thread() % 32);
    warp_ = b_.let(b_.thread() / 32);
    temperature_ = b_.let(b_.load(temperature, 0));
    const Ex first_thread = b_.let(b_.thread() == Ex(0));

    block_list(logits);
    b_.if_(first_thread, [&] { b_.store(arrived, 0, b_.atomic_add(counter, 0, 1)); });
    b_.barrier();
    b_.if_(b_.load(arrived, 0) == Ex(blocks_ - 1), [&] {
      const Ex total = all_blocks();
      b_.if_(b_.thread() < Ex(std::min<int64_t>(kList, vocab_)), [&] {
        b_.store(largest, b_.thread(), b_.load(values_, b_.thread()));
        b_.store(ids, b_.thread(), b_.load(ids_, b_.thread()));
      });
      b_.if_(first_thread, [&] {
        b_.store(sum, 0, total);
        b_.store(counter, 0, constant({Elem::U32, 1}, 0));
      });
    });
    return {b_.finish(), {}, ir::Dim(blocks_), blocks_ * kPlace * int64_t(sizeof(float)), 1};
  }

 private:
  struct List {
    Ex value[2], id[2];  // variables
  };
  using Elements = std::function<std::pair<Ex, Ex>(int)>;  // logit and id of the lane's element r

  static Ex never() { return constant({Elem::F32, 1}, -INFINITY); }
  static Ex before(Ex v, Ex id, Ex w, Ex other) { return (w < v) | ((v == w) & (id < other)); }

  List list(const Elements& elements) {
    List l;
    for (int r = 0; r < 2; ++r) {
      const auto [value, id] = elements(r);
      l.value[r] = b_.var(value);
      l.id[r] = b_.var(id);
    }
    return l;
  }
  List empty_list() {
    return list([](int) { return std::pair(never(), integer(INT32_MAX)); });
  }

  /// e^((x - top) / temperature), also where both are infinite.
  Ex share(Ex x, Ex top) { return call(Fn::Exp, {b_.let(select(x == top, Ex(0.0), (x - top) / temperature_))}); }

  /// 1 where a sort of pieces of `size` elements is to leave rising order, 0 where falling; size 0: falling everywhere.
  Ex rises(int size, int r) const {
    if (size == 0 || size >= 32) return integer(size == kList || (size == 32 && r == 0));
    return (lane_ & integer(size)) == Ex(0);
  }

  /// Brings pairs of elements `distance` apart into order.
  void exchange(const List& l, int distance, int size) {
    auto put = [&](int r, Ex keep, Ex value, Ex id) {
      b_.assign(l.value[r], select(keep, l.value[r], value));
      b_.assign(l.id[r], select(keep, l.id[r], id));
    };
    if (distance == 32) {  // both in one lane
      const Ex keep = b_.let(before(l.value[0], l.id[0], l.value[1], l.id[1]) ^ rises(size, 0));
      const Ex value = b_.let(select(keep, l.value[1], l.value[0])), id = b_.let(select(keep, l.id[1], l.id[0]));
      put(0, keep, l.value[1], l.id[1]);
      b_.assign(l.value[1], value);
      b_.assign(l.id[1], id);
      return;
    }
    const Ex first = b_.let((lane_ & integer(distance)) == Ex(0));
    for (int r = 0; r < 2; ++r) {
      const Ex value = b_.shuffle_xor(l.value[r], distance), id = b_.shuffle_xor(l.id[r], distance);
      put(r, b_.let(before(l.value[r], l.id[r], value, id) == (first ^ rises(size, r))), value, id);
    }
  }

  /// The first 64 of a list and of a rising one: of each pair the one before, and these are then a bitonic sequence.
  void merge(const List& l, const Elements& rising) {
    for (int r = 0; r < 2; ++r) {
      const auto [value, id] = rising(r);
      const Ex keep = b_.let(before(l.value[r], l.id[r], value, id));
      b_.assign(l.value[r], select(keep, l.value[r], value));
      b_.assign(l.id[r], select(keep, l.id[r], id));
    }
    for (int distance = kList / 2; distance > 0; distance /= 2) exchange(l, distance, 0);
  }

  /// Element lane + 32 r of a list, counted from its end: what makes a falling list rising.
  Ex from_end(int r) const { return integer(kList - 1 - 32 * r) - lane_; }

  /// The warps' lists become one, in shared memory.
  void join_warps(const List& l) {
    auto publish = [&] {
      for (int r = 0; r < 2; ++r) {
        const Ex at = b_.let(warp_ * kList + lane_ + 32 * r);
        b_.store(values_, at, l.value[r]);
        b_.store(ids_, at, l.id[r]);
      }
    };
    publish();
    b_.barrier();
    for (int half = kWarps / 2; half > 0; half /= 2) {
      b_.if_(warp_ < Ex(half), [&] {
        merge(l, [&](int r) {
          const Ex at = b_.let((warp_ + half) * kList + from_end(r));
          return std::pair(b_.let(b_.load(values_, at)), b_.let(b_.load(ids_, at)));
        });
        publish();
      });
      b_.barrier();
    }
  }

  /// This block's largest logits and their sum go to its place in the workspace.
  void block_list(const Buffer& logits) {
    std::vector<Ex> mine;
    const List l = empty_list();
    for (int batch = 0; batch < kBatches; ++batch) {
      const List sorted = list([&](int r) {
        const Ex at = b_.let((b_.task() * kWarps + warp_) * (kBatches * kList) + lane_ + (batch * kList + 32 * r)), inside = b_.let(at < Ex(vocab_));
        const Ex x = b_.let(b_.load(logits, min(at, Ex(vocab_ - 1))));
        mine.push_back(b_.let(select(inside & (x == x), x, never())));
        return std::pair(mine.back(), b_.let(select(inside, at, integer(INT32_MAX))));
      });
      for (int size = 2; size <= kList; size *= 2)
        for (int distance = size / 2; distance > 0; distance /= 2) exchange(sorted, distance, size);
      merge(l, [&](int r) { return std::pair(sorted.value[r], sorted.id[r]); });
    }
    join_warps(l);
    const Ex top = b_.let(b_.load(values_, 0));
    const Ex sum = work_.reduce(kThreads, Fn::ReduceAdd, [&](Ex, int) {
      Ex total = share(mine[0], top);
      for (size_t i = 1; i < mine.size(); ++i) total = total + share(mine[i], top);
      return total;
    });
    const Ex place = b_.let(b_.task() * kPlace);
    b_.if_(b_.thread() < Ex(kList), [&] {
      b_.store(found_, place + b_.thread(), b_.load(values_, b_.thread()));
      b_.store(found_, place + b_.thread() + kList, bitcast({Elem::F32, 1}, b_.load(ids_, b_.thread())));
    });
    b_.if_(b_.thread() == Ex(0), [&] { b_.store(found_, place + 2 * kList, sum); });
    b_.barrier();
  }

  /// All blocks' lists become one in shared memory; their sum.
  Ex all_blocks() {
    const List l = empty_list();
    b_.for_(warp_, Ex(blocks_), kWarps * kListsAtOnce, [&](Ex first) {
      std::vector<std::pair<Ex, Ex>> elements;   // under way together: past the last list elements that come after all others
      for (int i = 0; i < kListsAtOnce; ++i) {
        const Ex block = b_.let(first + Ex(i * kWarps)), inside = b_.let(block < Ex(blocks_)), place = b_.let(min(block, Ex(blocks_ - 1)) * kPlace);
        for (int r = 0; r < 2; ++r) {
          const Ex value = b_.let(b_.load(found_, place + from_end(r))), id = b_.let(bitcast({Elem::I32, 1}, b_.load(found_, place + from_end(r) + kList)));
          elements.emplace_back(b_.let(select(inside, value, never())), b_.let(select(inside, id, integer(INT32_MAX))));
        }
      }
      for (int i = 0; i < kListsAtOnce; ++i) merge(l, [&](int r) { return elements[size_t(2 * i + r)]; });
    });
    join_warps(l);
    const Ex top = b_.let(b_.load(values_, 0));
    return work_.reduce(blocks_, Fn::ReduceAdd, [&](Ex block, int) {
      const Ex place = b_.let(block * kPlace);
      return b_.load(found_, place + 2 * kList) * share(b_.let(b_.load(found_, place)), top);
    });
  }

  const int64_t vocab_, blocks_;
  Builder b_;
  Worker work_;
  Buffer found_, values_, ids_;
  Ex lane_, warp_, temperature_;
};

}  // namespace

LoweredKernel gpu_largest_logits(const std::string& name, const std::vector<std::string>& dims, int64_t vocab) {
  return LargestLogits(name, dims, vocab).run();
}

}  // namespace prism::codegen
