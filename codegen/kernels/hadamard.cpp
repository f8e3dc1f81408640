// The op hadamard in memory: first inside vectors of 16, by the matrix, then between vectors, by butterflies.
#include <bit>
#include <cmath>

#include "codegen/kernels/region.h"

namespace prism::codegen {

using namespace kir;

void hadamard(Builder& b, const Buffer& x, Ex at, int64_t d) {
  const int64_t block = d & -d, vectors = d / kLanes;
  std::vector<float> matrix;
  for (unsigned i = 0; i < kLanes; ++i)
    for (unsigned j = 0; j < kLanes; ++j) matrix.push_back(float((std::popcount(i & j) % 2 ? -1 : 1) / std::sqrt(double(block))));
  const Buffer rows = b.table("hadamard", matrix);
  b.for_(0, vectors, 1, [&](Ex v) {
    const Ex from = b.let(at + v * kLanes), sum = b.var(constant({Elem::F32, kLanes}, 0));
    for (int j = 0; j < kLanes; ++j) b.assign(sum, fma(b.load(rows, Ex(j * kLanes), kLanes), b.load(x, from + Ex(j)), sum));
    b.store(x, from, sum);
  });
  std::vector<Ex> all;
  for (int64_t v = 0; v < vectors; ++v) all.push_back(b.let(b.load(x, at + Ex(v * kLanes), kLanes)));
  for (size_t half = 1; half < size_t(block / kLanes); half *= 2)
    for (size_t v = 0; v < size_t(vectors); ++v) {
      if (v & half) continue;
      const Ex sum = b.let(all[v] + all[v + half]), difference = b.let(all[v] - all[v + half]);
      all[v] = sum;
      all[v + half] = difference;
    }
  for (int64_t v = 0; v < vectors; ++v) b.store(x, at + Ex(v * kLanes), all[size_t(v)]);
}

}  // namespace prism::codegen
