// What emulated kernels call. The kernels' side of this table is text, in codegen/render/cuda_primitives.cpp.
#pragma once

#include <cstdint>

namespace prism::rt::emu {

struct SharedRef {
  int32_t begin, bytes;
};

/// A buffer in a kernel's arguments.
struct GlobalMemory {
  uint8_t* data;
  int64_t bytes, index;
};

enum class WarpOp : int32_t { Sync, ShuffleXor, LdMatrix, MmaBf16, MmaF16, MmaU8, Wgmma, WgmmaFence, WgmmaCommit, WgmmaWait };
enum class Math : int32_t { Exp, Tanh, Erf, Exp2, SinTurns, CosTurns, RoundEven };

struct Host {
  int32_t block, thread, must_wait;          ///< who runs; whether it may touch only constants until grid_wait
  int32_t blocks;                            ///< of the launch
  void (*bad_global)(int64_t index, int64_t offset, int64_t size, int32_t bytes, int32_t line);   ///< size -1: before grid_wait
  void (*grid_wait)();
  void (*shared_read)(SharedRef, int64_t offset, void* to, int32_t bytes, int32_t line);
  void (*shared_write)(SharedRef, int64_t offset, const void* from, int32_t bytes, int32_t line);
  uint8_t* (*shared_atomic)(SharedRef, int64_t offset, int32_t line);   ///< the checked 4 bytes
  void (*barrier)(int32_t line);
  void (*warp)(int32_t op, int32_t parameter, const void* in, void* out, int32_t line);
  void (*async_copy)(SharedRef, int64_t offset, const uint8_t* from, int32_t bytes, int32_t line);
  void (*async_commit)();
  void (*async_wait)(int32_t groups);
  void (*async_fence)();
  void (*mbarrier_init)(SharedRef, int64_t offset, int32_t count, int32_t line);
  void (*mbarrier_expect)(SharedRef, int64_t offset, int32_t bytes, int32_t line);
  void (*mbarrier_wait)(SharedRef, int64_t offset, int32_t parity, int32_t line);
  void (*bulk_copy)(SharedRef, int64_t offset, const uint8_t* from, int32_t bytes, SharedRef mbarrier, int64_t at, int32_t line);
  void (*wait_at_least)(int64_t index, const uint8_t* counter, uint32_t value, int32_t line);
  float (*math)(int32_t function, float x);
  float (*fma)(float a, float b, float c);
  float (*f16_f32)(uint16_t h);
  uint16_t (*f32_half)(float f, int32_t bf16);
};

}  // namespace prism::rt::emu
