// What the kernels' text is written in, once for the GPU (PTX) and once for the emulated device (calls into
// runtime/emu/host.h, which describes the same table).
#include "codegen/render/c.h"

namespace prism::codegen {

namespace {

constexpr const char* kCommon = R"(
typedef signed char i8; typedef unsigned char u8; typedef short i16; typedef unsigned short u16;
typedef int i32; typedef unsigned int u32; typedef long i64; typedef unsigned long u64; typedef float f32; typedef double f64;
template <class T, int N> struct alignas(sizeof(T) * N) vec { T e[N]; };
template <class V, class T> DEVICE V splat(T x) { V v; for (T& e : v.e) e = x; return v; }
DEVICE f32 bf16_f32(u16 h) { return __builtin_bit_cast(f32, (u32)h << 16); }
DEVICE f32 abs_f32(f32 x) { return __builtin_bit_cast(f32, __builtin_bit_cast(u32, x) & 0x7fffffffu); }
)";

// What is made of the target's own primitives. A permutation chooses of eight bytes by three bits, and once more by the fourth.
constexpr const char* kMade = R"(
DEVICE u32 lookup_four(u32 at, u32 a, u32 b, u32 c, u32 d) {
  return byte_permute(byte_permute(a, b, at & 0x7777), byte_permute(c, d, at & 0x7777), (at & 0x8888) >> 1 | 0x3210);
}
DEVICE u32 lookup_low(u32 at, u32 a, u32 b, u32 c, u32 d) {
  return byte_permute(lookup_four(at, a, b, c, d), lookup_four(at >> 16, a, b, c, d), 0x6420);
}
DEVICE u32 lookup_high(u32 at, u32 a, u32 b, u32 c, u32 d) {
  return byte_permute(lookup_four(at, a, b, c, d), lookup_four(at >> 16, a, b, c, d), 0x7531);
}
)";

// How a kernel's body waits for what comes before it: alone in a launch, or as one of many within one.
constexpr const char* kPhases = R"(
struct Alone {};
DEVICE void phase_wait(Alone) { grid_wait(); }
struct Persistent { Global counters; i64 launch; };   // a counter for each launch: of the blocks that are done with it
DEVICE void phase_wait(Persistent p) {
  if (p.launch > 0 && thread_index() == 0) wait_at_least(p.counters, 4 * (p.launch - 1), (u32)grid_size());
  barrier();
}
DEVICE void phase_end(Persistent p) { if (thread_index() == 0) atomic_add(p.counters, 4 * p.launch, (u32)1); }
template <class A> DEVICE const A& arguments(Global table, i64 offset) { return *(const A*)bytes_at(table, offset); }
)";

constexpr const char* kDevice = R"(
#define KERNEL(threads, together) extern "C" __global__ void __launch_bounds__(threads, together)
#define ARGS(T) const __grid_constant__ T
#define CONSTANT __constant__ const
typedef u8* Global; typedef u8* Shared; typedef const u8* Table;
extern __shared__ __attribute__((aligned(1024))) u8 shared_memory[];
DEVICE i32 block_index() { return (i32)blockIdx.x; }
DEVICE i32 thread_index() { return (i32)threadIdx.x; }
DEVICE i32 grid_size() { return (i32)gridDim.x; }
DEVICE const u8* bytes_at(const u8* b, i64 offset) { return b + offset; }
DEVICE Shared shared(i32 begin, i32) { return shared_memory + begin; }
DEVICE u32 shared_address(const u8* p) { return (u32)__cvta_generic_to_shared(p); }

