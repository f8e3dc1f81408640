// The kernel IR: structured loops over buffers with scalar and vector values, between the graph and target source.
//
// A CPU kernel computes independent tasks; its body sees `task`. A GPU kernel is run by blocks of `block_threads` threads;
// its body sees `task`, the block's index, and `thread`. Expressions are immutable trees; statements own their bodies. Generators (codegen/kernels) build kernels with the operators below; codegen/render prints target source.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"

namespace prism::kir {

enum class Elem : uint8_t { I8, U8, I16, U16, I32, U32, I64, F16, BF16, F32, F64 };
int elem_bytes(Elem e);
std::string_view elem_name(Elem e);
inline bool is_floating(Elem e) { return e >= Elem::F16; }

struct Ty {
  Elem elem = Elem::I64;
  int lanes = 1;
  friend bool operator==(const Ty&, const Ty&) = default;
};
std::string str(Ty t);

enum class Kind : uint8_t {
  IntConst, FloatConst, Var, Load,
  Add, Sub, Mul, Div, Mod, And, Or, Xor, Shl, Shr, Min, Max,  // Div, Mod on integers truncate; operands are never negative
  Lt, Le, Eq,                                              // 0 or all bits set, in I32 lanes (scalars: 0 or 1)
  Select,                                                  // args: condition, if true, if false
  Cast,                                                    // value conversion
  Bitcast,                                                 // same bits, same total size
  Splat,                                                   // scalar to every lane
  Call,
  Pack,                                                    // a vector of scalars
  Lane,                                                    // one lane of a vector
};

/// Operations every target expands in its own way.
enum class Fn : uint8_t {
  Fma,        ///< a*b + c; one rounding where the target has it
  Exp, Tanh, Erf, Sqrt,
  Exp2Coarse, ///< 2^x to 2^-13 (relative), for weights that are rounded to bf16 (on GPUs to 2^-22); exact for whole numbers, 0 for -inf
  SinTurns, CosTurns,  ///< sin(2 pi x), |x| <= 0.5
  RoundEven,
  Abs,
  ReduceAdd, ReduceMax,   ///< vector to scalar, fixed order (halving)
  Dot4,       ///< i32 acc + sum over 4 bytes of u8(a)*i8(b), per lane; a, b: u32 / i32 lanes
  DotPairs,   ///< u32 of two i16: acc + u8(a)*i8(b) over bytes 0 and 1, and over 2 and 3; no sum may overflow. CPUs with AVX2 only
  SumPairs,   ///< i32 acc + both i16 of a u32
  LookupLow,  ///< u32 of the bytes that the low nibbles of args[0]'s bytes choose of the 16 in args[1] to args[4]
  LookupHigh, ///< the same with the high nibbles
  DotBf16,    ///< f32 acc + the products of two bf16, per lane; a, b: pairs in u32 lanes. CPUs only
  // GPUs only, except AtomicAdd
  PackF16,      ///< two f32 rounded to f16 in a u32, the first in the low half
  PackBf16,     ///< the same to bf16
  BytePermute,  ///< u32 of bytes of args[0] (0-3) and args[1] (4-7): nibble i of args[2] says which is byte i
  // What follows has an effect or is done by a warp together, so it stands at the root of a Let, Var or Assign.
  ShuffleXor, ///< the value (4 bytes) of the thread whose lane is this one's xor args[1]
  AtomicAdd,  ///< of args[1] (u32, i32, f32) to the element args[0] of a buffer: the value before; u32 orders memory (acquire, release)
  LdMatrix,   ///< u32x4: four 8x8 matrices of 16-bit values; lane 8i+r gives the (shared) element where row r of matrix i begins
  LdMatrixT,  ///< the same, transposed
  MmaBf16,    ///< f32x4 args[0] + A (16x16: u32x4) * B (16x8: u32x2); fragments as PTX lays out mma.m16n8k16
  MmaF16,
  MmaU8,      ///< i32x4 args[0] + A (16x32, bytes without sign: u32x4) * B (32x8, with sign: u32x2); mma.m16n8k32
};
inline bool gpu_only(Fn f) { return f >= Fn::PackF16 && f != Fn::AtomicAdd; }
inline bool cpu_only(Fn f) { return f == Fn::DotPairs || f == Fn::SumPairs || f == Fn::DotBf16; }
inline bool has_effect(Fn f) { return f >= Fn::ShuffleXor; }
inline bool has_buffer(Fn f) { return f >= Fn::AtomicAdd && f <= Fn::LdMatrixT; }

struct Buffer {
  enum class Space : uint8_t { Arg, Scratch, Const, Shared };  // Shared: a GPU block's
  int id = -1;
  Space space = Space::Arg;
  Elem elem = Elem::U8;         ///< unit of indices
  std::string name;
  int64_t size = 0;             ///< elements; Scratch, Const, Shared
  int64_t offset = 0;           ///< bytes; Scratch: in the thread's scratch memory, Shared: in the block's
  bool written = false;
  bool constant = false;        ///< Arg on GPUs: no kernel writes it, so it may be read before the kernels before have ended
  std::vector<float> values;    ///< Const (F32)
};

struct Node;
using Ref = std::shared_ptr<const Node>;
struct Node {
  Kind kind;
  Ty ty;
  Fn fn = Fn::Fma;
  int64_t ival = 0;             ///< IntConst; Var, Load and Calls on buffers: variable / buffer id; Lane: which
  double fval = 0;
  std::vector<Ref> args;        ///< Load: the index
};

/// An expression. Mixed scalar/vector arithmetic splats the scalar; integer constants adapt to the other side's type;
/// i32 beside i64 widens.
class Ex {
 public:
  Ex() = default;
  Ex(int v) : Ex(int64_t(v)) {}
  Ex(int64_t v);
  Ex(double v);                 ///< F32
  explicit Ex(Ref n) : node(std::move(n)) {}
  Ty ty() const { return node->ty; }
  const int64_t* constant() const;
  Ref node;
};

Ex operator+(Ex a, Ex b);
Ex operator-(Ex a, Ex b);
Ex operator*(Ex a, Ex b);
Ex operator/(Ex a, Ex b);
Ex operator%(Ex a, Ex b);
Ex operator&(Ex a, Ex b);
Ex operator|(Ex a, Ex b);
Ex operator^(Ex a, Ex b);
Ex operator<<(Ex a, Ex b);
Ex operator>>(Ex a, Ex b);
Ex operator<(Ex a, Ex b);
Ex operator<=(Ex a, Ex b);
Ex operator==(Ex a, Ex b);
Ex min(Ex a, Ex b);
Ex max(Ex a, Ex b);
Ex select(Ex c, Ex a, Ex b);
Ex cast(Elem to, Ex a);
Ex bitcast(Ty to, Ex a);
Ex splat(Ex a, int lanes);
Ex constant(Ty t, double v);
Ex call(Fn fn, std::vector<Ex> args);
Ex pack(std::vector<Ex> lanes);
Ex lane(Ex v, int i);
inline Ex fma(Ex a, Ex b, Ex c) { return call(Fn::Fma, {a, b, c}); }
using LookupTable = std::array<uint8_t, 16>;
Ex lookup(Fn which, Ex nibbles, const LookupTable& table);
inline Ex pack_f16(Ex low, Ex high) { return call(Fn::PackF16, {low, high}); }
inline Ex pack_bf16(Ex low, Ex high) { return call(Fn::PackBf16, {low, high}); }
inline Ex byte_permute(Ex a, Ex b, int64_t selector) { return call(Fn::BytePermute, {a, b, constant({Elem::U32, 1}, double(selector))}); }

struct Stmt;
using Block = std::vector<Stmt>;
struct Stmt {
  enum class Kind : uint8_t {
    Let, Var, Assign, Store, StoreN, For, If, Prefetch,
    TileZero, TileLoad, TileStore, TileDot,
    Barrier, WarpSync,          // of the block's threads, of the warp's: what was written before is seen after
    AsyncCopy, AsyncCommit, AsyncWait,
    WaitAtLeast,
    GridWait,                   // until the kernels launched before have ended: see Builder::grid_wait
    Wgmma, WgmmaFence, WgmmaCommit, WgmmaWait, AsyncFence,
    MbarrierInit, MbarrierExpect, MbarrierWait, BulkCopy,
  } kind;
  int id = -1;                  ///< variable or buffer
  Ref a, b, c;                  ///< Let/Var/Assign: a. Store: index, value. StoreN: index, value, count. For: begin, end, step. If: a. Prefetch: index.
                                ///< TileLoad/TileStore: index, bytes between rows. AsyncCopy: index, source index, bytes.
                                ///< AsyncWait, WgmmaWait: groups still under way. WaitAtLeast: index, value
                                ///< Wgmma: index in `source`, index in `second`. MbarrierX: index; count, bytes, parity
                                ///< BulkCopy: index, source index, index in `second`
  Block body, otherwise;
  int tile[3] = {};             ///< TileDot: sum, a, b; the others use tile[0]
  int source = -1;              ///< AsyncCopy, BulkCopy: the buffer copied from; Wgmma: that of a
  int second = -1;              ///< Wgmma: the buffer of b; BulkCopy: the mbarriers
  int unroll = 0;               ///< For
  int bytes = 0;                ///< BulkCopy
  int cache = 1;                ///< Prefetch: level
};

/// A matrix register (AMX): rows of bytes.
struct TileShape {
  int rows, row_bytes;
};

struct Kernel {
  std::string name;
  std::vector<Buffer> buffers;  ///< arguments first, in order
  std::vector<Ty> vars;         ///< type by variable id; 0 is `task` (i64; i32 on GPUs), on GPUs 1 is `thread` (i32)
  std::vector<std::string> dims;
  int64_t scratch_bytes = 0;
  int block_threads = 0;        ///< 0: a CPU kernel
  int blocks_together = 1;      ///< that a multiprocessor should have registers for
  int64_t shared_bytes = 0;     ///< of all Shared buffers, each aligned to 128 bytes, in order
  std::vector<TileShape> tiles; ///< by tile number; empty = the kernel uses none
  Block body;
};

const char* symbol(Kind k);
const char* fn_name(Fn f);
std::string print(const Kernel& k);
/// Types of every node and statement, variables defined before use, buffers written only if writable; on GPUs also
/// no barrier where threads of the block may part, and nothing that only CPUs have (and the other way round).
Status verify(const Kernel& k);

/// Builds one kernel. Control flow takes callbacks, so that C++ nesting is kernel nesting.
class Builder {
 public:
  Builder(std::string name, std::vector<std::string> dims, int block_threads = 0);

