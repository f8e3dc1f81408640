#include "frontends/gguf/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "frontends/gguf/hf/folder.h"
#include "frontends/gguf/quote.h"
#include "frontends/gguf/synth.h"
#include "runtime/base/checked.h"

namespace prism::gguf {
namespace {

constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kMaxNameBytes = 255;
constexpr uint32_t kMaxDims = 4;
constexpr uint64_t kMaxAlignment = 1 << 20;
// The least a metadata entry (key length, key, type, value) and a tensor description can take.
constexpr uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

enum ValueType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };

/// GGUF's tensor types that are not ours, for the message that says so.
std::string tensor_type_name(uint32_t id) {
  static constexpr std::string_view kNames[] = {
      "F32",      "F16",      "Q4_0",    "Q4_1",  "Q4_2",       "Q4_3",       "Q5_0",       "Q5_1",
      "Q8_0",     "Q8_1",     "Q2_K",    "Q3_K",  "Q4_K",       "Q5_K",       "Q6_K",       "Q8_K",
      "IQ2_XXS",  "IQ2_XS",   "IQ3_XXS", "IQ1_S", "IQ4_NL",     "IQ3_S",      "IQ2_S",      "IQ4_XS",
      "I8",       "I16",      "I32",     "I64",   "F64",        "IQ1_M",      "BF16",       "Q4_0_4_4",
      "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",   "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4"};
  if (id < std::size(kNames)) return std::string(kNames[id]) + " (id " + std::to_string(id) + ")";
  return "id " + std::to_string(id);
}

/// Reads forward through the file; every read says whether the bytes were there.
class Cursor {
 public:
  Cursor(std::span<const uint8_t> bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  uint64_t position() const { return position_; }
  uint64_t left() const { return bytes_.size() - position_; }
  std::span<const uint8_t> since(uint64_t start) const { return bytes_.subspan(start, position_ - start); }

  template <class T>
  bool read(T& value) {
    if (left() < sizeof(T)) return false;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return true;
  }

  bool read_string(std::string_view& value) {
    uint64_t n;
    if (!read(n) || left() < n) return false;
    value = {reinterpret_cast<const char*>(bytes_.data()) + position_, size_t(n)};
    position_ += n;
    return true;
  }

  template <class... Parts>
  Error fail(const Parts&... parts) const {
    return error(file_, ": ", parts...);
  }
  Error truncated(const std::string& what) const {
    return fail(what, ": found the end of the file (", bytes_.size(), " bytes), expected more");
  }

 private:
  std::span<const uint8_t> bytes_;
  const std::string& file_;
  uint64_t position_ = 0;
};

template <class T, class Stored>
Result<MetaValue> read_scalar(Cursor& c, const std::string& what) {
  T value;
  if (!c.read(value)) return c.truncated(what);
  return MetaValue(Stored(value));
}

template <class T, class Stored>
Result<MetaValue> read_array(Cursor& c, uint64_t count, const std::string& what) {
  if (count > c.left() / sizeof(T)) {
    return c.fail(what, ": found an array of ", count, " values of ", sizeof(T), " bytes, expected at most the ",
                  c.left(), " bytes left");
  }
  std::vector<Stored> values(count);
  for (uint64_t i = 0; i < count; ++i) {
    T value{};
    c.read(value);  // the bytes are there: checked above
    if constexpr (std::is_same_v<T, uint64_t>) {
      if (value > uint64_t(INT64_MAX)) {
        return c.fail(what, ": element ", i, ": found ", value, ", expected at most ", INT64_MAX);
      }
    }
    values[i] = Stored(value);
  }
  return MetaValue(std::move(values));
}

Result<MetaValue> read_string_array(Cursor& c, uint64_t count, const std::string& what) {
  if (count > c.left() / sizeof(uint64_t)) {
    return c.fail(what, ": found an array of ", count, " strings, expected at most the ", c.left(), " bytes left");
  }
  std::vector<std::string_view> values(count);
  for (auto& value : values) {
    if (!c.read_string(value)) return c.truncated(what);
  }
  return MetaValue(std::move(values));
}

Result<MetaValue> read_array(Cursor& c, const std::string& what) {
  uint32_t type;
  uint64_t count;
  if (!c.read(type) || !c.read(count)) return c.truncated(what);
  switch (type) {
    case kU8:
      return read_array<uint8_t, int64_t>(c, count, what);
    case kI8:
      return read_array<int8_t, int64_t>(c, count, what);
    case kU16:
      return read_array<uint16_t, int64_t>(c, count, what);
    case kI16:
      return read_array<int16_t, int64_t>(c, count, what);
    case kU32:
      return read_array<uint32_t, int64_t>(c, count, what);
    case kI32:
      return read_array<int32_t, int64_t>(c, count, what);
    case kU64:
      return read_array<uint64_t, int64_t>(c, count, what);
    case kI64:
      return read_array<int64_t, int64_t>(c, count, what);
    case kF32:
      return read_array<float, double>(c, count, what);
    case kF64:
      return read_array<double, double>(c, count, what);
    case kBool:
      return read_array<uint8_t, bool>(c, count, what);
    case kString:
      return read_string_array(c, count, what);
    case kArray:
      return c.fail(what, ": found an array of arrays, expected an array of scalars or strings");
    default:
      return c.fail(what, ": found element type ", type, ", expected 0 to 12");
  }
}

Result<MetaValue> read_value(Cursor& c, uint32_t type, const std::string& what) {
  switch (type) {
    case kU8:
      return read_scalar<uint8_t, uint64_t>(c, what);
    case kI8:
      return read_scalar<int8_t, int64_t>(c, what);
    case kU16:
      return read_scalar<uint16_t, uint64_t>(c, what);
    case kI16:
      return read_scalar<int16_t, int64_t>(c, what);
    case kU32:
      return read_scalar<uint32_t, uint64_t>(c, what);
    case kI32:
      return read_scalar<int32_t, int64_t>(c, what);
    case kU64:
      return read_scalar<uint64_t, uint64_t>(c, what);
    case kI64:
      return read_scalar<int64_t, int64_t>(c, what);
    case kF32:
      return read_scalar<float, double>(c, what);
    case kF64:
      return read_scalar<double, double>(c, what);
    case kBool:
      return read_scalar<uint8_t, bool>(c, what);
    case kString: {
      std::string_view value;
      if (!c.read_string(value)) return c.truncated(what);
      return MetaValue(std::string(value));
    }
    case kArray:
      return read_array(c, what);
    default:
      return c.fail(what, ": found value type ", type, ", expected 0 to 12");
  }
}

struct Header {
  uint64_t tensors = 0, entries = 0;
};

Result<Header> read_header(Cursor& c) {
  char magic[4];
  uint32_t version;
  Header h;
  if (!c.read(magic)) return c.truncated("magic");
  if (std::memcmp(magic, "GGUF", 4) != 0) {
    return c.fail("magic: found ", quote({magic, 4}), ", expected 'GGUF'");
  }
  if (!c.read(version)) return c.truncated("version");
  if (version != 0 && (version & 0xffff) == 0) return c.fail("found a big-endian GGUF file, expected little-endian");
  if (version != 2 && version != 3) return c.fail("found GGUF version ", version, ", expected 2 or 3");
  if (!c.read(h.tensors) || !c.read(h.entries)) return c.truncated("header");
  if (h.entries > c.left() / kMinEntryBytes) {
    return c.fail("header: found ", h.entries, " metadata entries, expected at most the ", c.left(), " bytes left");
  }
  if (h.tensors > c.left() / kMinTensorBytes) {
    return c.fail("header: found ", h.tensors, " tensors, expected at most the ", c.left(), " bytes left");
  }
  return h;
}

Result<std::string_view> read_key(Cursor& c, uint64_t index) {
  std::string_view key;
  if (!c.read_string(key)) return c.truncated("key of metadata entry " + std::to_string(index));
  if (key.empty() || key.size() > kMaxKeyBytes) {
    return c.fail("metadata entry ", index, ": found a key of ", key.size(), " bytes, expected 1 to ", kMaxKeyBytes);
  }
  return key;
}

/// The tensor's offset is still relative to the data section.
Result<TensorInfo> read_tensor(Cursor& c, uint64_t index) {
  std::string_view name;
  if (!c.read_string(name)) return c.truncated("name of tensor " + std::to_string(index));
  if (name.empty() || name.size() > kMaxNameBytes) {
    return c.fail("tensor ", index, ": found a name of ", name.size(), " bytes, expected 1 to ", kMaxNameBytes);
  }
  const std::string what = "tensor " + quote(name);
  uint32_t dims;
  if (!c.read(dims)) return c.truncated(what);
  if (dims == 0 || dims > kMaxDims) return c.fail(what, ": found ", dims, " dims, expected 1 to ", kMaxDims);
  TensorInfo t{.name = std::string(name), .dtype = {}, .shape = std::vector<int64_t>(dims), .offset = 0, .bytes = 0};
  uint64_t elements = 1;
  for (uint32_t i = 0; i < dims; ++i) {
    uint64_t size;
    if (!c.read(size)) return c.truncated(what);
    if (size == 0 || size > uint64_t(INT64_MAX)) {
      return c.fail(what, ": dim ", i, ": found ", size, ", expected 1 to ", INT64_MAX);
    }
    const auto product = checked_mul(elements, size);
    if (!product || *product > uint64_t(INT64_MAX)) {
      return c.fail(what, ": found more than ", INT64_MAX, " elements, expected a product of dims that fits 63 bits");
    }
    elements = *product;
    t.shape[dims - 1 - i] = int64_t(size);
  }
  uint32_t type;
  if (!c.read(type) || !c.read(t.offset)) return c.truncated(what);
  const auto dtype = ir::dtype_from_gguf(type);
  if (!dtype) return c.fail(what, ": found type ", tensor_type_name(type), ", which is not supported");
  t.dtype = *dtype;
  const ir::DTypeInfo& format = ir::info(t.dtype);
  if (t.shape.back() % format.block != 0) {
    return c.fail(what, ": found rows of ", t.shape.back(), " elements, expected a multiple of ", format.block, " for ",
                  format.name);
  }
  const auto bytes = checked_mul(elements / format.block, format.bytes);
  if (!bytes) return c.fail(what, ": found a size that does not fit 64 bits");
  t.bytes = *bytes;
  return t;
}

/// Makes the offsets relative to the file and checks that every tensor lies inside it, aligned and apart from the
/// others.
Status place_tensors(std::vector<TensorInfo>& tensors, uint64_t data_start, uint64_t alignment, const Cursor& c,
                     uint64_t file_bytes) {
  for (TensorInfo& t : tensors) {
    if (t.offset % alignment != 0) {
      return c.fail("tensor ", quote(t.name), ": found offset ", t.offset, ", expected a multiple of ", alignment);
    }
    const auto start = checked_add(data_start, t.offset);
    const auto end = start ? checked_add(*start, t.bytes) : std::nullopt;
    if (!end || *end > file_bytes) {
      return c.fail("tensor ", quote(t.name), ": found ", t.bytes, " bytes at offset ", t.offset,
                    " of the tensor data, expected them to end within the file's ", file_bytes, " bytes");
    }
    t.offset = *start;
  }
  std::vector<const TensorInfo*> order;
  order.reserve(tensors.size());
  for (const TensorInfo& t : tensors) order.push_back(&t);
  std::sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    const TensorInfo &a = *order[i - 1], &b = *order[i];
    if (a.offset + a.bytes > b.offset) {
      return c.fail("tensor ", quote(b.name), ": found at byte ", b.offset, ", expected after tensor ", quote(a.name),
                    ", which ends at ", a.offset + a.bytes);
    }
  }
  return ok();
}

std::string_view kind_name(const MetaValue& v) {
  static constexpr std::string_view kNames[] = {"an integer",
                                                "an integer",
                                                "a float",
                                                "a bool",
                                                "a string",
                                                "an array of integers",
                                                "an array of floats",
                                                "an array of bools",
                                                "an array of strings"};
  return kNames[v.index()];
}

std::optional<int64_t> as_int(const MetaValue& v) {
  if (auto* i = std::get_if<int64_t>(&v)) return *i;
  if (auto* u = std::get_if<uint64_t>(&v); u && *u <= uint64_t(INT64_MAX)) return int64_t(*u);
  return std::nullopt;
}

Error wrong_kind(const std::string& file, std::string_view key, const MetaValue& v, std::string_view expected) {
  return error(file, ": key ", quote(key), ": found ", kind_name(v), ", expected ", expected);
}

Error missing(const std::string& file, std::string_view key, std::string_view expected) {
  return error(file, ": key ", quote(key), ": not found, expected ", expected);
}

}  // namespace