template <class T> DEVICE T load(const u8* b, i64 offset) { return *(const T*)(b + offset); }
template <class T> DEVICE void store(u8* b, i64 offset, T v) { *(T*)(b + offset) = v; }
template <int N> struct Constant;  // volatile and not .nc: other loads are moved to after grid_wait, where nothing is left to overlap them with
template <> struct Constant<1> {
  static DEVICE u8 get(const u8* p) { u32 v; asm volatile("ld.global.u8 %0, [%1];" : "=r"(v) : "l"(p)); return (u8)v; }
};
template <> struct Constant<2> {
  static DEVICE u16 get(const u8* p) { u16 v; asm volatile("ld.global.u16 %0, [%1];" : "=h"(v) : "l"(p)); return v; }
};
template <> struct Constant<4> {
  static DEVICE u32 get(const u8* p) { u32 v; asm volatile("ld.global.u32 %0, [%1];" : "=r"(v) : "l"(p)); return v; }
};
template <> struct Constant<8> {
  static DEVICE vec<u32, 2> get(const u8* p) {
    vec<u32, 2> v; asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(v.e[0]), "=r"(v.e[1]) : "l"(p)); return v;
  }
};
template <> struct Constant<16> {
  static DEVICE vec<u32, 4> get(const u8* p) {
    vec<u32, 4> v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.e[0]), "=r"(v.e[1]), "=r"(v.e[2]), "=r"(v.e[3]) : "l"(p));
    return v;
  }
};
template <class T> DEVICE T read(const u8* b, i64 offset) { return __builtin_bit_cast(T, Constant<sizeof(T)>::get(b + offset)); }
DEVICE void prefetch(const u8* b, i64 offset) { asm volatile("prefetch.global.L2 [%0];" :: "l"(b + offset)); }

#if __CUDA_ARCH__ >= 900
DEVICE void grid_begin() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
DEVICE void grid_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
#else
DEVICE void grid_begin() {}
DEVICE void grid_wait() {}
#endif
DEVICE void barrier() { __syncthreads(); }
DEVICE void warp_sync() { __syncwarp(); }
template <class T> DEVICE T shuffle_xor(T v, i32 mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
DEVICE u32 atomic_add(u8* b, i64 offset, u32 v) {
  u32 old;
  asm volatile("atom.acq_rel.gpu.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(b + offset), "r"(v) : "memory");
  return old;
}
DEVICE i32 atomic_add(u8* b, i64 offset, i32 v) { return atomicAdd((i32*)(b + offset), v); }
DEVICE f32 atomic_add(u8* b, i64 offset, f32 v) { return atomicAdd((f32*)(b + offset), v); }
DEVICE void wait_at_least(const u8* b, i64 offset, u32 v) {
  u32 found;
  do asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(found) : "l"(b + offset) : "memory"); while (found < v);
}

DEVICE void async_copy(u8* to, i64 offset, const u8* from, i64 source, i32 bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :: "r"(shared_address(to) + (u32)offset), "l"(__cvta_generic_to_global(from + source)), "r"(bytes) : "memory");
}
#define async_copy_constant async_copy
DEVICE void async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEVICE void async_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }

