#include "ir/signature.h"

#include <cassert>
#include <charconv>

namespace prism::ir {

namespace {

class SignatureParser {
 public:
  explicit SignatureParser(std::string_view text) : text_(text) {}

  Signature parse() {
    Signature s;
    expect("(");
    while (!take(")")) {
      s.operands.push_back(operand());
      take(",");
    }
    expect("->");
    if (take("infer")) return s;
    if (take("same(")) {
      s.result_kind = Signature::ResultKind::Same;
      const std::string_view name = word();
      while (s.operands[s.same_as].name != name) ++s.same_as;
      return s;
    }
    s.result_kind = Signature::ResultKind::Typed;
    type(s.result);
    return s;
  }

 private:
  void skip() {
    while (text_.starts_with(' ')) text_.remove_prefix(1);
  }
  bool take(std::string_view token) {
    skip();
    if (!text_.starts_with(token)) return false;
    text_.remove_prefix(token.size());
    return true;
  }
  void expect([[maybe_unused]] std::string_view token) {
    [[maybe_unused]] const bool found = take(token);
    assert(found && "malformed signature in ir/ops.def");
  }
  std::string_view word() {
    skip();
    size_t n = 0;
    while (n < text_.size() && (isalnum(uint8_t(text_[n])) || text_[n] == '_')) ++n;
    const std::string_view w = text_.substr(0, n);
    text_.remove_prefix(n);
    return w;
  }

  OperandSignature operand() {
    OperandSignature o;
    o.name = word();
    o.optional = take("?");
    expect(":");
    type(o);
    o.variadic = take("...");
    return o;
  }

  void type(OperandSignature& o) {
    static const std::map<std::string_view, TypeClass> classes = {
        {"F", TypeClass::Float}, {"W", TypeClass::Weight},     {"I", TypeClass::Integer},
        {"T", TypeClass::Any},   {"A", TypeClass::Activation}, {"KV", TypeClass::Kv}};
    o.type_class = classes.at(word());
    if (!take("[")) return;
    o.axes.emplace();
    while (!take("]")) {
      if (take("*")) {
        o.axes->push_back({Axis::Kind::Star, {}, 0});
      } else {
        Axis a{Axis::Kind::Name, std::string(word()), 0};
        if (std::from_chars(a.name.data(), a.name.data() + a.name.size(), a.size).ec == std::errc())
          a.kind = Axis::Kind::Exact;
        o.axes->push_back(std::move(a));
      }
      take(",");
    }
  }

  std::string_view text_;
};

bool belongs(const Type& t, TypeClass c) {
  if (c == TypeClass::Kv || t.is_kv()) return c == TypeClass::Kv && t.is_kv();
  const bool floating = is_float(t.dtype), quantized = info(t.dtype).quantized;
  switch (c) {
    case TypeClass::Float: return floating && t.layout == Layout::RowMajor;
    case TypeClass::Weight: return floating || (quantized && t.dtype != DType::Q8A);
    case TypeClass::Integer: return !floating && !quantized && t.layout == Layout::RowMajor;
    case TypeClass::Activation: return t.layout == Layout::RowMajor ? floating || t.dtype == DType::Q8A : t.layout == Layout::Tiles;
    default: return t.layout == Layout::RowMajor;
  }
}

std::string_view class_name(TypeClass c) {
  constexpr std::string_view names[] = {"a float tensor",       "a float or quantized tensor",
                                        "an integer tensor",    "a row-major tensor",
                                        "a float or q8a tensor", "a kv cache"};
  return names[size_t(c)];
}

std::string pattern_str(const std::vector<Axis>& pattern, const Axes& axes) {
  std::string out;
  for (const Axis& a : pattern) {
    if (!out.empty()) out += ',';
    if (a.kind == Axis::Kind::Star) {
      out += axes.star ? shape_str(*axes.star) : "*";
    } else if (a.kind == Axis::Kind::Exact) {
      out += std::to_string(a.size);
    } else {
      out += a.name;
      if (const auto it = axes.named.find(a.name); it != axes.named.end()) out += "=" + it->second.str();
    }
  }
  return "[" + out + "]";
}

/// `*` can only be the first axis of a pattern.
bool unify_shape(const std::vector<Axis>& pattern, llvm::ArrayRef<Dim> shape, Axes& axes) {
  const bool starred = !pattern.empty() && pattern[0].kind == Axis::Kind::Star;
  const size_t fixed = pattern.size() - starred;
  if (shape.size() < fixed || (!starred && shape.size() != fixed)) return false;
  const auto leading = shape.drop_back(fixed);
  if (starred && !axes.star) axes.star = Shape(leading.begin(), leading.end());
  if (starred && llvm::ArrayRef<Dim>(*axes.star) != leading) return false;
  for (size_t i = 0; i < fixed; ++i) {
    const Axis& a = pattern[i + starred];
    const Dim d = shape[leading.size() + i];
    const Dim wanted = a.kind == Axis::Kind::Exact ? Dim(a.size) : axes.named.try_emplace(a.name, d).first->second;
    if (!(wanted == d)) return false;
  }
  return true;
}

}  // namespace

const Signature& signature(Op op) {
  static const std::map<Op, Signature> table = [] {
    std::map<Op, Signature> t;
    for (const OpInfo& o : all_ops()) t.emplace(o.op, SignatureParser(o.signature).parse());
    return t;
  }();
  return table.at(op);
}

Shape Axes::instantiate(const std::vector<Axis>& pattern) const {
  Shape shape;
  for (const Axis& a : pattern) {
    if (a.kind == Axis::Kind::Star) shape.append(star->begin(), star->end());
    else shape.push_back(a.kind == Axis::Kind::Exact ? Dim(a.size) : named.find(a.name)->second);
  }
  return shape;
}

Status unify(Op op, llvm::ArrayRef<Value*> operands, Axes& axes) {
  const OpInfo& o = info(op);
  const Signature& s = signature(op);
  const bool variadic = !s.operands.empty() && s.operands.back().variadic;
  size_t required = 0;
  for (const auto& p : s.operands) required += !p.optional && !p.variadic;
  if (operands.size() < required || (!variadic && operands.size() > s.operands.size()))
    return error(o.mnemonic, ": found ", operands.size(), " operands, expected ", o.signature);
  if (has_trait(op, HasBody)) return ok();  // takes anything
  for (size_t i = 0; i < operands.size(); ++i) {
    const OperandSignature& p = s.operands[std::min(i, s.operands.size() - 1)];
    const Type& t = operands[i]->type;
    auto mismatch = [&](const std::string& expected) {
      return error(o.mnemonic, ": operand ", p.name, " (", operands[i]->name, ") is ", t.str(), ", expected ",
                   expected);
    };
    if (!belongs(t, p.type_class)) return mismatch(std::string(class_name(p.type_class)));
    if (p.axes && !unify_shape(*p.axes, t.shape, axes))
      return mismatch(std::string(class_name(p.type_class)) + " of shape " + pattern_str(*p.axes, axes));
  }
  return ok();
}

}  // namespace prism::ir