Result<std::shared_ptr<File>> File::open(const std::string& path) {
  if (is_synth(path)) return open_synth(path);
  if (hf::is_folder(path)) return hf::open_folder(path);
  PRISM_TRY(MappedFile mapped, MappedFile::open(path, "a GGUF file or a Hugging Face folder"));
  PRISM_TRY(auto file, parse(mapped.bytes(), path));
  file->sources_ = {path};
  file->mapped_ = std::move(mapped);
  return file;
}

Result<std::shared_ptr<File>> File::parse(std::span<const uint8_t> bytes, const std::string& name) {
  return parse(bytes, bytes.size(), name);
}

Result<std::shared_ptr<File>> File::made(std::string header, const std::string& name, Maker maker,
                                         std::vector<std::string> sources) {
  const auto kept = std::make_shared<const std::string>(std::move(header));
  PRISM_TRY(auto f, parse({reinterpret_cast<const uint8_t*>(kept->data()), kept->size()}, INT64_MAX, name));
  f->size_ = f->header_bytes_;
  for (const TensorInfo& t : f->tensors_) f->size_ = std::max(f->size_, t.offset + t.bytes);
  f->header_ = kept;
  f->maker_ = std::move(maker);
  f->sources_ = std::move(sources);
  return f;
}

Result<std::shared_ptr<File>> File::parse(std::span<const uint8_t> bytes, uint64_t size, const std::string& name) {
  std::shared_ptr<File> f(new File);
  f->name_ = name;
  f->bytes_ = bytes;
  f->size_ = size;
  Cursor c(bytes, f->name_);
  PRISM_TRY(const Header header, read_header(c));

  f->raw_metadata_.reserve(header.entries);
  for (uint64_t i = 0; i < header.entries; ++i) {
    const uint64_t start = c.position();
    PRISM_TRY(const std::string_view key, read_key(c, i));
    const std::string what = "key " + quote(key);
    uint32_t type;
    if (!c.read(type)) return c.truncated(what);
    PRISM_TRY(MetaValue value, read_value(c, type, what));
    if (!f->metadata_.emplace(key, std::move(value)).second) return c.fail(what, ": found twice, expected once");
    f->raw_metadata_.push_back({key, c.since(start)});
  }
  PRISM_TRY(const int64_t split_count, f->get_int("split.count", 0));
  if (split_count > 1) {
    return c.fail("found one of ", split_count, " parts of a split model, expected the whole model in one file");
  }
  PRISM_TRY(const int64_t alignment, f->get_int("general.alignment", kDefaultAlignment));
  if (alignment < 1 || uint64_t(alignment) > kMaxAlignment || !std::has_single_bit(uint64_t(alignment))) {
    return c.fail("key 'general.alignment': found ", alignment, ", expected a power of two up to ", kMaxAlignment);
  }

  f->tensors_.reserve(header.tensors);
  for (uint64_t i = 0; i < header.tensors; ++i) {
    PRISM_TRY(TensorInfo t, read_tensor(c, i));
    if (!f->tensor_index_.emplace(t.name, i).second) {
      return c.fail("tensor ", quote(t.name), ": found twice, expected once");
    }
    f->tensors_.push_back(std::move(t));
  }
  const uint64_t data_start = round_up(c.position(), uint64_t(alignment));
  f->header_bytes_ = std::min<uint64_t>(data_start, bytes.size());  // without tensors there is no padding
  PRISM_CHECK(place_tensors(f->tensors_, data_start, uint64_t(alignment), c, size));
  return f;
}

