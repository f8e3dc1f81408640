// The recorded tokens and logits ($PRISM_SHARED, default ../shared/reference) and the real models ($PRISM_MODELS) they belong to.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

namespace prism {

inline std::string shared_path(const std::string& name) {
  const char* folder = std::getenv("PRISM_SHARED");
  return std::string(folder ? folder : PRISM_SOURCE_DIR "/../shared/reference") + "/" + name;
}

inline std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in) << "cannot read " << path;
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::vector<float> read_floats(const std::string& path) {
  const std::string bytes = read_file(path);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

inline const nlohmann::json& reference() {
  static const auto json = nlohmann::json::parse(read_file(shared_path("reference.json")));
  return json;
}

/// Names in reference()["models"] of the models to test: $PRISM_TEST_MODELS, separated by spaces, default smollm2.
inline std::vector<std::string> test_models() {
  const char* names = std::getenv("PRISM_TEST_MODELS");
  std::istringstream in(names ? names : "smollm2");
  return {std::istream_iterator<std::string>(in), {}};
}

inline std::string model_path(const std::string& name) {
  const char* folder = std::getenv("PRISM_MODELS");
  EXPECT_NE(folder, nullptr) << "PRISM_MODELS names the folder with the model files";
  return std::string(folder ? folder : ".") + "/" + reference()["models"].at(name)["file"].get<std::string>();
}

/// A test suite over test_models(); its parameter is the model's name.
class RealModel : public testing::TestWithParam<std::string> {};
inline std::string real_model_name(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
  return name;
}

/// Squared error over squared expectation.
inline double nmse(const float* found, const float* expected, size_t n) {
  double difference = 0, total = 0;
  for (size_t i = 0; i < n; ++i) {
    difference += std::pow(double(found[i]) - expected[i], 2);
    total += std::pow(double(expected[i]), 2);
  }
  return difference / total;
}

}  // namespace prism