  Buffer arg(std::string name, Elem elem, bool written = false, bool constant = false);
  Buffer scratch(std::string name, Elem elem, int64_t size);   ///< per thread, 64-byte aligned
  Buffer table(std::string name, std::vector<float> values);
  Buffer shared(std::string name, Elem elem, int64_t size);    ///< per block
  /// The shared memory from where `first` begins, used anew for something else.
  Buffer overlay(std::string name, Elem elem, int64_t size, const Buffer& first);
  Ex task() const { return task_; }
  Ex thread() const { return thread_; }                         ///< in the block
  void blocks_together(int n) { kernel_.blocks_together = n; }
  int block_threads() const { return kernel_.block_threads; }   ///< 0: a CPU kernel
  Ex dim(std::string_view name) const;                          ///< i64; i32 on GPUs

  Ex load(Ty t, const Buffer& b, Ex index);
  Ex load(const Buffer& b, Ex index, int lanes = 1) { return load({b.elem, lanes}, b, index); }
  void store(const Buffer& b, Ex index, Ex value);
  void store_n(const Buffer& b, Ex index, Ex value, Ex count);  ///< the first `count` lanes
  Ex let(Ex value);
  Ex var(Ex init);                                              ///< mutable
  void assign(Ex var, Ex value);
  void prefetch(const Buffer& b, Ex index, int cache = 1);      ///< a hint, into that level of caches (CPUs); the index may be past the end
  void for_(Ex begin, Ex end, Ex step, const std::function<void(Ex)>& body, int unroll = 0);   ///< GPUs: 0 = as the compiler likes
  void use_tiles(std::vector<TileShape> shapes);
  void tile_zero(int t);
  void tile_load(int t, const Buffer& b, Ex index, Ex row_bytes);
  void tile_store(int t, const Buffer& b, Ex index, Ex row_bytes);
  /// f32 sum[m][n] += bf16 a[m][2k]*b[k][2n] + a[m][2k+1]*b[k][2n+1] over all k
  void tile_dot(int sum, int a, int b);
  void if_(Ex cond, const std::function<void()>& then, const std::function<void()>& otherwise = {});

