#include "ir/eval.h"

#include <algorithm>
#include <cstring>

#include "ir/hadamard.h"
#include "ir/op_info.h"
#include "ir/ops/eval_util.h"
#include "runtime/base/checked.h"

namespace prism::ir {
namespace {

constexpr uint64_t kMaxElements = uint64_t{1} << 34;  // 64 GiB of floats: a symbol gone wrong, not a model

using Symbols = std::map<std::string, int64_t, std::less<>>;

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? "," : "") + std::to_string(shape[i]);
  return out + "]";
}

bool holds_floats(const Type& t) { return is_float(t.dtype) || info(t.dtype).quantized; }

Result<std::vector<int64_t>> concrete_shape(const Type& type, const Dim::Env& env, const std::string& what) {
  std::vector<int64_t> shape;
  uint64_t elements = type.is_kv() ? 2 : 1;
  for (Dim d : type.shape) {
    const auto n = d.evaluate(env);
    if (!n) return error(what, ": dim ", d.str(), " has no value; give its symbols in `dims`");
    const auto product = *n < 0 ? std::nullopt : checked_mul(elements, uint64_t(*n));
    if (!product || *product > kMaxElements) {
      return error(what, ": dim ", d.str(), " is ", *n, ", expected 0 or more and at most ", kMaxElements, " elements");
    }
    elements = *product;
    shape.push_back(*n);
  }
  return shape;
}

Tensor allocate(const Type& type, std::vector<int64_t> shape) {
  Tensor t;
  t.shape = std::move(shape);
  const size_t n = size_t(t.elements()) * (type.is_kv() ? 2 : 1);
  if (holds_floats(type)) {
    t.f.resize(n);
  } else {
    t.i.resize(n);
  }
  return t;
}

Status evaluate(EvalContext& c) {
  switch (c.op.op) {
#define OP(id, Name, mnemonic, signature, attrs, traits, from, to, tolerance) \
  case Op::Name:                                                             \
    return eval_##Name(c);
#include "ir/ops.def"
  }
  return error("evaluator: unknown op id ", int(c.op.op));
}

template <class Int>
std::vector<int64_t> read_ints(const void* data, size_t n) {
  std::vector<int64_t> out(n);
  for (size_t i = 0; i < n; ++i) {
    Int value;
    std::memcpy(&value, static_cast<const char*>(data) + i * sizeof(Int), sizeof(Int));
    out[i] = int64_t(value);
  }
  return out;
}

/// What weight `w` has of a source with values `t`.
void convert(const Weight& source, const Weight& w, Tensor& t) {
  const Rows rows = rows_of(t);
  if (w.conversion.hadamard)
    for (int64_t r = 0; r < rows.count; ++r) hadamard_row(&t.f[size_t(r * rows.size)], &t.f[size_t(r * rows.size)], rows.size);
  if (source.value.type.dtype != w.value.type.dtype || w.conversion.hadamard) round_rows(w.value.type.dtype, t.f.data(), rows.count, rows.size, w.conversion.scales);
}

