#include <cstring>
#include <unordered_map>

#include "ir/module_generated.h"
#include "ir/op_info.h"
#include "ir/text.h"
#include "ir/verifier.h"

namespace prism::ir {

namespace {

namespace flat = flatbuffers;
constexpr int kMaxDepth = 8;  // of bodies

class Writer {
 public:
  std::string write(const Module& m) {
    for (size_t i = 0; i < m.weights.size(); ++i) weight_index_[&m.weights[i]->value] = -1 - int32_t(i);
    std::vector<flat::Offset<fb::DimRange>> dims;
    for (const auto& [name, r] : m.dims) dims.push_back(fb::CreateDimRangeDirect(b_, name.c_str(), r.lo, r.hi));
    std::vector<flat::Offset<fb::Attr>> attrs;
    for (const auto& [key, value] : m.attrs) attrs.push_back(attr(key, value));
    std::vector<flat::Offset<fb::Weight>> weights;
    for (const auto& w : m.weights) {
      std::vector<flat::Offset<flat::String>> sources;
      for (const auto& s : w->sources) sources.push_back(b_.CreateString(s));
      const auto name = b_.CreateString(w->value.name);
      const auto list = b_.CreateVector(sources);
      const auto values = b_.CreateVector(w->values);
      weights.push_back(fb::CreateWeight(b_, name, type(w->value.type), list, w->interleave, w->conversion.hadamard, uint8_t(w->conversion.scales), values));
    }
    std::vector<flat::Offset<fb::Graph>> graphs;
    for (const auto& g : m.graphs) graphs.push_back(graph(*g));
    std::vector<flat::Offset<flat::String>> types;
    for (const auto& t : types_) types.push_back(b_.CreateString(t));
    const auto name = b_.CreateString(m.name);
    const auto type_list = b_.CreateVector(types);
    const auto dim_list = b_.CreateVector(dims);
    const auto attr_list = b_.CreateVector(attrs);
    const auto weight_list = b_.CreateVector(weights);
    const auto graph_list = b_.CreateVector(graphs);
    fb::FinishModuleBuffer(
        b_, fb::CreateModule(b_, name, uint8_t(m.level), type_list, dim_list, attr_list, weight_list, graph_list));
    return std::string(reinterpret_cast<const char*>(b_.GetBufferPointer()), b_.GetSize());
  }

 private:
  uint32_t type(const Type& t) {
    const auto [it, added] = type_index_.try_emplace(t.str(), uint32_t(types_.size()));
    if (added) types_.push_back(it->first);
    return it->second;
  }

  flat::Offset<fb::Attr> attr(std::string_view key, const Attr& a) {
    flat::Offset<flat::String> text;
    flat::Offset<flat::Vector<int64_t>> integers;
    flat::Offset<flat::Vector<double>> numbers;
    if (auto* v = std::get_if<std::string>(&a)) text = b_.CreateString(*v);
    if (auto* v = std::get_if<std::vector<int64_t>>(&a)) integers = b_.CreateVector(*v);
    if (auto* v = std::get_if<std::vector<double>>(&a)) numbers = b_.CreateVector(*v);
    const auto name = b_.CreateString(key.data(), key.size());
    fb::AttrBuilder out(b_);
    out.add_key(name);
    out.add_kind(uint8_t(a.index()));
    if (auto* v = std::get_if<int64_t>(&a)) out.add_integer(*v);
    if (auto* v = std::get_if<bool>(&a)) out.add_integer(*v);
    if (auto* v = std::get_if<double>(&a)) out.add_number(*v);
    if (!text.IsNull()) out.add_text(text);
    if (!integers.IsNull()) out.add_integers(integers);
    if (!numbers.IsNull()) out.add_numbers(numbers);
    return out.Finish();
  }

  flat::Offset<fb::Value> value(const Value& v) {
    const auto name = b_.CreateString(v.name);
    return fb::CreateValue(b_, name, type(v.type));
  }

  flat::Offset<fb::Graph> graph(const Graph& g) {
    std::unordered_map<const Value*, int32_t> index;
    std::vector<flat::Offset<fb::Value>> args;
    std::vector<flat::Offset<fb::Operation>> ops;
    auto define = [&](const Value& v) {
      index.emplace(&v, int32_t(index.size()));
      return value(v);
    };
    auto refer = [&](const Value* v) { return v->is_weight() ? weight_index_.at(v) : index.at(v); };
    for (const auto& a : g.args) args.push_back(define(*a));
    for (const Operation& op : g.ops) {
      std::vector<int32_t> operands;
      for (const Value* v : op.operands()) operands.push_back(refer(v));
      std::vector<flat::Offset<fb::Attr>> attrs;
      for (const auto& [key, value] : op.attrs) attrs.push_back(attr(key, value));
      std::vector<flat::Offset<fb::Value>> results;
      for (const auto& r : op.results) results.push_back(define(*r));
      flat::Offset<fb::Graph> body;
      if (op.body) body = graph(*op.body);
      ops.push_back(fb::CreateOperationDirect(b_, uint16_t(op.op), &operands, &attrs, &results, body));
    }
    std::vector<int32_t> returns;
    for (const Value* v : g.returns) returns.push_back(refer(v));
    const auto name = b_.CreateString(g.name);
    const auto arg_list = b_.CreateVector(args);
    const auto op_list = b_.CreateVector(ops);
    return fb::CreateGraph(b_, name, arg_list, op_list, b_.CreateVector(returns));
  }

