#include "runtime/work.h"

namespace prism::rt {

Amounts& Amounts::operator+=(const Amounts& a) {
  weights += a.weights;
  kv += a.kv;
  activations += a.activations;
  operations += a.operations;
  return *this;
}

Result<Amounts> amounts_of(const Kernel& k, std::span<const int64_t> dims) {
  Amounts a;
  if (!k.work) return a;
  PRISM_TRY(a.weights, k.work->weights.evaluate(dims));
  PRISM_TRY(a.kv, k.work->kv.evaluate(dims));
  PRISM_TRY(a.activations, k.work->activations.evaluate(dims));
  PRISM_TRY(a.operations, k.work->operations.evaluate(dims));
  return a;
}

Result<Amounts> amounts_of(const Program& p, const EntryPoint& entry, std::span<const int64_t> dims) {
  Amounts sum;
  for (const Launch& l : entry.launches) {
    PRISM_TRY(const Amounts a, amounts_of(p.kernels[l.kernel], dims));
    sum += a;
  }
  return sum;
}

}  // namespace prism::rt
