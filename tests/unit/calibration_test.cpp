// What is measured at the inputs of matrices, and the file it is kept in.
#include "tools/quantize/calibration.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "frontends/gguf/model.h"
#include "tests/unit/tiny_program.h"
#include "tools/quantize/ranges.h"

namespace prism::quantize {
namespace {

using rt::testing::TemporaryFolder;
using rt::testing::write_bytes;

TEST(Calibration, PercentilesAreThoseOfTheValuesToABin) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal(0.3f, 2);
  std::vector<float> values(20001);
  Histogram h;
  for (float& v : values) h.add(v = normal(rng));
  std::sort(values.begin(), values.end());
  double last = -INFINITY;
  for (double p : {0.0, 0.001, 0.01, 0.2, 0.5, 0.8, 0.99, 0.999, 1.0}) {
    const double found = h.percentile(p), expected = values[size_t(p * 20000)];
    EXPECT_NEAR(found, expected, 0.05 * std::fabs(expected) + 1e-3) << p;
    EXPECT_GE(found, last);
    last = found;
  }
}

TEST(Calibration, HistogramsHoldEveryValue) {
  Histogram h;
  EXPECT_EQ(h.percentile(0.5), 0);
  for (float v : {0.0f, -0.0f, 1e-45f, -1e-9f}) h.add(v);
  EXPECT_EQ(h.counts[Histogram::kSide], 4);
  for (float v : {3e38f, 0x1p24f, 0x1.fp23f}) h.add(v);
  EXPECT_EQ(h.counts[Histogram::kBins - 1], 3);
  h.add(-3e38f);
  EXPECT_EQ(h.counts[0], 1);
  h.add(0x1p-24f);
  EXPECT_EQ(h.counts[Histogram::kSide + 1], 1);
  EXPECT_EQ(h.percentile(0), -std::exp2(24 - 0.5 / 8));
  EXPECT_EQ(h.percentile(0.5), 0);
}

TEST(Calibration, RangesLeaveOutWhatCostsMoreThanItIsWorth) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal(0.5f, 1);
  Inputs in{{1.0f}, {0}, {0}, {}, {}};
  const auto add = [&](float v) {
    in.histogram.add(v);
    in.minimum[0] = std::min(in.minimum[0], v);
    in.maximum[0] = std::max(in.maximum[0], v);
  };
  for (int i = 0; i < 2000000; ++i) add(normal(rng));
  const Range plain = static_range(in);
  EXPECT_LT(plain.least, -3);
  EXPECT_GT(plain.most, 4);
  add(60);   // to reach it all steps would have to be 7 times as large
  const Range without = static_range(in);
  EXPECT_LT(without.most, 10);
  for (int i = 0; i < 200; ++i) add(60);
  EXPECT_GT(static_range(in).most, 55);
}

/// A calibration of two matrices as a run would make it.
Calibration sample() {
  Calibration c;
  c.model = {"/models/tiny.gguf", 12345, 0xfedcba9876543210u};
  c.name = "Tiny";
  c.ids = {1, 2, 3, 70000};
  c.window = 2;
  Inputs in{{0.5f, 2, 1e-9f}, {-1, -2, -1e-4f}, {1, 3, 1e-4f}, {}, {}};
  in.histogram.add(1);
  in.histogram.add(-3);
  c.inputs["blk.0.attn_q.weight"] = in;
  in.sensitivity = 0.25f;
  c.inputs["output.weight"] = in;
  c.inputs["token_embd.weight"].sensitivity = 0.5f;
  return c;
}

