// Sizes of tensors: expressions over symbols, for example `?past+?seq` or `(?h+1)/2`.
//
// A Dim is a pointer to an interned node, so equal expressions (after normalisation to a sum of
// coefficient*atom plus a constant) compare equal by pointer. Symbols are names; their ranges belong to the module.
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"

namespace prism::ir {

enum class Answer { No, Yes, Unknown };

/// Inclusive range of a symbol or an expression.
struct Range {
  int64_t lo = 0, hi = INT64_MAX;
  friend bool operator==(const Range&, const Range&) = default;
};

class Dim {
 public:
  struct Node;  // interned, immutable, lives as long as the process

  Dim() : Dim(int64_t{0}) {}
  Dim(int64_t constant);
  static Dim symbol(std::string_view name);  ///< name without the '?'

  friend Dim operator+(Dim a, Dim b);
  friend Dim operator-(Dim a, Dim b);
  friend Dim operator*(Dim a, Dim b);        ///< product; affine when one side is constant, else an opaque atom
  static Dim floor_div(Dim a, int64_t by);   ///< by > 0
  static Dim mod(Dim a, int64_t by);         ///< by > 0
  friend bool operator==(Dim a, Dim b) { return a.node_ == b.node_; }

  bool is_constant() const;
  bool is_overflow() const;  ///< a coefficient left 64 bits or the text got too long: no value, verify rejects it
  std::optional<int64_t> constant() const;
  std::optional<std::string_view> as_symbol() const;  ///< set if this is exactly one symbol
  std::string str() const;                            ///< "64", "?seq", "?past+?seq", "2*?n+1", "(?h+1)/2", "?n%4"
  void collect_symbols(std::vector<std::string_view>& out) const;

  using Env = std::function<std::optional<int64_t>(std::string_view)>;
  /// Value with every symbol given by `env`; nullopt if one is missing or it overflows.
  std::optional<int64_t> evaluate(const Env& env) const;
  using Subst = std::function<std::optional<Dim>(std::string_view)>;
  Dim substitute(const Subst& by) const;
  using Ranges = std::function<Range(std::string_view)>;
  Range bounds(const Ranges& ranges) const;
  /// Postfix program for the runtime (runtime/program.h `Expr`), symbols numbered by `index`.
  std::vector<int64_t> postfix(const std::function<int64_t(std::string_view)>& index) const;

  /// Parses str()'s syntax.
  static Result<Dim> parse(std::string_view text);

  const Node* node() const { return node_; }

 private:
  template <class N>  // not for the literal 0
    requires std::same_as<N, Node>
  explicit Dim(const N* n) : node_(n) {}
  const Node* node_;
};

Answer equal(Dim a, Dim b, const Dim::Ranges& ranges);
Answer less_equal(Dim a, Dim b, const Dim::Ranges& ranges);
Answer divides(int64_t d, Dim a, const Dim::Ranges& ranges);

}  // namespace prism::ir
