// The op hadamard in memory: first inside vectors of 16, by the matrix, then between vectors, by butterflies.
#include "ir/hadamard.h"

#include <bit>

#include "codegen/kernels/region.h"

namespace prism::codegen {

using namespace kir;

namespace {

constexpr size_t kMostVectors = 16;  // of a butterfly's vectors, that registers hold

/// Butterflies between vectors that are `apart` vectors from each other, of `count` of them, beginning at `from`.
void butterflies(Builder& b, const Buffer& x, Ex from, size_t count, int64_t apart) {
  std::vector<Ex> all;
  for (size_t v = 0; v < count; ++v) all.push_back(b.let(b.load(x, from + Ex(int64_t(v) * apart * kLanes), kLanes)));
  for (size_t half = 1; half < count; half *= 2)
    for (size_t v = 0; v < count; ++v) {
      if (v & half) continue;
      const Ex sum = b.let(all[v] + all[v + half]), difference = b.let(all[v] - all[v + half]);
      all[v] = sum;
      all[v + half] = difference;
    }
  for (size_t v = 0; v < count; ++v) b.store(x, from + Ex(int64_t(v) * apart * kLanes), all[v]);
}

}  // namespace

void hadamard(Builder& b, const Buffer& x, Ex at, int64_t d) {
  const int64_t block = ir::hadamard_block(d), vectors = block / kLanes;
  std::vector<float> matrix;
  for (unsigned i = 0; i < kLanes; ++i)
    for (unsigned j = 0; j < kLanes; ++j) matrix.push_back(float((std::popcount(i & j) % 2 ? -1 : 1) / std::sqrt(double(block))));
  const Buffer rows = b.table("hadamard", matrix);
  b.for_(0, d / kLanes, 1, [&](Ex v) {
    const Ex from = b.let(at + v * kLanes), sum = b.var(constant({Elem::F32, kLanes}, 0));
    for (int j = 0; j < kLanes; ++j) b.assign(sum, fma(b.load(rows, Ex(j * kLanes), kLanes), b.load(x, from + Ex(j)), sum));
    b.store(x, from, sum);
  });
  const size_t near = std::min(size_t(vectors), kMostVectors);
  b.for_(0, d / (int64_t(near) * kLanes), 1, [&](Ex i) { butterflies(b, x, b.let(at + i * (int64_t(near) * kLanes)), near, 1); });
  if (size_t(vectors) > near)
    b.for_(0, d / block, 1, [&](Ex i) {
      b.for_(0, int64_t(near), 1, [&](Ex v) { butterflies(b, x, b.let(at + i * block + v * kLanes), size_t(vectors) / near, int64_t(near)); });
    });
}

}  // namespace prism::codegen
