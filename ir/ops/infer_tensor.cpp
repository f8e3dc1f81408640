// Elementwise, reductions, matrix products, quantization, movement.
#include <algorithm>
#include <set>

#include "ir/ops/infer.h"

namespace prism::ir {

Result<std::string> InferContext::one_of(std::string_view key, std::initializer_list<std::string_view> words) const {
  std::string value = text(key);
  if (llvm::is_contained(words, value)) return value;
  std::string list;
  for (std::string_view w : words) list += (list.empty() ? "" : ", ") + std::string(w);
  return fail("attribute '", key, "' is '", value, "', expected one of ", list);
}

Result<std::vector<int64_t>> InferContext::integers(std::string_view key, size_t count, int64_t least) const {
  auto values = attr<std::vector<int64_t>>(key);
  if (values.size() != count) return fail("attribute '", key, "' has ", values.size(), " elements, expected ", count);
  for (int64_t v : values)
    if (v < least || v > INT32_MAX) return fail("attribute '", key, "' holds ", v, ", expected at least ", least);
  return values;
}

Result<size_t> InferContext::axis_index(size_t rank) const {
  const int64_t axis = integer("axis");
  if (axis < 0 || axis >= int64_t(rank)) return fail("axis is ", axis, ", expected in [0,", rank, ")");
  return size_t(axis);
}

namespace {

DType promote(DType a, DType b) {
  if (a == b) return a;
  return a == DType::F64 || b == DType::F64 ? DType::F64 : DType::F32;
}

Result<DType> dtype_attr(const InferContext& c, std::string_view key) {
  if (auto t = dtype_from_name(c.text(key))) return *t;
  return c.fail("attribute '", key, "' is '", c.text(key), "', expected an element type");
}

/// numpy broadcasting: aligned at the end, equal or 1.
Result<Types> broadcast(InferContext& c) {
  const Type &a = c.type(0), &b = c.type(1);
  const size_t rank = std::max(a.rank(), b.rank());
  Shape shape(rank);
  for (size_t i = 0; i < rank; ++i) {
    const Dim x = i + a.rank() < rank ? Dim(1) : a.shape[i + a.rank() - rank];
    const Dim y = i + b.rank() < rank ? Dim(1) : b.shape[i + b.rank() - rank];
    if (!(x == y) && !(x == Dim(1)) && !(y == Dim(1)))
      return c.fail("operands are ", a.str(), " and ", b.str(), ", expected shapes that broadcast");
    shape[i] = x == Dim(1) ? y : x;
  }
  return Types{Type::tensor(promote(a.dtype, b.dtype), shape)};
}

Dim product(llvm::ArrayRef<Dim> shape) {
  Dim n = 1;
  for (Dim d : shape) n = n * d;
  return n;
}

Result<Shape> shape_attr(const InferContext& c) {
  auto shape = parse_shape(c.text("shape"));
  if (!shape) return c.fail("attribute 'shape': ", shape.message());
  return shape;
}

/// Blocks run along the last axis, so it may be neither moved nor cut.
bool blocked(const Type& t) { return info(t.dtype).quantized; }

}  // namespace

Result<Types> infer_Add(InferContext& c) { return broadcast(c); }
Result<Types> infer_Sub(InferContext& c) { return broadcast(c); }
Result<Types> infer_Mul(InferContext& c) { return broadcast(c); }
Result<Types> infer_Div(InferContext& c) { return broadcast(c); }
Result<Types> infer_Maximum(InferContext& c) { return broadcast(c); }
Result<Types> infer_Minimum(InferContext& c) { return broadcast(c); }

Result<Types> infer_Gelu(InferContext& c) {
  PRISM_CHECK(c.one_of("approximate", {"none", "tanh", "quick"}));
  return Types{c.type(0)};
}

Result<Types> infer_Cast(InferContext& c) {
  PRISM_TRY(DType to, dtype_attr(c, "to"));
  if (info(to).quantized || blocked(c.type(0)))
    return c.fail("found ", c.type(0).str(), " to ", info(to).name, ", expected scalar element types");
  const std::string name = c.attr<std::string>("layout");
  const auto layout = layout_from_name(name);
  if (!layout || (*layout != Layout::RowMajor && *layout != Layout::Tiles)) return c.fail("layout is ", name, ", expected row_major or tiles");
  return Types{Type::tensor(to, c.type(0).shape, *layout)};
}

Result<Types> infer_Reduce(InferContext& c) {
  PRISM_CHECK(c.one_of("kind", {"sum", "mean", "max"}));
  const Type& x = c.type(0);
  std::set<int64_t> axes;
  for (int64_t a : c.attr<std::vector<int64_t>>("axes"))
    if (a < 0 || a >= int64_t(x.rank()) || !axes.insert(a).second)
      return c.fail("axes hold ", a, ", expected distinct axes of ", x.str());
  Shape shape;
  for (size_t i = 0; i < x.rank(); ++i)
    if (!axes.contains(int64_t(i))) shape.push_back(x.shape[i]);
    else if (c.attr<bool>("keep_dims")) shape.push_back(1);
  return Types{Type::tensor(x.dtype, shape)};
}

Result<Types> infer_Linear(InferContext& c) {
  Shape shape = *c.axes.star;
  shape.push_back(c.axis("n"));
  return Types{Type::tensor(DType::F32, shape)};
}

Result<Types> infer_Matmul(InferContext& c) {
  const Type &a = c.type(0), &b = c.type(1);
  const bool transposed = c.attr<bool>("transpose_b");
  Shape expected = *c.axes.star;
  const size_t batch = expected.size();
  if (b.rank() == batch + 2) {
    const Dim n = b.dim(transposed ? -2 : -1);
    expected.append(transposed ? std::initializer_list<Dim>{n, c.axis("k")}
                               : std::initializer_list<Dim>{c.axis("k"), n});
    if (b.shape == expected) {
      Shape shape = *c.axes.star;
      shape.append({c.axis("m"), n});
      return Types{Type::tensor(promote(a.dtype, b.dtype), shape)};
    }
  }
  return c.fail("operands are ", a.str(), " and ", b.str(), ", expected [*,m,k] and ",
                transposed ? "[*,n,k]" : "[*,k,n]");
}

Result<Types> infer_Glu(InferContext& c) {
  PRISM_CHECK(c.one_of("act", {"silu", "gelu", "gelu_tanh", "gelu_quick", "relu", "sigmoid", "tanh"}));
  const Dim n = c.axis("n");
  const int64_t group = c.integer("group");
  if (group < 0 || group > INT32_MAX) return c.fail("group is ", group, ", expected at least 0");
  if (divides(group ? 2 * group : 2, n, c.module.ranges()) != Answer::Yes)
    return c.fail("x is ", c.type(0).str(), ", expected a last axis divisible by ", group ? 2 * group : 2);
  Type t = c.type(0);
  t.shape.back() = Dim::floor_div(n, 2);
  return Types{t};
}

Result<Types> infer_Tail(InferContext& c) {
  auto rows = Dim::parse(c.text("rows"));
  if (!rows) return c.fail("attribute 'rows': ", rows.message());
  Type t = c.type(0);
  if (less_equal(*rows, t.dim(0), c.module.ranges()) == Answer::No)
    return c.fail("rows is ", rows->str(), ", expected at most ", t.dim(0).str());
  t.shape[0] = *rows;
  return Types{t};
}

Result<Types> infer_Quantize(InferContext& c) {
  PRISM_TRY(std::string format, c.one_of("format", {"q8a", "q8_0", "i8", "u8"}));
  const DType dtype = *dtype_from_name(format);
  PRISM_TRY(const std::string scales, c.one_of("scales", {"block", "row", "tensor"}));
  if (scales != "block" && dtype != DType::Q8_0) return c.fail("scales is ", scales, ", expected block for ", format);
  const bool blocks = info(dtype).quantized;
  if (blocks && divides(info(dtype).block, c.axis("d"), c.module.ranges()) != Answer::Yes)
    return c.fail("x is ", c.type(0).str(), ", expected a last axis divisible by ", info(dtype).block);
  if (const double scale = c.attr<double>("scale"); scale != 0 && (dtype == DType::Q8_0 || !(scale > 0) || (blocks && c.attr<int64_t>("zero_point"))))
    return c.fail("scale is ", scale, " and zero_point ", c.attr<int64_t>("zero_point"), ", expected a scale > 0, for q8a no zero_point and for q8_0 neither");
  if (!blocks && !(c.attr<double>("scale") > 0))
    return c.fail("scale is ", c.attr<double>("scale"), ", expected > 0 for ", format);
  return Types{Type::tensor(dtype, c.type(0).shape)};
}

Result<Types> infer_Dequantize(InferContext& c) {
  PRISM_TRY(DType to, dtype_attr(c, "to"));
  const DType from = c.type(0).dtype;
  const bool affine = from == DType::I8 || from == DType::U8;
  if (!is_float(to) || !(affine || blocked(c.type(0))))
    return c.fail("found ", c.type(0).str(), " to ", info(to).name, ", expected a quantized tensor to a float type");
  if (affine && !(c.attr<double>("scale") > 0)) return c.fail("scale is ", c.attr<double>("scale"), ", expected > 0");
  return Types{Type::tensor(to, c.type(0).shape)};
}

Result<Types> infer_Reshape(InferContext& c) {
  const Type& x = c.type(0);
  PRISM_TRY(Shape shape, shape_attr(c));
  const bool same_blocks = !blocked(x) || (!shape.empty() && x.rank() && shape.back() == x.shape.back());
  if (equal(product(x.shape), product(shape), c.module.ranges()) != Answer::Yes || !same_blocks)
    return c.fail("x is ", x.str(), ", expected as many elements as [", shape_str(shape), "]");
  return Types{Type::tensor(x.dtype, shape)};
}

Result<Types> infer_Transpose(InferContext& c) {
  const Type& x = c.type(0);
  PRISM_TRY(auto perm, c.integers("perm", x.rank(), 0));
  Shape shape;
  std::set<int64_t> seen;
  for (int64_t p : perm) {
    if (p >= int64_t(x.rank()) || !seen.insert(p).second)
      return c.fail("perm holds ", p, ", expected a permutation of the ", x.rank(), " axes");
    shape.push_back(x.shape[size_t(p)]);
  }
  if (blocked(x) && !perm.empty() && size_t(perm.back()) + 1 != perm.size())
    return c.fail("x is ", x.str(), ", expected the last axis to stay: it is blocked");
  return Types{Type::tensor(x.dtype, shape)};
}

Result<Types> infer_Slice(InferContext& c) {
  Type t = c.type(0);
  PRISM_TRY(size_t axis, c.axis_index(t.rank()));
  const int64_t begin = c.integer("begin"), end = c.integer("end");
  if (begin < 0 || end < begin || less_equal(end, t.shape[axis], c.module.ranges()) != Answer::Yes)
    return c.fail("range is [", begin, ",", end, "), expected within ", t.shape[axis].str());
  if (blocked(t) && axis + 1 == t.rank() && (begin % info(t.dtype).block || end % info(t.dtype).block))
    return c.fail("range is [", begin, ",", end, "), expected multiples of ", info(t.dtype).block);
  t.shape[axis] = end - begin;
  return Types{t};
}

Result<Types> infer_Concat(InferContext& c) {
  if (c.operands.empty()) return c.fail("found no operands, expected at least 1");
  Type t = c.type(0);
  PRISM_TRY(size_t axis, c.axis_index(t.rank()));
  for (unsigned i = 1; i < c.operands.size(); ++i) {
    const Type& x = c.type(i);
    Type expected = t;
    if (x.rank() == t.rank()) expected.shape[axis] = x.shape[axis];
    if (!(x == expected))
      return c.fail("operand ", i, " is ", x.str(), ", expected ", expected.str(), " but for axis ", axis);
    t.shape[axis] = t.shape[axis] + x.shape[axis];
  }
  return Types{t};
}

Result<Types> infer_Constant(InferContext& c) {
  PRISM_TRY(DType dtype, dtype_attr(c, "dtype"));
  if (info(dtype).quantized) return c.fail("dtype is ", info(dtype).name, ", expected a scalar element type");
  PRISM_TRY(Shape shape, shape_attr(c));
  const Type t = Type::tensor(dtype, shape);
  const size_t count = c.attr<std::vector<double>>("values").size();
  if (t.elements() != int64_t(count)) return c.fail("found ", count, " values, expected ", t.str());
  return Types{t};
}

Result<Types> infer_Kernel(InferContext& c) {
  return c.fail("its result types come from its body: build it with Graph::insert");
}

}  // namespace prism::ir
