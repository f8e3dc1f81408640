// Errors as values. Every fallible function returns Result<T>; the message is one line that names
// the file, the item, what was found and what was expected.
#pragma once

#include <cassert>
#include <sstream>
#include <string>
#include <utility>
#include <variant>

namespace prism {

struct Error {
  std::string message;
};

/// error("model.gguf: tensor '", name, "': found ", n, " dims, expected at most 4")
template <class... Parts>
Error error(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return Error{std::move(out).str()};
}

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error e) : state_(std::in_place_index<1>, std::move(e)) {}

  explicit operator bool() const { return state_.index() == 0; }
  T& operator*() & { return std::get<0>(state_); }
  const T& operator*() const& { return std::get<0>(state_); }
  T&& operator*() && { return std::get<0>(std::move(state_)); }
  T* operator->() { return &std::get<0>(state_); }
  const T* operator->() const { return &std::get<0>(state_); }
  const Error& err() const { return std::get<1>(state_); }
  const std::string& message() const { return err().message; }

 private:
  std::variant<T, Error> state_;
};

struct Unit {};
using Status = Result<Unit>;
inline Status ok() { return Unit{}; }

}  // namespace prism

#define PRISM_CONCAT_(a, b) a##b
#define PRISM_CONCAT(a, b) PRISM_CONCAT_(a, b)
/// PRISM_TRY(auto x, f()): x is f()'s value, or the enclosing function returns f()'s error.
#define PRISM_TRY(decl, expr) PRISM_TRY_(PRISM_CONCAT(try_, __COUNTER__), decl, expr)
#define PRISM_TRY_(tmp, decl, expr) \
  auto tmp = (expr);                \
  if (!tmp) return tmp.err();       \
  decl = *std::move(tmp)
/// PRISM_CHECK(f()): return f()'s error if it has one.
#define PRISM_CHECK(expr)                                      \
  do {                                                         \
    if (auto status_ = (expr); !status_) return status_.err(); \
  } while (0)
