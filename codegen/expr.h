// Arithmetic on the runtime's expressions over dims.
#pragma once

#include "runtime/program.h"

namespace prism::codegen {

inline rt::Expr binary(rt::Expr::Code code, rt::Expr a, const rt::Expr& b) {
  a.code.insert(a.code.end(), b.code.begin(), b.code.end());
  a.code.insert(a.code.end(), {code, 0});
  return a;
}
inline rt::Expr operator+(const rt::Expr& a, const rt::Expr& b) { return binary(rt::Expr::Add, a, b); }
inline rt::Expr operator*(const rt::Expr& a, const rt::Expr& b) { return binary(rt::Expr::Mul, a, b); }
inline rt::Expr operator-(const rt::Expr& a, const rt::Expr& b) { return a + b * rt::Expr::constant(-1); }
inline rt::Expr min(const rt::Expr& a, const rt::Expr& b) { return binary(rt::Expr::Min, a, b); }
inline rt::Expr max(const rt::Expr& a, const rt::Expr& b) { return binary(rt::Expr::Max, a, b); }
inline rt::Expr floor_div(const rt::Expr& a, const rt::Expr& b) { return binary(rt::Expr::FloorDiv, a, b); }

}  // namespace prism::codegen
