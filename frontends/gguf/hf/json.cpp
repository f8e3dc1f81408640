#include "frontends/gguf/hf/json.h"

#include <set>

#include "frontends/gguf/mapped_file.h"
#include "frontends/gguf/quote.h"

namespace prism::gguf::hf {
namespace {

constexpr int kMaxDepth = 64;

}  // namespace

Result<Json> parse_json(std::string_view text, const std::string& name) {
  if (text.size() > kMaxJsonBytes) return error(name, ": found ", text.size(), " bytes of JSON, expected at most ", kMaxJsonBytes);
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  std::optional<Error> refused;
  const auto callback = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth && !refused) refused = error(name, ": found JSON nested deeper than ", kMaxDepth, " levels");
    if (refused) return false;
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
      refused = error(name, ": key ", quote(parsed.get<std::string>()), ": found twice, expected once");
    return !refused;
  };
  Json json = Json::parse(text.begin(), text.end(), callback, /*allow_exceptions=*/false);
  if (refused) return *refused;
  if (json.is_discarded()) return error(name, ": found something else than JSON");
  return json;
}

Result<Json> read_json(const std::string& path) {
  PRISM_TRY(const MappedFile file, MappedFile::open(path, "a JSON file"));
  return parse_json({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, path);
}

std::string shown(const Json& value) {
  return value.is_string() ? quote(value.get_ref<const std::string&>()) : quote(value.dump(-1, ' ', true, Json::error_handler_t::replace));
}

Result<Object> Object::of(const Json& value, std::string where) {
  if (!value.is_object()) return error(where, ": found ", value.type_name(), ", expected an object");
  return Object(value, std::move(where));
}

const Json* Object::find(std::string_view key) const {
  const auto it = json_->find(key);
  return it == json_->end() || it->is_null() ? nullptr : &*it;
}

Error Object::wrong(std::string_view key, std::string_view expected) const {
  const Json* v = find(key);
  return error(where_, ": ", quote(key), ": ", v ? "found " + shown(*v) : "not found", ", expected ", expected);
}

Result<int64_t> Object::get_int(std::string_view key, int64_t lo, int64_t hi, std::optional<int64_t> fallback) const {
  const Json* v = find(key);
  if (!v && fallback) return *fallback;
  // A number beyond 63 bits reads as negative or as a float.
  const int64_t value = v && v->is_number_integer() ? v->get<int64_t>() : INT64_MIN;
  const bool fits = v && v->is_number_integer() && !(v->is_number_unsigned() && v->get<uint64_t>() > uint64_t(INT64_MAX));
  if (!fits || value < lo || value > hi) return wrong(key, "an integer from " + std::to_string(lo) + " to " + std::to_string(hi));
  return value;
}

Result<double> Object::get_float(std::string_view key, std::optional<double> fallback) const {
  const Json* v = find(key);
  if (!v && fallback) return *fallback;
  if (!v || !v->is_number()) return wrong(key, "a number");
  return v->get<double>();
}

Result<bool> Object::get_bool(std::string_view key, std::optional<bool> fallback) const {
  const Json* v = find(key);
  if (!v && fallback) return *fallback;
  if (!v || !v->is_boolean()) return wrong(key, "true or false");
  return v->get<bool>();
}

Result<std::string> Object::get_string(std::string_view key, std::optional<std::string> fallback) const {
  const Json* v = find(key);
  if (!v && fallback) return *std::move(fallback);
  if (!v || !v->is_string()) return wrong(key, "a string");
  return v->get<std::string>();
}

Result<Object> Object::get_object(std::string_view key) const {
  const Json* v = find(key);
  if (!v) return wrong(key, "an object");
  return of(*v, where_ + ": " + quote(key));
}

Status Object::require(std::string_view key, std::initializer_list<Json> values) const {
  const Json* v = find(key);
  if (!v) return ok();
  std::string expected;
  for (const Json& value : values) {
    if (*v == value) return ok();
    expected += (expected.empty() ? "" : " or ") + shown(value);
  }
  return wrong(key, expected.empty() ? "nothing" : expected);
}

}  // namespace prism::gguf::hf
