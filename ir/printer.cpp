#include <charconv>
#include <cmath>

#include "ir/lexer.h"
#include "ir/op_info.h"
#include "ir/text.h"

namespace prism::ir {

namespace {

std::string name_str(char mark, std::string_view name) {
  return mark + (is_plain_name(name) ? std::string(name) : quoted(name));
}
std::string value_str(const Value* v) { return name_str(v->is_weight() ? '@' : '%', v->name); }

/// Shortest text that reads back as the same number, and never as an integer.
std::string float_str(double v) {
  if (std::isnan(v)) return "nan";
  char text[64];
  const double size = std::fabs(v);
  const bool plain = v == 0 || (size >= 1e-4 && size < 1e16);
  char* end = text + sizeof text;
  end = plain ? std::to_chars(text, end, v, std::chars_format::fixed).ptr : std::to_chars(text, end, v).ptr;
  std::string out(text, end);
  return out.find_first_not_of("-0123456789") == std::string::npos ? out + ".0" : out;
}

struct AttrPrinter {
  std::string operator()(int64_t v) const { return std::to_string(v); }
  std::string operator()(double v) const { return float_str(v); }
  std::string operator()(bool v) const { return v ? "true" : "false"; }
  std::string operator()(const std::string& v) const { return is_plain_word(v) ? v : quoted(v); }
  template <class T>
  std::string operator()(const std::vector<T>& values) const {
    std::string out = "[";
    for (const T& v : values) out += (out.size() > 1 ? "," : "") + (*this)(v);
    return out + "]";
  }
};
}  // namespace

std::string attr_str(const Attr& a) { return std::visit(AttrPrinter{}, a); }

namespace {

std::string key_str(std::string_view key) { return is_plain_word(key) ? std::string(key) : quoted(key); }

template <class Range, class Fn>
std::string join(const Range& range, Fn&& text) {
  std::string out;
  for (const auto& x : range) out += (out.empty() ? "" : ", ") + text(x);
  return out;
}

std::string typed(const Value* v) { return value_str(v) + ": " + v->type.str(); }

void print_op(std::string& out, const Operation& op, const std::string& indent);

void print_block(std::string& out, const Graph& g, const std::string& indent) {
  for (const Operation& op : g.ops) print_op(out, op, indent);
  out += indent + "return";
  if (!g.returns.empty()) out += " " + join(g.returns, value_str);
  out += "\n";
}

std::string args_str(const Graph& g) {
  return "(" + join(g.args, [](auto& a) { return typed(a.get()); }) + ")";
}

void print_op(std::string& out, const Operation& op, const std::string& indent) {
  out += indent + join(op.results, [](auto& r) { return value_str(r.get()); }) + " = ";
  out += std::string(info(op.op).mnemonic) + "(" + join(op.operands(), value_str) + ")";
  AttrMap attrs = op.attrs;
  normalize_attrs(op.op, attrs);
  if (!attrs.empty())
    out += " {" + join(attrs, [](auto& a) { return key_str(a.first) + "=" + attr_str(a.second); }) + "}";
  out += " : " + join(op.results, [](auto& r) { return r->type.str(); });
  if (op.body) {
    out += " {\n" + indent + "  " + args_str(*op.body) + "\n";
    print_block(out, *op.body, indent + "  ");
    out += indent + "}";
  }
  out += "\n";
}

void print_graph(std::string& out, const Graph& g, const std::string& indent) {
  out += indent + "graph " + name_str('@', g.name) + args_str(g) + " -> (" +
         join(g.returns, [](const Value* v) { return v->type.str(); }) + ") {\n";
  print_block(out, g, indent + "  ");
  out += indent + "}\n";
}

}  // namespace

std::string print(const Operation& op) {
  std::string out;
  print_op(out, op, "");
  return out;
}

std::string print(const Graph& g) {
  std::string out;
  print_graph(out, g, "");
  return out;
}

std::string print(const Module& m) {
  std::string out = "module " + name_str('@', m.name) + " level=" + std::string(level_name(m.level)) + " {\n";
  for (const auto& [name, r] : m.dims)
    out += "  dim ?" + name + " in [" + std::to_string(r.lo) + "," + std::to_string(r.hi) + "]\n";
  for (const auto& [key, value] : m.attrs) out += "  attr " + key_str(key) + "=" + attr_str(value) + "\n";
  for (const auto& w : m.weights) {
    out += "  weight " + name_str('@', w->value.name) + " : " + w->value.type.str();
    if (!w->values.empty()) out += " = " + attr_str(w->values);
    if (!w->sources.empty()) {
      out += " = pack(" + join(w->sources, [](auto& s) { return name_str('@', s); }) + ")";
      std::vector<std::string> how;
      if (w->interleave) how.push_back("interleave=" + std::to_string(w->interleave));
      if (w->conversion.hadamard) how.push_back("hadamard=true");
      if (w->conversion.scales != Scales::Block) how.push_back("scales=" + std::string(scales_name(w->conversion.scales)));
      if (!how.empty()) out += " {" + join(how, [](auto& s) { return s; }) + "}";
    }
    out += "\n";
  }
  for (const auto& g : m.graphs) print_graph(out, *g, "  ");
  return out + "}\n";
}

}  // namespace prism::ir
