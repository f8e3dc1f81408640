#include "codegen/fill_weight.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "codegen/pack.h"
#include "ir/hadamard.h"
#include "runtime/base/checked.h"

namespace prism::codegen {

using ir::DType;

Result<uint64_t> weight_bytes(const ir::Type& t) {
  if (t.layout == ir::Layout::Rows16) {
    if (t.rank() != 2 || !t.elements() || !rows16_supports(t.dtype)) return error("weight of type ", t.str(), " has no rows16 layout");
    return uint64_t(rows16_bytes(t.dtype, *t.dim(0).constant(), *t.dim(1).constant()));
  }
  const auto bytes = t.bytes();
  if (!bytes) return error("weight of type ", t.str(), " has no constant size");
  return uint64_t(*bytes);
}

namespace {

/// Of a row: all axes but the first.
int64_t columns_of(const std::vector<int64_t>& shape) {
  int64_t columns = 1;
  for (size_t i = 1; i < shape.size(); ++i) columns *= shape[i];
  return columns;
}

/// The rows of a weight's sources in the weight's own format.
class SourceRows {
 public:
  SourceRows(const rt::Weight& w, DType dtype, ir::Scales scales, std::vector<SourceTensor> parts)
      : w_(w), dtype_(dtype), scales_(scales), columns_(columns_of(w.shape)), parts_(std::move(parts)), done_(parts_.size()) {}

  Status check() const {
    int64_t rows = 0;
    for (const SourceTensor& t : parts_) {
      rows += t.shape[0];
      const int64_t columns = columns_of(t.shape);
      if (columns != columns_) return error("weight ", w_.name, ": found a source with ", columns, " columns, expected ", columns_);
      if (converts(t) && !can_make(dtype_))
        return error("weight ", w_.name, ": found ", ir::info(t.dtype).name, ", expected ", w_.dtype);
      if (w_.interleave > 0 && (t.shape[0] != parts_[0].shape[0] || t.shape[0] % w_.interleave))
        return error("weight ", w_.name, ": found a source of ", t.shape[0], " rows, expected ", parts_[0].shape[0], " and a multiple of the interleave, ", w_.interleave);
      if (columns_ % int64_t(std::lcm(ir::info(t.dtype).block, ir::info(dtype_).block)))
        return error("weight ", w_.name, ": found ", columns_, " columns, expected whole blocks of ", ir::info(t.dtype).name, " and ", w_.dtype);
    }
    if (rows != w_.shape[0]) return error("weight ", w_.name, ": its sources have ", rows, " rows, expected ", w_.shape[0]);
    return ok();
  }

  /// Row r of the weight. What is converted is good until as many further rows as `kept` are asked for.
  const uint8_t* row(int64_t r, size_t kept) {
    size_t part = 0;
    if (w_.interleave > 0) {
      const int64_t n = int64_t(parts_.size()), block = r / w_.interleave;
      part = size_t(block % n);
      r = block / n * w_.interleave + r % w_.interleave;
    } else {
      while (r >= parts_[part].shape[0]) r -= parts_[part++].shape[0];
    }
    const SourceTensor& t = parts_[part];
    done_[part].read = r + 1;
    if (!converts(t)) return t.data + r * bytes_of(t.dtype);
    if (made_.size() < kept) made_.resize(kept, std::vector<uint8_t>(size_t(bytes_of(dtype_))));
    std::vector<uint8_t>& out = made_[next_++ % kept];
    values_of(t, r);
    const float most = scales_ == ir::Scales::Row ? ir::largest_magnitude(values_.data(), values_.size()) : scales_ == ir::Scales::Tensor ? largest_of(part) : 0;
    ir::quantize_row(dtype_, values_.data(), out.data(), values_.size(), most);
    return out.data();
  }

  /// The rows before those that were asked for last will not be.
  void release() {
    for (size_t p = 0; p < parts_.size(); ++p) {
      const int64_t bytes = bytes_of(parts_[p].dtype);
      if (parts_[p].done) parts_[p].done(parts_[p].data + done_[p].released * bytes, size_t((done_[p].read - done_[p].released) * bytes));
      done_[p].released = done_[p].read;
    }
  }

 private:
  struct Done {
    int64_t read = 0, released = 0;
    std::optional<float> largest;
  };

