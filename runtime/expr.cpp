#include <algorithm>

#include "runtime/program.h"

namespace prism::rt {

Result<int64_t> Expr::evaluate(std::span<const int64_t> dims) const {
  constexpr size_t kMaxDepth = 64;
  int64_t stack[kMaxDepth];
  size_t depth = 0;
  if (code.size() % 2) return error("expression: found ", code.size(), " words, expected pairs of opcode and argument");

  for (size_t i = 0; i < code.size(); i += 2) {
    const int64_t op = code[i], argument = code[i + 1];
    if (op < Const || op > Max) return error("expression: found opcode ", op, ", expected 0 to ", int64_t(Max));
    if (op == Const || op == Dim) {
      if (depth == kMaxDepth) return error("expression: deeper than ", kMaxDepth, " values");
      if (op == Dim && (argument < 0 || uint64_t(argument) >= dims.size()))
        return error("expression: found dim ", argument, ", expected less than ", dims.size());
      stack[depth++] = op == Const ? argument : dims[size_t(argument)];
      continue;
    }
    if (depth < 2) return error("expression: opcode ", op, " found ", depth, " values, expected 2");
    const int64_t b = stack[--depth];
    int64_t& a = stack[depth - 1];
    if ((op == FloorDiv || op == CeilDiv || op == Mod) && b <= 0)
      return error("expression: found divisor ", b, ", expected a positive one");
    bool overflow = false;
    switch (op) {
      case Add: overflow = __builtin_add_overflow(a, b, &a); break;
      case Mul: overflow = __builtin_mul_overflow(a, b, &a); break;
      case FloorDiv: a = a / b - (a % b < 0); break;
      case CeilDiv: a = a / b + (a % b > 0); break;
      case Mod: a = a % b < 0 ? a % b + b : a % b; break;
      case Min: a = std::min(a, b); break;
      case Max: a = std::max(a, b); break;
    }
    if (overflow) return error("expression: the value does not fit in 64 bits");
  }
  if (depth != 1) return error("expression: found ", depth, " values at the end, expected 1");
  return stack[0];
}

bool Expr::reads_dim(std::optional<size_t> dim) const {
  for (size_t i = 0; i + 1 < code.size(); i += 2)
    if (code[i] == Dim && (!dim || code[i + 1] == int64_t(*dim))) return true;
  return false;
}

}  // namespace prism::rt