/// The values of a weight, from its bytes or from the weights it is made of.
Result<Tensor> read_weight(const Module& module, const Weight& w) {
  const Type& type = w.value.type;
  const std::string what = "weight @" + w.value.name;
  PRISM_TRY(auto shape, concrete_shape(type, [](std::string_view) { return std::nullopt; }, what));
  Tensor t = allocate(type, shape);
  if (!w.sources.empty()) {
    std::vector<Tensor> parts;
    int64_t rows = 0;
    const int64_t row_size = product(shape, 1, shape.size());
    for (const std::string& name : w.sources) {
      const Weight* source = module.weight(name);
      if (!source) return error(what, ": its source @", name, " is not in the module");
      PRISM_TRY(Tensor part, read_weight(module, *source));
      if (part.shape.size() != shape.size() || product(part.shape, 1, shape.size()) != row_size) {
        return error(what, ": source @", name, " is ", shape_text(part.shape), ", expected rows of ", row_size);
      }
      rows += part.shape[0];
      convert(*source, w, part);
      parts.push_back(std::move(part));
    }
    if (rows != shape[0]) return error(what, ": its sources have ", rows, " rows, expected ", shape[0]);
    const int64_t group = w.interleave ? w.interleave : rows;
    std::vector<int64_t> next(parts.size());
    auto out = t.f.begin();
    for (int64_t done = 0; done < rows;) {  // a group of rows from each part in turn
      for (size_t p = 0; p < parts.size(); ++p) {
        const int64_t n = std::min(group, parts[p].shape[0] - next[p]);
        const auto begin = parts[p].f.begin() + next[p] * row_size;
        out = std::copy(begin, begin + n * row_size, out);
        next[p] += n;
        done += n;
      }
    }
    return t;
  }
  if (!w.values.empty()) {
    t.f.assign(w.values.begin(), w.values.end());
    return t;
  }
  if (!w.data) return error(what, " has no data");
  const DTypeInfo& format = info(type.dtype);
  const size_t n = size_t(t.elements());
  if (w.bytes != n / format.block * format.bytes) {
    return error(what, " has ", w.bytes, " bytes, expected ", n / format.block * format.bytes, " for ", type.str());
  }
  switch (type.dtype) {
    case DType::I8: t.i = read_ints<int8_t>(w.data, n); break;
    case DType::U8: t.i = read_ints<uint8_t>(w.data, n); break;
    case DType::I16: t.i = read_ints<int16_t>(w.data, n); break;
    case DType::I32: t.i = read_ints<int32_t>(w.data, n); break;
    case DType::I64: t.i = read_ints<int64_t>(w.data, n); break;
    default: dequantize_row(type.dtype, w.data, t.f.data(), n);
  }
  return t;
}

/// Runs one graph (or a kernel's body): its arguments' values in, its results out.
class GraphRun {
 public:
  GraphRun(Evaluator& evaluator, const Graph& g, const Dim::Env& env) : evaluator_(evaluator), graph_(g), env_(env) {}

  Result<std::vector<Tensor>> run(const std::vector<const Tensor*>& args) {
    for (size_t i = 0; i < graph_.args.size(); ++i) borrowed_[graph_.args[i].get()] = args[i];
    for (const Operation& op : graph_.ops) PRISM_CHECK(step(op));
    std::vector<Tensor> results;
    for (const Value* v : graph_.returns) {
      PRISM_TRY(const Tensor* t, value(v));
      results.push_back(*t);
    }
    return results;
  }

 private:
  Result<const Tensor*> value(const Value* v) {
    if (v->is_weight()) return evaluator_.weight(v);
    if (auto it = borrowed_.find(v); it != borrowed_.end()) return it->second;
    if (auto it = owned_.find(v); it != owned_.end()) return const_cast<const Tensor*>(&it->second);
    return error("%", v->name, " is used before it is computed");
  }

  Status step(const Operation& op) {
    const std::string what = std::string(info(op.op).mnemonic) + (op.results.empty() ? "" : " %" + op.result()->name);
    auto run_body = [this](const Graph& body, const std::vector<const Tensor*>& args) {
      return GraphRun(evaluator_, body, env_).run(args);
    };
    EvalContext c{op, {}, {}, env_, evaluator_, run_body};
    for (const Value* v : op.operands()) {
      PRISM_TRY(const Tensor* t, value(v));
      c.in.push_back(t);
    }
    for (const auto& result : op.results) {
      PRISM_TRY(auto shape, concrete_shape(result->type, env_, what));
      c.out.push_back(allocate(result->type, std::move(shape)));
    }
    if (auto status = evaluate(c); !status) return error(what, ": ", status.message());
    for (size_t i = 0; i < op.results.size(); ++i) {
      const Type& type = op.results[i]->type;
      if (!type.is_kv() && is_float(type.dtype)) {
        const Rows rows = rows_of(c.out[i]);
        round_rows(type.dtype, c.out[i].f.data(), rows.count, rows.size);
      }
    }
    if (evaluator_.observe) evaluator_.observe(op, c.in, c.out);
    for (size_t i = 0; i < op.results.size(); ++i) owned_[op.results[i].get()] = std::move(c.out[i]);
    for (const Value* v : op.operands()) release(v);
    return ok();
  }

  /// Frees a result after its last use.
  void release(const Value* v) {
    if (v->kind != Value::Kind::Result || graph_.returned(v)) return;
    if (++used_[v] == v->uses.size()) owned_.erase(v);
  }

