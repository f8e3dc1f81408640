#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_map>

#include "ir/lexer.h"
#include "ir/op_info.h"
#include "ir/text.h"

namespace prism::ir {

namespace {

constexpr size_t kMaxText = size_t(64) << 20;
constexpr int kMaxDepth = 8;  // of bodies

using Kind = Token::Kind;
using Scope = std::unordered_map<std::string, Value*>;

class Parser {
 public:
  Parser(std::string_view text, std::string_view file)
      : file_(file), lexer_(text), module_(std::make_unique<Module>()) {}

  Result<std::unique_ptr<Module>> parse() {
    PRISM_CHECK(expect_word("module"));
    PRISM_TRY(Token name, expect(Kind::Symbol, "'@' and the module's name"));
    module_->name = name.value;
    PRISM_CHECK(expect_word("level"));
    PRISM_CHECK(expect("="));
    PRISM_TRY(module_->level, level());
    PRISM_CHECK(expect("{"));
    while (!peek().is("}")) PRISM_CHECK(declaration());
    lexer_.take();
    if (!peek().is(Kind::End)) return found("the end of the file");
    return std::move(module_);
  }

 private:
  // Errors: "file:line:column: found 'x', expected y".

  Error at(size_t offset, std::string_view message) const {
    const std::string_view before = lexer_.text().substr(0, offset);
    const size_t line = 1 + size_t(std::count(before.begin(), before.end(), '\n'));
    const size_t column = offset - (before.rfind('\n') + 1) + 1;  // npos + 1 == 0
    return error(file_, ":", line, ":", column, ": ", message);
  }
  Error found(const Token& t, std::string_view expected) const {
    std::string what = "the end of the file";
    if (!t.is(Kind::End)) {
      what = "'";
      for (char c : t.text.substr(0, 40)) what += uint8_t(c) < 0x20 || uint8_t(c) >= 0x7f ? '?' : c;
      what += t.text.size() > 40 ? "...'" : "'";
    }
    return at(t.offset, "found " + what + ", expected " + std::string(expected));
  }
  Error found(std::string_view expected) const { return found(peek(), expected); }

  // Pieces.

  const Token& peek() const { return lexer_.peek(); }
  bool take(std::string_view punctuation) {
    if (!peek().is(punctuation)) return false;
    lexer_.take();
    return true;
  }
  Status expect(std::string_view punctuation) {
    if (!take(punctuation)) return found("'" + std::string(punctuation) + "'");
    return ok();
  }
  Status expect_word(std::string_view word) {
    if (!peek().is_word(word)) return found("'" + std::string(word) + "'");
    lexer_.take();
    return ok();
  }
  Result<Token> expect(Kind kind, std::string_view what) {
    if (!peek().is(kind)) return found(what);
    return lexer_.take();
  }

  /// item {',' item} close; the opening mark has been read.
  template <class Fn>
  Status list(std::string_view close, Fn&& item) {
    if (take(close)) return ok();
    do PRISM_CHECK(item());
    while (take(","));
    return expect(close);
  }

  Result<Level> level() {
    for (Level l : {Level::Graph, Level::Fused, Level::Kernel, Level::Plan})
      if (peek().is_word(level_name(l))) {
        lexer_.take();
        return l;
      }
    return found("graph, fused, kernel or plan");
  }

  template <class T>
  static bool number(std::string_view text, T& value) {
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
    return ec == std::errc() && end == text.data() + text.size();
  }

  Result<int64_t> integer() {
    int64_t v = 0;
    if (!peek().is(Kind::Number) || !number(peek().text, v)) return found("a 64-bit integer");
    lexer_.take();
    return v;
  }

  Result<double> floating() {
    double v = 0;
    if (!(peek().is(Kind::Number) || peek().is(Kind::Word)) || !number(peek().text, v)) return found("a number");
    lexer_.take();
    return v;
  }

