#include "tools/quantize/ranges.h"

#include <algorithm>
#include <cmath>

namespace prism::quantize {

Range static_range(const Inputs& in) {
  const auto [least, most] = std::pair(*std::ranges::min_element(in.minimum), *std::ranges::max_element(in.maximum));
  Range best{double(least), double(most)};
  double fewest = INFINITY;
  for (const double left_out : {0.0, 1e-6, 1e-5, 1e-4, 1e-3}) {
    const Range range = left_out > 0 ? Range{std::max(in.histogram.percentile(left_out), double(least)), std::min(in.histogram.percentile(1 - left_out), double(most))} : best;
    if (!(range.least < range.most)) continue;
    const double step = (range.most - range.least) / 255;
    double error = 0;
    for (int bin = 0; bin < Histogram::kBins; ++bin) {
      const double value = Histogram::middle(bin), outside = std::max({range.least - value, value - range.most, 0.0});
      error += double(in.histogram.counts[size_t(bin)]) * (outside > 0 ? outside * outside : step * step / 12);
    }
    if (error < fewest) {
      fewest = error;
      best = range;
    }
  }
  return best;
}

std::vector<std::string> range_files(const std::vector<passes::PipelineStep>& pipeline) {
  std::vector<std::string> files;
  for (const passes::PipelineStep& step : pipeline)
    if (const std::string file = step.options.get("ranges", ""); !file.empty()) files.push_back(file);
  return files;
}

Status annotate_ranges(ir::Module& m, const std::vector<passes::PipelineStep>& pipeline, const std::function<Status(const Calibration&, const std::string&)>& check) {
  for (const std::string& file : range_files(pipeline)) {
    PRISM_TRY(const Calibration calibration, read_calibration(file));
    if (check) PRISM_CHECK(check(calibration, file));
    for (const auto& g : m.graphs)
      for (ir::Operation& op : g->ops) {
        if (op.op != ir::Op::Linear || !op.operand(1)->is_weight()) continue;
        const Inputs* in = calibration.find(op.operand(1)->name);
        if (!in || in->minimum.empty()) continue;
        const auto columns = op.operand(1)->type.dim(1).constant();
        if (columns != int64_t(in->minimum.size())) return error(file, ": ", op.operand(1)->name, ": found ", in->minimum.size(), " channels, expected ", columns.value_or(0), ", as the model's weight has columns");
        const Range range = static_range(*in);
        op.attrs["x_min"] = range.least;
        op.attrs["x_max"] = range.most;
      }
  }
  return ok();
}

}  // namespace prism::quantize