  /// What quantize_row makes of any values.
  static bool can_make(DType t) { return t == DType::F32 || t == DType::F16 || t == DType::BF16 || t == DType::Q8_0; }
  bool converts(const SourceTensor& t) const { return t.dtype != dtype_ || w_.hadamard; }
  int64_t bytes_of(DType t) const { return columns_ / int64_t(ir::info(t).block) * int64_t(ir::info(t).bytes); }
  void values_of(const SourceTensor& t, int64_t r) {
    values_.resize(size_t(columns_));
    ir::dequantize_row(t.dtype, t.data + r * bytes_of(t.dtype), values_.data(), values_.size());
    if (w_.hadamard) ir::hadamard_row(values_.data(), values_.data(), columns_);
  }
  /// Of all of a source.
  float largest_of(size_t part) {
    std::optional<float>& most = done_[part].largest;
    if (most) return *most;
    std::vector<float> row = values_;
    most = 0;
    for (int64_t r = 0; r < parts_[part].shape[0]; ++r) {
      values_of(parts_[part], r);
      most = std::max(*most, ir::largest_magnitude(values_.data(), values_.size()));
    }
    values_ = std::move(row);
    return *most;
  }

  const rt::Weight& w_;
  const DType dtype_;
  const ir::Scales scales_;
  const int64_t columns_;
  std::vector<SourceTensor> parts_;
  std::vector<Done> done_;
  std::vector<std::vector<uint8_t>> made_;
  size_t next_ = 0;
  std::vector<float> values_;
};

}  // namespace

Status fill_weight(const rt::Weight& w, const std::function<Result<SourceTensor>(const std::string&)>& source,
                   std::span<uint8_t> dst) {
  std::vector<SourceTensor> parts;
  for (const std::string& name : w.sources) {
    PRISM_TRY(SourceTensor t, source(name));
    parts.push_back(std::move(t));
  }
  const auto dtype = ir::dtype_from_name(w.dtype);
  if (!dtype) return error("weight ", w.name, ": unknown type ", w.dtype);
  const auto scales = ir::scales_from_name(w.scales);
  if (w.shape.empty() || !scales) return error("weight ", w.name, ": found ", w.shape.size(), " axes and scales for each ", w.scales, ", expected an axis and block, row or tensor");
  const int64_t rows = w.shape[0], columns = columns_of(w.shape);
  SourceRows source_rows(w, *dtype, *scales, std::move(parts));
  PRISM_CHECK(source_rows.check());

  const bool packed = w.layout == "rows16", swizzled = w.layout == "swizzled";
  if (swizzled ? *dtype != DType::BF16 : packed && !rows16_supports(*dtype)) return error("weight ", w.name, ": ", w.dtype, " has no ", w.layout, " layout");
  // A group of rows is what the layout puts side by side; those of a vector are single values.
  const int64_t group_rows = swizzled ? kTileSide : packed ? 16 : 1;
  const int64_t row_bytes = columns / int64_t(ir::info(*dtype).block) * int64_t(ir::info(*dtype).bytes);
  const int64_t group_bytes = swizzled ? swizzled_group_bytes(columns) : packed ? rows16_group_bytes(*dtype, columns) : row_bytes;
  const int64_t groups = ceil_div(rows, group_rows);
  if (uint64_t(groups * group_bytes) != dst.size()) return error("weight ", w.name, ": its sources make ", groups * group_bytes, " bytes, expected ", dst.size());
  const auto row = [&](int64_t r) { return source_rows.row(r, size_t(group_rows)); };
  // In slices, so that a large source need not be in memory beside what is made of it.
  const int64_t slice = std::max<int64_t>(1, (int64_t(1) << 20) / group_bytes);
  for (int64_t g = 0; g < groups; g += slice) {
    const int64_t end = std::min(g + slice, groups);
    uint8_t* to = dst.data() + g * group_bytes;
    if (swizzled) pack_swizzled(rows, columns, row, g, end, to);
    else if (packed) pack_rows16(*dtype, rows, columns, row, g, end, to);
    else for (int64_t r = g; r < end; ++r) memcpy(to + (r - g) * row_bytes, row(r), size_t(row_bytes));
    source_rows.release();
  }
  return ok();
}

}  // namespace prism::codegen
