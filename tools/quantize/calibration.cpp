#include "tools/quantize/calibration.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

#include "frontends/gguf/header_writer.h"
#include "frontends/gguf/quote.h"

namespace prism::quantize {

using gguf::quote;

namespace {

constexpr int64_t kVersion = 1;
constexpr std::string_view kParts[] = {".mean_square", ".minimum", ".maximum", ".histogram", ".sensitivity"};

/// Of channel `c` of the input of `weight`.
template <class... Parts>
Error wrong_channel(const std::string& weight, size_t c, const Parts&... parts) {
  return error("channel ", c, " of the input of ", quote(weight), ": ", parts...);
}

Status check_inputs(const std::string& weight, const Inputs& in, bool allow_constant) {
  for (size_t c = 0; c < in.mean_square.size(); ++c) {
    const float square = in.mean_square[c], low = in.minimum[c], high = in.maximum[c];
    if (!std::isfinite(low) || !std::isfinite(high) || !std::isfinite(square))
      return wrong_channel(weight, c, "found the range ", low, " to ", high, " and mean square ", square, ", expected finite numbers");
    if (low > high || square < 0)
      return wrong_channel(weight, c, "found the range ", low, " to ", high, " and mean square ", square, ", expected ascending and not negative ones");
    if (low == high && !allow_constant)
      return wrong_channel(weight, c, "found ", low, " for all tokens, whose range has scale 0; calibrate with more text, or with --allow-constant "
                                      "if the model never uses it");
  }
  if (in.sensitivity && !(std::isfinite(*in.sensitivity) && *in.sensitivity >= 0))
    return error("sensitivity of ", quote(weight), ": found ", *in.sensitivity, ", expected a finite number that is not negative");
  for (int64_t n : in.histogram.counts)
    if (n < 0) return error("histogram of the input of ", quote(weight), ": found a count of ", n, ", expected 0 or more");
  return ok();
}

std::string hex(uint64_t v) {
  char text[17];
  snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(v));
  return text;
}

}  // namespace

void Histogram::add(float v) {
  const float magnitude = std::fabs(v);
  if (!(magnitude >= 0x1p-24f)) {
    ++counts[kSide];
    return;
  }
  const int bin = std::clamp(int(std::floor((std::log2(magnitude) - kLowest) * kPerOctave)), 0, kSide - 1);
  ++counts[size_t(v > 0 ? kSide + 1 + bin : kSide - 1 - bin)];
}

double Histogram::middle(int i) {
  if (i == kSide) return 0;
  const int bin = i > kSide ? i - kSide - 1 : kSide - 1 - i;
  const double magnitude = std::exp2(kLowest + (bin + 0.5) / kPerOctave);
  return i > kSide ? magnitude : -magnitude;
}

double Histogram::percentile(double p) const {
  double total = 0, below = 0;
  for (int64_t n : counts) total += double(n);
  for (int i = 0; i < kBins; ++i) {
    below += double(counts[size_t(i)]);
    if (below < p * total || below == 0) continue;
    return middle(i);
  }
  return 0;
}

const Inputs* Calibration::find(std::string_view weight) const {
  const auto it = inputs.find(weight);
  return it == inputs.end() ? nullptr : &it->second;
}

void Collector::observe(const ir::Operation& op, const std::vector<const ir::Tensor*>& in) {
  if (op.op != ir::Op::Linear || !op.operand(1)->is_weight()) return;
  const ir::Tensor& x = *in[0];
  const size_t k = size_t(x.shape.back());
  Sums& s = sums_[op.operand(1)->name];
  if (s.squares.empty()) {
    s.squares.resize(k);
    s.minimum.assign(k, std::numeric_limits<float>::infinity());
    s.maximum.assign(k, -std::numeric_limits<float>::infinity());
  }
  for (size_t at = 0; at < x.f.size(); at += k, ++s.rows)
    for (size_t c = 0; c < k; ++c) {
      const float v = x.f[at + c];
      s.squares[c] += double(v) * v;
      s.minimum[c] = std::min(s.minimum[c], v);
      s.maximum[c] = std::max(s.maximum[c], v);
      s.histogram.add(v);
    }
}

Result<std::map<std::string, Inputs, std::less<>>> Collector::finish(bool allow_constant) const {
  std::map<std::string, Inputs, std::less<>> all;
  for (const auto& [weight, s] : sums_) {
    Inputs in{{}, s.minimum, s.maximum, s.histogram, {}};
    for (double square : s.squares) in.mean_square.push_back(float(square / double(s.rows)));
    PRISM_CHECK(check_inputs(weight, in, allow_constant));
    all.emplace(weight, std::move(in));
  }
  return all;
}

std::string calibration_bytes(const Calibration& c) {
  gguf::HeaderWriter w;
  w.string("general.architecture", "calibration");
  w.string("general.name", c.name);
  w.u32("calibration.version", kVersion);
  w.string("calibration.model.path", c.model.path);
  w.string("calibration.model.size", std::to_string(c.model.size));
  w.string("calibration.model.hash", hex(c.model.hash));
  w.boolean("calibration.allow_constant", c.allow_constant);
  w.u32("calibration.window", c.window);
  w.ints("calibration.ids", c.ids);
  std::string data;
  const auto tensor = [&](const std::string& name, ir::DType type, const void* values, size_t count) {
    const int64_t shape[] = {int64_t(count)};
    data.resize(w.tensor(name, type, shape));
    data.append(static_cast<const char*>(values), count * ir::info(type).bytes);
  };
  for (const auto& [weight, in] : c.inputs) {
    if (in.sensitivity) tensor(weight + ".sensitivity", ir::DType::F32, &*in.sensitivity, 1);
    if (in.mean_square.empty()) continue;  // a table that no product reads
    tensor(weight + ".mean_square", ir::DType::F32, in.mean_square.data(), in.mean_square.size());
    tensor(weight + ".minimum", ir::DType::F32, in.minimum.data(), in.minimum.size());
    tensor(weight + ".maximum", ir::DType::F32, in.maximum.data(), in.maximum.size());
    tensor(weight + ".histogram", ir::DType::I64, in.histogram.counts.data(), in.histogram.counts.size());
  }
  return w.finish() + data;
}

