// GGUF v2/v3 files: metadata and tensor descriptions, everything checked before it is used.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "frontends/gguf/mapped_file.h"
#include "ir/quants.h"
#include "runtime/base/result.h"

namespace prism::gguf {

/// A metadata value: integers of any width as int64/uint64, floats as double, arrays of one kind. The strings of an
/// array (a vocabulary, its merges) are views of the file's bytes: a quarter of a million copies would be felt.
using MetaValue = std::variant<uint64_t, int64_t, double, bool, std::string, std::vector<int64_t>, std::vector<double>,
                           std::vector<bool>, std::vector<std::string_view>>;

/// Of the tensors' data, where the file does not say otherwise.
inline constexpr uint64_t kDefaultAlignment = 32;

/// A metadata entry as it stands in the file: key, type and value.
struct RawEntry {
  std::string_view key;
  std::span<const uint8_t> bytes;
};

struct TensorInfo {
  std::string name;
  ir::DType dtype;
  std::vector<int64_t> shape;   ///< outermost first (the file stores it innermost first)
  uint64_t offset;              ///< from the start of the file
  uint64_t bytes;
};

class File {
 public:
  /// Maps the file read-only. A path that begins with "synth:" names a model that is made (synth.h), and a folder is read as
  /// Hugging Face's files of a model (hf/folder.h).
  static Result<std::shared_ptr<File>> open(const std::string& path);
  /// From bytes in memory (kept by reference, must outlive the File); `name` is used in errors.
  static Result<std::shared_ptr<File>> parse(std::span<const uint8_t> bytes, const std::string& name);
  /// Makes a tensor's bytes from `offset` on, a multiple of 256 elements.
  using Maker = std::function<void(const TensorInfo& t, uint64_t offset, std::span<uint8_t> out)>;
  /// A header without data behind it: that is made when it is read, of the files `sources`.
  static Result<std::shared_ptr<File>> made(std::string header, const std::string& name, Maker maker,
                                            std::vector<std::string> sources = {});
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  const std::string& name() const { return name_; }
  uint64_t size() const { return size_; }                    ///< header and data, also where the data is made
  bool is_made() const { return bool(maker_); }
  /// Files whose change changes the model; none of one in memory or made as its header says.
  const std::vector<std::string>& sources() const { return sources_; }
  std::span<const uint8_t> bytes() const { return bytes_; }  ///< the file, or the header where the data is made
  uint64_t header_bytes() const { return header_bytes_; }   ///< up to the start of the tensor data
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  const TensorInfo* tensor(std::string_view name) const;
  /// The tensor's bytes, which live as long as the File.
  const uint8_t* data(const TensorInfo& t) const;
  /// The same for as long as the pointer lives (and the File): where data is made, it need not be kept.
  std::shared_ptr<const uint8_t> load(const TensorInfo& t) const;
  /// Copies or makes a part of it; `offset` as a Maker's.
  void read(const TensorInfo& t, uint64_t offset, std::span<uint8_t> out) const;
  /// The mapped pages that [p, p+bytes) touches may leave memory; they come back when read.
  void forget(const uint8_t* p, uint64_t bytes) const { mapped_.forget(p, bytes); }

  const std::map<std::string, MetaValue, std::less<>>& metadata() const { return metadata_; }
  const MetaValue* find(std::string_view key) const;
  const std::vector<RawEntry>& raw_metadata() const { return raw_metadata_; }   ///< in file order
  /// Typed lookups; an error if the key is missing or of another kind, or `fallback` if given and missing.
  Result<int64_t> get_int(std::string_view key, std::optional<int64_t> fallback = {}) const;
  Result<double> get_float(std::string_view key, std::optional<double> fallback = {}) const;
  Result<bool> get_bool(std::string_view key, std::optional<bool> fallback = {}) const;
  Result<std::string> get_string(std::string_view key, std::optional<std::string> fallback = {}) const;
  /// A scalar repeated `count` times or an array of `count`.
  Result<std::vector<int64_t>> get_ints(std::string_view key, size_t count, std::optional<int64_t> fallback = {}) const;

 private:
  File() = default;
  /// `size`: of the whole file, of which `bytes` may be only the header.
  static Result<std::shared_ptr<File>> parse(std::span<const uint8_t> bytes, uint64_t size, const std::string& name);

  std::string name_;
  std::span<const uint8_t> bytes_;
  uint64_t size_ = 0;
  uint64_t header_bytes_ = 0;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t, std::less<>> tensor_index_;
  std::map<std::string, MetaValue, std::less<>> metadata_;
  std::vector<RawEntry> raw_metadata_;
  MappedFile mapped_;
  std::vector<std::string> sources_;
  std::shared_ptr<const std::string> header_;  ///< of a made file
  Maker maker_;
  mutable std::mutex mutex_;
  mutable std::map<const TensorInfo*, std::shared_ptr<const uint8_t>> kept_;  ///< what data() made
};

/// The metadata of `f` whose keys begin with one of `prefixes`, as a GGUF file without tensors (for .prx files).
std::string extract_metadata(const File& f, std::span<const std::string_view> prefixes);

}  // namespace prism::gguf