class CalibrationFile : public testing::Test {
 protected:
  TemporaryFolder folder;
  std::string path = folder / "tiny.cal";
  Result<Calibration> read(const Calibration& c) { return read(calibration_bytes(c)); }
  Result<Calibration> read(const std::string& bytes) {
    write_bytes(path, {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    return read_calibration(path);
  }
  /// Reading fails with a message that names the file and has all of these in it.
  void refuses(const Result<Calibration>& result, const std::vector<std::string>& fragments) {
    ASSERT_FALSE(result);
    EXPECT_EQ(result.message().find(path), 0u) << result.message();
    for (const std::string& f : fragments) EXPECT_NE(result.message().find(f), std::string::npos) << result.message() << "\nlacks " << f;
  }
};

TEST_F(CalibrationFile, WhatIsWrittenIsRead) {
  const Calibration c = sample();
  const auto found = read(c);
  ASSERT_TRUE(found) << found.message();
  EXPECT_EQ(found->name, c.name);
  EXPECT_EQ(found->model.path, c.model.path);
  EXPECT_EQ(found->model.size, c.model.size);
  EXPECT_EQ(found->model.hash, c.model.hash);
  EXPECT_EQ(found->ids, c.ids);
  EXPECT_EQ(found->window, c.window);
  ASSERT_EQ(found->inputs.size(), 3u);
  for (const auto& [name, in] : c.inputs) {
    const Inputs* other = found->find(name);
    ASSERT_TRUE(other) << name;
    EXPECT_EQ(other->mean_square, in.mean_square);
    EXPECT_EQ(other->minimum, in.minimum);
    EXPECT_EQ(other->maximum, in.maximum);
    EXPECT_EQ(other->histogram.counts, in.histogram.counts);
    EXPECT_EQ(other->sensitivity, in.sensitivity);
  }
  EXPECT_EQ(found->find("blk.1.attn_q.weight"), nullptr);
}

TEST_F(CalibrationFile, ChannelsWithoutARangeAreRefused) {
  const auto with = [&](auto&& change) {
    Calibration c = sample();
    change(c.inputs["output.weight"]);
    return read(c);
  };
  const std::string channel = "channel 1 of the input of 'output.weight'";
  refuses(with([](Inputs& in) { in.minimum[1] = NAN; }), {channel, "nan", "expected finite"});
  refuses(with([](Inputs& in) { in.maximum[1] = INFINITY; }), {channel, "inf", "expected finite"});
  refuses(with([](Inputs& in) { in.mean_square[1] = INFINITY; }), {channel, "inf", "expected finite"});
  refuses(with([](Inputs& in) { in.minimum[1] = 4; }), {channel, "found the range 4 to 3", "ascending"});
  refuses(with([](Inputs& in) { in.mean_square[1] = -1; }), {channel, "mean square -1"});
  refuses(with([](Inputs& in) { in.minimum[1] = in.maximum[1] = 0; }), {channel, "found 0 for all tokens", "scale 0", "more text"});
  Calibration allowed = sample();
  allowed.allow_constant = true;
  Inputs& constant = allowed.inputs["output.weight"];
  constant.minimum[1] = constant.maximum[1] = constant.mean_square[1] = 0;
  const auto found = read(allowed);
  ASSERT_TRUE(found) << found.message();
  EXPECT_TRUE(found->allow_constant);
  constant.maximum[1] = NAN;
  refuses(read(allowed), {channel, "nan", "expected finite"});
  refuses(with([](Inputs& in) { in.sensitivity = NAN; }), {"sensitivity of 'output.weight'", "nan"});
  refuses(with([](Inputs& in) { in.sensitivity = -1.0f; }), {"sensitivity of 'output.weight'", "-1"});
  refuses(with([](Inputs& in) { in.histogram.counts[5] = -3; }), {"histogram of the input of 'output.weight'", "-3"});
  refuses(with([](Inputs& in) { in.minimum.pop_back(); }), {"3 mean squares, 2 minima and 3 maxima", "output.weight"});
  refuses(with([](Inputs& in) { in.histogram.counts.pop_back(); }), {"output.weight.histogram", "i64[768]", "expected i64[769]"});
}

TEST_F(CalibrationFile, OtherFilesAreRefused) {
  refuses(read(std::string("GGUF")), {"end of the file"});
  refuses(read(std::string("nothing of the kind")), {"magic"});
  Calibration none = sample();
  none.ids.clear();
  refuses(read(none), {"no ids"});
  none = sample();
  none.window = 0;
  refuses(read(none), {"no window"});
  std::string bytes = calibration_bytes(sample());
  const auto replace = [&](const std::string& from, const std::string& to) {
    std::string changed = bytes;
    changed.replace(changed.find(from), from.size(), to);
    return read(changed);
  };
  refuses(replace("calibration", "calibratioN"), {"architecture 'calibratioN'", "prism calibrate"});
  refuses(replace("fedcba98", "fedcbaxx"), {"calibration.model.hash", "fedcbaxx"});
  refuses(replace("12345", "12a45"), {"calibration.model.size", "12a45"});
  refuses(replace("output.weight.minimum", "output.weight.minimus"), {"output.weight.minimus"});
  // Cut anywhere, or with a byte changed anywhere: refused or read, and nothing worse.
  for (size_t n = 0; n < bytes.size(); n += 1 + n / 40) EXPECT_FALSE(read(bytes.substr(0, n))) << n;
  std::mt19937 rng(2);
  for (int i = 0; i < 500; ++i) {
    std::string changed = bytes;
    changed[rng() % 1200] ^= char(1 << rng() % 8);
    (void)bool(read(changed));
  }
}

TEST_F(CalibrationFile, IsOfOneModel) {
  TemporaryFolder models;
  const auto file = gguf::File::open("synth:tiny-llama:f32");
  ASSERT_TRUE(file) << file.message();
  Calibration c = sample();
  c.inputs.clear();
  const gguf::TensorInfo* t = (*file)->tensor("blk.0.attn_q.weight");
  ASSERT_TRUE(t);
  const size_t k = size_t(t->shape.back());
  c.inputs[t->name] = {std::vector<float>(k, 1), std::vector<float>(k, -1), std::vector<float>(k, 1), {}, {}};
  const rt::ModelReference found{(*file)->name(), 12345, 0xfedcba9876543210u};
  EXPECT_TRUE(check_model(c, path, **file, found));
  for (const rt::ModelReference& other : {rt::ModelReference{"other.gguf", 12346, found.hash}, {"other.gguf", 12345, found.hash + 1}}) {
    const Status s = check_model(c, path, **file, other);
    ASSERT_FALSE(s);
    for (const std::string& f : {path, std::string("was made with 'Tiny' (/models/tiny.gguf, 12345 bytes, hash fedcba9876543210)"), std::string("run prism calibrate")})
      EXPECT_NE(s.message().find(f), std::string::npos) << s.message();
  }
  c.inputs[t->name].mean_square.push_back(1);
  EXPECT_NE(check_model(c, path, **file, found).message().find("'blk.0.attn_q.weight'"), std::string::npos);
  c.inputs.clear();
  c.inputs["blk.99.attn_q.weight"].sensitivity = 1;
  EXPECT_NE(check_model(c, path, **file, found).message().find("no such tensor"), std::string::npos);
}

/// The collector against sums over the evaluator's own results: what the norm before a matrix puts out is what the matrix reads.
TEST(Calibration, CollectsWhatMatricesRead) {
  const auto file = gguf::File::open("synth:tiny-llama:f32:layers=1");
  ASSERT_TRUE(file) << file.message();
  const auto module = gguf::build_module(*file, {.kv_dtype = ir::DType::F32});
  ASSERT_TRUE(module) << module.message();
  ir::Evaluator evaluator(**module);
  Collector collector;
  std::vector<ir::Tensor> norms;
  evaluator.observe = [&](const ir::Operation& op, const std::vector<const ir::Tensor*>& in, const std::vector<ir::Tensor>& out) {
    collector.observe(op, in);
    if (op.op == ir::Op::RmsNorm) norms.push_back(out[0]);
  };
  const int64_t n = 9;
  for (int pass = 0; pass < 2; ++pass) {   // twice the same: means stay
    ir::Tensor ids;
    ids.shape = {n};
    for (int64_t i = 0; i < n; ++i) ids.i.push_back(i * 37 % 256);
    const auto out = evaluator.run(*(*module)->graph("forward"), {{"ids", ids}}, {{"past", 0}, {"seq", n}, {"out", n}});
    ASSERT_TRUE(out) << out.message();
  }
  const auto inputs = collector.finish();
  ASSERT_TRUE(inputs) << inputs.message();
  ASSERT_EQ(norms.size(), 6u);   // of attention, of the feed-forward and at the end, twice
  const auto output = (*file)->tensor("output.weight") ? "output.weight" : "token_embd.weight";
  for (const auto& [name, norm] : {std::pair{"blk.0.attn_q.weight", 0}, {"blk.0.attn_v.weight", 0}, {"blk.0.ffn_up.weight", 1}, {output, 2}}) {
    ASSERT_TRUE(inputs->contains(name)) << name;
    const Inputs& in = inputs->find(name)->second;
    const ir::Tensor& x = norms[size_t(norm)];
    const size_t k = size_t(x.shape.back());
    ASSERT_EQ(in.mean_square.size(), k);
    for (size_t c = 0; c < k; ++c) {
      double squares = 0;
      float low = INFINITY, high = -INFINITY;
      for (int64_t r = 0; r < n; ++r) {
        const float v = x.f[size_t(r) * k + c];
        squares += double(v) * v;
        low = std::min(low, v);
        high = std::max(high, v);
      }
      ASSERT_NEAR(in.mean_square[c], squares / double(n), 1e-5 * squares);
      ASSERT_EQ(in.minimum[c], low);
      ASSERT_EQ(in.maximum[c], high);
    }
    int64_t counted = 0;
    for (int64_t count : in.histogram.counts) counted += count;
    EXPECT_EQ(counted, 2 * n * int64_t(k));
  }
  EXPECT_EQ(inputs->size(), 8u);   // seven of the layer and the output
}

TEST(Calibration, AnInputThatNeverChangesHasNoRange) {
  const auto file = gguf::File::open("synth:tiny-llama:f32:layers=1");
  const auto module = gguf::build_module(*file, {.kv_dtype = ir::DType::F32});
  ir::Evaluator evaluator(**module);
  Collector collector;
  evaluator.observe = [&](const ir::Operation& op, const auto& in, const auto&) { collector.observe(op, in); };
  ir::Tensor ids;
  ids.shape = {1};
  ids.i = {5};
  ASSERT_TRUE(evaluator.run(*(*module)->graph("forward"), {{"ids", ids}}, {{"past", 0}, {"seq", 1}, {"out", 1}}));
  const auto inputs = collector.finish();
  ASSERT_FALSE(inputs);
  EXPECT_NE(inputs.message().find("for all tokens"), std::string::npos) << inputs.message();
  EXPECT_TRUE(collector.finish(/*allow_constant=*/true));
}

}  // namespace
}  // namespace prism::quantize
