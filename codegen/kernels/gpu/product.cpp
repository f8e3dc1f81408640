#include "codegen/kernels/gpu/product.h"

namespace prism::codegen {

using namespace kir;

namespace {

constexpr int64_t kDepth = 16;   ///< k of the tiles in shared memory
constexpr int64_t kEach = 4;     ///< rows and columns of a thread

}  // namespace

int64_t Product::tile() const {
  constexpr int64_t kEnoughBlocks = 264;  // two for each multiprocessor of the largest GPUs
  const auto blocks = [&] {
    int64_t count = 1;
    for (ir::Dim d : {batch, ceil_div(m, 64), ceil_div(n, 64)}) count *= std::min<int64_t>(d.constant().value_or(1), kEnoughBlocks);
    return count;
  };
  return blocks() >= kEnoughBlocks ? 64 : 32;
}

Status Product::emit(Region& r) const {
  Builder& kb = r.b;
  const int64_t edge = tile(), stride = edge + kEach, per_row = edge / kEach;
  const Buffer at = kb.shared("a", Elem::F32, kDepth * stride), bt = kb.shared("b", Elem::F32, kDepth * stride);  // [k][row], [k][column]
  const Ex thread = kb.thread(), rows = r.dim(m), columns = r.dim(n), depth = r.dim(k);
  const Ex tiles_n = r.dim(ceil_div(n, edge)), tiles_m = r.dim(ceil_div(m, edge));
  const Ex column0 = kb.let(kb.task() % tiles_n * edge), row0 = kb.let(kb.task() / tiles_n % tiles_m * edge);
  const Ex item = kb.let(kb.task() / (tiles_n * tiles_m));
  const Ex my_column = kb.let(thread % per_row * kEach), my_row = kb.let(thread / per_row * kEach);

  Ex sums[kEach][kEach];
  for (auto& row : sums)
    for (Ex& sum : row) sum = kb.var(Ex(0.0));
  Status status = ok();
  const auto keep = [&](const Status& s) {
    if (status) status = s;
  };
  /// Each thread brings some elements of an operand's tile; zeros outside the operand.
  const auto fill = [&](const Buffer& to, Ex k0, Ex first, Ex end, bool along_k, const std::function<Result<Ex>(Ex i, Ex k)>& load) {
    for (int64_t e = 0; e < edge * kDepth; e += threads(edge)) {
      const Ex mine = kb.let(thread + Ex(e));
      const Ex i = kb.let(along_k ? mine / kDepth : mine % edge), kk = kb.let(along_k ? mine % kDepth : mine / edge);
      const Ex value = kb.var(Ex(0.0)), index = kb.let(first + i), at_k = kb.let(k0 + kk);
      kb.if_((index < end) & (at_k < depth), [&] {
        auto x = load(index, at_k);
        if (x) kb.assign(value, *x);
        else keep(x.err());
      });
      kb.store(to, kk * stride + i, value);
    }
  };
  kb.for_(integer(0), depth, kDepth, [&](Ex k0) {
    kb.barrier();  // the tiles before have been used
    fill(at, k0, row0, rows, true, [&](Ex row, Ex kk) { return a(item, row, kk); });
    fill(bt, k0, column0, columns, b_along_k, [&](Ex column, Ex kk) { return b(item, kk, column); });
    kb.barrier();
    kb.for_(integer(0), integer(kDepth), 1, [&](Ex kk) {
      const Ex x = kb.let(kb.load(at, kk * stride + my_row, kEach)), y = kb.let(kb.load(bt, kk * stride + my_column, kEach));
      for (int i = 0; i < kEach; ++i)
        for (int j = 0; j < kEach; ++j) kb.assign(sums[i][j], fma(lane(x, i), lane(y, j), sums[i][j]));
    });
  });
  for (int i = 0; i < kEach; ++i)
    for (int j = 0; j < kEach; ++j) {
      const Ex row = kb.let(row0 + my_row + i), column = kb.let(column0 + my_column + j);
      kb.if_((row < rows) & (column < columns), [&] { keep(store(item, row, column, sums[i][j])); });
    }
  return status;
}

}  // namespace prism::codegen