const uint8_t* File::data(const TensorInfo& t) const {
  if (!maker_) return bytes_.data() + t.offset;
  std::lock_guard lock(mutex_);
  auto& kept = kept_[&t];
  if (!kept) kept = load(t);
  return kept.get();
}

std::shared_ptr<const uint8_t> File::load(const TensorInfo& t) const {
  if (!maker_) return {std::shared_ptr<void>(), bytes_.data() + t.offset};
  std::shared_ptr<uint8_t[]> bytes(new uint8_t[t.bytes]);
  maker_(t, 0, {bytes.get(), t.bytes});
  return {bytes, bytes.get()};
}

void File::read(const TensorInfo& t, uint64_t offset, std::span<uint8_t> out) const {
  if (maker_) maker_(t, offset, out);
  else std::memcpy(out.data(), bytes_.data() + t.offset + offset, out.size());
}

const TensorInfo* File::tensor(std::string_view name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

const MetaValue* File::find(std::string_view key) const {
  const auto it = metadata_.find(key);
  return it == metadata_.end() ? nullptr : &it->second;
}

Result<int64_t> File::get_int(std::string_view key, std::optional<int64_t> fallback) const {
  const MetaValue* v = find(key);
  if (!v) return fallback ? Result<int64_t>(*fallback) : missing(name_, key, "an integer");
  if (auto i = as_int(*v)) return *i;
  if (auto* u = std::get_if<uint64_t>(v)) {
    return error(name_, ": key ", quote(key), ": found ", *u, ", expected at most ", INT64_MAX);
  }
  return wrong_kind(name_, key, *v, "an integer");
}

Result<double> File::get_float(std::string_view key, std::optional<double> fallback) const {
  const MetaValue* v = find(key);
  if (!v) return fallback ? Result<double>(*fallback) : missing(name_, key, "a float");
  if (auto* d = std::get_if<double>(v)) return *d;
  return wrong_kind(name_, key, *v, "a float");
}

Result<bool> File::get_bool(std::string_view key, std::optional<bool> fallback) const {
  const MetaValue* v = find(key);
  if (!v) return fallback ? Result<bool>(*fallback) : missing(name_, key, "a bool");
  if (auto* b = std::get_if<bool>(v)) return *b;
  return wrong_kind(name_, key, *v, "a bool");
}

Result<std::string> File::get_string(std::string_view key, std::optional<std::string> fallback) const {
  const MetaValue* v = find(key);
  if (!v) return fallback ? Result<std::string>(*std::move(fallback)) : missing(name_, key, "a string");
  if (auto* s = std::get_if<std::string>(v)) return *s;
  return wrong_kind(name_, key, *v, "a string");
}

Result<std::vector<int64_t>> File::get_ints(std::string_view key, size_t count, std::optional<int64_t> fallback) const {
  const MetaValue* v = find(key);
  if (v && std::holds_alternative<std::vector<int64_t>>(*v)) {
    const auto& values = std::get<std::vector<int64_t>>(*v);
    if (values.size() != count) {
      return error(name_, ": key ", quote(key), ": found ", values.size(), " integers, expected ", count);
    }
    return values;
  }
  PRISM_TRY(const int64_t value, get_int(key, fallback));
  return std::vector<int64_t>(count, value);
}

std::string extract_metadata(const File& f, std::span<const std::string_view> prefixes) {
  std::string body;
  uint64_t entries = 0;
  for (const RawEntry& e : f.raw_metadata()) {
    if (std::none_of(prefixes.begin(), prefixes.end(), [&](auto prefix) { return e.key.starts_with(prefix); }))
      continue;
    body.append(reinterpret_cast<const char*>(e.bytes.data()), e.bytes.size());
    ++entries;
  }
  const uint32_t version = 3;
  const uint64_t tensors = 0;
  std::string out = "GGUF";
  auto put = [&](const auto& value) { out.append(reinterpret_cast<const char*>(&value), sizeof(value)); };
  put(version);
  put(tensors);
  put(entries);
  return out + body;
}

}  // namespace prism::gguf
