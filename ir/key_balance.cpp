#include "ir/key_balance.h"

#include <algorithm>
#include <cmath>

namespace prism::ir {

namespace {

constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
constexpr int kPerOctave = 4, kOne = 32;

}  // namespace

std::vector<double> key_balance(std::span<const double> keys, std::span<const double> queries) {
  std::vector<double> logs(keys.size());
  double sum = 0, count = 0;
  for (size_t i = 0; i < keys.size(); ++i)
    if (keys[i] > 0 && queries[i] > 0) {
      logs[i] = std::log2(queries[i] / keys[i]) / 4;
      sum += logs[i];
      ++count;
    }
  std::vector<double> factors(keys.size(), 1.0);
  for (size_t i = 0; i < keys.size(); ++i)
    if (keys[i] > 0 && queries[i] > 0) factors[i] = std::exp2(logs[i] - sum / count);
  return factors;
}

std::string key_balance_text(std::span<const double> factors) {
  std::string text;
  for (double f : factors) text += kLetters[size_t(std::clamp(int(std::lround(std::log2(f) * kPerOctave)) + kOne, 0, int(kLetters.size()) - 1))];
  return text;
}

Result<std::vector<double>> parse_key_balance(std::string_view text) {
  std::vector<double> factors;
  for (char c : text) {
    const size_t n = kLetters.find(c);
    if (n == kLetters.npos) return error("found '", std::string(1, c), "', expected letters, digits, - and _");
    factors.push_back(std::exp2(double(int(n) - kOne) / kPerOctave));
  }
  return factors;
}

}  // namespace prism::ir