  Ex atomic_add(const Buffer& b, Ex index, Ex value);

  // GPU kernels
  void barrier();
  void warp_sync();
  Ex shuffle_xor(Ex value, int mask);
  Ex ld_matrix(const Buffer& b, Ex index, bool transposed = false);
  void mma(Fn shape, Ex sum, Ex a, Ex b);                       ///< `sum` is a variable
  /// 16 bytes from global to shared memory, the last 16 - `bytes` of them zeros. They arrive at an async_wait of this thread
  /// that covers their group; other threads see them after the next barrier.
  void async_copy(const Buffer& to, Ex index, const Buffer& from, Ex source, Ex bytes = Ex(16));
  void async_commit();                                          ///< closes a group of copies
  void async_wait(int groups);                                  ///< until at most the `groups` newest are under way
  /// Warpgroups (4 warps, the first a multiple of 4) on architectures that have them: sum (64 x n; f32, n/2 of them in a thread: a
  /// warp has 16 rows, each 8 columns laid out as by mma.m16n8k16) += a (64 x 16) * b (n x 16)^T, bf16, from shared memory. Both
  /// are in rows of 128 bytes, 8 of which begin at a multiple of 1024 bytes, with chunk c of row r in place c ^ (r % 8); an
  /// index is that of the first row's columns before they trade places. The products read while others go on, until waited for.
  void wgmma(Ex sum, const Buffer& a, Ex a_index, const Buffer& b, Ex b_index);
  void wgmma_fence();                                           ///< before the first after the sums were touched otherwise
  void wgmma_commit();                                          ///< closes a group of products
  void wgmma_wait(int groups);                                  ///< until at most the `groups` newest are under way
  void async_fence();                                           ///< what this thread wrote to shared memory, by whatever means, wgmma sees after the next barrier
  /// Mbarriers, on architectures that have them: elements (i64) of a shared buffer. A phase ends when `count` threads have arrived
  /// and the bytes they expect have come; the next begins at once. The first phase has parity 0, the next 1, the next 0, ...
  void mbarrier_init(const Buffer& m, Ex index, Ex count);      ///< by one thread; others see it after the next barrier
  void mbarrier_expect(const Buffer& m, Ex index, Ex bytes);    ///< arrives, and bulk copies are to bring these bytes
  void mbarrier_wait(const Buffer& m, Ex index, Ex parity);     ///< until the phase of that parity has ended; what its copies brought is seen after it
  /// `bytes` bytes from a constant argument to shared memory, by one thread for all; sizes and places are multiples of 16. The mbarrier
  /// counts them. What threads wrote to the place before needs an async_fence and a barrier.
  void bulk_copy(const Buffer& to, Ex index, const Buffer& from, Ex source, int bytes, const Buffer& m, Ex m_index);
  void wait_at_least(const Buffer& counter, Ex index, Ex value);  ///< spins on a u32 that other blocks raise by atomic_add
  /// A kernel may begin before those before it in the stream have ended. Until here it touches only constant arguments.
  void grid_wait();

  Kernel finish();

 private:
  Kernel kernel_;
  std::vector<Block*> blocks_;
  Ex task_, thread_;
  int new_var(Ty t);
  Buffer reserve(Buffer::Space space, std::string name, Elem elem, int64_t size, int64_t alignment, int64_t& total);
  void push(Stmt s) { blocks_.back()->push_back(std::move(s)); }
};

}  // namespace prism::kir