#if __CUDA_ARCH__ >= 900
DEVICE void mbarrier_init(u8* b, i64 offset, i32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\nfence.mbarrier_init.release.cluster;" :: "r"(shared_address(b) + (u32)offset), "r"(count) : "memory");
}
DEVICE void mbarrier_expect(u8* b, i64 offset, i32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(shared_address(b) + (u32)offset), "r"(bytes) : "memory");
}
DEVICE void mbarrier_wait(u8* b, i64 offset, i32 parity) {
  u32 ended;
  do asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                  : "=r"(ended) : "r"(shared_address(b) + (u32)offset), "r"(parity) : "memory"); while (!ended);
}
DEVICE void bulk_copy(u8* to, i64 offset, const u8* from, i64 source, i32 bytes, u8* b, i64 at) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               :: "r"(shared_address(to) + (u32)offset), "l"(__cvta_generic_to_global(from + source)), "r"(bytes), "r"(shared_address(b) + (u32)at) : "memory");
}
#endif
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory"); }
DEVICE void async_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Rows of 128 bytes, swizzled; 8 of them are 1024 bytes.
DEVICE u64 matrix_descriptor(const u8* p) { return 0x4000004000010000ul | (shared_address(p) & 0x3ffff) >> 4; }
#endif
#define LD_MATRIX(name, form) \
  DEVICE vec<u32, 4> name(const u8* b, i64 offset) { \
    vec<u32, 4> v; \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4" form ".shared.b16 {%0, %1, %2, %3}, [%4];" \
                 : "=r"(v.e[0]), "=r"(v.e[1]), "=r"(v.e[2]), "=r"(v.e[3]) : "r"(shared_address(b) + (u32)offset) : "memory"); \
    return v; \
  }
LD_MATRIX(ld_matrix, "")
LD_MATRIX(ld_matrix_t, ".trans")
#define MMA(name, T, constraint, form) \
  DEVICE vec<T, 4> name(vec<T, 4> c, vec<u32, 4> a, vec<u32, 2> b) { \
    asm volatile("mma.sync.aligned." form " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : constraint(c.e[0]), constraint(c.e[1]), constraint(c.e[2]), constraint(c.e[3]) \
                 : "r"(a.e[0]), "r"(a.e[1]), "r"(a.e[2]), "r"(a.e[3]), "r"(b.e[0]), "r"(b.e[1])); \
    return c; \
  }
MMA(mma_bf16, f32, "+f", "m16n8k16.row.col.f32.bf16.bf16.f32")
MMA(mma_f16, f32, "+f", "m16n8k16.row.col.f32.f16.f16.f32")
MMA(mma_u8, i32, "+r", "m16n8k32.row.col.s32.u8.s8.s32")
DEVICE u32 byte_permute(u32 a, u32 b, u32 selector) { return __byte_perm(a, b, selector); }
DEVICE i32 dot4(i32 c, u32 a, i32 b) { i32 d; asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c)); return d; }

DEVICE f32 f16_f32(u16 h) { f32 f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h)); return f; }
DEVICE u16 f32_f16(f32 f) { u16 h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f)); return h; }
DEVICE u16 f32_bf16(f32 f) { u16 h; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f)); return h; }
DEVICE u32 pack_f16(f32 low, f32 high) { u32 v; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low)); return v; }
DEVICE u32 pack_bf16(f32 low, f32 high) { u32 v; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low)); return v; }
DEVICE f32 fma_f32(f32 a, f32 b, f32 c) { return __fmaf_rn(a, b, c); }
DEVICE f32 min_f32(f32 a, f32 b) { return fminf(a, b); }
DEVICE f32 max_f32(f32 a, f32 b) { return fmaxf(a, b); }
DEVICE f32 exp_f32(f32 x) { return expf(x); }
DEVICE f32 tanh_f32(f32 x) { return tanhf(x); }
DEVICE f32 erf_f32(f32 x) { return erff(x); }
DEVICE f32 sqrt_f32(f32 x) { return sqrtf(x); }
DEVICE f32 exp2_coarse(f32 x) { f32 y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE f32 sin_turns(f32 x) { return sinpif(x + x); }
DEVICE f32 cos_turns(f32 x) { return cospif(x + x); }
DEVICE f32 round_even(f32 x) { return rintf(x); }
)";