  Result<std::string> string() {
    if (!peek().is(Kind::Word) && !peek().is(Kind::String)) return found("a word or string");
    return lexer_.take().value;
  }

  /// Types have a syntax of their own (Type::parse) and end with ']' or, directly after it, a layout in braces.
  Result<Type> type() {
    if (!peek().is(Kind::Word)) return found("a type");
    const std::string_view text = lexer_.text();
    const size_t begin = peek().offset;
    size_t end = std::min(text.find_first_of("]\n", begin), text.size());
    if (end < text.size() && text[end] == ']') ++end;
    if (end < text.size() && text[end] == '{') end = std::min(text.find_first_of("}\n", end), text.size() - 1) + 1;
    auto t = Type::parse(text.substr(begin, end - begin));
    if (!t) return at(begin, t.message());
    lexer_.seek(end);
    return t;
  }

  Result<Attr> attr(AttrKind kind) {
    switch (kind) {
      case AttrKind::Int: {
        PRISM_TRY(int64_t v, integer());
        return Attr(v);
      }
      case AttrKind::Float: {
        PRISM_TRY(double v, floating());
        return Attr(v);
      }
      case AttrKind::Bool: {
        if (!peek().is_word("true") && !peek().is_word("false")) return found("true or false");
        return Attr(lexer_.take().text == "true");
      }
      case AttrKind::String: {
        PRISM_TRY(std::string v, string());
        return Attr(std::move(v));
      }
      case AttrKind::Ints: return numbers<int64_t>([&] { return integer(); });
      case AttrKind::Floats: return numbers<double>([&] { return floating(); });
    }
    return found("an attribute");
  }

  template <class T, class Fn>
  Result<Attr> numbers(Fn&& element) {
    std::vector<T> values;
    PRISM_CHECK(expect("["));
    PRISM_CHECK(list("]", [&]() -> Status {
      PRISM_TRY(T v, element());
      values.push_back(v);
      return ok();
    }));
    return Attr(std::move(values));
  }

  /// A module's attributes are not in a table: the text tells the kind.
  AttrKind guess_kind() const {
    auto is_float = [](std::string_view t) { return t.find_first_not_of("-0123456789") != t.npos; };
    const Token& t = peek();
    if (t.is_word("true") || t.is_word("false")) return AttrKind::Bool;
    if (t.is_word("inf") || t.is_word("nan")) return AttrKind::Float;
    if (t.is(Kind::Number)) return is_float(t.text) ? AttrKind::Float : AttrKind::Int;
    if (!t.is("[")) return AttrKind::String;
    const std::string_view rest = lexer_.text().substr(t.offset + 1);
    const std::string_view inside = rest.substr(0, rest.find(']'));
    return inside.find_first_not_of("-0123456789, \t\n\r") == inside.npos ? AttrKind::Ints : AttrKind::Floats;
  }

  // Declarations.

  Status declaration() {
    if (peek().is_word("dim")) return dim();
    if (peek().is_word("attr")) return module_attr();
    if (peek().is_word("weight")) return weight();
    if (peek().is_word("graph")) return graph();
    return found("dim, attr, weight, graph or '}'");
  }

  Status dim() {
    lexer_.take();
    PRISM_TRY(Token name, expect(Kind::DimName, "'?' and the dim's name"));
    auto d = Dim::parse(name.text);
    if (!d || d->as_symbol() != name.value) return found(name, "a dim's name");
    PRISM_CHECK(expect_word("in"));
    PRISM_CHECK(expect("["));
    Range r;
    PRISM_TRY(r.lo, integer());
    PRISM_CHECK(expect(","));
    PRISM_TRY(r.hi, integer());
    PRISM_CHECK(expect("]"));
    if (!module_->dims.emplace(name.value, r).second) return found(name, "a dim that is not declared yet");
    return ok();
  }

