// The signatures of ir/ops.def, parsed, and their unification with operand types.
//
//   signature := '(' [operand {',' operand}] ')' '->' result
//   operand   := name ['?'] ':' class ['[' axis {',' axis} ']'] ['...']
//   axis      := '*' | name | integer
//   result    := 'infer' | 'same(' name ')' | class '[' axes ']'      (a result of class F is f32)
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ir/op_info.h"

namespace prism::ir {

enum class TypeClass : uint8_t { Float, Weight, Integer, Any, Activation, Kv };

struct Axis {
  enum class Kind : uint8_t { Star, Name, Exact } kind;
  std::string name;
  int64_t size = 0;
};

struct OperandSignature {
  std::string name;
  TypeClass type_class = TypeClass::Any;
  std::optional<std::vector<Axis>> axes;  ///< unset: any shape
  bool optional = false, variadic = false;
};

struct Signature {
  enum class ResultKind : uint8_t { Infer, Same, Typed } result_kind = ResultKind::Infer;
  std::vector<OperandSignature> operands;
  unsigned same_as = 0;       ///< Same: which operand
  OperandSignature result;    ///< Typed
};

/// Parsed once; the table is trusted.
const Signature& signature(Op op);

/// What the axis names of a signature stand for.
struct Axes {
  std::map<std::string, Dim, std::less<>> named;
  std::optional<Shape> star;
  Shape instantiate(const std::vector<Axis>& axes) const;
};

/// Binds axes to the operands' shapes; errors name the operand and both types.
Status unify(Op op, llvm::ArrayRef<Value*> operands, Axes& axes);

}  // namespace prism::ir
