#include "ir/dim.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <unordered_map>

namespace prism::ir {

namespace {

using Wide = __int128;
constexpr size_t kMaxText = 4096;  // longer expressions become the overflow node: bounds memory and recursion
constexpr int kMaxDepth = 64;

int64_t floor_div_int(int64_t a, int64_t b) { return a / b - (a % b < 0); }
int64_t floor_mod_int(int64_t a, int64_t b) { return a % b + (a % b < 0 ? b : 0); }

}  // namespace

/// What a sum is made of.
struct DimAtom {
  enum class Kind { Symbol, FloorDiv, Mod, Product } kind;
  std::string name;                      // Symbol
  const Dim::Node* inner = nullptr;      // FloorDiv, Mod
  int64_t by = 0;                        // FloorDiv, Mod
  std::vector<const Dim::Node*> factors; // Product: content taken out, sorted by text
  std::string text;
};

struct Dim::Node {
  std::vector<std::pair<const DimAtom*, int64_t>> terms;  // sorted by text, coefficients not 0
  int64_t constant = 0;
  bool overflow = false;
  std::string text;

  const DimAtom* single_atom() const {
    return terms.size() == 1 && terms[0].second == 1 && constant == 0 ? terms[0].first : nullptr;
  }
  bool is_symbol() const { return single_atom() && single_atom()->kind == DimAtom::Kind::Symbol; }
};

namespace {

using Node = Dim::Node;

// The text is canonical, so it is the key.
class Interner {
 public:
  static Interner& get() {
    static auto* instance = new Interner;  // dims live as long as the process
    return *instance;
  }
  const DimAtom* atom(DimAtom a) { return intern(atoms_, std::move(a)); }
  const Node* node(Node n) { return intern(nodes_, std::move(n)); }
  const Node* overflow() {
    Node n;
    n.overflow = true;
    n.text = "<overflow>";
    return node(std::move(n));
  }

 private:
  template <class T>
  const T* intern(std::unordered_map<std::string, std::unique_ptr<T>>& table, T value) {
    std::lock_guard lock(mutex_);
    auto& slot = table[value.text];
    if (!slot) slot = std::make_unique<T>(std::move(value));
    return slot.get();
  }
  std::mutex mutex_;
  std::unordered_map<std::string, std::unique_ptr<DimAtom>> atoms_;
  std::unordered_map<std::string, std::unique_ptr<Node>> nodes_;
};

std::string bracketed(const Node* n) { return n->is_symbol() ? n->text : "(" + n->text + ")"; }

const DimAtom* make_atom(DimAtom::Kind kind, const Node* inner, int64_t by) {
  DimAtom a{kind, {}, inner, by, {}, {}};
  a.text = bracketed(inner) + (kind == DimAtom::Kind::Mod ? "%" : "/") + std::to_string(by);
  return Interner::get().atom(std::move(a));
}

/// Sums terms; coefficients are wide until the end.
class Sum {
 public:
  Sum& add(const Node* n, Wide scale) {
    overflow_ |= n->overflow;
    constant_ += scale * n->constant;
    for (auto [atom, c] : n->terms) terms_[atom] += scale * c;
    return *this;
  }
  Sum& add(const DimAtom* atom, Wide scale) {
    terms_[atom] += scale;
    return *this;
  }
  Sum& add(Wide constant) {
    constant_ += constant;
    return *this;
  }

  const Node* done() const {
    Node n;
    auto fits = [](Wide v) {
      return v > std::numeric_limits<int64_t>::min() && v <= std::numeric_limits<int64_t>::max();
    };
    bool good = !overflow_ && fits(constant_);
    for (auto [atom, c] : terms_) {
      if (c == 0) continue;
      good &= fits(c);
      if (!good) break;
      n.terms.emplace_back(atom, int64_t(c));
      append_term(n.text, atom, int64_t(c));
      good &= n.text.size() <= kMaxText;
    }
    if (!good) return Interner::get().overflow();
    n.constant = int64_t(constant_);
    if (n.constant != 0 || n.terms.empty()) {
      if (!n.terms.empty() && n.constant > 0) n.text += '+';
      n.text += std::to_string(n.constant);
    }
    return Interner::get().node(std::move(n));
  }