  Status module_attr() {
    lexer_.take();
    const Token key = peek();
    PRISM_TRY(std::string name, string());
    PRISM_CHECK(expect("="));
    PRISM_TRY(Attr value, attr(guess_kind()));
    if (!attr_names_.emplace(name, nullptr).second) return found(key, "an attribute that is not given yet");
    module_->attrs.emplace_back(std::move(name), std::move(value));
    return ok();
  }

  Status weight() {
    lexer_.take();
    PRISM_TRY(Token name, expect(Kind::Symbol, "'@' and the weight's name"));
    if (module_->weight(name.value)) return found(name, "a weight that is not declared yet");
    PRISM_CHECK(expect(":"));
    PRISM_TRY(Type t, type());
    Weight* w = module_->add_weight(name.value, std::move(t));
    if (!take("=")) return ok();
    if (peek().is("[")) {
      PRISM_TRY(Attr values, attr(AttrKind::Floats));
      w->values = std::move(std::get<std::vector<double>>(values));
      return ok();
    }
    PRISM_CHECK(expect_word("pack"));
    PRISM_CHECK(expect("("));
    do {
      PRISM_TRY(Token source, expect(Kind::Symbol, "'@' and a source's name"));
      w->sources.push_back(source.value);
    } while (take(","));
    PRISM_CHECK(expect(")"));
    if (!take("{")) return ok();
    return list("}", [&]() -> Status {
      const Token key = peek();
      PRISM_TRY(const std::string name, string());
      PRISM_CHECK(expect("="));
      const Token value = peek();
      if (name == "interleave") {
        PRISM_TRY(w->interleave, integer());
      } else if (name == "hadamard") {
        PRISM_CHECK(expect_word("true"));
        w->conversion.hadamard = true;
      } else if (name == "scales") {
        PRISM_TRY(const std::string scales, string());
        const auto found_scales = scales_from_name(scales);
        if (!found_scales) return found(value, "block, row or tensor");
        w->conversion.scales = *found_scales;
      } else {
        return found(key, "interleave, hadamard or scales");
      }
      return ok();
    });
  }

  Status graph() {
    lexer_.take();
    PRISM_TRY(Token name, expect(Kind::Symbol, "'@' and the graph's name"));
    if (!attr_graphs_.emplace(name.value, nullptr).second) return found(name, "a graph that is not defined yet");
    Graph* g = module_->add_graph(name.value);
    Scope scope;
    PRISM_CHECK(arguments(*g, scope));
    PRISM_CHECK(expect("->"));
    PRISM_CHECK(expect("("));
    std::vector<Type> types;
    PRISM_CHECK(list(")", [&]() -> Status {
      PRISM_TRY(Type t, type());
      types.push_back(std::move(t));
      return ok();
    }));
    PRISM_CHECK(expect("{"));
    const Token last = peek();
    PRISM_CHECK(block(*g, scope, 0));
    if (types.size() != g->returns.size())
      return at(name.offset,
                error("graph @", g->name, " returns ", g->returns.size(), " values, expected ", types.size()).message);
    for (size_t i = 0; i < types.size(); ++i)
      if (!(types[i] == g->returns[i]->type))
        return at(name.offset, error("graph @", g->name, " returns ", g->returns[i]->type.str(), " as value ", i,
                                     ", expected ", types[i].str()).message);
    return ok();
  }

  // Operations.

  Status arguments(Graph& g, Scope& scope) {
    PRISM_CHECK(expect("("));
    return list(")", [&]() -> Status {
      PRISM_TRY(Token name, expect(Kind::Value, "'%' and the argument's name"));
      PRISM_CHECK(expect(":"));
      PRISM_TRY(Type t, type());
      if (scope.contains(name.value)) return found(name, "a name that is not used yet");
      scope[name.value] = g.add_arg(std::move(t), name.value);
      return ok();
    });
  }

  /// Operations, `return` and '}'.
  Status block(Graph& g, Scope& scope, int depth) {
    while (!peek().is_word("return")) PRISM_CHECK(operation(g, scope, depth));
    lexer_.take();
    if (!peek().is("}")) {
      do {
        PRISM_TRY(Value* v, operand(scope));
        g.returns.push_back(v);
      } while (take(","));
    }
    return expect("}");
  }