constexpr const char* kEmulated = R"(
#define KERNEL(threads, together) extern "C" void
#define ARGS(T) const T&
#define CONSTANT static const
struct Global { u8* data; i64 bytes, index; };
struct Shared { i32 begin, bytes; };
typedef const u8* Table;
struct EmuHost {
  i32 block, thread, must_wait, blocks;
  void (*bad_global)(i64 index, i64 offset, i64 size, i32 bytes, i32 line);
  void (*grid_wait)();
  void (*shared_read)(Shared, i64 offset, void* to, i32 bytes, i32 line);
  void (*shared_write)(Shared, i64 offset, const void* from, i32 bytes, i32 line);
  u8* (*shared_atomic)(Shared, i64 offset, i32 line);
  void (*barrier)(i32 line);
  void (*warp)(i32 op, i32 parameter, const void* in, void* out, i32 line);
  void (*async_copy)(Shared, i64 offset, const u8* from, i32 bytes, i32 line);
  void (*async_commit)();
  void (*async_wait)(i32 groups);
  void (*async_fence)();
  void (*mbarrier_init)(Shared, i64 offset, i32 count, i32 line);
  void (*mbarrier_expect)(Shared, i64 offset, i32 bytes, i32 line);
  void (*mbarrier_wait)(Shared, i64 offset, i32 parity, i32 line);
  void (*bulk_copy)(Shared, i64 offset, const u8* from, i32 bytes, Shared mbarrier, i64 at, i32 line);
  void (*wait_at_least)(i64 index, const u8* counter, u32 value, i32 line);
  f32 (*math)(i32 function, f32 x);
  f32 (*fma)(f32 a, f32 b, f32 c);
  f32 (*f16_f32)(u16 h);
  u16 (*f32_half)(f32 f, i32 bf16);
};
extern "C" __attribute__((visibility("protected"))) EmuHost* prism_emu;
EmuHost* prism_emu = nullptr;
#define LINE i32 line = __builtin_LINE()
DEVICE i32 block_index() { return prism_emu->block; }
DEVICE i32 thread_index() { return prism_emu->thread; }
DEVICE i32 grid_size() { return prism_emu->blocks; }
DEVICE Shared shared(i32 begin, i32 bytes) { return {begin, bytes}; }
DEVICE u8* constant_at(Global b, i64 offset, i32 bytes, i32 align, i32 line) {
  if (offset < 0 || offset + bytes > b.bytes || ((i64)b.data + offset) % align) prism_emu->bad_global(b.index, offset, b.bytes, bytes, line);
  return b.data + offset;
}
DEVICE u8* global_at(Global b, i64 offset, i32 bytes, i32 align, i32 line) {
  if (prism_emu->must_wait) prism_emu->bad_global(b.index, offset, -1, bytes, line);
  return constant_at(b, offset, bytes, align, line);
}
DEVICE const u8* bytes_at(Global b, i64 offset) { return b.data + offset; }
DEVICE void grid_begin() {}
DEVICE void grid_wait() { prism_emu->grid_wait(); }
template <class T> DEVICE T load(Global b, i64 offset, LINE) {
  T v; __builtin_memcpy(&v, global_at(b, offset, sizeof v, sizeof v, line), sizeof v); return v;
}
template <class T> DEVICE T read(Global b, i64 offset, LINE) {
  T v; __builtin_memcpy(&v, constant_at(b, offset, sizeof v, sizeof v, line), sizeof v); return v;
}
template <class T> DEVICE void store(Global b, i64 offset, T v, LINE) {
  __builtin_memcpy(global_at(b, offset, sizeof v, sizeof v, line), &v, sizeof v);
}
template <class T> DEVICE T load(Shared b, i64 offset, LINE) { T v; prism_emu->shared_read(b, offset, &v, sizeof v, line); return v; }
template <class T> DEVICE void store(Shared b, i64 offset, T v, LINE) { prism_emu->shared_write(b, offset, &v, sizeof v, line); }
template <class T> DEVICE T load(Table b, i64 offset) { return *(const T*)(b + offset); }
DEVICE void prefetch(Global, i64) {}

DEVICE void barrier(LINE) { prism_emu->barrier(line); }
DEVICE void warp_sync(LINE) { prism_emu->warp(0, 0, nullptr, nullptr, line); }
template <class T> DEVICE T shuffle_xor(T v, i32 mask, LINE) { T r; prism_emu->warp(1, mask, &v, &r, line); return r; }
template <class T> DEVICE T add_at(u8* p, T v) {
  T old, sum; __builtin_memcpy(&old, p, sizeof old); sum = old + v; __builtin_memcpy(p, &sum, sizeof sum); return old;
}
template <class T> DEVICE T atomic_add(Global b, i64 offset, T v, LINE) { return add_at(global_at(b, offset, sizeof v, sizeof v, line), v); }
template <class T> DEVICE T atomic_add(Shared b, i64 offset, T v, LINE) { return add_at(prism_emu->shared_atomic(b, offset, line), v); }
DEVICE void wait_at_least(Global b, i64 offset, u32 v, LINE) {
  prism_emu->wait_at_least(b.index, global_at(b, offset, sizeof v, sizeof v, line), v, line);
}
DEVICE void async_copy_constant(Shared to, i64 offset, Global from, i64 source, i32 bytes, LINE) {
  prism_emu->async_copy(to, offset, bytes ? constant_at(from, source, bytes, 16, line) : nullptr, bytes, line);
}
DEVICE void async_copy(Shared to, i64 offset, Global from, i64 source, i32 bytes, LINE) {
  prism_emu->async_copy(to, offset, bytes ? global_at(from, source, bytes, 16, line) : nullptr, bytes, line);
}
DEVICE void async_commit() { prism_emu->async_commit(); }
template <int N> DEVICE void async_wait() { prism_emu->async_wait(N); }

