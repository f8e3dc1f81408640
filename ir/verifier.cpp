#include "ir/verifier.h"

#include <cmath>
#include <map>
#include <set>

#include "ir/op_info.h"

namespace prism::ir {

namespace {

class Verifier {
 public:
  explicit Verifier(const Module& m) : m_(m) {}

  Status run() {
    for (const auto& [name, r] : m_.dims)
      if (r.lo < 0 || r.lo > r.hi)
        return fail("dim ?", name, " is in [", r.lo, ",", r.hi, "], expected a range of sizes");
    std::set<std::string_view> attr_names, weight_names, graph_names;
    for (const auto& [key, value] : m_.attrs)
      if (!attr_names.insert(key).second) return fail("two attributes are named '", key, "'");
    for (const auto& w : m_.weights) {
      if (!weight_names.insert(w->value.name).second) return fail("two weights are named @", w->value.name);
      PRISM_CHECK(weight(*w));
    }
    for (const auto& g : m_.graphs) {
      if (!graph_names.insert(g->name).second) return fail("two graphs are named @", g->name);
      context_ = "graph @" + g->name;
      PRISM_CHECK(graph(*g, false));
      context_.clear();
    }
    return uses();
  }

 private:
  template <class... Parts>
  Error fail(const Parts&... parts) const {
    return error("module @", m_.name, ": ", context_, context_.empty() ? "" : ": ", parts...);
  }

  Status dim(Dim d) const {
    if (d.is_overflow()) return fail("a size does not fit 64 bits");
    std::vector<std::string_view> symbols;
    d.collect_symbols(symbols);
    for (std::string_view s : symbols)
      if (!m_.dims.contains(s)) return fail("size ", d.str(), " uses ?", s, ", expected a declared dim");
    if (d.bounds(m_.ranges()).hi < 0) return fail("size ", d.str(), " is negative");
    return ok();
  }

  Status type(const Type& t) const {
    if (t.rank() > kMaxRank) return fail("type ", t.str(), " has more than ", kMaxRank, " axes");
    if (t.is_kv() && t.rank() != 3) return fail("type ", t.str(), " has ", t.rank(), " axes, expected 3");
    for (Dim d : t.shape) PRISM_CHECK(dim(d));
    const uint32_t block = info(t.dtype).block;
    if (block > 1 && (t.rank() == 0 || divides(block, t.dim(-1), m_.ranges()) != Answer::Yes))
      return fail("type ", t.str(), " needs a last axis divisible by ", block);
    if (t.layout != Layout::RowMajor && (t.rank() != 2 || t.is_kv())) return fail("type ", t.str(), " needs 2 axes");
    if (t.layout == Layout::Tiles && (t.dtype != DType::BF16 || divides(32, t.dim(-1), m_.ranges()) != Answer::Yes))
      return fail("type ", t.str(), " needs bf16 and a last axis divisible by 32");
    if (t.layout == Layout::Swizzled && t.dtype != DType::BF16) return fail("type ", t.str(), " needs bf16");
    return ok();
  }

  Status weight(const Weight& w) {
    context_ = "weight @" + w.value.name;
    PRISM_CHECK(type(w.value.type));
    if (!w.value.type.elements() || w.value.type.is_kv())
      return fail("type ", w.value.type.str(), " is not a fixed-size tensor");
    if (w.data && w.value.type.bytes() != int64_t(w.bytes))
      return fail("has ", w.bytes, " bytes, expected ", w.value.type.bytes().value_or(-1), " for ", w.value.type.str());
    if (!w.values.empty()) {
      if (w.value.type.dtype != DType::F32 || w.value.type.layout != Layout::RowMajor || w.data || !w.sources.empty()) return fail("has values, expected a row-major f32 tensor without bytes or sources");
      if (w.value.type.elements() != int64_t(w.values.size())) return fail("has ", w.values.size(), " values, expected ", w.value.type.elements().value_or(-1), " for ", w.value.type.str());
      if (!llvm::all_of(w.values, [](double x) { return std::isfinite(float(x)); })) return fail("has values that no f32 has");
    }
    if (w.sources.empty() && !(w.conversion == Conversion{})) return fail("has a conversion, expected sources");
    if (w.conversion.hadamard && w.value.type.rank() != 2) return fail("type ", w.value.type.str(), " is not a matrix, whose rows hadamard is for");
    if (w.interleave < 0) return fail("interleave is ", w.interleave, ", expected at least 0");
    if (!m_.weight(w.value.name) || m_.weight(w.value.name) != &w) return fail("is not found by its name");
    values_.insert(&w.value);
    context_.clear();
    return ok();
  }

