#include "ir/op_info.h"

#include <array>

#include "ir/ops/infer.h"
#include "ir/signature.h"

// FOR_EACH(M, (a), (b)) = M(a) M(b); at most 27 elements.
#define PARENS ()
#define EXPAND(...) EXPAND2(EXPAND2(EXPAND2(__VA_ARGS__)))
#define EXPAND2(...) EXPAND1(EXPAND1(EXPAND1(__VA_ARGS__)))
#define EXPAND1(...) EXPAND0(EXPAND0(EXPAND0(__VA_ARGS__)))
#define EXPAND0(...) __VA_ARGS__
#define FOR_EACH(M, ...) __VA_OPT__(EXPAND(FOR_EACH_STEP(M, __VA_ARGS__)))
#define FOR_EACH_STEP(M, first, ...) M first __VA_OPT__(FOR_EACH_AGAIN PARENS(M, __VA_ARGS__))
#define FOR_EACH_AGAIN() FOR_EACH_STEP

namespace prism::ir {

namespace {

using AttrTable = std::vector<AttrInfo>;

std::optional<Attr> fallback(AttrKind) { return std::nullopt; }
template <class T>
std::optional<Attr> fallback(AttrKind kind, T value) {
  if constexpr (std::is_same_v<T, int>) return kind == AttrKind::Float ? Attr(double(value)) : Attr(int64_t(value));
  else if constexpr (std::is_same_v<T, const char*>) return Attr(std::string(value));
  else return Attr(std::move(value));
}

struct Entry {
  OpInfo info;
  InferFn infer;
};

struct Table {
  std::vector<Entry> entries;
  std::vector<OpInfo> ops;
  std::map<std::string_view, Op> by_mnemonic;
  std::array<int, 256> by_id;
};

const Table& table() {
  static const Table t = [] {
    Table t;
    t.by_id.fill(-1);
#define ATTR(attr_name, Kind, ...) \
  AttrInfo{#attr_name, AttrKind::Kind, fallback(AttrKind::Kind __VA_OPT__(, ) __VA_ARGS__)},
#define ATTRS(...) AttrTable{FOR_EACH(ATTR, __VA_ARGS__)}
#define OP(id, Name, mnemonic, sig, attr_table, traits, from, to, tolerance)                                      \
  {                                                                                                               \
    static const AttrTable attr_list = attr_table;                                                                \
    static_assert(id < 256);                                                                                      \
    InferFn rule = nullptr;                                                                                       \
    if constexpr (((traits) & CustomInfer) != 0) rule = infer_##Name;                                             \
    t.by_id[id] = int(t.entries.size());                                                                          \
    t.by_mnemonic.emplace(mnemonic, Op::Name);                                                                    \
    t.entries.push_back(                                                                                          \
        {{Op::Name, #Name, mnemonic, sig, attr_list, uint32_t(traits), Level::from, Level::to, tolerance}, rule}); \
  }
#include "ir/ops.def"
    for (const Entry& e : t.entries) t.ops.push_back(e.info);
    return t;
  }();
  return t;
}

const Entry& entry(Op op) { return table().entries[size_t(table().by_id[size_t(op)])]; }

std::string_view kind_name(AttrKind k) {
  constexpr std::string_view names[] = {"an integer", "a number", "true or false",
                                        "a word or string", "a list of integers", "a list of numbers"};
  return names[size_t(k)];
}

}  // namespace

const OpInfo& info(Op op) { return entry(op).info; }

bool is_op(uint16_t id) { return id < table().by_id.size() && table().by_id[id] >= 0; }

std::span<const OpInfo> all_ops() { return table().ops; }

std::optional<Op> op_from_mnemonic(std::string_view mnemonic) {
  const auto it = table().by_mnemonic.find(mnemonic);
  if (it == table().by_mnemonic.end()) return std::nullopt;
  return it->second;
}

const AttrInfo* find_attr(Op op, std::string_view key) {
  for (const AttrInfo& a : info(op).attrs)
    if (a.name == key) return &a;
  return nullptr;
}

bool matches(const Attr& value, AttrKind kind) { return value.index() == size_t(kind); }  // same order as Attr

void normalize_attrs(Op op, AttrMap& attrs) {
  for (auto it = attrs.begin(); it != attrs.end();) {
    const AttrInfo* a = find_attr(op, it->first);
    const int64_t* integer = std::get_if<int64_t>(&it->second);
    if (a && a->kind == AttrKind::Float && integer) it->second = double(*integer);
    if (a && a->fallback && it->second == *a->fallback) it = attrs.erase(it);
    else ++it;
  }
}

bool is_dim_attr(Op op, std::string_view key) {
  const AttrInfo* a = find_attr(op, key);
  return a && a->kind == AttrKind::String && (key == "start" || key == "count" || key == "rows" || key == "shape");
}

namespace {

Status check_attrs(Op op, const AttrMap& attrs) {
  const OpInfo& o = info(op);
  for (const auto& [key, value] : attrs) {
    const AttrInfo* a = find_attr(op, key);
    if (!a) return error(o.mnemonic, ": found attribute '", key, "', which the op does not have");
    if (!matches(value, a->kind)) return error(o.mnemonic, ": attribute '", key, "' is not ", kind_name(a->kind));
  }
  for (const AttrInfo& a : o.attrs)
    if (!a.fallback && !attrs.contains(a.name))
      return error(o.mnemonic, ": attribute '", a.name, "' is missing, expected ", kind_name(a.kind));
  return ok();
}

}  // namespace

Result<llvm::SmallVector<Type, 2>> infer(Op op, llvm::ArrayRef<Value*> operands, const AttrMap& attrs,
                                         const Module& module) {
  PRISM_CHECK(check_attrs(op, attrs));
  InferContext c{info(op), operands, attrs, module, {}};
  PRISM_CHECK(unify(op, operands, c.axes));
  if (InferFn rule = entry(op).infer) return rule(c);
  const Signature& s = signature(op);
  if (s.result_kind == Signature::ResultKind::Same) return Types{c.type(s.same_as)};
  return Types{Type::tensor(DType::F32, c.axes.instantiate(*s.result.axes))};
}

}  // namespace prism::ir
