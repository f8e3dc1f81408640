// Comparing what this program declares of a foreign interface with that interface's own header.
#pragma once

#include <type_traits>

namespace prism::abi {

// Parameters that differ only in the names of handles, structs and enums are passed the same way.
template <class A, class B>
constexpr bool same_passing = sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B> &&
                              (std::is_integral_v<A> || std::is_enum_v<A>) == (std::is_integral_v<B> || std::is_enum_v<B>);
template <class A, class B>
constexpr bool same_call = false;
template <class R, class... A, class S, class... B>
  requires(sizeof...(A) == sizeof...(B))
constexpr bool same_call<R (*)(A...), S (*)(B...)> = same_passing<R, S> && (same_passing<A, B> && ...);

}  // namespace prism::abi
