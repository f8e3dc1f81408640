#include "frontends/gguf/hf/safetensors.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>

#include "frontends/gguf/hf/json.h"
#include "frontends/gguf/quote.h"
#include "runtime/base/checked.h"

namespace prism::gguf::hf {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kLengthBytes = 8;

/// The whole numbers of an array, or nothing if it holds anything else.
std::optional<std::vector<uint64_t>> numbers(const Json* array) {
  if (!array || !array->is_array()) return std::nullopt;
  std::vector<uint64_t> values;
  for (const Json& v : *array) {
    if (!v.is_number_unsigned() || v.get<uint64_t>() > uint64_t(INT64_MAX)) return std::nullopt;
    values.push_back(v.get<uint64_t>());
  }
  return values;
}

/// `data`: all of the file behind its header.
Result<SafeTensor> read_tensor(const Object& entry, std::span<const uint8_t> data) {
  const auto missing = [&](std::string_view key, std::string_view expected) {
    const Json* v = entry.find(key);
    return error(entry.where(), ": ", key, ": ", v ? "found " + shown(*v) : "not found", ", expected ", expected);
  };
  SafeTensor t;
  PRISM_TRY(t.type, entry.get_string("dtype"));
  const auto shape = numbers(entry.find("shape")), ends = numbers(entry.find("data_offsets"));
  if (!shape) return missing("shape", "whole numbers that fit 63 bits");
  if (!ends || ends->size() != 2) return missing("data_offsets", "two whole numbers");
  const uint64_t begin = (*ends)[0], end = (*ends)[1];
  if (begin > end || end > data.size())
    return error(entry.where(), ": data_offsets: found ", begin, " to ", end, ", expected a range within the ", data.size(), " bytes of data");
  t.data = data.subspan(begin, end - begin);
  if (const auto dtype = dtype_of(t)) {
    std::optional<uint64_t> bytes = ir::info(*dtype).bytes;
    for (uint64_t n : *shape) bytes = bytes ? checked_mul(*bytes, n) : bytes;
    if (!bytes) return error(entry.where(), ": shape: found a size that does not fit 64 bits");
    if (*bytes != t.data.size())
      return error(entry.where(), ": data_offsets: found ", t.data.size(), " bytes, expected the ", *bytes, " of its shape");
  }
  t.shape.assign(shape->begin(), shape->end());
  return t;
}

Status check_apart(const SafeTensors& tensors, const std::string& name) {
  std::vector<const SafeTensors::value_type*> order;
  for (const auto& entry : tensors)
    if (!entry.second.data.empty()) order.push_back(&entry);
  std::ranges::sort(order, {}, [](const auto* e) { return e->second.data.data(); });
  for (size_t i = 1; i < order.size(); ++i) {
    const auto &a = *order[i - 1], &b = *order[i];
    if (a.second.data.data() + a.second.data.size() > b.second.data.data())
      return error(name, ": tensor ", quote(b.first), ": found data that begins inside that of ", quote(a.first), ", expected it apart");
  }
  return ok();
}

/// The shards an index names, by tensor.
Result<std::map<std::string, std::string>> read_index(const std::string& path) {
  PRISM_TRY(const Json json, read_json(path));
  PRISM_TRY(const Object index, Object::of(json, path));
  PRISM_TRY(const Object map, index.get_object("weight_map"));
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : map.json().items()) {
    const auto* name = file.get_ptr<const std::string*>();
    const bool plain = name && !name->empty() && name->find('/') == name->npos && name->find("..") == name->npos && quote(*name) == "'" + *name + "'";
    if (!plain) return error(path, ": tensor ", quote(tensor), ": found ", shown(file), ", expected the plain name of a file in the same folder");
    files.emplace(tensor, *name);
  }
  if (files.empty()) return error(path, ": 'weight_map': found no tensors");
  return files;
}

}  // namespace

std::optional<ir::DType> dtype_of(const SafeTensor& t) {
  if (t.type == "F32") return ir::DType::F32;
  if (t.type == "F16") return ir::DType::F16;
  if (t.type == "BF16") return ir::DType::BF16;
  return std::nullopt;
}

Result<SafeTensors> parse_safetensors(std::span<const uint8_t> bytes, const std::string& name) {
  uint64_t length;
  if (bytes.size() < kLengthBytes) return error(name, ": found ", bytes.size(), " bytes, expected a safetensors file");
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length > std::min<uint64_t>(bytes.size() - kLengthBytes, kMaxJsonBytes))
    return error(name, ": header: found a length of ", length, " bytes, expected at most ", kMaxJsonBytes, " and the file's ", bytes.size());
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, size_t(length));
  PRISM_TRY(const Json json, parse_json(header, name + ": header"));
  PRISM_TRY(const Object entries, Object::of(json, name + ": header"));
  SafeTensors tensors;
  for (const auto& [tensor, value] : json.items()) {
    if (tensor == "__metadata__") continue;
    PRISM_TRY(const Object entry, Object::of(value, name + ": tensor " + quote(tensor)));
    PRISM_TRY(SafeTensor t, read_tensor(entry, bytes.subspan(kLengthBytes + length)));
    t.file = name;
    tensors.emplace(tensor, std::move(t));
  }
  PRISM_CHECK(check_apart(tensors, name));
  return tensors;
}

Result<Weights> Weights::open(const std::string& folder) {
  const std::string single = folder + "/model.safetensors", index = single + ".index.json";
  std::error_code ec;
  std::map<std::string, std::string> where;  // of an index
  std::set<std::string> names = {"model.safetensors"};
  if (!fs::exists(single, ec)) {
    if (!fs::exists(index, ec)) return error(folder, ": found neither model.safetensors nor model.safetensors.index.json");
    PRISM_TRY(where, read_index(index));
    names.clear();
    for (const auto& [tensor, file] : where) names.insert(file);
  }
  Weights w;
  for (const std::string& name : names) {
    const std::string path = folder + "/" + name;
    PRISM_TRY(MappedFile file, MappedFile::open(path, "a safetensors file"));
    PRISM_TRY(SafeTensors tensors, parse_safetensors(file.bytes(), path));
    for (auto& [tensor, value] : tensors) {
      const auto at = where.find(tensor);
      if (!where.empty() && (at == where.end() || at->second != name))
        return error(path, ": tensor ", quote(tensor), ": found here, expected ",
                     at == where.end() ? "it in model.safetensors.index.json" : "it in " + quote(at->second));
      w.tensors.emplace(tensor, std::move(value));
    }
    w.files.push_back(std::move(file));
    w.paths.push_back(path);
  }
  for (const auto& [tensor, file] : where)
    if (!w.tensors.contains(tensor)) return error(folder, "/", file, ": tensor ", quote(tensor), ": not found, expected by model.safetensors.index.json");
  return w;
}

}  // namespace prism::gguf::hf