  Result<Value*> operand(const Scope& scope) {
    const Token& t = peek();
    Value* v = nullptr;
    if (t.is(Kind::Value)) {
      if (const auto it = scope.find(t.value); it != scope.end()) v = it->second;
      if (!v) return found("a value that is defined before");
    } else if (t.is(Kind::Symbol)) {
      if (Weight* w = module_->weight(t.value)) v = &w->value;
      if (!v) return found("a weight that is declared before");
    } else {
      return found("'%' or '@' and a name");
    }
    lexer_.take();
    return v;
  }

  Status operation(Graph& g, Scope& scope, int depth) {
    std::vector<Token> names;
    do {
      PRISM_TRY(Token name, expect(Kind::Value, "an operation or return"));
      if (scope.contains(name.value) || llvm::any_of(names, [&](auto& n) { return n.value == name.value; }))
        return found(name, "a name that is not used yet");
      names.push_back(std::move(name));
    } while (take(",") && names.size() < 64);
    PRISM_CHECK(expect("="));
    const auto op = peek().is(Kind::Word) ? op_from_mnemonic(peek().text) : std::nullopt;
    if (!op) return found("an op");
    const Token mnemonic = lexer_.take();

    llvm::SmallVector<Value*, 4> operands;
    PRISM_CHECK(expect("("));
    PRISM_CHECK(list(")", [&]() -> Status {
      PRISM_TRY(Value* v, operand(scope));
      operands.push_back(v);
      return ok();
    }));
    PRISM_TRY(AttrMap attrs, attributes(*op));
    PRISM_CHECK(expect(":"));
    llvm::SmallVector<Type, 2> types;
    do {
      PRISM_TRY(Type t, type());
      types.push_back(std::move(t));
    } while (take(",") && types.size() < 64);
    if (types.size() != names.size())
      return at(mnemonic.offset, error("found ", types.size(), " types, expected ", names.size()).message);

    Operation* o = g.insert(*op, operands, std::move(attrs), types);
    for (size_t i = 0; i < names.size(); ++i) {
      g.rename(o->result(unsigned(i)), names[i].value);
      scope[names[i].value] = o->result(unsigned(i));
    }
    return has_trait(*op, HasBody) ? body(*o, depth + 1) : ok();
  }

  Result<AttrMap> attributes(Op op) {
    AttrMap attrs;
    if (!take("{")) return attrs;
    PRISM_CHECK(list("}", [&]() -> Status {
      const Token key = peek();
      PRISM_TRY(std::string name, string());
      const AttrInfo* a = find_attr(op, name);
      if (!a) return found(key, "an attribute of " + std::string(info(op).mnemonic));
      PRISM_CHECK(expect("="));
      PRISM_TRY(Attr value, attr(a->kind));
      if (!attrs.emplace(std::move(name), std::move(value)).second) return found(key, "each attribute once");
      return ok();
    }));
    return attrs;
  }

  Status body(Operation& op, int depth) {
    if (depth > kMaxDepth) return found("bodies nested at most " + std::to_string(kMaxDepth) + " deep");
    PRISM_CHECK(expect("{"));
    op.body = std::make_unique<Graph>(module_.get());
    Scope scope;
    PRISM_CHECK(arguments(*op.body, scope));
    return block(*op.body, scope, depth);
  }

  std::string_view file_;
  Lexer lexer_;
  std::unique_ptr<Module> module_;
  Scope attr_names_, attr_graphs_;
};

}  // namespace

Result<std::unique_ptr<Module>> parse(std::string_view text, std::string_view file) {
  if (text.size() > kMaxText) return error(file, ": found ", text.size(), " bytes, expected at most ", kMaxText);
  return Parser(text, file).parse();
}

}  // namespace prism::ir
