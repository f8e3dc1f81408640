// An executable in memory: what a .prx file holds (runtime/executable.fbs) and what codegen produces.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace prism::rt {

/// Integer expression over the program's dims, as a postfix program of (opcode, argument) pairs. Sizes are checked:
/// evaluation fails on overflow, division by zero, unknown dims or a malformed program.
struct Expr {
  enum Code : int64_t { Const, Dim, Add, Mul, FloorDiv, CeilDiv, Mod, Min, Max };  // Const and Dim use the argument
  std::vector<int64_t> code;
  Result<int64_t> evaluate(std::span<const int64_t> dims) const;
  /// Does its value depend on this dim, or on any?
  bool reads_dim(std::optional<size_t> dim = {}) const;
  static Expr constant(int64_t v) { return {{Const, v}}; }
};

/// Positions a KV plane holds: a multiple, so that kernels may read whole tiles of keys.
constexpr int64_t kKvCapacityMultiple = 64;

/// Where a kernel argument lives.
enum class Space : uint8_t {
  Arena,   ///< offset into the session's arena
  Weight,  ///< weight `index`, plus offset
  KvK,     ///< the K plane of cache layer `index`
  KvV,     ///< the V plane
};

struct Arg {
  Space space = Space::Arena;
  uint32_t index = 0;
  uint64_t offset = 0;
};

/// y[m,n] = x[m,k] w[n,k]^T (+ c[m,n]): x and w in bf16, c in f32, all by rows. Places are arguments of the launch.
struct Product {
  Expr m;
  int64_t n = 0, k = 0;
  uint32_t x = 0, w = 0, y = 0;
  int64_t c = -1;             ///< -1: none
  std::string result;         ///< "f32"; "bf16", then without c
};

/// One kernel over `tasks` independent tasks, in one share per thread; a barrier follows. On GPUs a task is a block.
/// Machine code: void symbol(void* const* args, const int64_t* dims, int64_t begin, int64_t end, void* scratch),
/// dims in the order of Program::dims, tasks [begin, end) to do, `scratch` of this thread, 64-byte aligned.
/// On GPUs: one struct of addresses, those of the arguments and then that of the dims, i64 each.
struct Launch {
  uint32_t kernel = 0;
  std::vector<Arg> args;
  Expr tasks;
  std::optional<Product> product;  ///< GPUs: what it computes, if a library may do it instead
};

/// What a launch moves at least, in bytes, each value once, and the operations it does: a product and its sum are two.
struct Work {
  Expr weights, kv, activations, operations;
};

struct Kernel {
  std::string symbol;
  std::string description;    ///< the IR region it computes, for `inspect` and profiles
  uint64_t scratch_bytes = 0; ///< per thread
  int64_t block_threads = 0;  ///< GPUs: a multiple of 32; 0: a CPU's kernel
  int64_t shared_bytes = 0;   ///< GPUs: of a block
  std::string computes = {};  ///< the region in short: its main op with the operands' types, then the other ops
  std::optional<Work> work = {};  ///< for measurements; nothing that runs needs it
};

struct Code {
  std::string target;         ///< "cpu", "cuda", "emu": all of a program's kernels are for CPUs or for GPUs
  std::string isa;            ///< "avx512", "avx2", "generic": runtime/cpu.h; cuda: "sm_90a"
  std::string format;         ///< "elf"; cuda: "cubin"
  std::vector<uint8_t> data;
};

/// An input or output of an entry point: a slot in the arena.
struct Slot {
  std::string name;
  std::string dtype;
  std::vector<Expr> shape;
  uint64_t offset = 0;
};

/// The most logits that a program picks for the sampler on a GPU, and the name of the entry point that does, after that of the
/// entry point whose logits they are.
constexpr int64_t kMostLargest = 64;
constexpr const char* kLargestSuffix = ".largest";

