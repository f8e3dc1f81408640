// One conversation with a language model: an arena, a KV cache and its statistics.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/executable.h"
#include "runtime/sampler.h"
#include "runtime/work.h"

namespace prism::rt {

class Profile;

struct SessionOptions {
  unsigned threads = 0;      ///< 0 = all cores
  int64_t context = 0;       ///< KV capacity in positions; 0 = min(context_length, 4096), or all where the cache keeps only some. Rounded up to 64
  bool persistent = false;   ///< GPUs: a step is one launch of a kernel that stays, instead of a recorded graph of launches
  Profile* profile = nullptr;  ///< CPUs: records what the session does, and outlives it; nullptr: nobody asks
};

struct KvStats {
  std::string dtype;         ///< of the first layer
  int64_t positions = 0, capacity = 0;
  int64_t demoted = 0;       ///< positions that a compressed cache has in few bits
  int64_t evicted = 0;       ///< positions that layers with a window no longer have, added up over them
  double compressing_seconds = 0;   ///< CPUs: that threads, added up, have spent since the session began on demoting, and bringing what stays exact to its place
  uint64_t bytes_used = 0, bytes_allocated = 0;
  uint64_t bytes_exact = 0;  ///< of bytes_used, what holds positions as they were appended, all metadata beside
  uint64_t bytes_f16 = 0, bytes_f32 = 0;   ///< what the positions in use would take in these types
};

class Session {
 public:
  static Result<std::unique_ptr<Session>> create(std::shared_ptr<Executable> exe, const SessionOptions& options = {});
  virtual ~Session() = default;

  /// Appends a prompt, or more of it, to the context: the same logits, bit by bit, whatever pieces it comes in. Error if an id is
  /// outside the vocabulary or the context is full (state unchanged). A GPU may still be at work; what goes wrong there is the
  /// error of the next call that waits for it.
  virtual Status feed(std::span<const int32_t> ids) = 0;
  /// The same for one generated id: made for a single row, while feed is made for many and may round differently.
  virtual Status step(int32_t id) = 0;
  /// After the last id of the last feed or step, [vocab], valid until the next call. Error if something else came after it.
  virtual Result<std::span<const float>> logits() = 0;
  /// The token the sampler picks from logits(), without bringing all of them here where few are enough.
  virtual Result<int32_t> sample(Sampler& sampler);
  /// As a step for each id, several at once: calls `row(i, logits)` in order.
  virtual Status score(std::span<const int32_t> ids, const std::function<void(size_t, std::span<const float>)>& row) = 0;
  /// Forgets all positions from `positions` on. Returns those that are left: fewer, none at all, if a compressed cache has demoted what
  /// they would read exactly; the last 16 can always be taken back.
  virtual int64_t rewind(int64_t positions) = 0;
  virtual int64_t position() const = 0;
  virtual KvStats kv_stats() const = 0;
  /// What `count` ids from `position` on make a session move and compute at least, fed, stepped or scored. Zeros: unknown.
  enum class How { Feed, Step, Score };
  virtual Result<Amounts> amounts(int64_t position, int64_t count, How how) const;
};

}  // namespace prism::rt
