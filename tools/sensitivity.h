// How far a model's predictions move when one of its matrices is quantized.
#pragma once

#include <memory>

#include "tools/quantize/calibration.h"

namespace prism::tools {

/// Measures Inputs::sensitivity of every matrix of `file` over the first `tokens` of the calibration's ids: the mean KL divergence from the model
/// in f32 to the same with this matrix alone quantized to 4 bits, for each unit of that matrix' weighted error. Shows progress on stderr.
Status measure_sensitivities(std::shared_ptr<gguf::File> file, quantize::Calibration& calibration, int64_t tokens, unsigned threads);

}  // namespace prism::tools
