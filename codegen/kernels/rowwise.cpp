// Chains of row operations: norms, elementwise, softmax, embedding, quantize. Values that are not results live in the thread's
// scratch, in cache, or in the block's shared memory.
#include <algorithm>

#include "codegen/kernels/weights.h"
#include "codegen/pack.h"

namespace prism::codegen {

using namespace kir;
using ir::DType;
using ir::Op;

namespace {

class RowWise {
 public:
  /// Of rows `rows`, the one with number `row`.
  RowWise(Region& r, ir::Dim rows, Ex row) : r_(r), b_(r.b), work_(r.work), rows_(rows), row_(row) {}

  static ir::Dim rows_of(const ir::Value* v) {
    return v->type.rank() == 1 && v->type.dtype == DType::I32 ? v->type.dim(0) : Region::rows_of(v->type);
  }

  Status lower(const ir::Operation& o) {
    const ir::Value* out = o.result();
    switch (o.op) {
      case Op::Positions: return ok();  // read by embedding below
      case Op::Embedding: return embedding(o);
      case Op::Reshape: {
        if (!(rows_of(out) == rows_)) return r_.unsupported(o, "changes the rows");
        if (r_.is_argument(o.operand(0)) && !(rows_of(o.operand(0)) == rows_)) return alias(out, {r_.buffer(o.operand(0)), b_.let(row_ * width(out))});
        PRISM_TRY(Row in, row_of(o.operand(0)));
        return alias(out, in);
      }
      case Op::Slice: {
        PRISM_TRY(Row in, row_of(o.operand(0)));
        if (o.attr<int64_t>("axis") != int64_t(out->type.rank()) - 1) return r_.unsupported(o, "only along the last axis");
        return alias(out, {in.buffer, b_.let(in.at + Ex(o.attr<int64_t>("begin"))), false, in.aligned && o.attr<int64_t>("begin") % 4 == 0});
      }
      case Op::Tail: {
        if (!r_.is_argument(o.operand(0))) return r_.unsupported(o, "its input is computed in the same kernel");
        const Ex first = r_.dim(o.operand(0)->type.dim(0)) - r_.dim(out->type.dim(0));
        return alias(out, {r_.buffer(o.operand(0)), b_.let((first + row_) * width(out))});
      }
      case Op::RmsNorm: case Op::LayerNorm: return norm(o);
      case Op::Softmax: return softmax(o);
      case Op::Hadamard: return hadamard_of(o);
      case Op::Quantize:
        if (ir::info(out->type.dtype).quantized) return quantize(o);
        break;
      case Op::Glu: {
        PRISM_TRY(Row in, row_of(o.operand(0)));
        int64_t group = o.attr<int64_t>("group");
        if (group == 0) group = width(out);
        const Row dst = destination(out);
        work_.over_each(width(out), [&](Ex i) {
          const Ex gate = b_.let(i / group * (2 * group) + i % group);
          put(dst, i, activation(o.attr<std::string>("act"), element(in, gate, 1)) * element(in, gate + group, 1));
        });
        return ok();
      }
      default: break;
    }
    std::vector<Row> in;
    for (const ir::Value* v : o.operands()) {
      PRISM_TRY(Row row, row_of(v));
      in.push_back(row);
    }
    const Row dst = destination(out);
    Status status = ok();
    work_.over(width(out), [&](Ex i, int lanes) {
      std::vector<Ex> e;
      for (const Row& row : in) e.push_back(b_.let(element(row, i, lanes)));
      if (auto y = elementwise(o, e)) put(dst, i, *y);
      else status = r_.unsupported(o, "has no row-wise lowering");
    });
    return status;
  }

  /// Where a value computed here is.
  const Buffer& memory(const ir::Value* v) const { return rows_known_.at(v).buffer; }

 private:
  /// A row of a value: buffer, and the index of its first element.
  struct Row {
    Buffer buffer;
    Ex at;
    bool broadcast = false;  ///< one element for the whole row
    bool aligned = true;     ///< begins at a multiple of 4 elements, if that is what it has
    const ir::Type* tiles = nullptr;  ///< written in tiles: `at` is not used
  };

  static int64_t width(const ir::Value* v) { return *v->type.dim(-1).constant(); }

  Result<Row> row_of(const ir::Value* v) {
    if (auto it = rows_known_.find(v); it != rows_known_.end()) return it->second;
    if (!r_.is_argument(v)) return error("row-wise kernel: %", v->name, " is used before it is computed");
    if (v->type.layout == ir::Layout::Tiles) return error("row-wise kernel: %", v->name, " is ", v->type.str(), ", expected rows");
    const Buffer& buf = r_.buffer(v);
    if (v->type.elements() == 1) return Row{buf, Ex(0), true};
    if (v->type.rank() == 1) return Row{buf, Ex(0)};
    const ir::Dim rows = Region::rows_of(v->type);
    if (rows == ir::Dim(1) && !(rows_ == ir::Dim(1))) return Row{buf, Ex(0)};
    if (!(rows == rows_)) return error("row-wise kernel: %", v->name, " is ", v->type.str(), ", expected ", rows_.str(), " rows");
    return Row{buf, b_.let(row_ * width(v)), width(v) == 1};
  }

