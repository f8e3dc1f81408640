// Writes small GGUF files for tests, right ones and wrong ones.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace prism::gguf {

class GgufWriter {
 public:
  uint32_t version = 3;
  uint64_t alignment = 32;  ///< of the tensor data; also write the key if it is not 32

  template <class T>
  GgufWriter& key(std::string_view name, uint32_t type, const T& value) {
    start(name, type);
    put(entries_, value);
    return *this;
  }
  GgufWriter& u32(std::string_view name, uint32_t value) { return key(name, 4, value); }
  GgufWriter& f32(std::string_view name, float value) { return key(name, 6, value); }
  GgufWriter& boolean(std::string_view name, bool value) { return key(name, 7, uint8_t(value)); }
  GgufWriter& string(std::string_view name, std::string_view value) {
    start(name, 8);
    put_string(entries_, value);
    return *this;
  }
  template <class T>
  GgufWriter& array(std::string_view name, uint32_t type, const std::vector<T>& values) {
    start_array(name, type, values.size());
    for (const T& v : values) put(entries_, v);
    return *this;
  }
  GgufWriter& strings(std::string_view name, const std::vector<std::string>& values) {
    start_array(name, 8, values.size());
    for (const std::string& v : values) put_string(entries_, v);
    return *this;
  }
  /// `dims` innermost first, as the file has them; `offset` from the start of the tensor data.
  GgufWriter& tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
    ++tensor_count_;
    put_string(tensors_, name);
    put(tensors_, uint32_t(dims.size()));
    for (uint64_t d : dims) put(tensors_, d);
    put(tensors_, type);
    put(tensors_, offset);
    return *this;
  }
  GgufWriter& data(size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) data_ += char(i * 37 + 11);
    return *this;
  }
  GgufWriter& data(const std::vector<float>& values) {
    data_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    return *this;
  }

  std::vector<uint8_t> bytes() const {
    std::string out = "GGUF";
    put(out, version);
    put(out, tensor_count_);
    put(out, entry_count_);
    out += entries_ + tensors_;
    if (tensor_count_ > 0) out.resize((out.size() + alignment - 1) / alignment * alignment);
    out += data_;
    return {out.begin(), out.end()};
  }

 private:
  template <class T>
  static void put(std::string& out, const T& value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  static void put_string(std::string& out, std::string_view value) {
    put(out, uint64_t(value.size()));
    out += value;
  }
  void start(std::string_view name, uint32_t type) {
    ++entry_count_;
    put_string(entries_, name);
    put(entries_, type);
  }
  void start_array(std::string_view name, uint32_t type, uint64_t count) {
    start(name, 9);
    put(entries_, type);
    put(entries_, count);
  }

  uint64_t tensor_count_ = 0, entry_count_ = 0;
  std::string entries_, tensors_, data_;
};

}  // namespace prism::gguf
