// Sums, means and maxima over axes: by one thread where neighbouring results have neighbouring elements, else by a block.
#include <cmath>

#include "codegen/kernels/gpu/elements.h"
#include "codegen/kernels/gpu/gpu.h"

namespace prism::codegen {

using namespace kir;

namespace {

/// An operand's axes, those reduced and the others.
struct Axes {
  explicit Axes(const ir::Operation& op) : shape(op.operand(0)->type.shape), reduced(shape.size()) {
    for (int64_t a : op.attr<std::vector<int64_t>>("axes")) reduced[size_t(a)] = true;
    for (size_t i = 0; i < shape.size(); ++i) (reduced[i] ? over : kept).push_back(shape[i]);
  }
  /// Coordinates in the operand.
  std::vector<Ex> at(const std::vector<Ex>& in_kept, const std::vector<Ex>& in_over) const {
    std::vector<Ex> all;
    size_t k = 0, o = 0;
    for (bool is_reduced : reduced) all.push_back(is_reduced ? in_over[o++] : in_kept[k++]);
    return all;
  }
  ir::Shape shape, kept, over;
  std::vector<bool> reduced;
};

struct Kind {
  explicit Kind(const ir::Operation& op) : name(op.attr<std::string>("kind")) {}
  bool is_max() const { return name == "max"; }
  Ex start() const { return constant({Elem::F32, 1}, is_max() ? -INFINITY : 0); }
  Ex join(Ex a, Ex b) const { return is_max() ? max(a, b) : a + b; }
  Ex finish(Ex all, Ex count) const { return name == "mean" ? all / cast(Elem::F32, count) : all; }
  std::string name;
};

}  // namespace

Result<Ex> Elements::reduce(const ir::Operation& op, const Place& p) {
  const Axes axes(op);
  const Kind kind(op);
  const Ex count = r_.dim(elements_of(axes.over)), all = b_.var(kind.start());
  const std::vector<Ex> kept = coordinates(axes.kept, p.flat);
  PRISM_CHECK(for_(count, [&](Ex i) -> Status {
    PRISM_TRY(Ex x, value(op.operand(0), place(axes.shape, axes.at(kept, coordinates(axes.over, i)))));
    b_.assign(all, kind.join(all, x));
    return ok();
  }));
  return kind.finish(all, count);
}

Result<LoweredKernel> lower_gpu_reduce(const ir::Operation& op, const ir::Operation& reduce, const std::string& name, const std::vector<std::string>& dims) {
  const Axes axes(reduce);
  const Kind kind(reduce);
  constexpr int64_t kFew = 32;
  const bool few = elements_of(axes.over).constant().value_or(INT64_MAX) <= kFew;
  if (few || !axes.reduced.back()) return lower_gpu_elements(op, name, dims);

  constexpr int kThreads = 256, kWarps = kThreads / 32;
  Region r(op, name, dims, kThreads);
  Elements elements(r);
  Builder& b = r.b;
  const Buffer partial = b.shared("partial", Elem::F32, kWarps);
  const Ex count = r.dim(elements_of(axes.over)), mine = b.var(kind.start());
  const std::vector<Ex> kept = elements.coordinates(axes.kept, b.task());
  Status status = ok();
  b.for_(b.thread(), count, kThreads, [&](Ex i) {
    auto x = elements.value(reduce.operand(0), elements.place(axes.shape, axes.at(kept, elements.coordinates(axes.over, i))));
    if (x) b.assign(mine, kind.join(mine, *x));
    else status = x.err();
  });
  PRISM_CHECK(status);
  const Ex of_warp = warp_reduce(b, kind.is_max() ? Fn::ReduceMax : Fn::ReduceAdd, mine);
  b.if_(b.thread() % 32 == Ex(0), [&] { b.store(partial, b.thread() / 32, of_warp); });
  b.barrier();
  b.if_(b.thread() == Ex(0), [&] {
    Ex all = b.load(partial, 0);
    for (int w = 1; w < kWarps; ++w) all = kind.join(all, b.let(b.load(partial, w)));
    const ir::Shape& shape = reduce.result()->type.shape;
    status = elements.store(elements.place(shape, b.task()), reduce.result(), b.let(kind.finish(all, count)));
  });
  PRISM_CHECK(status);
  return r.finish(elements_of(axes.kept));
}

}  // namespace prism::codegen
