#include "ir/module.h"

#include <algorithm>
#include <cassert>

#include "ir/op_info.h"
#include "llvm/ADT/StringExtras.h"

namespace prism::ir {

namespace {

void remove_use(Value* v, Operation* op, unsigned operand) {
  // From the back: graphs are destroyed in reverse order, which makes each removal cheap.
  auto& uses = v->uses;
  for (size_t i = uses.size(); i-- > 0;)
    if (uses[i].op == op && uses[i].operand == operand) {
      uses.erase(uses.begin() + ptrdiff_t(i));
      return;
    }
}

}  // namespace

std::string_view level_name(Level l) {
  constexpr std::string_view names[] = {"graph", "fused", "kernel", "plan"};
  return names[size_t(l)];
}

void Value::replace_all_uses_with(Value* other) {
  if (other == this) return;
  replace_uses_if(other, [](const Use&) { return true; });
  if (Graph* owner = def ? def->parent : graph) std::replace(owner->returns.begin(), owner->returns.end(), this, other);
}

Operation::~Operation() { drop_operands(); }

void Operation::set_operand(unsigned i, Value* v) {
  if (operands_[i] == v) return;
  remove_use(operands_[i], this, i);
  operands_[i] = v;
  v->uses.push_back({this, i});
}

void Operation::append_operand(Value* v) {
  v->uses.push_back({this, unsigned(operands_.size())});
  operands_.push_back(v);
}

void Operation::drop_operands() {
  while (!operands_.empty()) {
    remove_use(operands_.back(), this, unsigned(operands_.size() - 1));
    operands_.pop_back();
  }
}

template <class T>
T Operation::attr(std::string_view key) const {
  return attr_or_default<T>(op, attrs, key);
}
template int64_t Operation::attr<int64_t>(std::string_view) const;
template double Operation::attr<double>(std::string_view) const;
template bool Operation::attr<bool>(std::string_view) const;
template std::string Operation::attr<std::string>(std::string_view) const;
template std::vector<int64_t> Operation::attr<std::vector<int64_t>>(std::string_view) const;
template std::vector<double> Operation::attr<std::vector<double>>(std::string_view) const;

void Operation::erase() {
  assert(llvm::all_of(results, [](auto& r) { return r->uses.empty(); }));
  parent->ops.erase(getIterator());
}

Graph::~Graph() {
  for (Operation& op : llvm::reverse(ops)) op.drop_operands();  // every use before any value, also in a broken order
  ops.clear();
}

Value* Graph::add_arg(Type type, llvm::StringRef name) {
  auto v = std::make_unique<Value>();
  v->kind = Value::Kind::Argument;
  v->type = std::move(type);
  v->name = unique_name(name);
  v->graph = this;
  v->index = unsigned(args.size());
  args.push_back(std::move(v));
  return args.back().get();
}

Operation* Graph::insert(Op op, llvm::ArrayRef<Value*> operands, AttrMap attrs, llvm::ArrayRef<Type> results,
                         Operation* before) {
  auto* o = new Operation(op);
  o->attrs = std::move(attrs);
  normalize_attrs(op, o->attrs);
  o->parent = this;
  for (Value* v : operands) o->append_operand(v);
  for (const Type& t : results) {
    auto v = std::make_unique<Value>();
    v->kind = Value::Kind::Result;
    v->type = t;
    v->name = unique_name(std::string(info(op).mnemonic));
    v->def = o;
    v->index = unsigned(o->results.size());
    o->results.push_back(std::move(v));
  }
  ops.insert(before ? before->getIterator() : ops.end(), o);
  return o;
}

std::string Graph::unique_name(llvm::StringRef base) {
  if (base.empty()) base = "v";
  if (name_counts_.try_emplace(base.str(), 0).second) return base.str();
  const size_t dot = base.rfind('.');  // "q.3" becomes "q.4", not "q.3.1"
  if (dot != llvm::StringRef::npos && dot > 0 && dot + 1 < base.size() &&
      llvm::all_of(base.substr(dot + 1), llvm::isDigit))
    base = base.substr(0, dot);
  const std::string stem = base.str() + ".";
  unsigned& count = name_counts_[base.str()];
  for (;;) {
    std::string candidate = stem + std::to_string(++count);
    if (name_counts_.try_emplace(candidate, 0).second) return candidate;
  }
}

void Graph::rename(Value* v, llvm::StringRef base) {
  name_counts_.erase(v->name);
  v->name = unique_name(base);
}

Graph* Module::graph(llvm::StringRef name) const {
  for (const auto& g : graphs)
    if (g->name == name) return g.get();
  return nullptr;
}

Weight* Module::weight(llvm::StringRef name) const {
  const auto it = weight_index_.find(std::string_view(name));
  return it == weight_index_.end() ? nullptr : it->second;
}

Weight* Module::add_weight(llvm::StringRef name, Type type) {
  auto w = std::make_unique<Weight>();
  w->value.kind = Value::Kind::Weight;
  w->value.type = std::move(type);
  w->value.name = name.str();
  weight_index_[name.str()] = w.get();
  weights.push_back(std::move(w));
  return weights.back().get();
}

void Module::erase_weight(Weight* w) {
  assert(w->value.uses.empty());
  weight_index_.erase(w->value.name);
  llvm::erase_if(weights, [&](auto& p) { return p.get() == w; });
}

Graph* Module::add_graph(llvm::StringRef name) {
  graphs.push_back(std::make_unique<Graph>(this));
  graphs.back()->name = name.str();
  return graphs.back().get();
}

Dim::Ranges Module::ranges() const {
  return [this](std::string_view name) {
    const auto it = dims.find(name);
    return it == dims.end() ? Range{} : it->second;
  };
}

namespace {

class Cloner {
 public:
  Cloner(const Module& from, Module& into, const Dim::Subst& subst, std::map<const Value*, Value*>& map)
      : from_(from), into_(into), subst_(subst), map_(map) {}

