#include "passes/util.h"

#include <algorithm>

#include "llvm/ADT/StringExtras.h"

namespace prism::passes {

using namespace ir;

std::string_view layer_of(std::string_view weight) {
  constexpr std::string_view kDigits = "0123456789";
  for (size_t at = weight.find_first_of(kDigits); at != weight.npos;) {
    const size_t end = std::min(weight.find_first_not_of(kDigits, at), weight.size());
    const bool component = (at == 0 || weight[at - 1] == '.') && (end == weight.size() || weight[end] == '.');
    if (component) return weight.substr(0, end);
    at = weight.find_first_of(kDigits, end);
  }
  return weight;
}

Dim rows_of(const Type& t) {
  Dim rows = 1;
  for (size_t i = 0; i + 1 < t.rank(); ++i) rows = rows * t.shape[i];
  return rows;
}

Operation* defined_by(const Value* v, Op kind) { return v->def && v->def->op == kind ? v->def : nullptr; }

Operation* only_user(const Value* v) {
  return v->has_one_use() && v->def && !v->def->parent->returned(v) ? v->uses.front().op : nullptr;
}

bool is_row_vector(const Value* v) { return (v->is_weight() || defined_by(v, Op::Constant)) && v->type.rank() == 1; }

Operation* insertion_point_after(Graph& g, const Value* v) {
  auto it = v->def ? std::next(v->def->getIterator()) : g.ops.begin();
  return it == g.ops.end() ? nullptr : &*it;
}

void set_module_attr(Module& m, std::string_view key, Attr value) {
  for (auto& [k, v] : m.attrs)
    if (k == key) {
      v = std::move(value);
      return;
    }
  m.attrs.emplace_back(key, std::move(value));
}

const Attr* find_module_attr(const Module& m, std::string_view key) {
  for (const auto& [k, v] : m.attrs)
    if (k == key) return &v;
  return nullptr;
}

namespace {

/// "blk.0.attn_q.weight", "blk.0.attn_k.weight" -> "blk.0.attn_q_k.weight".
std::string joined_name(const std::vector<std::string>& names) {
  const std::string& first = names.front();
  size_t prefix = first.size(), suffix = first.size();
  for (const std::string& n : names) {
    prefix =
        std::min(prefix, size_t(std::mismatch(first.begin(), first.end(), n.begin(), n.end()).first - first.begin()));
    suffix = std::min(suffix,
                      size_t(std::mismatch(first.rbegin(), first.rend(), n.rbegin(), n.rend()).first - first.rbegin()));
  }
  const size_t cut = first.substr(0, prefix).find_last_of("._");
  prefix = cut == first.npos ? 0 : cut + 1;
  const size_t shortest = llvm::min_element(names, [](auto& a, auto& b) { return a.size() < b.size(); })->size();
  suffix = std::min(suffix, shortest - std::min(prefix, shortest));
  const size_t dot = first.find('.', first.size() - suffix);
  suffix = dot == first.npos ? 0 : first.size() - dot;
  std::string joined = first.substr(0, prefix);
  for (const std::string& n : names)
    joined += (&n == &names.front() ? "" : "_") + n.substr(prefix, n.size() - prefix - suffix);
  return joined + first.substr(first.size() - suffix);
}

Weight* new_weight(Module& m, const std::string& base, const Type& type) {
  std::string name = base;
  for (int i = 1; m.weight(name); ++i) name = base + "." + std::to_string(i);
  return m.add_weight(name, type);
}

}  // namespace

Value* values_weight(Module& m, const std::string& base, std::vector<Dim> shape, std::vector<double> values) {
  const Type type = Type::tensor(DType::F32, shape);
  for (const auto& w : m.weights)
    if (w->values == values && w->value.type == type) return &w->value;
  Weight* made = new_weight(m, base, type);
  made->values = std::move(values);
  return &made->value;
}

Weight* made_weight(Module& m, const std::string& base, const Type& type, std::vector<std::string> sources, Conversion conversion, int64_t interleave) {
  for (const auto& w : m.weights)
    if (w->sources == sources && w->interleave == interleave && w->conversion == conversion && w->value.type == type) return w.get();
  Weight* made = new_weight(m, base, type);
  made->sources = std::move(sources);
  made->conversion = conversion;
  made->interleave = interleave;
  return made;
}

Value* concatenated_weight(Module& m, llvm::ArrayRef<Value*> parts, int64_t interleave) {
  std::vector<std::string> sources, names;
  const Conversion conversion = m.weight_of(parts.front())->conversion;
  Dim rows = 0;
  for (Value* p : parts) {
    const Weight* w = m.weight_of(p);
    names.push_back(p->name);
    if (w->sources.empty()) sources.push_back(p->name);
    sources.insert(sources.end(), w->sources.begin(), w->sources.end());
    rows = rows + p->type.dim(0);
  }
  Type type = parts.front()->type;
  type.shape[0] = rows;
  return &made_weight(m, joined_name(names), type, std::move(sources), conversion, interleave)->value;
}

std::string_view nearest(std::string_view name, const std::vector<std::string_view>& names) {
  return *llvm::min_element(names, [&](std::string_view a, std::string_view b) {
    return llvm::StringRef(a).edit_distance(name) < llvm::StringRef(b).edit_distance(name);
  });
}

}  // namespace prism::passes