  Status graph(const Graph& g, bool is_body) {
    const std::string outer = context_;
    std::set<const Value*> defined;
    std::set<std::string_view> names;
    auto define = [&](const Value* v) -> Status {
      if (!names.insert(v->name).second) return fail("two values are named %", v->name);
      defined.insert(v);
      values_.insert(v);
      return type(v->type);
    };
    for (const auto& a : g.args) PRISM_CHECK(define(a.get()));
    for (const Operation& op : g.ops) {
      context_ = outer + (op.results.empty() ? "" : ": %" + op.result()->name);
      if (op.parent != &g) return fail("the op's parent is another graph");
      ops_.insert(&op);
      for (const Value* v : op.operands()) {
        ++use_counts_[v];
        // A body sees only its arguments: what a kernel reads must be among its operands.
        if (!defined.contains(v) && (is_body || !values_.contains(v) || !v->is_weight()))
          return fail("uses a value that is not defined before it");
      }
      PRISM_CHECK(operation(op, is_body));
      for (const auto& r : op.results) PRISM_CHECK(define(r.get()));
    }
    context_ = outer;
    for (const Value* v : g.returns)
      if (!defined.contains(v)) return fail("returns a value that it does not define");
    return ok();
  }

  Status operation(const Operation& op, bool is_body) {
    const OpInfo& o = info(op.op);
    if (m_.level < o.from || m_.level > o.to)
      return fail(o.mnemonic, " is not legal at level ", level_name(m_.level), ", expected ", level_name(o.from),
                  " to ", level_name(o.to));
    if (!is_body && m_.level >= Level::Kernel && op.op != Op::Kernel)
      return fail(o.mnemonic, " stands at the top of a graph at level ", level_name(m_.level),
                  ", expected only kernel");
    for (const auto& [key, value] : op.attrs)
      if (is_dim_attr(op.op, key) && std::holds_alternative<std::string>(value))
        if (auto shape = parse_shape(std::get<std::string>(value)))
          for (Dim d : *shape) PRISM_CHECK(dim(d));
    if (op.op == Op::Kernel) return kernel(op);
    if (op.body) return fail(o.mnemonic, " has a body, expected none");
    auto types = infer(op.op, op.operands(), op.attrs, m_);
    if (!types) return fail(types.message());
    return same_types(op, *types);
  }

  Status kernel(const Operation& op) {
    if (!op.body) return fail("kernel has no body");
    for (const auto& [key, value] : op.attrs)
      if (const AttrInfo* a = find_attr(op.op, key); !a || !matches(value, a->kind))
        return fail("kernel: attribute '", key, "' is unknown or of the wrong kind");
    const Graph& body = *op.body;
    if (body.args.size() != op.operands().size())
      return fail("kernel has ", op.operands().size(), " operands, expected its body's ", body.args.size());
    for (size_t i = 0; i < body.args.size(); ++i)
      if (!(body.args[i]->type == op.operand(unsigned(i))->type))
        return fail("kernel: operand ", i, " is ", op.operand(unsigned(i))->type.str(), ", expected its body's ",
                    body.args[i]->type.str());
    const std::string context = context_;
    PRISM_CHECK(graph(body, true));
    context_ = context;
    if (body.returns.empty()) return fail("kernel returns nothing");
    llvm::SmallVector<Type, 2> types;
    for (const Value* v : body.returns) types.push_back(v->type);
    return same_types(op, types);
  }

  Status same_types(const Operation& op, llvm::ArrayRef<Type> types) const {
    if (types.size() != op.results.size())
      return fail(info(op.op).mnemonic, " has ", op.results.size(), " results, expected ", types.size());
    for (size_t i = 0; i < types.size(); ++i)
      if (!(op.result(unsigned(i))->type == types[i]))
        return fail(info(op.op).mnemonic, ": result ", i, " is ", op.result(unsigned(i))->type.str(), ", expected ",
                    types[i].str());
    return ok();
  }

  /// Every value lists each of its uses once and nothing else.
  Status uses() const {
    for (const Value* v : values_) {
      std::set<std::pair<const Operation*, unsigned>> seen;
      for (const Use& u : v->uses)
        if (!ops_.contains(u.op) || u.operand >= u.op->operands().size() || u.op->operand(u.operand) != v ||
            !seen.emplace(u.op, u.operand).second)
          return fail("value ", v->name, " lists a use that does not exist");
      const auto it = use_counts_.find(v);
      if (seen.size() != (it == use_counts_.end() ? 0 : it->second)) return fail("value ", v->name, " misses a use");
    }
    return ok();
  }

  const Module& m_;
  std::string context_;
  std::set<const Value*> values_;
  std::set<const Operation*> ops_;
  std::map<const Value*, size_t> use_counts_;
};

}  // namespace

Status verify(const Module& m) { return Verifier(m).run(); }

}  // namespace prism::ir
