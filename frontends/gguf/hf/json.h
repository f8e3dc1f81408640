// JSON files of unknown origin: parsed within bounds, read by typed lookups.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/base/result.h"

namespace prism::gguf::hf {

using Json = nlohmann::json;

inline constexpr uint64_t kMaxJsonBytes = 100'000'000;  ///< what the safetensors format allows its header

/// `name` begins error messages. Deep nesting and keys found twice are errors.
Result<Json> parse_json(std::string_view text, const std::string& name);
Result<Json> read_json(const std::string& path);

/// An object and where it stands, for messages. A null counts as missing.
class Object {
 public:
  /// `value` must outlive this.
  static Result<Object> of(const Json& value, std::string where);

  const std::string& where() const { return where_; }
  const Json& json() const { return *json_; }
  const Json* find(std::string_view key) const;  ///< nullptr if missing
  /// Errors if the key is missing or of another kind, or `fallback` if given and missing.
  Result<int64_t> get_int(std::string_view key, int64_t lo, int64_t hi, std::optional<int64_t> fallback = {}) const;
  Result<double> get_float(std::string_view key, std::optional<double> fallback = {}) const;
  Result<bool> get_bool(std::string_view key, std::optional<bool> fallback = {}) const;
  Result<std::string> get_string(std::string_view key, std::optional<std::string> fallback = {}) const;
  Result<Object> get_object(std::string_view key) const;
  /// An error if `key` is there with anything else than one of `values`: a feature that would change results.
  Status require(std::string_view key, std::initializer_list<Json> values) const;

 private:
  Object(const Json& json, std::string where) : json_(&json), where_(std::move(where)) {}
  Error wrong(std::string_view key, std::string_view expected) const;

  const Json* json_;
  std::string where_;
};

/// A value as a message shows it, cut short.
std::string shown(const Json& value);

}  // namespace prism::gguf::hf
