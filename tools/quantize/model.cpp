#include "tools/quantize/model.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "frontends/gguf/header_writer.h"
#include "frontends/gguf/quote.h"
#include "runtime/thread_pool.h"
#include "tools/quantize/blocks.h"

namespace prism::quantize {

using gguf::quote;
using gguf::TensorInfo;
using ir::DType;

namespace {

constexpr size_t kPiece = 16384;   ///< elements made at once, a multiple of every block

/// The values of elements [begin, begin + out.size()), both multiples of 256 or up to the end.
void read_values(const gguf::File& file, const TensorInfo& t, uint64_t begin, std::span<float> out, std::vector<uint8_t>& scratch) {
  const ir::DTypeInfo& format = ir::info(t.dtype);
  scratch.resize(out.size() / format.block * format.bytes);
  file.read(t, begin / format.block * format.bytes, scratch);
  ir::dequantize_row(t.dtype, scratch.data(), out.data(), out.size());
}

/// The importance of a matrix' columns; nullptr: all the same.
const std::vector<float>* importance_of(const Inputs* inputs) { return inputs && !inputs->mean_square.empty() ? &inputs->mean_square : nullptr; }

/// Element i of the result is the importance of element begin + i of a tensor with rows of as many channels.
void spread(const std::vector<float>& channels, uint64_t begin, std::span<float> out) {
  size_t c = size_t(begin % channels.size());
  for (float& v : out) {
    v = channels[c];
    if (++c == channels.size()) c = 0;
  }
}

/// Quantizes to any format that can be made; the sums of what it costs.
TensorError make(DType type, std::span<const float> x, const float* importance, uint8_t* out) {
  TensorError e;
  for (size_t i = 0; i < x.size(); ++i) e.total += double(importance ? importance[i] : 1) * double(x[i]) * x[i];
  if (is_block_type(type)) {
    e.error = quantize_blocks(type, x.data(), importance, out, x.size());
    return e;
  }
  ir::quantize_row(type, x.data(), out, x.size());
  std::vector<float> back(x.size());
  ir::dequantize_row(type, out, back.data(), x.size());
  for (size_t i = 0; i < x.size(); ++i) e.error += double(importance ? importance[i] : 1) * double(x[i] - back[i]) * (x[i] - back[i]);
  return e;
}

/// Makes a tensor in another format, piece by piece; one for each thread.
class Maker {
 public:
  Maker(const gguf::File& file, const TensorInfo& from, DType type, const Inputs* inputs)
      : file_(file), from_(from), type_(type), channels_(importance_of(inputs)), values_(kPiece), importance_(channels_ ? kPiece : 0) {}

  /// Elements [at, at + n), at most kPiece, into `out`; what they cost is added to the sums.
  void piece(uint64_t at, size_t n, uint8_t* out) {
    read_values(file_, from_, at, std::span(values_).first(n), scratch_);
    if (channels_) spread(*channels_, at, std::span(importance_).first(n));
    const TensorError e = make(type_, std::span(values_).first(n), channels_ ? importance_.data() : nullptr, out);
    sums_.error += e.error;
    sums_.total += e.total;
  }
  const TensorError& sums() const { return sums_; }