 private:
  struct ByText {
    bool operator()(const DimAtom* a, const DimAtom* b) const { return a->text < b->text; }
  };
  static void append_term(std::string& out, const DimAtom* atom, int64_t c) {
    if (c < 0) out += '-';
    else if (!out.empty()) out += '+';
    if (c == 1 || c == -1) {
      out += atom->text;
      return;
    }
    out += std::to_string(c < 0 ? -c : c) + "*";
    const bool plain = atom->kind == DimAtom::Kind::Symbol || atom->kind == DimAtom::Kind::Product;
    out += plain ? atom->text : "(" + atom->text + ")";
  }

  std::map<const DimAtom*, Wide, ByText> terms_;
  Wide constant_ = 0;
  bool overflow_ = false;
};

const Node* constant_node(int64_t v) { return Sum().add(Wide(v)).done(); }
const Node* node_of(const DimAtom* a) { return Sum().add(a, 1).done(); }

/// Splits a non-constant sum into a coefficient and factors without one, so that 2*((?h+1)*?w) == (2*?h+2)*?w.
int64_t split_factors(const Node* n, std::vector<const Node*>& factors) {
  if (n->terms.size() == 1 && n->constant == 0) {
    const auto [atom, c] = n->terms[0];
    if (atom->kind == DimAtom::Kind::Product)
      factors.insert(factors.end(), atom->factors.begin(), atom->factors.end());
    else
      factors.push_back(node_of(atom));
    return c;
  }
  int64_t content = std::abs(n->constant);
  for (const auto& term : n->terms) content = std::gcd(content, term.second);
  if (n->terms[0].second < 0) content = -content;
  Sum rest;
  for (auto [atom, c] : n->terms) rest.add(atom, c / content);
  factors.push_back(rest.add(Wide(n->constant / content)).done());
  return content;
}

}  // namespace

Dim::Dim(int64_t constant) {
  static const Node* const zero = constant_node(0);
  node_ = constant == 0 ? zero : constant_node(constant);
}

Dim Dim::symbol(std::string_view name) {
  DimAtom a{DimAtom::Kind::Symbol, std::string(name), nullptr, 0, {}, "?" + std::string(name)};
  return Dim(node_of(Interner::get().atom(std::move(a))));
}

Dim operator+(Dim a, Dim b) { return Dim(Sum().add(a.node_, 1).add(b.node_, 1).done()); }
Dim operator-(Dim a, Dim b) { return Dim(Sum().add(a.node_, 1).add(b.node_, -1).done()); }

Dim operator*(Dim a, Dim b) {
  if (a.is_overflow() || b.is_overflow()) return Dim(Interner::get().overflow());
  if (auto c = b.constant()) return Dim(Sum().add(a.node_, *c).done());
  if (auto c = a.constant()) return Dim(Sum().add(b.node_, *c).done());
  DimAtom product{DimAtom::Kind::Product, {}, nullptr, 0, {}, {}};
  Wide coefficient = split_factors(a.node_, product.factors);
  coefficient *= split_factors(b.node_, product.factors);
  std::sort(product.factors.begin(), product.factors.end(), [](auto* x, auto* y) { return x->text < y->text; });
  for (const Node* f : product.factors) product.text += (product.text.empty() ? "" : "*") + bracketed(f);
  if (product.text.size() > kMaxText) return Dim(Interner::get().overflow());
  return Dim(Sum().add(Interner::get().atom(std::move(product)), coefficient).done());
}

Dim Dim::floor_div(Dim a, int64_t by) {
  if (a.is_overflow() || by <= 0) return Dim(Interner::get().overflow());
  if (by == 1) return a;
  // Multiples of `by` leave the division: (2*?h+3)/2 = ?h+1.
  Sum whole, rest;
  for (auto [atom, c] : a.node_->terms)
    c % by == 0 ? whole.add(atom, c / by) : rest.add(atom, c);
  whole.add(Wide(floor_div_int(a.node_->constant, by)));
  const Node* inner = rest.add(Wide(floor_mod_int(a.node_->constant, by))).done();
  if (inner->terms.empty()) return Dim(whole.done());
  int64_t both;
  if (const DimAtom* atom = inner->single_atom(); atom && atom->kind == DimAtom::Kind::FloorDiv &&
                                                  !__builtin_mul_overflow(atom->by, by, &both))
    return Dim(whole.add(floor_div(Dim(atom->inner), both).node_, 1).done());
  return Dim(whole.add(make_atom(DimAtom::Kind::FloorDiv, inner, by), 1).done());
}

Dim Dim::mod(Dim a, int64_t by) {
  if (a.is_overflow() || by <= 0) return Dim(Interner::get().overflow());
  Sum reduced;
  for (auto [atom, c] : a.node_->terms) reduced.add(atom, floor_mod_int(c, by));
  const Node* inner = reduced.add(Wide(floor_mod_int(a.node_->constant, by))).done();
  if (inner->terms.empty()) return Dim(inner);
  const DimAtom* atom = inner->single_atom();
  if (atom && atom->kind == DimAtom::Kind::Mod && atom->by == by) return Dim(inner);
  return Dim(node_of(make_atom(DimAtom::Kind::Mod, inner, by)));
}

bool Dim::is_constant() const { return node_->terms.empty() && !node_->overflow; }
bool Dim::is_overflow() const { return node_->overflow; }

std::optional<int64_t> Dim::constant() const {
  if (!is_constant()) return std::nullopt;
  return node_->constant;
}

std::optional<std::string_view> Dim::as_symbol() const {
  if (!node_->is_symbol()) return std::nullopt;
  return node_->single_atom()->name;
}

std::string Dim::str() const { return node_->text; }

void Dim::collect_symbols(std::vector<std::string_view>& out) const {
  for (const auto& [atom, c] : node_->terms) {
    if (atom->kind == DimAtom::Kind::Symbol) out.push_back(atom->name);
    if (atom->inner) Dim(atom->inner).collect_symbols(out);
    for (const Node* f : atom->factors) Dim(f).collect_symbols(out);
  }
}

std::optional<int64_t> Dim::evaluate(const Env& env) const {
  if (node_->overflow) return std::nullopt;
  int64_t total = node_->constant;
  for (const auto& [atom, c] : node_->terms) {
    std::optional<int64_t> v = 1;
    if (atom->kind == DimAtom::Kind::Symbol) {
      v = env(atom->name);
    } else if (atom->kind == DimAtom::Kind::Product) {
      for (const Node* f : atom->factors) {
        auto factor = Dim(f).evaluate(env);
        if (!factor || __builtin_mul_overflow(*v, *factor, &*v)) return std::nullopt;
      }
    } else if ((v = Dim(atom->inner).evaluate(env))) {
      v = atom->kind == DimAtom::Kind::Mod ? floor_mod_int(*v, atom->by) : floor_div_int(*v, atom->by);
    }
    int64_t term;
    if (!v || __builtin_mul_overflow(*v, c, &term) || __builtin_add_overflow(total, term, &total)) return std::nullopt;
  }
  return total;
}

Dim Dim::substitute(const Subst& by) const {
  if (node_->overflow || node_->terms.empty()) return *this;
  Dim total = node_->constant;
  for (const auto& [atom, c] : node_->terms) {
    Dim v = 1;
    switch (atom->kind) {
      case DimAtom::Kind::Symbol: v = by(atom->name).value_or(Dim(node_of(atom))); break;
      case DimAtom::Kind::FloorDiv: v = floor_div(Dim(atom->inner).substitute(by), atom->by); break;
      case DimAtom::Kind::Mod: v = mod(Dim(atom->inner).substitute(by), atom->by); break;
      case DimAtom::Kind::Product:
        for (const Node* f : atom->factors) v = v * Dim(f).substitute(by);
        break;
    }
    total = total + v * c;
  }
  return total;
}

Range Dim::bounds(const Ranges& ranges) const {
  constexpr int64_t lowest = INT64_MIN, highest = INT64_MAX;
  auto clamp = [](Wide v) { return int64_t(std::clamp<Wide>(v, lowest, highest)); };
  auto times = [&](Range a, Range b) {
    const Wide p[] = {Wide(a.lo) * b.lo, Wide(a.lo) * b.hi, Wide(a.hi) * b.lo, Wide(a.hi) * b.hi};
    return Range{clamp(*std::min_element(p, p + 4)), clamp(*std::max_element(p, p + 4))};
  };
  if (node_->overflow) return {lowest, highest};
  Wide lo = node_->constant, hi = node_->constant;
  for (const auto& [atom, c] : node_->terms) {
    Range r{1, 1};
    if (atom->kind == DimAtom::Kind::Symbol) {
      r = ranges(atom->name);
    } else if (atom->kind == DimAtom::Kind::Product) {
      for (const Node* f : atom->factors) r = times(r, Dim(f).bounds(ranges));
    } else {
      const Range inner = Dim(atom->inner).bounds(ranges);
      const Range quotient{floor_div_int(inner.lo, atom->by), floor_div_int(inner.hi, atom->by)};
      if (atom->kind == DimAtom::Kind::FloorDiv) r = quotient;
      else if (quotient.lo == quotient.hi) r = {floor_mod_int(inner.lo, atom->by), floor_mod_int(inner.hi, atom->by)};
      else r = {0, atom->by - 1};
    }
    r = times(r, {c, c});
    lo += r.lo;
    hi += r.hi;
  }
  return {clamp(lo), clamp(hi)};
}

std::vector<int64_t> Dim::postfix(const std::function<int64_t(std::string_view)>& index) const {
  enum Code : int64_t { Const, Symbol, Add, Mul, FloorDiv, CeilDiv, Mod };  // runtime/program.h Expr::Code
  std::vector<int64_t> out;
  auto emit = [&](Code code, int64_t argument = 0) { out.insert(out.end(), {code, argument}); };
  auto append = [&](const Node* n) {
    auto inner = Dim(n).postfix(index);
    out.insert(out.end(), inner.begin(), inner.end());
  };
  bool first = true;
  for (const auto& [atom, c] : node_->terms) {
    if (atom->kind == DimAtom::Kind::Symbol) {
      emit(Symbol, index(atom->name));
    } else if (atom->kind == DimAtom::Kind::Product) {
      for (const Node* f : atom->factors) {
        append(f);
        if (f != atom->factors.front()) emit(Mul);
      }
    } else {
      append(atom->inner);
      emit(Const, atom->by);
      emit(atom->kind == DimAtom::Kind::Mod ? Mod : FloorDiv);
    }
    if (c != 1) {
      emit(Const, c);
      emit(Mul);
    }
    if (!first) emit(Add);
    first = false;
  }
  if (first || node_->constant != 0) {
    emit(Const, node_->constant);
    if (!first) emit(Add);
  }
  return out;
}

Answer equal(Dim a, Dim b, const Dim::Ranges& ranges) {
  if (a.is_overflow() || b.is_overflow()) return Answer::Unknown;
  const Range r = (a - b).bounds(ranges);
  if (r.lo == 0 && r.hi == 0) return Answer::Yes;
  return r.lo > 0 || r.hi < 0 ? Answer::No : Answer::Unknown;
}

Answer less_equal(Dim a, Dim b, const Dim::Ranges& ranges) {
  const Range r = (b - a).bounds(ranges);
  if (r.lo >= 0) return Answer::Yes;
  return r.hi < 0 ? Answer::No : Answer::Unknown;
}

Answer divides(int64_t d, Dim a, const Dim::Ranges& ranges) {
  if (d <= 0) return Answer::No;
  const Range r = Dim::mod(a, d).bounds(ranges);
  if (r.lo == 0 && r.hi == 0) return Answer::Yes;
  return r.lo > 0 || r.hi < 0 ? Answer::No : Answer::Unknown;
}

namespace {

/// sum := ['-'] term (('+'|'-') term)*   term := factor (('*' factor) | ('/'|'%') integer)*   factor := integer | ?name
/// | (sum)
class DimParser {
 public:
  explicit DimParser(std::string_view text) : text_(text) {}

