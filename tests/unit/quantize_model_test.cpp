// Model files in other formats: what is kept, what is refused, and that the result can be evaluated.
#include "tools/quantize/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "frontends/gguf/model.h"
#include "tests/unit/gguf_writer.h"
#include "tests/unit/reference.h"
#include "tests/unit/tiny_program.h"

namespace prism::quantize {
namespace {

using ir::DType;

std::shared_ptr<gguf::File> opened(const std::string& path) {
  auto file = gguf::File::open(path);
  EXPECT_TRUE(file) << file.message();
  return *file;
}

std::vector<uint8_t> bytes_of(const gguf::File& f, const gguf::TensorInfo& t) {
  std::vector<uint8_t> bytes(t.bytes);
  f.read(t, 0, bytes);
  return bytes;
}

std::vector<float> values_of(const gguf::File& f, const gguf::TensorInfo& t) {
  std::vector<float> values(t.bytes / ir::info(t.dtype).bytes * ir::info(t.dtype).block);
  ir::dequantize_row(t.dtype, bytes_of(f, t).data(), values.data(), values.size());
  return values;
}

TEST(QuantizeModel, MatricesChangeAndNothingElse) {
  for (const std::string shape : {"tiny-llama", "tiny-gemma3", "tiny-gpt2"}) {
    SCOPED_TRACE(shape);
    const auto source = opened("synth:" + shape + ":f32:layers=2");
    const auto made = quantized_file(source, uniform_types(*source, DType::Q4_K));
    ASSERT_TRUE(made) << made.message();
    ASSERT_EQ((*made)->tensors().size(), source->tensors().size());
    size_t matrices = 0;
    for (size_t i = 0; i < source->tensors().size(); ++i) {
      const gguf::TensorInfo &from = source->tensors()[i], &to = (*made)->tensors()[i];
      EXPECT_EQ(to.name, from.name);
      EXPECT_EQ(to.shape, from.shape);
      if (!is_matrix(from)) {
        EXPECT_EQ(to.dtype, from.dtype);
        EXPECT_EQ(bytes_of(**made, to), bytes_of(*source, from)) << from.name;
        EXPECT_TRUE(from.shape.size() == 1 || from.name == "position_embd.weight") << from.name;
        continue;
      }
      ++matrices;
      EXPECT_EQ(to.dtype, from.shape.back() % 256 ? DType::Q5_0 : DType::Q4_K) << from.name;
      EXPECT_LT(nmse(values_of(**made, to).data(), values_of(*source, from).data(), values_of(*source, from).size()), 0.008) << from.name;
    }
    EXPECT_EQ(matrices, shape == "tiny-gpt2" ? 9u : shape == "tiny-llama" ? 16u : 15u);
    for (const auto& [key, value] : source->metadata()) EXPECT_TRUE(key.starts_with("general.") || *(*made)->find(key) == value) << key;
    EXPECT_EQ(*(*made)->get_string("general.name"), *source->get_string("general.name"));
    EXPECT_EQ(*(*made)->get_int("general.quantization_version"), 2);
    EXPECT_EQ((*made)->metadata().size(), source->metadata().size() + 1);   // general.file_type, which models of synth lack
  }
}

TEST(QuantizeModel, TheFileTypeIsThatOfMostWeights) {
  const auto source = opened("synth:tiny-llama:f32");
  for (const auto& [type, number] : {std::pair{DType::Q4_0, 2}, {DType::Q8_0, 7}, {DType::F16, 1}, {DType::F32, 0}})
    EXPECT_EQ(*(*quantized_file(source, uniform_types(*source, type)))->get_int("general.file_type"), number);
}

TEST(QuantizeModel, AnyPieceIsAsInTheWhole) {
  const auto source = opened("synth:tiny-llama:f16:vocab=3000");
  auto calibration = std::make_shared<Calibration>();
  const gguf::TensorInfo& from = *source->tensor("token_embd.weight");
  Inputs& in = calibration->inputs[from.name];
  for (int64_t c = 0; c < from.shape.back(); ++c) in.mean_square.push_back(float(1 + c % 7));
  for (DType type : {DType::Q4_K, DType::Q5_1}) {
    const auto errors = std::make_shared<Errors>(source->tensors().size());
    const auto made = *quantized_file(source, uniform_types(*source, type), calibration, errors);
    const gguf::TensorInfo& t = *made->tensor(from.name);
    const auto all = bytes_of(*made, t);
    const TensorError sum = errors->sums()[size_t(&from - source->tensors().data())];
    const ir::DTypeInfo& format = ir::info(t.dtype);
    std::vector<uint8_t> pieces(all.size());
    const size_t step = 256 * 37 / format.block * format.bytes;
    for (size_t at = 0; at < all.size(); at += step) made->read(t, at, std::span(pieces).subspan(at, std::min(step, all.size() - at)));
    EXPECT_TRUE(pieces == all);
    // The errors reported are those found, with the columns' importance.
    const auto x = values_of(*source, from), y = values_of(*made, t);
    double error = 0, total = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double w = in.mean_square[i % in.mean_square.size()];
      error += w * std::pow(double(x[i]) - y[i], 2);
      total += w * std::pow(double(x[i]), 2);
    }
    EXPECT_NEAR(sum.error / error, 1, 1e-3);
    EXPECT_NEAR(sum.total / total, 1, 1e-6);
    const TensorError sampled = sampled_error(*source, from, t.dtype, &in);
    EXPECT_NEAR(sampled.error / error, 1, 0.05);
    EXPECT_NEAR(sampled.total / total, 1, 0.05);
  }
}

TEST(QuantizeModel, TheResultEvaluatesNearTheSource) {
  const auto logits = [](std::shared_ptr<gguf::File> file) {
    const auto module = gguf::build_module(file, {.kv_dtype = DType::F32});
    EXPECT_TRUE(module) << module.message();
    ir::Evaluator evaluator(**module);
    ir::Tensor ids;
    ids.shape = {5};
    ids.i = {3, 100, 7, 7, 250};
    auto out = evaluator.run(*(*module)->graph("forward"), {{"ids", ids}}, {{"past", 0}, {"seq", 5}, {"out", 5}});
    EXPECT_TRUE(out) << out.message();
    return (*out)[0].f;
  };
  for (const std::string shape : {"tiny-llama", "tiny-qwen3", "tiny-gpt2"}) {
    const auto source = opened("synth:" + shape + ":f32");
    const auto expected = logits(source);
    double last = 0;
    for (DType type : {DType::F32, DType::Q8_0, DType::Q6_K, DType::Q5_K, DType::Q4_0}) {
      const auto found = logits(*quantized_file(source, uniform_types(*source, type)));
      ASSERT_EQ(found.size(), expected.size());
      const double error = nmse(found.data(), expected.data(), found.size());
      EXPECT_TRUE(error >= last) << shape << " " << ir::info(type).name << " " << error << " after " << last;
      EXPECT_LT(error, type == DType::F32 ? 1e-12 : type == DType::Q8_0 ? 1e-3 : 0.15) << shape << " " << ir::info(type).name;
      if (type != DType::Q6_K) last = error;   // which is q8_0 where rows are short
    }
  }
}

/// A file of one matrix and one vector.
std::shared_ptr<gguf::File> small_file(const std::vector<uint8_t>& bytes) {
  auto file = gguf::File::parse(bytes, "small.gguf");
  EXPECT_TRUE(file) << file.message();
  return *file;
}
std::vector<uint8_t> small(float odd, uint64_t row = 64, uint64_t alignment = 32) {
  gguf::GgufWriter w;
  w.string("general.architecture", "llama").u32("general.file_type", 0).u32("general.quantization_version", 1);
  if (alignment != 32) w.u32("general.alignment", uint32_t(alignment));
  w.alignment = alignment;
  const uint64_t data = 4 * row * 3, next = (data + alignment - 1) / alignment * alignment;
  w.tensor("a.weight", {row, 3}, 0, 0).tensor("b.bias", {8}, 0, next);
  std::vector<float> values(next / 4 + 8);
  for (size_t i = 0; i < values.size(); ++i) values[i] = float(int(i * 37 % 101) - 50);
  values[row + 7] = odd;
  w.data(values);
  return w.bytes();
}

TEST(QuantizeModel, WeightsThatNoScaleCanHoldAreRefused) {
  for (float odd : {NAN, INFINITY, -INFINITY, 65505.0f, -1e30f}) {
    const auto bytes = small(odd);
    const auto file = small_file(bytes);
    const Status s = check_weights(*file, uniform_types(*file, DType::Q4_0), false, 2);
    ASSERT_FALSE(s) << odd;
    EXPECT_NE(s.message().find("small.gguf: tensor 'a.weight': row 1, column 7: found"), std::string::npos) << s.message();
    EXPECT_TRUE(check_weights(*file, uniform_types(*file, DType::F32), false, 2));   // nothing changes
  }
  const auto bytes = small(65504);
  const auto file = small_file(bytes);
  EXPECT_TRUE(check_weights(*file, uniform_types(*file, DType::Q4_0), false, 2));
}

TEST(QuantizeModel, WhatIsQuantizedAlreadyMustBeAskedFor) {
  const auto file = opened("synth:tiny-llama:q8_0");
  const Status s = check_weights(*file, uniform_types(*file, DType::Q4_0), false, 2);
  ASSERT_FALSE(s);
  for (const char* f : {"tensor 'token_embd.weight'", "found q8_0", "--requantize"}) EXPECT_NE(s.message().find(f), std::string::npos) << s.message();
  EXPECT_TRUE(check_weights(*file, uniform_types(*file, DType::Q4_0), true, 2));
  EXPECT_TRUE(check_weights(*file, uniform_types(*file, DType::Q8_0), false, 2));
}

TEST(QuantizeModel, RowsThatAreNoWholeNumberOfBlocks) {
  const auto fit = [](DType t, int64_t row) { return ir::fitting_type(t, row); };
  EXPECT_EQ(fit(DType::Q4_K, 512), DType::Q4_K);
  EXPECT_EQ(fit(DType::Q4_K, 576), DType::Q5_0);
  EXPECT_EQ(fit(DType::Q5_K, 576), DType::Q5_1);
  EXPECT_EQ(fit(DType::Q6_K, 576), DType::Q8_0);
  EXPECT_EQ(fit(DType::Q4_K, 33), DType::F16);
  EXPECT_EQ(fit(DType::Q8_0, 1), DType::F16);
  for (uint64_t row : {1u, 33u, 96u}) {
    const auto bytes = small(3, row);
    const auto file = small_file(bytes);
    const auto made = *quantized_file(file, uniform_types(*file, DType::Q6_K));
    EXPECT_EQ(made->tensors()[0].dtype, row == 96 ? DType::Q8_0 : DType::F16);
    const auto x = values_of(*file, file->tensors()[0]), y = values_of(*made, made->tensors()[0]);
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(y[i], x[i], row == 96 ? 0.25 : 0) << i;
  }
}

TEST(QuantizeModel, AlignmentIsKept) {
  for (uint64_t alignment : {8u, 128u}) {
    const auto bytes = small(3, 64, alignment);
    const auto file = small_file(bytes);
    const auto made = *quantized_file(file, uniform_types(*file, DType::Q4_0));   // 108 bytes
    EXPECT_EQ(*made->get_int("general.alignment"), int64_t(alignment));
    EXPECT_EQ(made->tensors()[1].offset - made->tensors()[0].offset, alignment == 8 ? 112u : 128u);
    EXPECT_EQ(made->tensors()[0].offset % alignment, 0u);
    EXPECT_EQ(values_of(*made, made->tensors()[1]), values_of(*file, file->tensors()[1]));
    EXPECT_EQ(*made->get_int("general.file_type"), 2);
    EXPECT_EQ(*made->get_int("general.quantization_version"), 2);
  }
}

}  // namespace
}  // namespace prism::quantize