 private:
  const gguf::File& file_;
  const TensorInfo& from_;
  DType type_;
  const std::vector<float>* channels_;   // nullptr: all the same
  std::vector<float> values_, importance_;
  std::vector<uint8_t> scratch_;
  TensorError sums_;
};

/// llama.cpp's number for a file most of whose weights have this format.
uint32_t file_type(DType t) {
  switch (t) {
    case DType::F16: return 1;
    case DType::BF16: return 32;
    case DType::Q4_0: return 2;
    case DType::Q4_1: return 3;
    case DType::Q8_0: return 7;
    case DType::Q5_0: return 8;
    case DType::Q5_1: return 9;
    case DType::Q2_K: return 10;
    case DType::Q3_K: return 11;
    case DType::Q4_K: return 14;
    case DType::Q5_K: return 16;
    case DType::Q6_K: return 18;
    case DType::IQ4_NL: return 25;
    case DType::IQ4_XS: return 30;
    default: return 0;
  }
}

/// The format of most weights.
DType commonest(const gguf::File& file, const std::vector<DType>& types) {
  std::map<DType, uint64_t> weights;
  for (size_t i = 0; i < types.size(); ++i) weights[types[i]] += elements_of(file.tensors()[i]);
  return std::ranges::max_element(weights, {}, [](const auto& w) { return w.second; })->first;
}

}  // namespace

uint64_t elements_of(const TensorInfo& t) { return t.bytes / ir::info(t.dtype).bytes * ir::info(t.dtype).block; }

bool is_matrix(const TensorInfo& t) {
  return t.shape.size() == 2 && t.name.ends_with(".weight") && !t.name.ends_with("norm.weight") && !t.name.starts_with("position_embd.") &&
         (ir::is_float(t.dtype) || ir::info(t.dtype).quantized);
}

std::vector<DType> uniform_types(const gguf::File& file, DType type) {
  std::vector<DType> types;
  for (const TensorInfo& t : file.tensors()) types.push_back(is_matrix(t) ? ir::fitting_type(type, t.shape.back()) : t.dtype);
  return types;
}

Status check_weights(const gguf::File& file, const std::vector<DType>& types, bool requantize, unsigned threads) {
  struct Piece {
    const TensorInfo* tensor;
    uint64_t begin, count;
  };
  constexpr uint64_t kCount = uint64_t(1) << 20;
  std::vector<Piece> pieces;
  for (size_t i = 0; i < types.size(); ++i) {
    const TensorInfo& t = file.tensors()[i];
    if (t.dtype == types[i]) continue;
    if (ir::info(t.dtype).quantized && !requantize)
      return error(file.name(), ": tensor ", quote(t.name), ": found ", ir::info(t.dtype).name,
                   ", expected a float type; --requantize takes what is already quantized, which loses more than quantizing the original");
    for (uint64_t at = 0, n = elements_of(t); at < n; at += kCount) pieces.push_back({&t, at, std::min(kCount, n - at)});
  }
  PRISM_TRY(const auto team, rt::ThreadTeam::create(threads));
  std::mutex mutex;
  size_t first = pieces.size();   // of the pieces with something wrong, so that the message does not depend on threads
  Status status = ok();
  rt::parallel_for(*team, pieces.size(), [&](size_t i) {
    const Piece& p = pieces[i];
    std::vector<float> values(p.count);
    std::vector<uint8_t> scratch;
    read_values(file, *p.tensor, p.begin, values, scratch);
    const auto wrong = std::ranges::find_if(values, [](float v) { return !(std::fabs(v) <= kLargestWeight); });
    if (wrong == values.end()) return;
    std::lock_guard lock(mutex);
    if (i > first) return;
    first = i;
    const uint64_t at = p.begin + uint64_t(wrong - values.begin()), row = uint64_t(p.tensor->shape.back());
    status = error(file.name(), ": tensor ", quote(p.tensor->name), ": row ", at / row, ", column ", at % row, ": found ", *wrong,
                   ", expected a finite number of at most ", kLargestWeight, ", the largest f16");
  });
  return status;
}

void Errors::add(size_t tensor, const TensorError& e) {
  std::lock_guard lock(mutex_);
  sums_[tensor].error += e.error;
  sums_[tensor].total += e.total;
}

Result<std::shared_ptr<gguf::File>> quantized_file(std::shared_ptr<gguf::File> source, std::vector<DType> types,
                                                   std::shared_ptr<const Calibration> calibration, std::shared_ptr<Errors> errors) {
  PRISM_TRY(const int64_t alignment, source->get_int("general.alignment", int64_t(gguf::kDefaultAlignment)));
  gguf::HeaderWriter w{uint64_t(alignment)};
  for (const gguf::RawEntry& e : source->raw_metadata())
    if (e.key != "general.file_type" && e.key != "general.quantization_version") w.entry(e);
  w.u32("general.quantization_version", 2);
  w.u32("general.file_type", file_type(commonest(*source, types)));
  std::map<std::string, size_t, std::less<>> index;
  for (size_t i = 0; i < types.size(); ++i) {
    const TensorInfo& t = source->tensors()[i];
    w.tensor(t.name, types[i], t.shape);
    index[t.name] = i;
  }
  const auto read = [source, calibration, errors, index](const TensorInfo& t, uint64_t offset, std::span<uint8_t> out) {
    const size_t i = index.find(t.name)->second;
    const TensorInfo& from = source->tensors()[i];
    if (from.dtype == t.dtype) return source->read(from, offset, out);
    const ir::DTypeInfo& format = ir::info(t.dtype);
    Maker maker(*source, from, t.dtype, calibration ? calibration->find(t.name) : nullptr);
    const uint64_t begin = offset / format.bytes * format.block, end = begin + out.size() / format.bytes * format.block;
    for (uint64_t at = begin; at < end; at += kPiece)
      maker.piece(at, size_t(std::min<uint64_t>(kPiece, end - at)), out.data() + (at - begin) / format.block * format.bytes);
    if (errors) errors->add(i, maker.sums());
  };
  return gguf::File::made(w.finish(), source->name(), read);
}

TensorError sampled_error(const gguf::File& file, const TensorInfo& t, DType type, const Inputs* inputs) {
  if (type == t.dtype) return {};
  // Pieces begin at multiples of 256 elements, wherever rows do.
  constexpr uint64_t kSamples = 16;
  const uint64_t n = elements_of(t), pieces = (n + kPiece - 1) / kPiece, taken = std::min(pieces, kSamples);
  const ir::DTypeInfo& format = ir::info(type);
  Maker maker(file, t, type, inputs);
  std::vector<uint8_t> out(kPiece / format.block * format.bytes);
  uint64_t seen = 0;
  for (uint64_t i = 0; i < taken; ++i) {
    const uint64_t at = i * pieces / taken * kPiece;
    const size_t count = size_t(std::min<uint64_t>(kPiece, n - at));
    maker.piece(at, count, out.data());
    seen += count;
  }
  const double scale = double(n) / double(seen);
  return {maker.sums().error * scale, maker.sums().total * scale};
}

}  // namespace prism::quantize
