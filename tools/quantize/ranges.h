// Ranges of what linears read, from a calibration file to the module's linears, where insert-quantization{ranges=FILE} finds them.
#pragma once

#include "ir/module.h"
#include "passes/pass.h"
#include "tools/quantize/calibration.h"

namespace prism::quantize {

/// Of the ranges that leave out the same fraction of values at both ends (0, or 10^-6 to 10^-3) the one whose 255 steps cost the least
/// squared error by the histogram; values outside become its ends.
struct Range {
  double least, most;
};
Range static_range(const Inputs& in);

/// The calibration files that passes of a pipeline name.
std::vector<std::string> range_files(const std::vector<passes::PipelineStep>& pipeline);

/// Gives linears whose weights the files know their ranges. `check`: whether a file may be used. Error if a weight has another number of columns there.
Status annotate_ranges(ir::Module& m, const std::vector<passes::PipelineStep>& pipeline, const std::function<Status(const Calibration&, const std::string& path)>& check = {});

}  // namespace prism::quantize