Result<Calibration> read_calibration(const std::string& path) {
  PRISM_TRY(const auto file, gguf::File::open(path));
  PRISM_TRY(const std::string kind, file->get_string("general.architecture", ""));
  if (kind != "calibration") return error(path, ": found a GGUF file of architecture ", quote(kind), ", expected what prism calibrate writes");
  PRISM_TRY(const int64_t version, file->get_int("calibration.version"));
  if (version != kVersion) return error(path, ": found calibration version ", version, ", expected ", kVersion, "; calibrate again");
  Calibration c;
  PRISM_TRY(c.name, file->get_string("general.name", ""));
  PRISM_TRY(c.model.path, file->get_string("calibration.model.path"));
  for (const auto& [key, base, value] : {std::tuple{"size", 10, &c.model.size}, {"hash", 16, &c.model.hash}}) {
    PRISM_TRY(const std::string text, file->get_string(std::string("calibration.model.") + key));
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), *value, base);
    if (ec != std::errc() || end != text.data() + text.size())
      return error(path, ": key 'calibration.model.", key, "': found ", quote(text), ", expected a number of base ", base);
  }
  PRISM_TRY(c.allow_constant, file->get_bool("calibration.allow_constant", false));
  PRISM_TRY(c.window, file->get_int("calibration.window"));
  const gguf::MetaValue* ids = file->find("calibration.ids");
  const auto* values = ids ? std::get_if<std::vector<int64_t>>(ids) : nullptr;
  if (!values || values->empty() || c.window < 1) return error(path, ": found no ids or no window, expected those of the text; calibrate again");
  for (int64_t id : *values) {
    if (id < 0 || id > INT32_MAX) return error(path, ": key 'calibration.ids': found ", id, ", expected 0 to ", INT32_MAX);
    c.ids.push_back(int32_t(id));
  }
  for (const gguf::TensorInfo& t : file->tensors()) {
    const auto part = std::ranges::find_if(kParts, [&](std::string_view suffix) { return t.name.ends_with(suffix); });
    if (part == std::end(kParts) || t.shape.size() != 1) return error(path, ": found tensor ", quote(t.name), ", expected W.mean_square and the like");
    Inputs& in = c.inputs[t.name.substr(0, t.name.size() - part->size())];
    const bool counts = *part == ".histogram";
    if (t.dtype != (counts ? ir::DType::I64 : ir::DType::F32) || (counts && t.shape[0] != Histogram::kBins) ||
        (*part == ".sensitivity" && t.shape[0] != 1))
      return error(path, ": tensor ", quote(t.name), ": found ", ir::info(t.dtype).name, "[", t.shape[0], "], expected ",
                   counts ? "i64[" + std::to_string(Histogram::kBins) + "]" : *part == ".sensitivity" ? "f32[1]" : "f32 for each channel");
    if (counts) {
      std::memcpy(in.histogram.counts.data(), file->data(t), t.bytes);
      continue;
    }
    std::vector<float> v(size_t(t.shape[0]));
    std::memcpy(v.data(), file->data(t), t.bytes);
    if (*part == ".sensitivity") in.sensitivity = v[0];
    else (*part == ".mean_square" ? in.mean_square : *part == ".minimum" ? in.minimum : in.maximum) = std::move(v);
  }
  for (const auto& [weight, in] : c.inputs) {
    const size_t k = in.mean_square.size();
    if ((k == 0 && !in.sensitivity) || in.minimum.size() != k || in.maximum.size() != k)
      return error(path, ": found ", k, " mean squares, ", in.minimum.size(), " minima and ", in.maximum.size(), " maxima of the input of ",
                   quote(weight), ", expected as many of each");
    if (Status s = check_inputs(weight, in, c.allow_constant); !s) return error(path, ": ", s.message());
  }
  return c;
}

Status check_model(const Calibration& c, const std::string& path, const gguf::File& model, const rt::ModelReference& found) {
  if (found.size != c.model.size || found.hash != c.model.hash)
    return error(path, ": was made with ", quote(c.name), " (", c.model.path, ", ", c.model.size, " bytes, hash ", hex(c.model.hash), "), found ",
                 model.name(), " of ", found.size, " bytes with hash ", hex(found.hash), "; run prism calibrate on this model");
  for (const auto& [weight, in] : c.inputs) {
    const gguf::TensorInfo* t = model.tensor(weight);
    if (!t || (!in.mean_square.empty() && t->shape.back() != int64_t(in.mean_square.size())))
      return error(path, ": found ", in.mean_square.size(), " input channels of ", quote(weight), ", expected ",
                   t ? std::to_string(t->shape.back()) : "no such tensor", " as in ", model.name());
  }
  return ok();
}

}  // namespace prism::quantize
