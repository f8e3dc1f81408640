#include "runtime/emu/wgmma.h"

#include <cmath>
#include <cstring>

#include "runtime/base/half.h"

namespace prism::rt::emu {

namespace {

constexpr int kRows = 16, kDepth = 16, kMostColumns = 256;
constexpr size_t kChunk = 16, kRowBytes = 128, kAtom = 1024;   // bytes

/// Where half `c` of the 32 bytes of a row is: bits 4-6 of an address trade places by bits 7-9.
size_t chunk_at(size_t matrix, int row, size_t c) {
  const size_t at = matrix + size_t(row) * kRowBytes + c * kChunk;
  return at ^ (at >> 7 & 7) << 4;
}

/// Value (k, row) of a matrix, as doubles so that sums of products are exact enough to be rounded once.
void read(SharedMemory& shared, size_t matrix, int rows, double (*out)[kMostColumns]) {
  for (int row = 0; row < rows; ++row)
    for (size_t c = 0; c < 2; ++c) {
      uint16_t halves[8];
      std::memcpy(halves, shared.data(chunk_at(matrix, row, c)), sizeof halves);
      for (size_t i = 0; i < 8; ++i) out[c * 8 + i][row] = bf16_to_f32(halves[i]);
    }
}

}  // namespace

std::string WarpProducts::issue(SharedMemory& shared, const Product& p, const Access& now, const std::vector<uint32_t>& fenced) {
  if (!fenced_) return "wgmma with no wgmma_fence since its sums could be touched";
  for (auto [matrix, rows] : {std::pair(p.a, kRows), std::pair(p.b, p.n)}) {
    if (matrix % kAtom >= kRowBytes || matrix % (2 * kChunk)) return "a matrix of wgmma at byte " + std::to_string(matrix) + " of shared memory, expected it to begin at a multiple of 1024";
    for (int row = 0; row < rows; ++row)
      for (size_t c = 0; c < 2; ++c)
        if (std::string problem = shared.begin_product(chunk_at(matrix, row, c), kChunk, now, fenced); !problem.empty()) return "wgmma reads shared memory: " + problem;
  }
  const size_t each = size_t(p.n) / 2;
  Held& held = held_[p.sums[0]];
  if (held.under_way++ == 0) {
    held.values.clear();
    for (float* sums : p.sums) {
      held.values.insert(held.values.end(), sums, sums + each);
      std::fill(sums, sums + each, NAN);
    }
  }
  open_.push_back(p);
  return "";
}

void WarpProducts::commit() {
  groups_.push_back(std::move(open_));
  open_.clear();
}

void WarpProducts::wait(SharedMemory& shared, size_t groups, const Access& now) {
  fenced_ = false;
  for (; groups_.size() > groups; groups_.erase(groups_.begin()))
    for (const Product& p : groups_.front()) finish(shared, p, now);
}

void WarpProducts::finish(SharedMemory& shared, const Product& p, const Access& now) {
  static thread_local double a[kDepth][kMostColumns], b[kDepth][kMostColumns], sum[kMostColumns];
  read(shared, p.a, kRows, a);
  read(shared, p.b, p.n, b);
  for (auto [matrix, rows] : {std::pair(p.a, kRows), std::pair(p.b, p.n)})
    for (int row = 0; row < rows; ++row)
      for (size_t c = 0; c < 2; ++c) shared.end_product(chunk_at(matrix, row, c), kChunk, now);
  const size_t each = size_t(p.n) / 2;
  Held& held = held_[p.sums[0]];
  for (int row = 0; row < kRows; ++row) {
    std::fill(sum, sum + p.n, 0.0);
    for (int k = 0; k < kDepth; ++k)
      for (int column = 0; column < p.n; ++column) sum[column] += a[k][row] * b[k][column];
    for (int column = 0; column < p.n; ++column) {  // lane 4g+q has rows g and g+8, columns 2q and 2q+1 of every 8
      const size_t lane = size_t(row % 8 * 4 + column % 8 / 2), i = size_t(column / 8 * 4 + row / 8 * 2 + column % 2);
      float& value = held.values[lane * each + i];
      value = float(value + sum[column]);
    }
  }
  if (--held.under_way > 0) return;
  for (size_t lane = 0; lane < 32; ++lane) std::memcpy(p.sums[lane], held.values.data() + lane * each, each * sizeof(float));
  held_.erase(p.sums[0]);
}

}  // namespace prism::rt::emu
