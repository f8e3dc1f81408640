// Factors of keys' channels, one for each channel of a KV head, that queries are divided by. They change no score, but what rounding does to it:
// rotation spreads a key's error evenly over its channels, so that scores' squared error is the sum of s^2 k^2 times that of q^2 / s^2,
// least where s^2 = |q| / |k|, root mean squares (SmoothQuant, Xiao et al. 2023, does the same to inputs and weights; there ranges).
//
// As text a factor is a letter: 2^((n-32)/4), n its place in A-Z a-z 0-9 - _.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"

namespace prism::ir {

/// The best factors of a head's channels from the mean squares of its keys, less their pages' means, and of its queries; their geometric mean
/// is 1. A channel that is always 0 gets 1.
std::vector<double> key_balance(std::span<const double> keys, std::span<const double> queries);

std::string key_balance_text(std::span<const double> factors);
Result<std::vector<double>> parse_key_balance(std::string_view text);

}  // namespace prism::ir