  Row destination(const ir::Value* v) {
    Row row;
    if (r_.is_returned(v) && v->type.layout == ir::Layout::Tiles) {
      row = {.buffer = r_.buffer(v), .at = Ex(0), .tiles = &v->type};
    } else if (r_.is_returned(v)) {
      row = {r_.buffer(v), b_.let(row_ * width(v))};
    } else {
      row = {work_.memory(v->name, Region::elem_of(v->type), width(v)), Ex(0)};
    }
    rows_known_[v] = row;
    return row;
  }

  Ex element(const Row& row, Ex i, int lanes) {
    const auto wide = [](Ex v) { return cast(Elem::F32, is_floating(v.ty().elem) ? v : cast(Elem::I32, v)); };
    if (row.broadcast) return splat(wide(b_.load(row.buffer, row.at)), lanes);
    if (!b_.block_threads() || lanes == 1) return wide(b_.load(row.buffer, row.at + i, lanes));
    std::vector<Ex> values;  // GPUs have vectors for loads alone
    const Ex all = row.aligned ? b_.let(b_.load(row.buffer, row.at + i, lanes)) : Ex();
    for (int l = 0; l < lanes; ++l) values.push_back(wide(row.aligned ? lane(all, l) : b_.load(row.buffer, row.at + i + Ex(l))));
    return b_.let(pack(values));
  }

  void put(const Row& dst, Ex i, Ex value) {
    b_.store(dst.buffer, dst.tiles ? element_index(dst.tiles->layout, *dst.tiles->dim(-1).constant(), row_, i) : dst.at + i, cast(dst.buffer.elem, is_floating(dst.buffer.elem) ? value : cast(Elem::I32, value)));
  }

  /// `out` is a view of a row; copied only if it leaves the kernel.
  Status alias(const ir::Value* out, const Row& in) {
    if (!r_.is_returned(out)) {
      rows_known_[out] = in;
      return ok();
    }
    const Row dst = destination(out);
    work_.over(width(out), [&](Ex i, int lanes) { put(dst, i, element(in, i, lanes)); });
    return ok();
  }

  Status norm(const ir::Operation& o) {
    PRISM_TRY(Row x, row_of(o.operand(0)));
    PRISM_TRY(Row w, row_of(o.operand(1)));
    const int64_t n = width(o.result());
    const bool layer = o.op == Op::LayerNorm, biased = o.operands().size() > 2;
    Row bias;
    if (biased) {
      PRISM_TRY(bias, row_of(o.operand(2)));
    }
    const auto value = work_.remember(n, [&](Ex i, int l) { return element(x, i, l); });
    Ex mean = constant({Elem::F32, 1}, 0);
    if (layer) mean = b_.let(work_.reduce(n, Fn::ReduceAdd, value) * Ex(1.0 / double(n)));
    const Ex squares = work_.reduce(n, Fn::ReduceAdd, [&](Ex i, int l) {
      const Ex v = b_.let(layer ? value(i, l) - mean : value(i, l));
      return v * v;
    });
    const Ex scale = b_.let(constant({Elem::F32, 1}, 1.0) / call(Fn::Sqrt, {squares * Ex(1.0 / double(n)) + Ex(o.attr<double>("eps"))}));
    const Row dst = destination(o.result());
    work_.over(n, [&](Ex i, int l) {
      Ex y = (layer ? value(i, l) - mean : value(i, l)) * scale * element(w, i, l);
      if (biased) y = y + element(bias, i, l);
      put(dst, i, y);
    });
    return ok();
  }

  Status softmax(const ir::Operation& o) {
    PRISM_TRY(Row x, row_of(o.operand(0)));
    const int64_t n = width(o.result());
    const Ex top = work_.reduce(n, Fn::ReduceMax, [&](Ex i, int l) { return element(x, i, l); });
    const Row dst = destination(o.result());
    work_.over(n, [&](Ex i, int l) { put(dst, i, call(Fn::Exp, {element(x, i, l) - top})); });
    const Ex sum = work_.reduce(n, Fn::ReduceAdd, [&](Ex i, int l) { return element(dst, i, l); });
    const Ex inverse = b_.let(constant({Elem::F32, 1}, 1.0) / sum);
    work_.over(n, [&](Ex i, int l) { put(dst, i, element(dst, i, l) * inverse); });
    return ok();
  }