  flat::FlatBufferBuilder b_;
  std::vector<std::string> types_;
  std::unordered_map<std::string, uint32_t> type_index_;
  std::unordered_map<const Value*, int32_t> weight_index_;
};

/// The elements of an optional vector.
template <class T>
struct Elements {
  const flat::Vector<T>* v;
  uint32_t size() const { return v ? v->size() : 0; }
  auto operator[](uint32_t i) const { return v->Get(i); }
};
template <class T>
Elements<T> elements(const flat::Vector<T>* v) {
  return {v};
}

/// Numbers of 8 bytes; the FlatBuffers verifier checks the alignment of a vector's length only.
template <class T>
std::vector<T> copy(const flat::Vector<T>* v) {
  std::vector<T> out(elements(v).size());
  if (!out.empty()) std::memcpy(out.data(), v->Data(), out.size() * sizeof(T));
  return out;
}

std::string text(const flat::String* s) { return s ? s->str() : std::string(); }

class Reader {
 public:
  Reader(std::string_view bytes, std::string_view file)
      : bytes_(bytes), file_(file), module_(std::make_unique<Module>()) {}

  Result<std::unique_ptr<Module>> read() {
    auto* data = reinterpret_cast<const uint8_t*>(bytes_.data());
    if (bytes_.size() < 8 || !fb::ModuleBufferHasIdentifier(data))
      return fail("not a binary module: identifier PIRM not found");
    flat::Verifier verifier(data, bytes_.size());
    if (!fb::VerifyModuleBuffer(verifier)) return fail("damaged binary module");
    const fb::Module* m = fb::GetModule(data);
    module_->name = text(m->name());
    if (m->level() > uint8_t(Level::Plan))
      return fail("level is ", int(m->level()), ", expected at most ", int(Level::Plan));
    module_->level = Level(m->level());
    for (uint32_t i = 0; i < elements(m->types()).size(); ++i) {
      PRISM_CHECK(spend(m->types()->Get(i)->size()));
      auto t = Type::parse(m->types()->Get(i)->string_view());
      if (!t) return fail(t.message());
      types_.push_back(*std::move(t));
    }
    for (uint32_t i = 0; i < elements(m->dims()).size(); ++i) {
      const fb::DimRange* d = m->dims()->Get(i);
      PRISM_CHECK(spend(d->name()->size()));
      auto symbol = Dim::parse("?" + d->name()->str());
      if (!symbol || !symbol->as_symbol()) return fail("found dim '", d->name()->str(), "', expected a name");
      if (!module_->dims.emplace(d->name()->str(), Range{d->lo(), d->hi()}).second)
        return fail("dim ?", d->name()->str(), " is declared twice");
    }
    for (uint32_t i = 0; i < elements(m->attrs()).size(); ++i) {
      PRISM_TRY(auto a, attr(*m->attrs()->Get(i)));
      module_->attrs.push_back(std::move(a));
    }
    for (uint32_t i = 0; i < elements(m->weights()).size(); ++i) PRISM_CHECK(weight(*m->weights()->Get(i)));
    for (uint32_t i = 0; i < elements(m->graphs()).size(); ++i) {
      const fb::Graph* g = m->graphs()->Get(i);
      PRISM_CHECK(graph(*g, *module_->add_graph(text(g->name())), 0));
    }
    if (auto s = verify(*module_); !s) return fail(s.message());
    return std::move(module_);
  }

 private:
  template <class... Parts>
  Error fail(const Parts&... parts) const {
    return error(file_, ": ", parts...);
  }

  /// Tables may be shared in a FlatBuffer: a small file must not unfold into a large module.
  Status spend(size_t n) {
    spent_ += n + 1;
    if (spent_ > bytes_.size() * 4) return fail("damaged binary module: the same data is used too often");
    return ok();
  }

  Result<Type> type(uint32_t index) const {
    if (index >= types_.size()) return fail("type index is ", index, ", expected less than ", types_.size());
    return types_[index];
  }

