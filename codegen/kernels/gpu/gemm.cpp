// y = x w^T for many rows: a block computes a tile of outputs from tiles of x and w that go through shared memory, 64 columns
// a step, a few steps ahead of the products. Weights that are not bf16 become it on the way.
//
// Tasks that have the same weights follow each other, so that these come from memory once.
#include "codegen/kernels/gpu/epilogue.h"
#include "codegen/kernels/gpu/gemm_products.h"
#include "codegen/kernels/gpu/gpu.h"

namespace prism::codegen {

using namespace kir;
using ir::DType;
using ir::Op;

namespace {

struct Shape {
  const ir::Operation* linear = nullptr;
  int64_t n = 0, k = 0;
  Tile tile;
};

/// Small ones where there is little to compute, or where converting needs the registers.
Tile tile_for(DType weights, int64_t n, ir::Dim rows, const GpuTarget& target) {
  const auto m = rows.constant();
  const bool small = n <= 64 || (m && *m <= 64);
  if (weights == DType::F32 || (small && !target.wgmma)) return {64, 64, 32, 32, 3};
  if (target.wgmma) {
    if (small) return {64, 64, 64, 64, 4};
    if (n <= 1024 || weights == DType::F16) return {128, 128, 64, 128, 4};
    return {128, 256, 64, 256, 4};
  }
  if (weights == DType::F16) return {128, 64, 64, 32, 3};
  if (ir::info(weights).quantized) return {128, 128, 64, 32, 3};
  return {128, 128, 64, 64, 3};
}

Result<Shape> shape_of(const ir::Operation& op, const std::string& name, const GpuTarget& target) {
  Shape s;
  for (const ir::Operation& o : op.body->ops) {
    if (o.op != Op::Linear) continue;
    if (s.linear) return error("kernel ", name, ": two linears in one kernel");
    s.linear = &o;
  }
  const ir::Type &x = s.linear->operand(0)->type, &w = s.linear->operand(1)->type;
  s.n = *w.dim(0).constant();
  s.k = *w.dim(1).constant();
  const bool packed = w.layout == ir::Layout::Rows16;
  if (x.layout != ir::Layout::RowMajor || s.k % 32 || packed != ir::info(w.dtype).quantized || s.linear->operand(0)->kind != ir::Value::Kind::Argument)
    return error("kernel ", name, ": linear of ", x.str(), " and ", w.str(), " has no lowering; expected row-major bf16 of a multiple of 32 columns with floats or rows16");
  s.tile = tile_for(w.dtype, s.n, Region::rows_of(x), target);
  return s;
}

class Gemm {
 public:
  Gemm(const ir::Operation& op, const Shape& s, const std::string& name, const std::vector<std::string>& dims)
      : s_(s), t_(s.tile), r_(op, name, dims, s.tile.threads()), b_(r_.b), epilogue_(r_, *s.linear), x_(r_.buffer(s.linear->operand(0))),
        x_tile_(b_.shared("x_tile", Elem::BF16, t_.stages * t_.rows * kStepColumns)),
        w_tile_(b_.shared("w_tile", Elem::BF16, t_.stages * t_.columns * kStepColumns)) {}

  Result<LoweredKernel> run() {
    const ir::Dim rows = Region::rows_of(s_.linear->operand(0)->type);
    if (t_.columns % epilogue_.column_unit()) return r_.unsupported(*s_.linear, "its epilogue needs tiles of a multiple of " + std::to_string(epilogue_.column_unit()) + " columns");
    const ir::Dim down = ir::Dim::floor_div(rows + ir::Dim(t_.rows - 1), t_.rows);
    const int64_t across = (s_.n + t_.columns - 1) / t_.columns;
    m_ = b_.let(cast(Elem::I32, r_.dim(rows)));
    const Ex tiles_down = b_.let(cast(Elem::I32, r_.dim(down)));
    t0_ = b_.let(b_.task() % tiles_down * t_.rows);
    const Ex n0 = b_.let(b_.task() / tiles_down * t_.columns);
    const ir::Value* w = s_.linear->operand(1);
    weights_ = weight_tile(b_, w->type, r_.buffer(w), w_tile_, t_, n0);
    const auto products = tile_products(b_, t_, x_tile_, w_tile_);
    steps(*products);
    products->finish();
    b_.barrier();
    const int64_t stride = t_.columns + 8;   // 8 more, for the banks of the fragments' rows
    const Buffer y = b_.overlay("y", Elem::F32, t_.rows * stride, x_tile_);
    products->store(y, stride);
    b_.barrier();
    PRISM_CHECK(epilogue_.emit(y, stride, t0_, b_.let(min(Ex(t_.rows), m_ - t0_)), n0, t_.columns));
    return r_.finish(down * ir::Dim(across));
  }

