// What ir/ops.def says about each op, as data.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "ir/module.h"

namespace prism::ir {

enum Trait : uint32_t {
  None = 0,
  Pure = 1,             ///< no effect but its results: may be removed, merged, folded
  Elementwise = 2,      ///< every result element depends on the operand elements at (broadcast) the same place
  RowReduce = 4,        ///< works on the last axis of each row independently
  InPlace = 8,          ///< result 0 may share storage with operand 0
  HasBody = 16,
  CustomInfer = 32,     ///< `infer_<Name>` in ir/ops/ gives the result types or checks what the signature cannot say
  Movement = 64,        ///< moves elements, computes nothing
  Variadic = 128,       ///< any number of operands (concat, fused, kernel)
};

enum class AttrKind : uint8_t { Int, Float, Bool, String, Ints, Floats };

struct AttrInfo {
  std::string_view name;
  AttrKind kind;
  std::optional<Attr> fallback;  ///< unset = required
};

struct OpInfo {
  Op op;
  std::string_view name;       ///< C++ name, "RmsNorm"
  std::string_view mnemonic;   ///< text name, "rms_norm"
  std::string_view signature;  ///< "(x: F[*,d], w: F[d]) -> F[*,d]"; grammar in ir/signature.h
  std::span<const AttrInfo> attrs;
  uint32_t traits;
  Level from, to;
  double tolerance;            ///< relative error a compiled kernel may have against the evaluator
};

const OpInfo& info(Op op);
bool is_op(uint16_t id);
std::optional<Op> op_from_mnemonic(std::string_view mnemonic);
std::span<const OpInfo> all_ops();
inline bool has_trait(Op op, Trait t) { return info(op).traits & t; }

/// The attribute's value, else the op table's default, else T{}.
template <class T>
T attr_or_default(Op op, const AttrMap& attrs, std::string_view key) {
  if (const auto it = attrs.find(key); it != attrs.end())
    if (const T* v = std::get_if<T>(&it->second)) return *v;
  for (const AttrInfo& a : info(op).attrs)
    if (a.name == key && a.fallback)
      if (const T* v = std::get_if<T>(&*a.fallback)) return *v;
  return T{};
}
const AttrInfo* find_attr(Op op, std::string_view key);
bool matches(const Attr& value, AttrKind kind);
/// One form for equal attributes: integers given for a Float become floats, values equal to the default are dropped.
void normalize_attrs(Op op, AttrMap& attrs);
/// Is the attribute a text of dims: `start`, `count`, `rows` or `shape`?
bool is_dim_attr(Op op, std::string_view key);

/// Result types of an op from its operands and attributes: signature unification, then the custom rule.
/// Errors name the op, the operand and both types.
Result<llvm::SmallVector<Type, 2>> infer(Op op, llvm::ArrayRef<Value*> operands, const AttrMap& attrs,
                                         const Module& module);

}  // namespace prism::ir