  Result<Dim> parse() {
    if (text_.size() > kMaxText)
      return error("dim of ", text_.size(), " characters, expected at most ", kMaxText);
    PRISM_TRY(Dim d, sum());
    if (peek() != '\0' || at_ < text_.size()) return expected("an operator or the end");
    if (d.is_overflow()) return error("dim '", text_, "' does not fit 64 bits");
    return d;
  }

 private:
  char peek() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool take(char c) {
    if (peek() != c || at_ >= text_.size()) return false;
    ++at_;
    return true;
  }
  Error expected(std::string_view what) {
    const std::string found = peek() == '\0' ? "the end" : "'" + std::string(1, peek()) + "'";
    return error("dim '", text_, "': found ", found, ", expected ", what);
  }

  Result<Dim> sum() {
    if (++depth_ > kMaxDepth) return error("dim '", text_, "': nested deeper than ", kMaxDepth);
    Dim total = 0;
    bool minus = take('-');
    for (;;) {
      PRISM_TRY(Dim t, term());
      total = minus ? total - t : total + t;
      if (take('+')) minus = false;
      else if (take('-')) minus = true;
      else break;
    }
    --depth_;
    return total;
  }

  Result<Dim> term() {
    PRISM_TRY(Dim total, factor());
    for (;;) {
      if (take('*')) {
        PRISM_TRY(Dim f, factor());
        total = total * f;
      } else if (peek() == '/' || peek() == '%') {
        const bool division = text_[at_++] == '/';
        PRISM_TRY(int64_t by, integer());
        if (by <= 0) return error("dim '", text_, "': found divisor ", by, ", expected > 0");
        total = division ? Dim::floor_div(total, by) : Dim::mod(total, by);
      } else {
        return total;
      }
    }
  }

  Result<Dim> factor() {
    if (take('(')) {
      PRISM_TRY(Dim d, sum());
      if (!take(')')) return expected("')'");
      return d;
    }
    if (take('?')) {
      const size_t begin = at_;
      auto name_char = [&](char c) {
        return c == '_' || isalpha(uint8_t(c)) || (at_ > begin && (c == '.' || isdigit(uint8_t(c))));
      };
      while (at_ < text_.size() && name_char(text_[at_])) ++at_;
      if (at_ == begin) return expected("a symbol's name");
      return Dim::symbol(text_.substr(begin, at_ - begin));
    }
    PRISM_TRY(int64_t value, integer());
    return Dim(value);
  }

  Result<int64_t> integer() {
    if (!isdigit(uint8_t(peek()))) return expected("a number, a symbol or '('");
    int64_t value = 0;
    auto [end, ec] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
    if (ec != std::errc()) return error("dim '", text_, "': number does not fit 64 bits");
    at_ = end - text_.data();
    return value;
  }

  std::string_view text_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

Result<Dim> Dim::parse(std::string_view text) { return DimParser(text).parse(); }

}  // namespace prism::ir