  Evaluator& evaluator_;
  const Graph& graph_;
  const Dim::Env& env_;
  std::map<const Value*, const Tensor*> borrowed_;
  std::map<const Value*, Tensor> owned_;
  std::map<const Value*, size_t> used_;
};

}  // namespace

bool round_rows(DType t, float* values, int64_t count, int64_t size, Scales scales) {
  if (t == DType::F32 || t == DType::F64) return true;  // held as f32
  const DTypeInfo& format = info(t);
  if (size % format.block != 0) return false;
  std::vector<uint8_t> row(size_t(size) / format.block * format.bytes);
  const float all = scales == Scales::Tensor ? largest_magnitude(values, size_t(count * size)) : 0;
  for (int64_t r = 0; r < count; ++r, values += size) {
    if (!quantize_row(t, values, row.data(), size_t(size), scales == Scales::Row ? largest_magnitude(values, size_t(size)) : all)) return false;
    dequantize_row(t, row.data(), values, size_t(size));
  }
  return true;
}

int64_t Tensor::elements() const { return product(shape, 0, shape.size()); }

Result<const Tensor*> Evaluator::weight(const Value* v) {
  auto it = weights_.find(v);
  if (it == weights_.end()) {
    const Weight* w = module_.weight_of(v);
    if (!w) return error("weight @", v->name, " is not in the module");
    PRISM_TRY(Tensor t, read_weight(module_, *w));
    it = weights_.emplace(v, std::move(t)).first;
  }
  return const_cast<const Tensor*>(&it->second);
}

Result<std::vector<Tensor>> Evaluator::run(const Graph& g, const std::map<std::string, Tensor>& inputs,
                                           const std::map<std::string, int64_t>& dims) {
  Symbols symbols(dims.begin(), dims.end());
  const auto name = [&](const Value& arg) { return "@" + g.name + " argument %" + arg.name; };
  for (const auto& arg : g.args) {
    const auto it = inputs.find(arg->name);
    if (it == inputs.end()) {
      if (!arg->type.is_kv()) return error(name(*arg), " is not given");
      continue;
    }
    const auto& shape = it->second.shape;
    if (shape.size() != arg->type.rank()) {
      return error(name(*arg), ": found ", shape_text(shape), ", expected ", arg->type.str());
    }
    for (size_t i = 0; i < shape.size(); ++i)
      if (auto symbol = arg->type.shape[i].as_symbol()) symbols.emplace(*symbol, shape[i]);
  }
  for (const auto& arg : g.args) {  // absent caches are empty
    if (!arg->type.is_kv() || inputs.count(arg->name)) continue;
    if (auto symbol = arg->type.shape[0].as_symbol()) symbols.emplace(*symbol, 0);
  }
  for (const auto& [symbol, value] : symbols) {
    const auto range = module_.dims.find(symbol);
    if (range != module_.dims.end() && (value < range->second.lo || value > range->second.hi)) {
      return error("@", g.name, ": ?", symbol, " is ", value, ", expected ", range->second.lo, " to ",
                   range->second.hi);
    }
  }
  const Dim::Env env = [&](std::string_view symbol) -> std::optional<int64_t> {
    const auto it = symbols.find(symbol);
    return it == symbols.end() ? std::nullopt : std::optional(it->second);
  };

  std::vector<Tensor> empty;  // the absent caches
  empty.reserve(g.args.size());
  std::vector<const Tensor*> args;
  for (const auto& arg : g.args) {
    PRISM_TRY(auto expected, concrete_shape(arg->type, env, name(*arg)));
    const auto it = inputs.find(arg->name);
    if (it == inputs.end()) {
      if (expected[0] != 0) return error(name(*arg), " is not given, expected a cache of ", expected[0], " positions");
      empty.push_back(allocate(arg->type, expected));
      args.push_back(&empty.back());
      continue;
    }
    const Tensor& t = it->second;
    const size_t values = holds_floats(arg->type) ? t.f.size() : t.i.size();
    const size_t needed = size_t(t.elements()) * (arg->type.is_kv() ? 2 : 1);
    if (t.shape != expected || values != needed) {
      return error(name(*arg), ": found ", shape_text(t.shape), " with ", values, " values, expected ",
                   shape_text(expected), " with ", needed);
    }
    args.push_back(&t);
  }
  return GraphRun(*this, g, env).run(args);
}

}  // namespace prism::ir
