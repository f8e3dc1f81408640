// prism quantize: a model file with its matrices in other formats.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "frontends/gguf/quote.h"
#include "runtime/base/checked.h"
#include "runtime/fill.h"
#include "tools/commands.h"
#include "tools/model.h"
#include "tools/quantize/blocks.h"
#include "tools/quantize/choose.h"
#include "tools/quantize/model.h"
#include "tools/write_model.h"

namespace prism::tools {

namespace {

using ir::DType;
using nlohmann::json;

struct Options {
  std::string model, out, type, calibration;
  double bits = 0;
  uint64_t bytes = 0;
  unsigned threads = 0;
  bool requantize = false, automatic = false, json = false;
};

/// What the command line offers, beside scalars to which a model can be brought back.
std::vector<std::string> type_names() {
  std::vector<std::string> names;
  for (DType t : quantize::block_types()) names.emplace_back(ir::info(t).name);
  for (DType t : {DType::F16, DType::BF16, DType::F32}) names.emplace_back(ir::info(t).name);
  return names;
}

double bits_per_weight(const gguf::File& file) {
  uint64_t bytes = 0, elements = 0;
  for (const gguf::TensorInfo& t : file.tensors()) {
    bytes += t.bytes;
    elements += quantize::elements_of(t);
  }
  return 8.0 * double(bytes) / double(elements);
}

/// A format for every tensor, and the divergence that is to be expected of all.
struct Choice {
  std::vector<DType> types;
  double divergence = 0;
};

/// Formats that a matrix can have; what each costs is not known yet.
std::vector<quantize::Option> options_of(const gguf::TensorInfo& t, uint64_t alignment) {
  std::vector<quantize::Option> options;
  for (DType type : quantize::block_types()) {
    const ir::DTypeInfo& format = ir::info(type);
    if (t.shape.back() % format.block == 0) options.push_back({type, round_up(quantize::elements_of(t) / format.block * format.bytes, alignment), 0});
  }
  return options;
}

/// Formats by sensitivity, so that the file has at most `o.bytes` or its weights `o.bits` on average.
Result<Choice> choose_types(const gguf::File& file, const quantize::Calibration& calibration, const Options& o) {
  PRISM_TRY(const int64_t alignment, file.get_int("general.alignment", int64_t(gguf::kDefaultAlignment)));
  std::vector<size_t> matrices;
  std::vector<std::vector<quantize::Option>> options;
  uint64_t fixed = 0, elements = 0, least = 0;
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const gguf::TensorInfo& t = file.tensors()[i];
    elements += quantize::elements_of(t);
    auto formats = options_of(t, uint64_t(alignment));
    if (!quantize::is_matrix(t) || formats.empty()) {
      fixed += round_up(t.bytes, uint64_t(alignment));
      continue;
    }
    const quantize::Inputs* inputs = calibration.find(t.name);
    if (!inputs || !inputs->sensitivity)
      return error(o.calibration, ": found no sensitivity of ", gguf::quote(t.name), ", which --auto needs; run prism calibrate with --sensitivity");
    least += std::ranges::min_element(formats, {}, &quantize::Option::bytes)->bytes;
    matrices.push_back(i);
    options.push_back(std::move(formats));
  }
  const uint64_t around = file.header_bytes() + fixed, budget = o.bytes ? o.bytes : file.header_bytes() + uint64_t(o.bits / 8 * double(elements));
  if (budget < around + least)
    return error(o.bytes ? "--bytes: found " + std::to_string(o.bytes) : "--bits: found " + std::to_string(o.bits), ", expected at least ",
                 o.bytes ? std::to_string(around + least) : std::to_string(8.0 * double(fixed + least) / double(elements)), ", which is what ",
                 file.name(), " takes in the smallest formats");
  PRISM_TRY(const auto team, rt::ThreadTeam::create(o.threads));
  const rt::Progress progress = stderr_progress();
  rt::ProgressCounter counter(progress, "weighing formats", matrices.size());
  rt::parallel_for(*team, matrices.size(), [&](size_t i) {
    const gguf::TensorInfo& t = file.tensors()[matrices[i]];
    const quantize::Inputs& inputs = *calibration.find(t.name);
    for (quantize::Option& option : options[i]) option.cost = double(*inputs.sensitivity) * quantize::sampled_error(file, t, option.type, &inputs).error;
    counter.add(1);
  });
  PRISM_TRY(const auto chosen, quantize::choose(options, budget - around));
  Choice c{std::vector<DType>(file.tensors().size())};
  for (size_t i = 0; i < c.types.size(); ++i) c.types[i] = file.tensors()[i].dtype;
  for (size_t i = 0; i < matrices.size(); ++i) {
    const quantize::Option& option = options[i][chosen[i]];
    c.types[matrices[i]] = option.type;
    c.divergence += option.cost;
  }
  return c;
}

void print_table(const gguf::File& made) {
  struct Sum {
    size_t tensors = 0;
    uint64_t weights = 0, bytes = 0;
  };
  std::map<DType, Sum> sums;
  for (const gguf::TensorInfo& t : made.tensors()) {
    Sum& s = sums[t.dtype];
    ++s.tensors;
    s.weights += quantize::elements_of(t);
    s.bytes += t.bytes;
  }
  printf("%-6s %8s %12s %10s\n", "type", "tensors", "weights", "MiB");
  for (const auto& [type, s] : sums)
    printf("%-6s %8zu %12llu %10.2f\n", std::string(ir::info(type).name).c_str(), s.tensors, static_cast<unsigned long long>(s.weights),
           double(s.bytes) / 1048576);
}

json to_json(const gguf::File& made, const std::vector<quantize::TensorError>& errors) {
  json tensors = json::array();
  for (size_t i = 0; i < errors.size(); ++i) {
    const gguf::TensorInfo& t = made.tensors()[i];
    json row = {{"name", t.name}, {"type", ir::info(t.dtype).name}, {"bytes", t.bytes}};
    if (errors[i].total > 0) row["error"] = errors[i].error / errors[i].total;
    tensors.push_back(row);
  }
  return tensors;
}

Status run(const Options& o) {
  const auto start = std::chrono::steady_clock::now();
  PRISM_TRY(const auto file, gguf::File::open(o.model));
  std::shared_ptr<quantize::Calibration> calibration;
  if (!o.calibration.empty()) {
    PRISM_TRY(auto read, quantize::read_calibration(o.calibration));
    PRISM_TRY(const auto reference, reference_to(*file, o.threads));
    PRISM_CHECK(quantize::check_model(read, o.calibration, *file, reference));
    calibration = std::make_shared<quantize::Calibration>(std::move(read));
  }
  // Whatever formats are chosen, the weights must be good.
  Choice choice{quantize::uniform_types(*file, o.automatic ? DType::Q4_0 : *ir::dtype_from_name(o.type))};
  PRISM_CHECK(quantize::check_weights(*file, choice.types, o.requantize, o.threads));
  if (o.automatic) {
    PRISM_TRY(choice, choose_types(*file, *calibration, o));
  }
  const auto errors = std::make_shared<quantize::Errors>(choice.types.size());
  PRISM_TRY(const auto made, quantize::quantized_file(file, choice.types, calibration, errors));
  PRISM_CHECK(write_model(*made, o.out, "quantizing", o.threads));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (o.json) {
    json out = {{"file", o.out}, {"bytes", made->size()}, {"bits_per_weight", bits_per_weight(*made)}, {"seconds", seconds},
                {"tensors", to_json(*made, errors->sums())}};
    if (o.automatic) out["expected_kl"] = choice.divergence;
    print_json(out);
    return ok();
  }
  print_table(*made);
  if (o.automatic) printf("expected divergence %.5f nats per token\n", choice.divergence);
  fprintf(stderr, "%s: %.2f MiB, %.3f bits per weight, %.1f s\n", o.out.c_str(), double(made->size()) / 1048576, bits_per_weight(*made), seconds);
  return ok();
}

}  // namespace