struct EmuProduct { void* sum; i32 n; Shared a, b; i64 a_offset, b_offset; };
template <int N> DEVICE void wgmma(vec<f32, N>& sum, Shared a, i64 a_offset, Shared b, i64 b_offset, LINE) {
  const EmuProduct in = {&sum, 2 * N, a, b, a_offset, b_offset}; prism_emu->warp(6, 0, &in, nullptr, line);
}
DEVICE void wgmma_fence(LINE) { prism_emu->warp(7, 0, nullptr, nullptr, line); }
DEVICE void wgmma_commit(LINE) { prism_emu->warp(8, 0, nullptr, nullptr, line); }
template <int N> DEVICE void wgmma_wait(LINE) { prism_emu->warp(9, N, nullptr, nullptr, line); }
DEVICE void async_fence() { prism_emu->async_fence(); }
DEVICE void mbarrier_init(Shared b, i64 offset, i32 count, LINE) { prism_emu->mbarrier_init(b, offset, count, line); }
DEVICE void mbarrier_expect(Shared b, i64 offset, i32 bytes, LINE) { prism_emu->mbarrier_expect(b, offset, bytes, line); }
DEVICE void mbarrier_wait(Shared b, i64 offset, i32 parity, LINE) { prism_emu->mbarrier_wait(b, offset, parity, line); }
DEVICE void bulk_copy(Shared to, i64 offset, Global from, i64 source, i32 bytes, Shared b, i64 at, LINE) {
  prism_emu->bulk_copy(to, offset, constant_at(from, source, bytes, 16, line), bytes, b, at, line);
}

struct EmuRow { Shared buffer; i64 offset; };
DEVICE vec<u32, 4> ld_matrix(Shared b, i64 offset, LINE) {
  const EmuRow row = {b, offset}; vec<u32, 4> v; prism_emu->warp(2, 0, &row, &v, line); return v;
}
DEVICE vec<u32, 4> ld_matrix_t(Shared b, i64 offset, LINE) {
  const EmuRow row = {b, offset}; vec<u32, 4> v; prism_emu->warp(2, 1, &row, &v, line); return v;
}
template <class T> struct EmuMma { vec<T, 4> c; vec<u32, 4> a; vec<u32, 2> b; };
template <class T> DEVICE vec<T, 4> mma(i32 op, vec<T, 4> c, vec<u32, 4> a, vec<u32, 2> b, i32 line) {
  const EmuMma<T> in = {c, a, b}; vec<T, 4> out; prism_emu->warp(op, 0, &in, &out, line); return out;
}
DEVICE vec<f32, 4> mma_bf16(vec<f32, 4> c, vec<u32, 4> a, vec<u32, 2> b, LINE) { return mma(3, c, a, b, line); }
DEVICE vec<f32, 4> mma_f16(vec<f32, 4> c, vec<u32, 4> a, vec<u32, 2> b, LINE) { return mma(4, c, a, b, line); }
DEVICE vec<i32, 4> mma_u8(vec<i32, 4> c, vec<u32, 4> a, vec<u32, 2> b, LINE) { return mma(5, c, a, b, line); }
DEVICE i32 dot4(i32 c, u32 a, i32 b) {
  for (i32 i = 0; i < 32; i += 8) c += (i32)(u8)(a >> i) * (i32)(i8)(b >> i);
  return c;
}

