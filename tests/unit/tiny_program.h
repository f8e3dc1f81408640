// A language model small enough to compute by hand, as a program and as the bytes of a .prx file.
//
// Vocabulary 5, one KV layer in f32 with one head of size 1. `append` stores table[id] in K and id in V; `logits` gives
// each token c: sum over positions j <= p of K[j] * ((V[j] + c) % 3 + bias[c]).
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "runtime/executable.h"
#include "runtime/prx_format.h"

namespace prism::rt::testing {

inline constexpr int64_t kVocab = 5;
inline constexpr float kTable[kVocab] = {1, 2, 0.5f, 3, 0.25f};
inline constexpr float kBias[kVocab] = {0.5f, 1, 2, 0.125f, 4};
inline constexpr int64_t kPrefillMax = 8, kVerifyMax = 4, kContext = 100;

inline const char* const kSource = R"(
typedef long i64;
void append(void* const* a, const i64* d, i64 begin, i64 end, void* scratch) {
  const int* ids = a[0]; const float* table = a[1]; float *k = a[2], *v = a[3];
  for (i64 i = begin; i < end; ++i) { k[d[1] + i] = table[ids[i]]; v[d[1] + i] = (float)ids[i]; }
}
void logits(void* const* a, const i64* d, i64 begin, i64 end, void* scratch) {
  const float *k = a[0], *v = a[1], *bias = a[2]; float* out = a[3];
  for (i64 t = begin; t < end; ++t) {
    i64 c = t % 5, p = d[1] + d[0] - d[2] + t / 5;
    *(volatile float*)scratch = 0;
    for (i64 j = 0; j <= p; ++j) *(volatile float*)scratch += k[j] * ((float)(((i64)v[j] + c) % 3) + bias[c]);
    out[t] = *(volatile float*)scratch;
  }
}
)";

/// A folder for the files of one test, removed with it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "prism-test-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::vector<uint8_t> read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_bytes(const std::string& path, std::span<const uint8_t> bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
}

/// The kernels' machine code, compiled once.
inline const std::vector<uint8_t>& tiny_code() {
  static const std::vector<uint8_t> code = [] {
    TemporaryFolder folder;
    std::ofstream(folder / "k.c") << kSource;
    const std::string command = "cc -shared -fPIC -O1 -nostdlib -s -Wl,-z,noseparate-code -Wl,--build-id=none -o " +
                                (folder / "k.so") + " " + (folder / "k.c");
    EXPECT_EQ(std::system(command.c_str()), 0);
    return read_bytes(folder / "k.so");
  }();
  return code;
}

inline Expr dim(int64_t i) { return {{Expr::Dim, i}}; }

inline Program tiny_program() {
  Program p;
  p.name = "tiny";
  p.producer = "prism test";
  p.dims = {"seq", "past", "out", "ctx"};
  p.kernels = {{"append", "kv_append", 0}, {"logits", "logits", 64}};
  p.codes = {{"cpu", "generic", "elf", tiny_code()}};
  p.weights = {{"table", "f32", "plain", {kVocab}, 0, 4 * kVocab, {"table.weight"}, 0},
               {"bias", "f32", "plain", {kVocab}, 64, 4 * kVocab, {"bias.weight"}, 0}};
  p.weight_bytes = 64 + 4 * kVocab;
  p.kv = {{"f32", 1, 1, 0}};
  p.context_length = kContext;
  p.vocab = kVocab;
  p.metadata = std::string("GGUF\0metadata", 13);
  p.model = {"tiny.gguf", 123, 456};
  const auto entry = [&](const char* name, int64_t max_seq, int64_t max_out) {
    EntryPoint e;
    e.name = name;
    e.dim_min = {1, 0, 1, 64};
    e.dim_max = {max_seq, kContext - 1, max_out, 128};
    e.inputs = {{"ids", "i32", {dim(0)}, 0}};
    e.outputs = {{"logits", "f32", {dim(2), Expr::constant(kVocab)}, 64}};
    e.arena_bytes = uint64_t(64 + 4 * kVocab * max_out);
    e.launches = {
        {0, {{Space::Arena, 0, 0}, {Space::Weight, 0, 0}, {Space::KvK, 0, 0}, {Space::KvV, 0, 0}}, dim(0)},
        {1,
         {{Space::KvK, 0, 0}, {Space::KvV, 0, 0}, {Space::Weight, 1, 0}, {Space::Arena, 0, 64}},
         {{Expr::Dim, 2, Expr::Const, kVocab, Expr::Mul, 0}}}};
    return e;
  };
  p.entries = {entry("prefill", kPrefillMax, 1), entry("decode", 1, 1), entry("verify", kVerifyMax, kVerifyMax)};
  return p;
}

inline Status fill_tiny(const Weight& w, std::span<uint8_t> dst) {
  if (dst.size() != 4 * kVocab) return error("fill: found ", dst.size(), " bytes");
  std::memcpy(dst.data(), w.name == "table" ? kTable : kBias, dst.size());
  return ok();
}

/// What the model gives for the token after ids[0..p], in the order the kernel computes it.
inline std::vector<float> expected_logits(std::span<const int32_t> ids, size_t p) {
  std::vector<float> out(kVocab);
  for (int64_t c = 0; c < kVocab; ++c)
    for (size_t j = 0; j <= p; ++j) out[size_t(c)] += kTable[ids[j]] * (float((ids[j] + c) % 3) + kBias[c]);
  return out;
}

inline std::shared_ptr<Executable> tiny_executable() {
  LoadOptions options;
  options.fill = fill_tiny;
  auto exe = Executable::from_program(tiny_program(), options);
  EXPECT_TRUE(exe) << exe.message();
  return *exe;
}

/// The bytes of a .prx with embedded weights, all hashes right, whatever the program says.
inline std::vector<uint8_t> prx_bytes(const Program& p, std::vector<uint8_t> weights) {
  std::vector<uint64_t> hashes;
  for (size_t at = 0; at < weights.size(); at += kHashedBytes)
    hashes.push_back(xxh3(weights.data() + at, std::min<size_t>(kHashedBytes, weights.size() - at)));
  std::vector<uint8_t> bytes = frame_metadata(encode_program(p, true, hashes), weights.size());
  bytes.insert(bytes.end(), weights.begin(), weights.end());
  return bytes;
}

inline std::vector<uint8_t> tiny_weights() {
  std::vector<uint8_t> weights(64 + 4 * kVocab);
  std::memcpy(weights.data(), kTable, sizeof kTable);
  std::memcpy(weights.data() + 64, kBias, sizeof kBias);
  return weights;
}

/// An error as it should be: one line, not empty, naming the file.
inline void expect_clear(const std::string& message, const std::string& path) {
  EXPECT_NE(message.find(path), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_GT(message.size(), path.size() + 5) << message;
  EXPECT_LT(message.size(), path.size() + 600) << message;
}

}  // namespace prism::rt::testing
