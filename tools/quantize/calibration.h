// What a run over text measures at the inputs of a model's matrices, and the file it is kept in.
//
// The file is GGUF: keys calibration.*, and for each matrix W of columns k the tensors
//   W.mean_square f32[k]    mean of x^2 of each input channel: what a squared error in that column of W costs
//   W.minimum, W.maximum f32[k]
//   W.histogram i64[bins]   of all channels' inputs, see Histogram
//   W.sensitivity f32[1]    where it was measured: KL divergence (nats per token) for each unit of sum mean_square * (W - W')^2
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "frontends/gguf/gguf.h"
#include "ir/eval.h"
#include "runtime/program.h"

namespace prism::quantize {

/// Counts of values by sign and magnitude, eight bins an octave from 2^-24 to 2^24; smaller magnitudes count as 0, larger ones as the largest.
/// Bins are in ascending order of the values.
class Histogram {
 public:
  static constexpr int kPerOctave = 8, kLowest = -24, kHighest = 24;
  static constexpr int kSide = (kHighest - kLowest) * kPerOctave, kBins = 2 * kSide + 1;

  std::vector<int64_t> counts = std::vector<int64_t>(kBins);

  void add(float v);
  /// Between a bin's ends, by their logarithm.
  static double middle(int bin);
  /// The value that the fraction `p` in [0,1] of all lies below, to a bin's width (9 %). 0 if there are none.
  double percentile(double p) const;
};

/// The inputs of one matrix; without channels if no product reads it (a table of embeddings).
struct Inputs {
  std::vector<float> mean_square, minimum, maximum;   ///< per channel
  Histogram histogram;
  std::optional<float> sensitivity;
};

struct Calibration {
  rt::ModelReference model;              ///< the path is only for messages
  std::string name;                      ///< general.name
  std::vector<int32_t> ids;              ///< the text
  bool allow_constant = false;           ///< channels may be the same for all tokens: the model never uses them
  int64_t window = 0;                    ///< ids are read in pieces of as many, each from an empty context
  std::map<std::string, Inputs, std::less<>> inputs;   ///< by the matrix' name

  /// The inputs of a matrix; nullptr if none were recorded.
  const Inputs* find(std::string_view weight) const;
};

/// Adds up what linears read while an evaluator runs the frontend's graph.
class Collector {
 public:
  /// To be called for every operation: ir::Evaluator::observe.
  void observe(const ir::Operation& op, const std::vector<const ir::Tensor*>& in);
  /// Error if a channel was not finite or, unless `allow_constant`, was the same for all tokens: it has no range.
  Result<std::map<std::string, Inputs, std::less<>>> finish(bool allow_constant = false) const;

 private:
  struct Sums {
    int64_t rows = 0;
    std::vector<double> squares;
    std::vector<float> minimum, maximum;
    Histogram histogram;
  };
  std::map<std::string, Sums, std::less<>> sums_;
};

/// The file's bytes.
std::string calibration_bytes(const Calibration& c);
/// Reads and checks a file: every range finite and not empty (unless the file allows it), every mean square finite and not negative.
Result<Calibration> read_calibration(const std::string& path);
/// Error unless `c`, read from `path`, was made with this model: `found` is the model file's reference.
Status check_model(const Calibration& c, const std::string& path, const gguf::File& model, const rt::ModelReference& found);

}  // namespace prism::quantize