struct EntryPoint {
  std::string name;           ///< "prefill", "decode", "verify"; on GPUs also "prefill.largest", "decode.largest"
  std::vector<Slot> inputs, outputs;
  std::vector<int64_t> dim_min, dim_max;  ///< allowed values, per Program::dims
  uint64_t arena_bytes = 0;
  std::vector<Launch> launches;
  int64_t persistent = -1;    ///< GPUs: the kernel that does all launches in one (runtime/gpu/persistent.h); -1: none
};

constexpr uint64_t kWeightSlack = 64;   ///< bytes after a weight that may be read: vector loads may run past a vector's end

struct Weight {
  std::string name;
  std::string dtype, layout;  ///< names as in the IR
  std::vector<int64_t> shape;
  uint64_t offset = 0;        ///< in the weight segment, 64-byte aligned
  uint64_t bytes = 0;
  std::vector<std::string> sources;  ///< tensors of the model file it is packed from
  int64_t interleave = 0;
  bool hadamard = false;             ///< as in ir::Conversion
  std::string scales = "block";
  std::vector<float> values;         ///< instead of sources: of an f32 weight that no model file has
  friend bool operator==(const Weight&, const Weight&) = default;
};

/// One layer of the KV cache. K: [heads][room/16][head_size][16], V: [heads][room][head_size], of f16, bf16 or f32; room is the
/// capacity (the dim "ctx", a multiple of 64), or less where a window reads no more: position p is at p % ring, and with
/// sinks at p where it is below them, else at sinks + (p - sinks) % (ring - sinks). A layer with bits is compressed and laid out as
/// runtime/base/kv_pages.h says, with its pages in such a ring; `dtype` is that of its newest positions.
struct KvLayer {
  std::string dtype;
  int64_t heads = 0, head_size = 0;
  int64_t window = 0;         ///< > 0: only the last `window` positions are read
  int64_t key_bits = 0, value_bits = 0;
  int64_t ring = 0;           ///< > 0: positions that are kept if the capacity is larger, a multiple of 64
  int64_t sinks = 0;          ///< first ones of them that are never overwritten, and always read; a multiple of 64

  int64_t room(int64_t capacity) const { return ring ? std::min(ring, capacity) : capacity; }
  bool compressed() const { return key_bits > 0; }
  std::string name() const { return compressed() ? (dtype == "f16" ? "" : dtype + "+") + "k" + std::to_string(key_bits) + "v" + std::to_string(value_bits) : dtype; }
};

/// Dims that programs with a compressed layer have beside "ctx": pages demoted before the step, and by it.
constexpr const char* kDemotedDim = "demoted";
constexpr const char* kDemoteDim = "demote";
/// The feature that they require of what runs them.
constexpr const char* kKvPagesFeature = "kv-pages-2";
/// The same of programs with a ring.
constexpr const char* kKvRingFeature = "kv-ring";
/// The same of programs with sinks.
constexpr const char* kKvSinksFeature = "kv-sinks";
/// Weights are made of others in another type, or of no others: see Weight::hadamard and Weight::values.
constexpr const char* kConvertedWeightsFeature = "converted-weights";

/// The file the weights come from when they are not in the executable.
struct ModelReference {
  std::string path;           ///< as given when compiling; also looked for beside the .prx
  uint64_t size = 0;
  uint64_t hash = 0;          ///< XXH3-64 of the XXH3-64 of each 4 MiB of the file
};

struct Program {
  std::string name;           ///< model name
  std::string producer;       ///< "prism 0.1.0"
  std::vector<std::string> required_features;
  std::vector<std::string> dims;     ///< "seq", "past", "out", "ctx", ...
  std::vector<EntryPoint> entries;
  std::vector<Kernel> kernels;
  std::vector<Code> codes;
  std::vector<Weight> weights;
  uint64_t weight_bytes = 0;         ///< size of the weight segment
  std::vector<KvLayer> kv;
  int64_t context_length = 0;        ///< positions the model was made for
  int64_t vocab = 0;
  std::string metadata;              ///< tokenizer and other facts, as a GGUF file without tensors
  std::string ir;                    ///< the module before lowering, binary form, for re-JIT; may be empty
  ModelReference model;              ///< set when the weights are elsewhere
  bool weights_embedded = false;
};

}  // namespace prism::rt