void add_quantize(CLI::App& app, Action& chosen) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("quantize", "Write a model file with its matrices in smaller formats");
  c->footer("Scales are searched for the least squared error, weighted by what a calibration file says of a matrix' inputs. Rows that are no\n"
            "whole number of blocks get the format that llama.cpp takes there: q5_0 for q4_k, q5_1 for q5_k, q8_0 for q6_k.\n"
            "  prism quantize model-f16.gguf -o model-q4_k.gguf --type q4_k\n"
            "  prism calibrate model-f16.gguf --text text.txt -o model.cal --sensitivity 128\n"
            "  prism quantize model-f16.gguf -o small.gguf --calibration model.cal --auto --bits 4.8");
  c->add_option("model", o->model, kModelHelp)->required();
  c->add_option("-o,--output", o->out, "The GGUF file to write")->required();
  auto* type = c->add_option("--type", o->type, "Format of the matrices")->check(CLI::IsMember(type_names()));
  c->add_option("--calibration", o->calibration, "What prism calibrate measured with this model");
  auto* automatic = c->add_flag("--auto", o->automatic, "Choose a format for each matrix, by its measured sensitivity, within --bits or --bytes");
  auto* bits = c->add_option("--bits", o->bits, "Bits per weight of all tensors")->check(CLI::Range(1.0, 32.0))->needs(automatic);
  c->add_option("--bytes", o->bytes, "Bytes of the file")->check(CLI::Range(uint64_t(1), uint64_t(1) << 50))->needs(automatic)->excludes(bits);
  type->excludes(automatic);
  c->add_flag("--requantize", o->requantize, "Take a model that is quantized already");
  add_threads(*c, o->threads);
  c->add_flag("--json", o->json, "Print one JSON object with every tensor's format, size and relative error");
  c->callback([o, &chosen] {
    if (!o->automatic && o->type.empty()) throw CLI::RequiredError("--type or --auto");
    if (o->automatic && o->bits == 0 && o->bytes == 0) throw CLI::RequiredError("--bits or --bytes, which --auto keeps to,");
    if (o->automatic && o->calibration.empty()) throw CLI::RequiredError("--calibration, by which --auto chooses,");
    chosen = [o] { return run(*o); };
  });
}

}  // namespace prism::tools