 private:
  using Fetched = std::vector<std::vector<Ex>>;   // by piece

  /// Step s is multiplied in stage s % stages while copies of the steps after it are under way, the last of them to the stage
  /// whose products ended last.
  void steps(Products& products) {
    const int64_t count = (s_.k + kStepColumns - 1) / kStepColumns;
    const int ahead = t_.stages - 1 - products.lag();
    const bool copied = weights_->pieces() == 0;
    auto x_stage = [&](Ex step) { return b_.let(step % t_.stages * (t_.rows * kStepColumns)); };
    auto w_stage = [&](Ex step) { return b_.let(step % t_.stages * (t_.columns * kStepColumns)); };
    const ChunkedRows mine(b_, t_.rows);
    const Ex row = b_.let(t0_ + mine.row), from = b_.let(cast(Elem::I64, row) * s_.k + cast(Elem::I64, mine.chunk * kChunk));

    // Weights do not depend on the kernels before.
    for (int64_t s = 0; s < std::min<int64_t>(ahead, count); ++s) {
      if (copied) weights_->copy(Ex(s), w_stage(Ex(s)));
      else place(fetch(Ex(s)), w_stage(Ex(s)));
    }
    Fetched next;
    if (!copied)
      for (const auto& piece : fetch(Ex(std::min<int64_t>(ahead, count - 1)))) {
        next.emplace_back();
        for (const Ex& e : piece) next.back().push_back(b_.var(e));
      }
    b_.grid_wait();
    for (int64_t s = 0; s < ahead; ++s) {
      if (s < count) copy_x(mine, row, from, Ex(s), x_stage(Ex(s)));
      b_.async_commit();
    }

    b_.for_(constant({Elem::I32, 1}, 0), Ex(count), 1, [&](Ex step) {
      const Ex later = b_.let(step + Ex(ahead)), to = w_stage(later);
      b_.async_wait(ahead - 1);
      products.publish();
      b_.barrier();
      b_.if_(later < Ex(count), [&] {
        copy_x(mine, row, from, later, x_stage(later));
        if (copied) weights_->copy(later, to);
      });
      b_.async_commit();
      weights_->wait(step);
      Fetched now;
      if (!copied) {
        for (const auto& piece : next) {
          now.emplace_back();
          for (const Ex& e : piece) now.back().push_back(b_.var(e));
        }
        const Fetched after = fetch(b_.let(min(later + Ex(1), Ex(count - 1))));
        for (size_t p = 0; p < next.size(); ++p)
          for (size_t i = 0; i < next[p].size(); ++i) b_.assign(next[p][i], after[p][i]);
      }
      products.multiply(x_stage(step), w_stage(step), [&](int part, int parts) {
        for (int p = 0; p < int(now.size()); ++p)
          if (p * parts / int(now.size()) == part) weights_->place(now[size_t(p)], p, to);
      });
    }, 1);
  }

  Fetched fetch(Ex step) {
    Fetched pieces;
    for (int p = 0; p < weights_->pieces(); ++p) pieces.push_back(weights_->fetch(step, p));
    return pieces;
  }

  void place(const Fetched& fetched, Ex to) {
    for (int p = 0; p < weights_->pieces(); ++p) weights_->place(fetched[size_t(p)], p, to);
  }

  /// Rows past the last and columns past the last become zeros.
  void copy_x(const ChunkedRows& mine, Ex row, Ex from, Ex step, Ex to) {
    const Ex column = b_.let(step * kStepColumns);
    Ex columns = constant({Elem::I32, 1}, 16);
    if (s_.k % kStepColumns) columns = b_.let(select(column + mine.chunk * kChunk < Ex(s_.k), Ex(16), Ex(0)));
    for (int i = 0; i < mine.pieces; ++i) {
      const int64_t rows = i * mine.rows_apart;
      b_.async_copy(x_tile_, to + mine.place + Ex(rows * kStepColumns), x_, from + cast(Elem::I64, column) + Ex(rows * s_.k),
                    select(row + Ex(rows) < m_, columns, Ex(0)));
    }
  }

  const Shape s_;
  const Tile t_;
  Region r_;
  Builder& b_;
  Epilogue epilogue_;
  const Buffer& x_;
  const Buffer x_tile_, w_tile_;   ///< [stage][row][64 columns], swizzled
  std::unique_ptr<WeightTile> weights_;
  Ex m_, t0_;
};

}  // namespace

Result<LoweredKernel> lower_gpu_gemm(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, const GpuTarget& target) {
  PRISM_TRY(const Shape s, shape_of(op, name, target));
  return Gemm(op, s, name, dims).run();
}

}  // namespace prism::codegen
