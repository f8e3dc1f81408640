// Malformed .prx files: each is one clear error, none a crash, an endless loop or a large allocation. Run with
// PRISM_SANITIZE to see what a plain build does not.
#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "runtime/executable.h"
#include "runtime/executable_generated.h"
#include "runtime/session.h"
#include "tiny_program.h"

namespace prism::rt::testing {
namespace {

class PrxHostile : public ::testing::Test {
 protected:
  std::vector<uint8_t> good_ = prx_bytes(tiny_program(), tiny_weights());
  TemporaryFolder folder_;
  const std::string path_ = folder_ / "m.prx";

  void SetUp() override {
    write_bytes(path_, good_);
    const auto exe = Executable::load(path_);
    ASSERT_TRUE(exe) << exe.message();
  }

  /// Loading fails with one clear line; returns it.
  std::string refused(std::span<const uint8_t> bytes, const std::string& what) {
    write_bytes(path_, bytes);
    const auto exe = Executable::load(path_, {1, fill_tiny, nullptr});
    EXPECT_FALSE(exe) << what;
    if (exe) return "";
    expect_clear(exe.message(), path_);
    return exe.message();
  }

  uint64_t weight_offset() const {
    PrxHeader h;
    std::memcpy(&h, good_.data(), sizeof h);
    return h.weight_offset;
  }
};

void seal(std::vector<uint8_t>& bytes) {  // makes the hashes right again
  PrxHeader h;
  std::memcpy(&h, bytes.data(), sizeof h);
  if (h.weight_offset >= sizeof h && h.weight_offset <= bytes.size())
    h.metadata_hash = xxh3(bytes.data() + sizeof h, h.weight_offset - sizeof h);
  h.header_hash = xxh3(&h, offsetof(PrxHeader, header_hash));
  std::memcpy(bytes.data(), &h, sizeof h);
}

TEST_F(PrxHostile, EveryTruncation) {
  size_t step = 1;
  for (size_t n = 0; n < good_.size(); n += step) {
    if (n > 2 * sizeof(PrxHeader)) step = good_.size() - n < 100 ? 1 : 29;
    refused(std::span(good_).first(n), "truncated to " + std::to_string(n));
  }
  auto longer = good_;
  longer.push_back(0);
  refused(longer, "a byte too many");
}

TEST_F(PrxHostile, EverySingleBitInTheHeaderAndTheEnds) {
  const auto flip_all = [&](size_t begin, size_t end) {
    for (size_t bit = begin * 8; bit < end * 8; ++bit) {
      good_[bit / 8] ^= uint8_t(1 << bit % 8);
      refused(good_, "bit " + std::to_string(bit));
      good_[bit / 8] ^= uint8_t(1 << bit % 8);
    }
  };
  flip_all(0, 80);                                        // header and the FlatBuffer's root
  flip_all(weight_offset() - 4, weight_offset() + 8);     // padding and the first weights
  flip_all(weight_offset() + 4 * kVocab, weight_offset() + 24);  // between two weights
  flip_all(good_.size() - 8, good_.size());
}

TEST_F(PrxHostile, ABitInEveryFewBytes) {
  for (size_t i = 0; i < good_.size(); i += 5) {
    good_[i] ^= uint8_t(1 << i % 8);
    refused(good_, "byte " + std::to_string(i));
    good_[i] ^= uint8_t(1 << i % 8);
  }
}

TEST_F(PrxHostile, HeaderFieldsWithRightHashes) {
  const uint64_t values[] = {0, 1, 63, 64, 4095, 4096, 4097, 8192, uint64_t(1) << 31, uint64_t(1) << 32,
                             uint64_t(1) << 62, uint64_t(1) << 63, UINT64_MAX - 4095, UINT64_MAX};
  for (size_t field = 8; field < 32; field += 8) {  // metadata bytes, weight offset, weight bytes
    uint64_t before;
    std::memcpy(&before, good_.data() + field, 8);
    for (uint64_t value : values) {
      if (value == before) continue;
      auto bytes = good_;
      std::memcpy(bytes.data() + field, &value, 8);
      seal(bytes);
      refused(bytes, "field at " + std::to_string(field) + " = " + std::to_string(value));
    }
  }
  for (uint32_t version : {0u, 1u, 255u, UINT32_MAX}) {
    auto bytes = good_;
    std::memcpy(bytes.data() + 4, &version, 4);
    seal(bytes);
    EXPECT_NE(refused(bytes, "version").find("format version: found " + std::to_string(version) + ", expected 2"),
              std::string::npos);
  }
  // Sums that wrap around to the size of the file.
  auto bytes = good_;
  const uint64_t offset = 4096 * 1000, size = good_.size() - offset;
  std::memcpy(bytes.data() + 16, &offset, 8);
  std::memcpy(bytes.data() + 24, &size, 8);
  seal(bytes);
  refused(bytes, "wrapping sizes");
}

struct Corruption {
  const char* expected;  // part of the message
  std::function<void(Program&)> change;
};

const std::vector<Corruption> kCorruptions = {
    {"required feature \"time-travel\": found no support", [](auto& p) { p.required_features = {"time-travel"}; }},
    {"dims: found 65, expected at most 64", [](auto& p) {
       for (int i = 4; i < 65; ++i) p.dims.push_back("d" + std::to_string(i));
     }},
    {"dim \"seq\": found twice", [](auto& p) { p.dims[3] = "seq"; }},
    {"dim 2: found no name", [](auto& p) { p.dims[2] = ""; }},
    {"entry point \"decode\": found twice", [](auto& p) { p.entries[0].name = "decode"; }},
    {"entry point 0: found no name", [](auto& p) { p.entries[0].name = ""; }},
    {"kernel \"append\": found twice", [](auto& p) { p.kernels[1].symbol = "append"; }},
    {"kernel \"missing\": found no such symbol", [](auto& p) { p.kernels[0].symbol = "missing"; }},
    {"kernel 0: found no name", [](auto& p) { p.kernels[0].symbol = ""; }},
    {"scratch bytes: found 18446744073709551615", [](auto& p) { p.kernels[0].scratch_bytes = UINT64_MAX; }},
    {"code: found none", [](auto& p) { p.codes.clear(); }},
    {"found target \"abacus\", expected \"cpu\", \"cuda\" or \"emu\"", [](auto& p) { p.codes[0].target = "abacus"; }},
    {"found format \"coff\", expected \"elf\"", [](auto& p) { p.codes[0].format = "coff"; }},
    {"found ISA \"avx1024\"", [](auto& p) { p.codes[0].isa = "avx1024"; }},
    {"found ISA \"line?break\"", [](auto& p) { p.codes[0].isa = "line\nbreak"; }},
    {"code: cannot load", [](auto& p) { p.codes[0].data.clear(); }},
    {"code: cannot load", [](auto& p) { p.codes[0].data.resize(40); }},
    {"code: cannot load", [](auto& p) { p.codes[0].data.assign(5000, 0xcc); }},
    {"weight \"table\": found twice", [](auto& p) { p.weights[1].name = "table"; }},
    {"weight 1: found no name", [](auto& p) { p.weights[1].name = ""; }},
    {"found offset 65, expected a multiple of 64", [](auto& p) { p.weights[1].offset = 65; }},
    {"weight \"bias\": found offset 128", [](auto& p) { p.weights[1].offset = 128; }},
    {"weight \"bias\": found offset 18446744073709551552", [](auto& p) { p.weights[1].offset = UINT64_MAX - 63; }},
    {"weight \"table\": found offset 0 and 85 bytes", [](auto& p) { p.weights[0].bytes = 85; }},
    {"weight \"table\": found offset 0 and 18446744073709551615", [](auto& p) { p.weights[0].bytes = UINT64_MAX; }},
    {"weight \"bias\": found offset 64, expected at least 65, the end of \"table\"",
     [](auto& p) { p.weights[0].bytes = 65; }},
    {"weight \"bias\": found 1 values", [](auto& p) { p.weights[1].values = {1}; }},
    {"weight \"table\": shape: found -5", [](auto& p) { p.weights[0].shape = {-5}; }},
    {"weight \"table\": shape: found 0", [](auto& p) { p.weights[0].shape = {0}; }},
    {"weight segment bytes: found 1", [](auto& p) { p.weight_bytes = UINT64_MAX; }},
    {"weights: found 84 bytes in the file, expected 148", [](auto& p) { p.weight_bytes = 148; }},
    {"KV layer 0: found dtype \"f64\"", [](auto& p) { p.kv[0].dtype = "f64"; }},
    {"KV layer 0: found dtype \"\"", [](auto& p) { p.kv[0].dtype = ""; }},
    {"KV layer 0: heads: found 0", [](auto& p) { p.kv[0].heads = 0; }},
    {"KV layer 0: heads: found -1", [](auto& p) { p.kv[0].heads = -1; }},
    {"KV layer 0: heads: found 9223372036854775807", [](auto& p) { p.kv[0].heads = INT64_MAX; }},
    {"KV layer 0: head size: found 0", [](auto& p) { p.kv[0].head_size = 0; }},
    {"KV layer 0: head size: found 4611686018427387904", [](auto& p) { p.kv[0].head_size = int64_t(1) << 62; }},
    {"KV layer 0: window: found -2", [](auto& p) { p.kv[0].window = -2; }},
    {"KV layer 0: ring: found 64", [](auto& p) { p.kv[0].ring = 64; }},
    {"KV layer 0: ring: found 64", [](auto& p) { p.kv[0].window = 65, p.kv[0].ring = 64; }},
    {"KV layer 0: ring: found 96, expected a multiple of 64", [](auto& p) { p.kv[0].window = 65, p.kv[0].ring = 96; }},
    {"KV layer 0: ring: found -64", [](auto& p) { p.kv[0].window = 65, p.kv[0].ring = -64; }},
    {"context length: found -1", [](auto& p) { p.context_length = -1; }},
    {"vocabulary size: found -1", [](auto& p) { p.vocab = -1; }},
    {"vocabulary size: found 2147483648", [](auto& p) { p.vocab = int64_t(1) << 31; }},
    {"found ranges of 3 and 4 dims, expected 4", [](auto& p) { p.entries[0].dim_min.pop_back(); }},
    {"found ranges of 4 and 5 dims, expected 4", [](auto& p) { p.entries[0].dim_max.push_back(1); }},
    {"found ranges of 0 and 0 dims, expected 4", [](auto& p) { p.entries[1].dim_min = p.entries[1].dim_max = {}; }},
    {"least \"seq\": found -1", [](auto& p) { p.entries[0].dim_min[0] = -1; }},
    {"greatest \"seq\": found 0, expected 1", [](auto& p) { p.entries[0].dim_max[0] = 0; }},
    {"greatest \"ctx\": found 9223372036854775807", [](auto& p) { p.entries[0].dim_max[3] = INT64_MAX; }},
    {"arena bytes: found 18446744073709551615", [](auto& p) { p.entries[0].arena_bytes = UINT64_MAX; }},
    {"input \"ids\": found offset 0 and a size past the end", [](auto& p) { p.entries[0].dim_max[0] = 1 << 20; }},
    {"output \"logits\": found offset 64 and a size past the end", [](auto& p) { p.entries[0].arena_bytes = 83; }},
    {"input \"ids\": found offset 18446744073709551600",
     [](auto& p) { p.entries[0].inputs[0].offset = UINT64_MAX - 15; }},
    {"input \"ids\": found dtype \"q4_k\"", [](auto& p) { p.entries[0].inputs[0].dtype = "q4_k"; }},
    {"input \"ids\": found twice", [](auto& p) { p.entries[0].inputs.push_back(p.entries[0].inputs[0]); }},
    {"output \"logits\": shape: found -5", [](auto& p) { p.entries[0].outputs[0].shape[1] = Expr::constant(-5); }},
    {"size past the end", [](auto& p) { p.entries[0].outputs[0].shape.assign(100, Expr::constant(int64_t(1) << 40)); }},
    {"output \"logits\": shape: expression: found dim 4", [](auto& p) { p.entries[0].outputs[0].shape[0] = dim(4); }},
    {"launch 0: found kernel 2, expected less than 2", [](auto& p) { p.entries[0].launches[0].kernel = 2; }},
    {"launch 1: found kernel 4294967295", [](auto& p) { p.entries[2].launches[1].kernel = UINT32_MAX; }},
    {"launch 0: tasks: expression: found 0 values", [](auto& p) { p.entries[0].launches[0].tasks = {}; }},
    {"tasks: expression: found 1 words", [](auto& p) { p.entries[0].launches[0].tasks.code = {0}; }},
    {"tasks: expression: found opcode 77", [](auto& p) { p.entries[0].launches[0].tasks.code = {77, 0}; }},
    {"tasks: expression: found dim -1", [](auto& p) { p.entries[0].launches[0].tasks = dim(-1); }},
    {"tasks: expression: found divisor 0", [](auto& p) { p.entries[0].launches[0].tasks.code = {0, 1, 0, 0, 4, 0}; }},
    {"tasks: expression: the value does not fit", [](auto& p) {
       p.entries[0].launches[0].tasks.code = {0, INT64_MAX, 0, 2, 3, 0};
     }},
    {"expression: deeper than 64", [](auto& p) { p.entries[0].launches[0].tasks.code.assign(200000, 0); }},
    {"work: expression: found dim 9", [](auto& p) { p.kernels[0].work = Work{dim(0), dim(0), dim(0), dim(9)}; }},
    {"work: expression: found 0 values", [](auto& p) { p.kernels[1].work = Work{dim(0), {}, dim(0), dim(0)}; }},
    {"argument 0: found arena offset 84, expected less than 84",
     [](auto& p) { p.entries[0].launches[0].args[0].offset = 84; }},
    {"argument 0: found arena offset 18446744073709551615", [](auto& p) {
       p.entries[0].launches[0].args[0].offset = UINT64_MAX;
     }},
    {"argument 1: found weight 2, expected less than 2", [](auto& p) { p.entries[0].launches[0].args[1].index = 2; }},
    {"argument 1: found weight offset 20", [](auto& p) { p.entries[0].launches[0].args[1].offset = 20; }},
    {"argument 2: found KV layer 1", [](auto& p) { p.entries[0].launches[0].args[2].index = 1; }},
    {"argument 3: found KV layer 4294967295", [](auto& p) { p.entries[0].launches[0].args[3].index = UINT32_MAX; }},
    {"argument 3: found KV offset 4", [](auto& p) { p.entries[0].launches[0].args[3].offset = 4; }},
    {"argument 0: found space 9", [](auto& p) { p.entries[0].launches[0].args[0].space = Space(9); }},
    {"argument 2: found KV layer 0, expected less than 0", [](auto& p) { p.kv.clear(); }},
    {"argument 1: found weight 0, expected less than 0", [](auto& p) { p.weights.clear(); }},
};

TEST_F(PrxHostile, WrongProgramsWithRightHashes) {
  for (const Corruption& c : kCorruptions) {
    Program p = tiny_program();
    c.change(p);
    const std::string message = refused(prx_bytes(p, tiny_weights()), c.expected);
    EXPECT_NE(message.find(c.expected), std::string::npos) << message << "\nexpected: " << c.expected;
  }
}

TEST_F(PrxHostile, WrongHashesOfWeights) {
  for (size_t count : {0u, 2u, 1000u}) {
    auto bytes = frame_metadata(encode_program(tiny_program(), true, std::vector<uint64_t>(count)), 84);
    const auto weights = tiny_weights();
    bytes.insert(bytes.end(), weights.begin(), weights.end());
    const std::string expected = "weight hashes: found " + std::to_string(count) + ", expected 1";
    EXPECT_NE(refused(bytes, "hashes").find(expected), std::string::npos);
  }
}

/// Random damage that no hash reports: the file loads or it does not, but nothing else happens. The machine code is
/// left alone, since what is in it runs.
TEST_F(PrxHostile, DamagedMetadataWithRightHashes) {
  const auto code = std::search(good_.begin(), good_.end(), tiny_code().begin(), tiny_code().end());
  ASSERT_NE(code, good_.end());
  const size_t code_begin = size_t(code - good_.begin()), code_end = code_begin + tiny_code().size();
  PrxHeader h;
  std::memcpy(&h, good_.data(), sizeof h);
  const size_t end = sizeof h + h.metadata_bytes;
  std::vector<size_t> places;
  for (size_t i = sizeof h; i < end; ++i)
    if (i < code_begin || i >= code_end) places.push_back(i);

  std::mt19937 random(1);
  int errors = 0;
  const uint8_t interesting[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
  for (int round = 0; round < 4000; ++round) {
    auto bytes = good_;
    for (unsigned i = 0; i < 1 + random() % 4; ++i) {
      uint8_t& byte = bytes[places[random() % places.size()]];
      byte = random() % 2 ? interesting[random() % 5] : uint8_t(byte ^ 1 << random() % 8);
    }
    seal(bytes);
    write_bytes(path_, bytes);
    const auto exe = Executable::load(path_, {1, fill_tiny, nullptr});
    if (!exe) {
      ++errors;
      expect_clear(exe.message(), path_);
    } else if (const auto session = Session::create(*exe, {1, 0}); !session) {
      EXPECT_EQ(session.message().find('\n'), std::string::npos) << session.message();
    }
  }
  EXPECT_GT(errors, 1000);
}

/// A FlatBuffer may point at one part from many places; a small file must not become a large program.
TEST_F(PrxHostile, SharedParts) {
  flatbuffers::FlatBufferBuilder b;
  const auto name = b.CreateString(std::string(100000, 'x'));
  const std::vector<flatbuffers::Offset<flatbuffers::String>> names(50000, name);
  const auto dims = b.CreateVector(names);
  fb::ExecutableBuilder e(b);
  e.add_dims(dims);
  fb::FinishExecutableBuffer(b, e.Finish());
  const std::string message = refused(frame_metadata({b.GetBufferPointer(), b.GetSize()}, 0), "one string many times");
  EXPECT_NE(message.find("shared parts"), std::string::npos) << message;

  flatbuffers::FlatBufferBuilder t;
  const std::vector<flatbuffers::Offset<fb::Kernel>> kernels(400000, fb::CreateKernel(t));
  const auto all = t.CreateVector(kernels);
  fb::ExecutableBuilder many(t);
  many.add_kernels(all);
  fb::FinishExecutableBuffer(t, many.Finish());
  refused(frame_metadata({t.GetBufferPointer(), t.GetSize()}, 0), "one table many times");
}

TEST_F(PrxHostile, NotAFlatBuffer) {
  std::mt19937 random(2);
  for (size_t n : {1u, 3u, 4u, 8u, 12u, 100u, 5000u}) {
    for (int fill = 0; fill < 4; ++fill) {
      std::vector<uint8_t> bytes(n, fill == 0 ? 0 : 0xff);
      if (fill >= 2)
        for (uint8_t& byte : bytes) byte = uint8_t(random());
      if (fill == 3 && n >= 8) std::memcpy(bytes.data() + 4, "PRX1", 4);
      EXPECT_NE(refused(frame_metadata(bytes, 0), "noise").find("invalid FlatBuffer"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace prism::rt::testing