  std::unique_ptr<Graph> clone(const Graph& g) {
    auto copy = std::make_unique<Graph>(&into_);
    copy->name = g.name;
    for (const auto& a : g.args) map_[a.get()] = copy->add_arg(substitute(a->type), a->name);
    for (const Operation& op : g.ops) clone(op, *copy);
    for (const Value* v : g.returns) copy->returns.push_back(mapped(v));
    return copy;
  }

 private:
  void clone(const Operation& op, Graph& into) {
    llvm::SmallVector<Value*, 4> operands;
    for (const Value* v : op.operands()) operands.push_back(mapped(v));
    llvm::SmallVector<Type, 2> types;
    for (const auto& r : op.results) types.push_back(substitute(r->type));
    AttrMap attrs = op.attrs;
    if (subst_)
      for (auto& [key, value] : attrs)
        if (is_dim_attr(op.op, key))
          if (auto shape = parse_shape(std::get<std::string>(value))) {
            for (Dim& d : *shape) d = d.substitute(subst_);
            value = shape_str(*shape);
          }
    Operation* copy = into.insert(op.op, operands, std::move(attrs), types);
    for (size_t i = 0; i < op.results.size(); ++i) {
      into.rename(copy->result(i), op.result(i)->name);
      map_[op.result(i)] = copy->result(i);
    }
    if (op.body) copy->body = clone(*op.body);
  }

  Type substitute(Type t) {
    if (subst_)
      for (Dim& d : t.shape) d = d.substitute(subst_);
    return t;
  }

  Value* mapped(const Value* v) {
    Value*& to = map_[v];
    if (to) return to;
    Weight* w = into_.weight(v->name);  // only weights are not defined by the graph itself
    if (!w) {
      w = into_.add_weight(v->name, v->type);
      const Weight* original = from_.weight_of(v);
      w->data = original->data;
      w->bytes = original->bytes;
      w->sources = original->sources;
      w->interleave = original->interleave;
      w->conversion = original->conversion;
      w->values = original->values;
    }
    return to = &w->value;
  }

  const Module& from_;
  Module& into_;
  const Dim::Subst& subst_;
  std::map<const Value*, Value*>& map_;
};

}  // namespace

std::unique_ptr<Graph> clone_graph(const Graph& g, Module& into, const Dim::Subst& subst,
                                   std::map<const Value*, Value*>* map) {
  std::map<const Value*, Value*> own;
  return Cloner(*g.module, into, subst, map ? *map : own).clone(g);
}

}  // namespace prism::ir
