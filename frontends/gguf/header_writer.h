// Writes the header of a GGUF file: metadata, then descriptions of tensors.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "frontends/gguf/gguf.h"
#include "runtime/base/checked.h"

namespace prism::gguf {

class HeaderWriter {
 public:
  explicit HeaderWriter(uint64_t alignment = kDefaultAlignment) : alignment_(alignment) {}

  void u32(std::string_view key, int64_t value) { scalar(key, 4, uint32_t(value)); }
  void f32(std::string_view key, double value) { scalar(key, 6, float(value)); }
  void boolean(std::string_view key, bool value) { scalar(key, 7, uint8_t(value)); }
  void string(std::string_view key, std::string_view value) {
    start(key, 8);
    put_string(entries_, value);
  }
  void ints(std::string_view key, std::span<const int32_t> values) {
    array(key, 5, values.size());
    for (int32_t v : values) put(entries_, v);
  }
  void floats(std::string_view key, std::span<const float> values) {
    array(key, 6, values.size());
    for (float v : values) put(entries_, v);
  }
  void strings(std::string_view key, std::span<const std::string> values) {
    array(key, 8, values.size());
    for (const std::string& v : values) put_string(entries_, v);
  }
  /// An entry as it stands in another file.
  void entry(const RawEntry& e) {
    ++entry_count_;
    entries_.append(reinterpret_cast<const char*>(e.bytes.data()), e.bytes.size());
  }
  /// A tensor after those before it; returns its offset from the start of the data.
  uint64_t tensor(std::string_view name, ir::DType dtype, std::span<const int64_t> shape) {
    uint64_t elements = 1;
    for (int64_t n : shape) elements *= uint64_t(n);
    const uint64_t offset = round_up(data_bytes_, alignment_);
    data_bytes_ = offset + elements / ir::info(dtype).block * ir::info(dtype).bytes;
    ++tensor_count_;
    put_string(tensors_, name);
    put(tensors_, uint32_t(shape.size()));
    for (auto dim = shape.rbegin(); dim != shape.rend(); ++dim) put(tensors_, uint64_t(*dim));
    put(tensors_, uint32_t(ir::info(dtype).gguf_type));
    put(tensors_, offset);
    return offset;
  }
  /// Up to where the data begins.
  std::string finish() const {
    std::string out = "GGUF";
    put(out, uint32_t(3));
    put(out, tensor_count_);
    put(out, entry_count_);
    out += entries_;
    out += tensors_;
    out.resize(round_up(out.size(), alignment_));
    return out;
  }

 private:
  template <class T>
  static void put(std::string& out, const T& value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  static void put_string(std::string& out, std::string_view text) {
    put(out, uint64_t(text.size()));
    out += text;
  }
  void start(std::string_view key, uint32_t type) {
    ++entry_count_;
    put_string(entries_, key);
    put(entries_, type);
  }
  template <class T>
  void scalar(std::string_view key, uint32_t type, T value) {
    start(key, type);
    put(entries_, value);
  }
  void array(std::string_view key, uint32_t type, uint64_t count) {
    start(key, 9);
    put(entries_, type);
    put(entries_, count);
  }

  uint64_t alignment_, tensor_count_ = 0, entry_count_ = 0, data_bytes_ = 0;
  std::string entries_, tensors_;
};

}  // namespace prism::gguf
