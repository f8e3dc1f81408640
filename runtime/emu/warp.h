// What a warp computes together, from all lanes' inputs to all lanes' outputs, with the PTX fragment layouts.
#pragma once

#include <array>
#include <cstdint>

#include "runtime/emu/host.h"

namespace prism::rt::emu {

struct MmaInput {
  uint32_t c[4], a[4], b[2];
};
using Fragment = std::array<uint32_t, 4>;

/// c + a * b; m16n8k16 (bf16, f16) or m16n8k32 (s8).
std::array<Fragment, 32> mma(WarpOp op, const std::array<MmaInput, 32>& lanes);

/// Four 8x8 matrices of 16-bit values; rows[8 * i + r] is row r of matrix i.
std::array<Fragment, 32> ld_matrix(const std::array<std::array<uint16_t, 8>, 32>& rows, bool transposed);

}  // namespace prism::rt::emu