DEVICE u32 byte_permute(u32 a, u32 b, u32 selector) {
  const u64 both = (u64)b << 32 | a; u32 v = 0;
  for (i32 i = 0; i < 4; ++i) v |= (u32)(u8)(both >> (selector >> 4 * i & 7) * 8) << 8 * i;
  return v;
}

DEVICE f32 f16_f32(u16 h) { return prism_emu->f16_f32(h); }
DEVICE u16 f32_f16(f32 f) { return prism_emu->f32_half(f, 0); }
DEVICE u16 f32_bf16(f32 f) { return prism_emu->f32_half(f, 1); }
DEVICE u32 pack_f16(f32 low, f32 high) { return f32_f16(low) | (u32)f32_f16(high) << 16; }
DEVICE u32 pack_bf16(f32 low, f32 high) { return f32_bf16(low) | (u32)f32_bf16(high) << 16; }
#ifdef __FMA__
DEVICE f32 fma_f32(f32 a, f32 b, f32 c) { return __builtin_fmaf(a, b, c); }
#else
DEVICE f32 fma_f32(f32 a, f32 b, f32 c) { return prism_emu->fma(a, b, c); }
#endif
DEVICE f32 min_f32(f32 a, f32 b) { return a < b || b != b ? a : b; }
DEVICE f32 max_f32(f32 a, f32 b) { return a > b || b != b ? a : b; }
DEVICE f32 exp_f32(f32 x) { return prism_emu->math(0, x); }
DEVICE f32 tanh_f32(f32 x) { return prism_emu->math(1, x); }
DEVICE f32 erf_f32(f32 x) { return prism_emu->math(2, x); }
DEVICE f32 sqrt_f32(f32 x) { return __builtin_sqrtf(x); }
DEVICE f32 exp2_coarse(f32 x) { return prism_emu->math(3, x); }
DEVICE f32 sin_turns(f32 x) { return prism_emu->math(4, x); }
DEVICE f32 cos_turns(f32 x) { return prism_emu->math(5, x); }
DEVICE f32 round_even(f32 x) { return prism_emu->math(6, x); }
)";

/// wgmma for a sum of 64 x n, all of whose n / 2 registers stand in the instruction.
std::string wgmma(int n) {
  const int registers = n / 2;
  std::string list, outputs;
  for (int i = 0; i < registers; ++i) {
    list += (i ? ", %" : "%") + std::to_string(i);
    outputs += (i ? ", \"+f\"(c.e[" : "\"+f\"(c.e[") + std::to_string(i) + "])";
  }
  return "DEVICE void wgmma(vec<f32, " + std::to_string(registers) + ">& c, const u8* a, i64 a_offset, const u8* b, i64 b_offset) {\n"
         "  asm volatile(\"{\\n.reg .pred add;\\nsetp.eq.u32 add, 1, 1;\\nwgmma.mma_async.sync.aligned.m64n" + std::to_string(n) + "k16.f32.bf16.bf16 {" + list + "}, %" + std::to_string(registers) + ", %" +
         std::to_string(registers + 1) + ", add, 1, 1, 0, 0;\\n}\"\n    : " + outputs + "\n    : \"l\"(matrix_descriptor(a + a_offset)), \"l\"(matrix_descriptor(b + b_offset)));\n}\n";
}

}  // namespace

std::string cuda_primitives(CudaTarget target) {
  const std::string products = "#ifdef __CUDA_ARCH_FEAT_SM90_ALL\n" + wgmma(64) + wgmma(128) + wgmma(256) + "#endif\n";
  return target == CudaTarget::Device ? std::string("#define DEVICE __device__ __forceinline__\n") + kCommon + kDevice + products + kMade + kPhases
                                      : std::string("#define DEVICE static inline __attribute__((always_inline))\n") + kCommon + kEmulated + kMade + kPhases;
}

}  // namespace prism::codegen