  Status quantize(const ir::Operation& o) {
    const ir::Value* out = o.result();
    const bool returned = r_.is_returned(out);
    if (out->type.dtype != DType::Q8A || (!returned && !b_.block_threads())) return r_.unsupported(o, "expected q8a as a result of the kernel");
    PRISM_TRY(Row x, row_of(o.operand(0)));
    const int64_t n = width(out), bytes = n / 32 * ir::info(DType::Q8A).bytes;
    const Row dst = returned ? Row{r_.buffer(out), b_.let(row_ * bytes)} : Row{work_.memory(out->name, Elem::U8, bytes), Ex(0)};
    rows_known_[out] = dst;
    work_.quantize(dst.buffer, dst.at, n, Ex(0), n / 32, [&](Ex i, int lanes) { return element(x, i, lanes); }, q8a_scale(out));
    return ok();
  }

  Status hadamard_of(const ir::Operation& o) {
    const ir::Value* out = o.result();
    const int64_t n = width(out);
    if (out->type.dtype != DType::F32 || (!b_.block_threads() && n % kLanes)) return r_.unsupported(o, "expected f32 rows of a multiple of 16");
    PRISM_TRY(Row x, row_of(o.operand(0)));
    const Row dst = destination(out);
    work_.over(n, [&](Ex i, int lanes) { put(dst, i, element(x, i, lanes)); });
    work_.hadamard(dst.buffer, dst.at, n);
    return ok();
  }

  Status embedding(const ir::Operation& o) {
    const ir::Value *ids = o.operand(0), *table = o.operand(1);
    Ex id;
    if (r_.is_argument(ids)) id = b_.let(cast(Elem::I64, b_.load(r_.buffer(ids), row_)));
    else if (ids->def->op == Op::Positions) {
      PRISM_TRY(const Ex position, r_.position(*ids->def, row_));
      id = b_.let(position);
    } else return r_.unsupported(o, "ids are computed in the same kernel");
    const int64_t d = width(o.result());
    const Row dst = destination(o.result());
    const Buffer& t = r_.buffer(table);
    const bool packed = table->type.layout == ir::Layout::Rows16;
    if (!ir::info(table->type.dtype).quantized) {
      if (packed) work_.over_each(d, [&](Ex i) {
        put(dst, i, cast(Elem::F32, b_.load(t, (id / kLanes * d + i) * kLanes + id % kLanes)));
      });
      else work_.over(d, [&](Ex i, int l) { put(dst, i, cast(Elem::F32, b_.load(t, id * d + i, l))); });
      return ok();
    }
    if (!packed) return r_.unsupported(o, "table " + table->type.str() + " is not packed, expected layout rows16");
    const Ex lane = b_.let(id % kLanes);
    auto store = [&](Ex k, const WeightBlock& w) {
      for (int i = 0; i < 32; ++i) put(dst, k * 32 + i, w.value(i));
    };
    const Ex group = b_.let(id / kLanes);
    if (b_.block_threads()) work_.over_each(d / 32, [&](Ex k) { store(k, weight_block(b_, table->type.dtype, t, group, d, lane, k)); });
    else for_each_block(b_, table->type.dtype, t, group, d, lane, 0, store);
    return ok();
  }

  Region& r_;
  Builder& b_;
  Worker& work_;
  const ir::Dim rows_;
  const Ex row_;
  std::map<const ir::Value*, Row> rows_known_;
};

/// The ops of the region that v is made of, in order.
void collect(const Region& r, const ir::Value* v, std::vector<const ir::Operation*>& ops) {
  if (r.is_argument(v)) return;
  for (const ir::Value* o : v->def->operands()) collect(r, o, ops);
  if (std::find(ops.begin(), ops.end(), v->def) == ops.end()) ops.push_back(v->def);
}

}  // namespace

Result<LoweredKernel> lower_rowwise(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, int block_threads) {
  Region r(op, name, dims, block_threads);
  const ir::Dim rows = RowWise::rows_of(r.body.returns.front());
  for (const ir::Value* v : r.body.returns)
    if (!(RowWise::rows_of(v) == rows))
      return error("kernel: row-wise results have ", rows.str(), " and ", RowWise::rows_of(v).str(), " rows");
  RowWise row(r, rows, r.b.task());
  for (const ir::Operation& o : r.body.ops) PRISM_CHECK(row.lower(o));
  return r.finish(rows);
}

Result<Buffer> row_in_memory(Region& r, const ir::Value* v) {
  std::vector<const ir::Operation*> ops;
  collect(r, v, ops);
  RowWise row(r, ir::Dim(1), Ex(0));
  for (const ir::Operation* o : ops) PRISM_CHECK(row.lower(*o));
  r.b.barrier();
  return row.memory(v);
}

}  // namespace prism::codegen
