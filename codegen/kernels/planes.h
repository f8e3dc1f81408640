// Codes in bit planes, 512 at a time: eight words of 64 bytes, in each byte a code. A plane of w bits has w vectors of 64 bytes; plane_of
// and shift_of (codegen/pack.h) say where the bits of a word are.
#pragma once

#include <functional>
#include <vector>

#include "codegen/kir/kir.h"
#include "codegen/pack.h"

namespace prism::codegen {

constexpr int kPlaneWords = 8;

/// Bits `to` and up of the words, from a plane of `bits` bits: vector(i) loads its i-th vector, as u32 (one lane or 16).
inline void add_plane(kir::Builder& b, std::vector<kir::Ex>& words, int bits, int to, const std::function<kir::Ex(int)>& vector) {
  const int64_t mask = (int64_t(1 << bits) - 1) * 0x01010101 << to;
  std::vector<kir::Ex> plane;
  for (int p = 0; p < bits; ++p) plane.push_back(vector(p));
  for (int j = 0; j < kPlaneWords; ++j) {
    const int by = to - shift_of(bits, j);
    kir::Ex v = plane[size_t(plane_of(bits, j))];
    if (by) v = by > 0 ? v << by : v >> -by;
    if (bits < 8) v = b.let(to ? words[size_t(j)] | (v & mask) : v & mask);
    if (to) words[size_t(j)] = v;
    else words.push_back(v);
  }
}

/// The vectors of a plane of `bits` bits that hold bits `from` and up of the words.
inline std::vector<kir::Ex> make_plane(kir::Builder& b, const std::vector<kir::Ex>& words, int bits, int from) {
  const int64_t mask = (int64_t(1 << bits) - 1) * 0x01010101;
  std::vector<kir::Ex> plane(static_cast<size_t>(bits));
  for (int j = 0; j < kPlaneWords; ++j) {
    kir::Ex& to = plane[size_t(plane_of(bits, j))];
    kir::Ex v = words[size_t(j)];
    if (bits < 8) v = (from ? v >> from : v) & mask;
    if (shift_of(bits, j)) v = v << shift_of(bits, j);
    to = b.let(to.node ? to | v : v);
  }
  return plane;
}

}  // namespace prism::codegen