  Result<std::pair<std::string, Attr>> attr(const fb::Attr& a) {
    const size_t count = size_t(elements(a.integers()).size()) + elements(a.numbers()).size();
    PRISM_CHECK(spend(a.key()->size() + text(a.text()).size() + count * 8));
    Attr value;
    switch (a.kind()) {
      case 0: value = a.integer(); break;
      case 1: value = a.number(); break;
      case 2: value = a.integer() != 0; break;
      case 3: value = text(a.text()); break;
      case 4: value = copy(a.integers()); break;
      case 5: value = copy(a.numbers()); break;
      default: return fail("attribute '", a.key()->str(), "' has kind ", int(a.kind()), ", expected at most 5");
    }
    return std::pair(a.key()->str(), std::move(value));
  }

  Status weight(const fb::Weight& w) {
    const std::string name = w.name()->str();
    PRISM_CHECK(spend(name.size()));
    if (module_->weight(name)) return fail("weight @", name, " is declared twice");
    PRISM_TRY(Type t, type(w.type()));
    Weight* out = module_->add_weight(name, std::move(t));
    out->interleave = w.interleave();
    if (w.scales() > uint8_t(Scales::Tensor)) return fail("weight @", name, ": scales are ", int(w.scales()), ", expected at most ", int(Scales::Tensor));
    out->conversion = {w.hadamard(), Scales(w.scales())};
    PRISM_CHECK(spend(elements(w.values()).size() * sizeof(double)));
    out->values = copy(w.values());
    for (uint32_t i = 0; i < elements(w.sources()).size(); ++i) {
      out->sources.push_back(w.sources()->Get(i)->str());
      PRISM_CHECK(spend(out->sources.back().size()));
    }
    return ok();
  }

  Status graph(const fb::Graph& g, Graph& out, int depth) {
    if (depth > kMaxDepth) return fail("bodies are nested deeper than ", kMaxDepth);
    std::vector<Value*> values;
    auto refer = [&](int32_t index) -> Result<Value*> {
      if (index >= 0 && size_t(index) < values.size()) return values[size_t(index)];
      if (index < 0 && size_t(-1 - int64_t(index)) < module_->weights.size())
        return &module_->weights[size_t(-1 - int64_t(index))]->value;
      return fail("value index is ", index, ", expected one of ", values.size(), " values or ", module_->weights.size(),
                  " weights");
    };
    for (uint32_t i = 0; i < elements(g.args()).size(); ++i) {
      const fb::Value* a = g.args()->Get(i);
      PRISM_CHECK(spend(a->name()->size()));
      PRISM_TRY(Type t, type(a->type()));
      values.push_back(out.add_arg(std::move(t), a->name()->str()));
    }
    for (uint32_t i = 0; i < elements(g.ops()).size(); ++i) {
      const fb::Operation& op = *g.ops()->Get(i);
      if (!is_op(op.op())) return fail("op id is ", op.op(), ", expected one of ir/ops.def");
      PRISM_CHECK(spend(elements(op.operands()).size() * 4));
      llvm::SmallVector<Value*, 4> operands;
      for (uint32_t k = 0; k < elements(op.operands()).size(); ++k) {
        PRISM_TRY(Value* v, refer(op.operands()->Get(k)));
        operands.push_back(v);
      }
      AttrMap attrs;
      for (uint32_t k = 0; k < elements(op.attrs()).size(); ++k) {
        PRISM_TRY(auto a, attr(*op.attrs()->Get(k)));
        attrs.insert(std::move(a));
      }
      llvm::SmallVector<Type, 2> types;
      for (uint32_t k = 0; k < elements(op.results()).size(); ++k) {
        PRISM_CHECK(spend(op.results()->Get(k)->name()->size()));
        PRISM_TRY(Type t, type(op.results()->Get(k)->type()));
        types.push_back(std::move(t));
      }
      Operation* o = out.insert(Op(op.op()), operands, std::move(attrs), types);
      for (uint32_t k = 0; k < types.size(); ++k) {
        out.rename(o->result(k), op.results()->Get(k)->name()->str());
        values.push_back(o->result(k));
      }
      if (!op.body()) continue;
      o->body = std::make_unique<Graph>(module_.get());
      PRISM_CHECK(graph(*op.body(), *o->body, depth + 1));
    }
    for (uint32_t i = 0; i < elements(g.returns()).size(); ++i) {
      PRISM_TRY(Value* v, refer(g.returns()->Get(i)));
      out.returns.push_back(v);
    }
    return spend(out.returns.size() * 4);
  }

  std::string_view bytes_, file_;
  std::unique_ptr<Module> module_;
  std::vector<Type> types_;
  size_t spent_ = 0;
};

}  // namespace

std::string to_binary(const Module& m) { return Writer().write(m); }

Result<std::unique_ptr<Module>> from_binary(std::string_view bytes, std::string_view file) {
  if (reinterpret_cast<uintptr_t>(bytes.data()) % alignof(uint64_t) == 0) return Reader(bytes, file).read();
  return Reader(std::string(bytes), file).read();  // FlatBuffers reads in place: strings of this size are aligned
}

}  // namespace prism::ir
