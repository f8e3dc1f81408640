#include "runtime/emu/warp.h"

#include <bit>

#include "runtime/base/half.h"

namespace prism::rt::emu {

namespace {

/// Value `i` of those in a register of operand a or b.
double element(WarpOp op, bool of_a, uint32_t reg, int i) {
  if (op == WarpOp::MmaU8) return of_a ? double(uint8_t(reg >> (8 * i))) : double(int8_t(reg >> (8 * i)));
  const auto half = uint16_t(reg >> (16 * i));
  return op == WarpOp::MmaBf16 ? bf16_to_f32(half) : f16_to_f32(half);
}

}  // namespace

std::array<Fragment, 32> mma(WarpOp op, const std::array<MmaInput, 32>& lanes) {
  const int per = op == WarpOp::MmaU8 ? 4 : 2, depth = 8 * per;   // values in a register, k
  double a[16][32], b[32][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, in_group = lane % 4;
    for (int i = 0; i < per; ++i) {
      for (int r = 0; r < 4; ++r)   // registers: rows g, g+8, then the same for the upper half of k
        a[group + 8 * (r & 1)][in_group * per + i + depth / 2 * (r >> 1)] = element(op, true, lanes[lane].a[r], i);
      for (int r = 0; r < 2; ++r) b[in_group * per + i + depth / 2 * r][group] = element(op, false, lanes[lane].b[r], i);
    }
  }
  std::array<Fragment, 32> out;
  for (int lane = 0; lane < 32; ++lane)
    for (int r = 0; r < 4; ++r) {
      const int row = lane / 4 + 8 * (r >> 1), column = lane % 4 * 2 + (r & 1);
      double sum = 0;
      for (int k = 0; k < depth; ++k) sum += a[row][k] * b[k][column];
      const uint32_t c = lanes[lane].c[r];
      out[lane][r] = op == WarpOp::MmaU8 ? c + uint32_t(int32_t(sum)) : std::bit_cast<uint32_t>(float(std::bit_cast<float>(c) + sum));
    }
  return out;
}

std::array<Fragment, 32> ld_matrix(const std::array<std::array<uint16_t, 8>, 32>& rows, bool transposed) {
  std::array<Fragment, 32> out;
  for (int lane = 0; lane < 32; ++lane)
    for (int matrix = 0; matrix < 4; ++matrix) {
      const int major = lane / 4, minor = lane % 4 * 2;
      auto at = [&](int k) { return uint32_t(transposed ? rows[8 * matrix + minor + k][major] : rows[8 * matrix + major][minor + k]); };
      out[lane][matrix] = at(0) | at(1) << 16;
    }
  return out;
}

}  // namespace prism::rt::emu
