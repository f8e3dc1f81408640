// A model file with other formats for its matrices.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "tools/quantize/calibration.h"

namespace prism::quantize {

uint64_t elements_of(const gguf::TensorInfo& t);

/// Whether a tensor is a matrix that products read: not a norm, nor a table of positions.
bool is_matrix(const gguf::TensorInfo& t);

/// The format of each tensor of `file`: `type` (or what fits its rows, ir::fitting_type) for matrices, its own for the others.
std::vector<ir::DType> uniform_types(const gguf::File& file, ir::DType type);

/// Error if a tensor whose format changes is already quantized, unless `requantize`, or has a weight that is not finite or too large for a scale.
/// 0 threads: all cores.
Status check_weights(const gguf::File& file, const std::vector<ir::DType>& types, bool requantize, unsigned threads);

/// Sums over a tensor as it is quantized.
struct TensorError {
  double error = 0;   ///< importance * squared error
  double total = 0;   ///< importance * squared weight
};
class Errors {
 public:
  explicit Errors(size_t tensors) : sums_(tensors) {}
  void add(size_t tensor, const TensorError& e);
  const std::vector<TensorError>& sums() const { return sums_; }

 private:
  std::mutex mutex_;
  std::vector<TensorError> sums_;
};

/// `source` with its tensors in the formats `types`, made when they are read, in any order by any number of threads. Metadata is the source's except
/// general.file_type and general.quantization_version. `calibration` gives columns their importance; nullptr: all the same. `errors`, if given,
/// receives those of what is made.
Result<std::shared_ptr<gguf::File>> quantized_file(std::shared_ptr<gguf::File> source, std::vector<ir::DType> types,
                                                   std::shared_ptr<const Calibration> calibration = nullptr, std::shared_ptr<Errors> errors = nullptr);

/// What quantizing a tensor to `type` costs: the sums of some pieces, evenly spread over it, extrapolated. Zeros if it has the type already.
TensorError sampled_error(const gguf::File& file, const gguf::TensorInfo& t, ir::DType type, const Inputs* inputs);

}  // namespace prism::quantize
