#include "ir/type.h"

#include <charconv>
#include <optional>

#include "ir/kv_pages.h"
#include "runtime/base/checked.h"

namespace prism::ir {

static constexpr std::string_view kLayouts[] = {"row_major", "rows16", "tiles", "swizzled"};

std::string_view layout_name(Layout l) { return kLayouts[size_t(l)]; }

std::optional<Layout> layout_from_name(std::string_view name) {
  for (size_t i = 0; i < std::size(kLayouts); ++i)
    if (kLayouts[i] == name) return Layout(i);
  return std::nullopt;
}

Type Type::tensor(DType t, llvm::ArrayRef<Dim> shape, Layout layout) {
  return {TypeKind::Tensor, t, layout, Shape(shape.begin(), shape.end())};
}

Type Type::kv(DType t, Dim positions, Dim heads, Dim head_size) {
  return {TypeKind::Kv, t, Layout::RowMajor, {positions, heads, head_size}};
}

std::string shape_str(llvm::ArrayRef<Dim> shape) {
  std::string out;
  for (Dim d : shape) out += (out.empty() ? "" : ",") + d.str();
  return out;
}

Result<Shape> parse_shape(std::string_view text) {
  Shape shape;
  if (text.find_first_not_of(' ') == std::string_view::npos) return shape;
  for (;;) {
    const size_t comma = text.find(',');
    PRISM_TRY(Dim d, Dim::parse(text.substr(0, comma)));
    if (auto c = d.constant(); c && *c < 0) return error("found size ", *c, ", expected >= 0");
    if (shape.size() == kMaxRank) return error("found more than ", kMaxRank, " dims");
    shape.push_back(d);
    if (comma == std::string_view::npos) return shape;
    text.remove_prefix(comma + 1);
  }
}

std::string Type::str() const {
  const std::string name(info(dtype).name);
  std::string kept;
  if (is_compressed()) kept = ",k" + std::to_string(key_bits) + "v" + std::to_string(value_bits);
  if (ring) kept += ",ring=" + std::to_string(ring);
  if (sinks) kept += ",sinks=" + std::to_string(sinks);
  std::string out = (is_kv() ? "kv<" + name + kept + ">" : name) + "[" + shape_str(shape) + "]";
  if (layout != Layout::RowMajor) out += "{" + std::string(layout_name(layout)) + "}";
  return out;
}

Result<Type> Type::parse(std::string_view text) {
  auto fail = [&](std::string_view expected) {
    return error("found type '", text.substr(0, 80), "', expected ", expected);
  };
  const size_t open = text.find('['), close = text.find(']');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open)
    return fail("dtype[dims] or kv<dtype>[dims]");
  Type t;
  std::string_view name = text.substr(0, open), tail = text.substr(close + 1);
  if (name.starts_with("kv<") && name.ends_with(">")) {
    t.kind = TypeKind::Kv;
    name = name.substr(3, name.size() - 4);
    for (size_t comma; (comma = name.rfind(',')) != name.npos; name = name.substr(0, comma)) {
      std::string_view kept = name.substr(comma + 1);
      if (const size_t equals = kept.find('='); equals != kept.npos) {
        const std::string_view key = kept.substr(0, equals), number = kept.substr(equals + 1);
        if (key != "ring" && key != "sinks") return fail("ring= or sinks= in kv<>");
        int64_t& value = key == "ring" ? t.ring : t.sinks;
        const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
        if (error != std::errc() || end != number.data() + number.size() || value < 1 || value % rt::kKvPage) return fail(std::string(key) + "= with a positive multiple of " + std::to_string(rt::kKvPage));
        continue;
      }
      const auto bits = KvBits::parse(kept);
      if (!bits) return fail(bits.message());
      t.key_bits = bits->key;
      t.value_bits = bits->value;
    }
  }
  const auto dtype = dtype_from_name(name);
  if (!dtype) return fail("a known element type");
  t.dtype = *dtype;
  PRISM_TRY(t.shape, parse_shape(text.substr(open + 1, close - open - 1)));
  if (!tail.empty()) {
    const auto layout = tail.size() > 2 && tail.front() == '{' && tail.back() == '}'
                            ? layout_from_name(tail.substr(1, tail.size() - 2)) : std::nullopt;
    if (!layout || *layout == Layout::RowMajor) return fail("nothing, {rows16}, {tiles} or {swizzled} after ']'");
    t.layout = *layout;
  }
  if (t.sinks >= t.ring && t.sinks > 0) return fail("sinks= less than ring=");
  if (t.is_kv() && (t.rank() != 3 || t.layout != Layout::RowMajor)) return fail("kv<dtype>[positions,heads,size]");
  return t;
}

std::optional<int64_t> Type::elements() const {
  int64_t n = 1;
  for (Dim d : shape) {
    const auto c = d.constant();
    if (!c || *c < 0 || __builtin_mul_overflow(n, *c, &n)) return std::nullopt;
  }
  return n;
}

std::optional<int64_t> Type::bytes() const {
  const DTypeInfo& format = info(dtype);
  int64_t rows = is_kv() ? 2 : 1;  // K and V
  int64_t row = rank() ? shape.back().constant().value_or(-1) : 1;
  if (row < 0 || row % format.block != 0) return std::nullopt;
  for (Dim d : llvm::ArrayRef<Dim>(shape).drop_back(rank() ? 1 : 0)) {
    const auto c = d.constant();
    if (!c || *c < 0 || __builtin_mul_overflow(rows, *c, &rows)) return std::nullopt;
  }
  if (layout != Layout::RowMajor) {  // whole groups of 16 rows; kernels read tiles in pairs
    const int64_t whole = layout == Layout::Tiles ? 32 : layout == Layout::Swizzled ? 64 : 16;
    if (rows > INT64_MAX - whole || row > INT64_MAX - whole) return std::nullopt;
    rows = int64_t(round_up(uint64_t(rows), uint64_t(whole)));
    if (layout == Layout::Swizzled) row = int64_t(round_up(uint64_t(row), uint64_t(whole)));
  }
  int64_t total;
  if (__builtin_mul_overflow(row / format.block, int64_t(format.bytes), &row) ||
      __builtin_mul_overflow(rows, row, &total))
    return std::nullopt;
  return total;
}

}  // namespace prism::ir
