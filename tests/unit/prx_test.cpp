#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <mutex>
#include <set>

#include "runtime/code_object.h"
#include "runtime/executable.h"
#include "runtime/session.h"
#include "tiny_program.h"

namespace prism::rt::testing {
namespace {

void expect_equal(const Expr& a, const Expr& b) { EXPECT_EQ(a.code, b.code); }

void expect_equal(const std::vector<Slot>& a, const std::vector<Slot>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].name, b[i].name);
    EXPECT_EQ(a[i].dtype, b[i].dtype);
    EXPECT_EQ(a[i].offset, b[i].offset);
    ASSERT_EQ(a[i].shape.size(), b[i].shape.size());
    for (size_t d = 0; d < a[i].shape.size(); ++d) expect_equal(a[i].shape[d], b[i].shape[d]);
  }
}

void expect_equal(const EntryPoint& a, const EntryPoint& b) {
  EXPECT_EQ(a.name, b.name);
  EXPECT_EQ(a.dim_min, b.dim_min);
  EXPECT_EQ(a.dim_max, b.dim_max);
  EXPECT_EQ(a.arena_bytes, b.arena_bytes);
  expect_equal(a.inputs, b.inputs);
  expect_equal(a.outputs, b.outputs);
  ASSERT_EQ(a.launches.size(), b.launches.size());
  for (size_t i = 0; i < a.launches.size(); ++i) {
    EXPECT_EQ(a.launches[i].kernel, b.launches[i].kernel);
    expect_equal(a.launches[i].tasks, b.launches[i].tasks);
    ASSERT_EQ(a.launches[i].args.size(), b.launches[i].args.size());
    for (size_t j = 0; j < a.launches[i].args.size(); ++j) {
      EXPECT_EQ(a.launches[i].args[j].space, b.launches[i].args[j].space);
      EXPECT_EQ(a.launches[i].args[j].index, b.launches[i].args[j].index);
      EXPECT_EQ(a.launches[i].args[j].offset, b.launches[i].args[j].offset);
    }
  }
}

/// All fields but the codes' data, which a loaded program no longer holds.
void expect_equal(const Program& a, const Program& b) {
  EXPECT_EQ(a.name, b.name);
  EXPECT_EQ(a.producer, b.producer);
  EXPECT_EQ(a.required_features, b.required_features);
  EXPECT_EQ(a.dims, b.dims);
  EXPECT_EQ(a.weight_bytes, b.weight_bytes);
  EXPECT_EQ(a.context_length, b.context_length);
  EXPECT_EQ(a.vocab, b.vocab);
  EXPECT_EQ(a.metadata, b.metadata);
  EXPECT_EQ(a.ir, b.ir);
  EXPECT_EQ(a.model.path, b.model.path);
  EXPECT_EQ(a.model.size, b.model.size);
  EXPECT_EQ(a.model.hash, b.model.hash);
  ASSERT_EQ(a.entries.size(), b.entries.size());
  for (size_t i = 0; i < a.entries.size(); ++i) expect_equal(a.entries[i], b.entries[i]);
  ASSERT_EQ(a.kernels.size(), b.kernels.size());
  for (size_t i = 0; i < a.kernels.size(); ++i) {
    EXPECT_EQ(a.kernels[i].symbol, b.kernels[i].symbol);
    EXPECT_EQ(a.kernels[i].description, b.kernels[i].description);
    EXPECT_EQ(a.kernels[i].scratch_bytes, b.kernels[i].scratch_bytes);
    EXPECT_EQ(a.kernels[i].computes, b.kernels[i].computes);
    ASSERT_EQ(a.kernels[i].work.has_value(), b.kernels[i].work.has_value());
    if (!a.kernels[i].work) continue;
    for (const auto amount : {&Work::weights, &Work::kv, &Work::activations, &Work::operations}) expect_equal(*a.kernels[i].work.*amount, *b.kernels[i].work.*amount);
  }
  ASSERT_EQ(a.codes.size(), b.codes.size());
  for (size_t i = 0; i < a.codes.size(); ++i) {
    EXPECT_EQ(a.codes[i].target, b.codes[i].target);
    EXPECT_EQ(a.codes[i].isa, b.codes[i].isa);
    EXPECT_EQ(a.codes[i].format, b.codes[i].format);
  }
  ASSERT_EQ(a.weights.size(), b.weights.size());
  for (size_t i = 0; i < a.weights.size(); ++i) {
    EXPECT_EQ(a.weights[i].name, b.weights[i].name);
    EXPECT_EQ(a.weights[i].dtype, b.weights[i].dtype);
    EXPECT_EQ(a.weights[i].layout, b.weights[i].layout);
    EXPECT_EQ(a.weights[i].shape, b.weights[i].shape);
    EXPECT_EQ(a.weights[i].offset, b.weights[i].offset);
    EXPECT_EQ(a.weights[i].bytes, b.weights[i].bytes);
    EXPECT_EQ(a.weights[i].sources, b.weights[i].sources);
    EXPECT_EQ(a.weights[i].interleave, b.weights[i].interleave);
    EXPECT_EQ(a.weights[i].hadamard, b.weights[i].hadamard);
    EXPECT_EQ(a.weights[i].scales, b.weights[i].scales);
    EXPECT_EQ(a.weights[i].values, b.weights[i].values);
  }
  ASSERT_EQ(a.kv.size(), b.kv.size());
  for (size_t i = 0; i < a.kv.size(); ++i) {
    EXPECT_EQ(a.kv[i].dtype, b.kv[i].dtype);
    EXPECT_EQ(a.kv[i].heads, b.kv[i].heads);
    EXPECT_EQ(a.kv[i].head_size, b.kv[i].head_size);
    EXPECT_EQ(a.kv[i].window, b.kv[i].window);
    EXPECT_EQ(a.kv[i].key_bits, b.kv[i].key_bits);
    EXPECT_EQ(a.kv[i].value_bits, b.kv[i].value_bits);
    EXPECT_EQ(a.kv[i].ring, b.kv[i].ring);
    EXPECT_EQ(a.kv[i].sinks, b.kv[i].sinks);
  }
}

/// A program in which no field has its default value, so that one that is lost is seen.
Program rich_program() {
  Program p = tiny_program();
  p.ir = std::string("\0ir\xff", 4);
  p.kv = {{"f32", 2, 3, 17}, {"f16", 4, 64, 512}, {"f16", 4, 64, 512, 0, 0, 1024}, {"f16", 4, 64, 512, 0, 0, 1088, 64}};
  p.weights[0].interleave = 8;
  p.weights[0].hadamard = true;
  p.weights[0].scales = "row";
  p.weights[1].sources = {"a", "b", ""};
  p.entries[0].launches[1].args[2].offset = 12;
  p.weights.push_back({"factors", "f32", "row_major", {2}, round_up(p.weight_bytes, 64), 8});
  p.weights.back().values = {0.5f, -2};
  p.weight_bytes = p.weights.back().offset + 64;
  p.kernels[0].computes = "append to a cache";
  p.kernels[0].work = Work{Expr::constant(4), dim(0), dim(1), dim(2)};
  return p;
}

std::string write(const TemporaryFolder& folder, const Program& p, const WeightFiller& fill) {
  const std::string path = folder / "m.prx";
  const Status s = write_executable(p, path, fill);
  EXPECT_TRUE(s) << s.message();
  return path;
}

void expect_works(const std::shared_ptr<Executable>& exe) {
  auto session = Session::create(exe);
  ASSERT_TRUE(session) << session.message();
  const std::vector<int32_t> ids = {1, 4, 2, 0, 3, 3, 1, 2, 4, 4};
  const Status fed = (*session)->feed(ids);
  ASSERT_TRUE(fed) << fed.message();
  const auto logits = (*session)->logits();
  ASSERT_TRUE(logits) << logits.message();
  EXPECT_EQ(std::vector<float>(logits->begin(), logits->end()), expected_logits(ids, 9));
}

TEST(Prx, EmbeddedWeightsRoundTrip) {
  TemporaryFolder folder;
  const Program p = rich_program();
  const std::string path = write(folder, p, fill_tiny);
  const auto exe = Executable::load(path);
  ASSERT_TRUE(exe) << exe.message();
  expect_equal((*exe)->program(), p);
  EXPECT_TRUE((*exe)->program().weights_embedded);
  EXPECT_EQ(std::memcmp((*exe)->weight(0), tiny_weights().data(), tiny_weights().size()), 0);
  EXPECT_EQ(std::memcmp((*exe)->weight(p.weights.size() - 1), p.weights.back().values.data(), 8), 0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>((*exe)->weight(0)) % 4096, 0u);
  EXPECT_EQ((*exe)->entry("decode"), &(*exe)->program().entries[1]);
  EXPECT_EQ((*exe)->entry("encode"), nullptr);
}

TEST(Prx, RunsFromAFileAndFromMemory) {
  TemporaryFolder folder;
  const auto embedded = Executable::load(write(folder, tiny_program(), fill_tiny));
  ASSERT_TRUE(embedded) << embedded.message();
  expect_works(*embedded);
  LoadOptions options;
  options.fill = fill_tiny;
  const auto referenced = Executable::load(write(folder, tiny_program(), nullptr), options);
  ASSERT_TRUE(referenced) << referenced.message();
  EXPECT_FALSE((*referenced)->program().weights_embedded);
  expect_works(*referenced);
  expect_works(*embedded);  // its file was replaced, its mapping stays
  expect_works(tiny_executable());
}

TEST(Prx, WeightsOfAProgramLikeItAreInMemoryOnce) {
  TemporaryFolder folder;
  LoadOptions options;
  options.fill = fill_tiny;
  auto first = Executable::from_program(tiny_program(), options);
  ASSERT_TRUE(first) << first.message();
  options.like = *first;
  const auto second = Executable::from_program(tiny_program(), options), third = Executable::load(write(folder, tiny_program(), fill_tiny), options);
  ASSERT_TRUE(second && third);
  EXPECT_EQ((*second)->weight(0), (*first)->weight(0));
  EXPECT_EQ((*third)->weight(0), (*first)->weight(0));
  Program other = tiny_program();
  other.weights[0].hadamard = true;
  const auto own = Executable::from_program(other, options);
  ASSERT_TRUE(own) << own.message();
  EXPECT_NE((*own)->weight(0), (*first)->weight(0));
  Program valued = tiny_program();
  valued.weights.push_back({"factors", "f32", "row_major", {2}, round_up(valued.weight_bytes, 64), 8});
  valued.weights.back().values = {0.5f, -2};
  valued.weight_bytes = valued.weights.back().offset + 64;
  const auto extended = Executable::from_program(valued, options);
  ASSERT_TRUE(extended) << extended.message();
  EXPECT_EQ((*extended)->weight(0), (*first)->weight(0));
  EXPECT_EQ(std::memcmp((*extended)->weight(valued.weights.size() - 1), valued.weights.back().values.data(), 8), 0);
  options.like = *extended;   // and the other way round
  const auto back = Executable::from_program(tiny_program(), options);
  ASSERT_TRUE(back) << back.message();
  EXPECT_EQ((*back)->weight(0), (*first)->weight(0));
  options.like.reset();
  first = *own;  // the others keep what they use
  expect_works(*second);
  expect_works(*third);
  expect_works(*extended);
}

TEST(Prx, ReferencedWeightsNeedAFiller) {
  TemporaryFolder folder;
  const std::string path = write(folder, tiny_program(), nullptr);
  const auto exe = Executable::load(path);
  ASSERT_FALSE(exe);
  expect_clear(exe.message(), path);
  EXPECT_NE(exe.message().find("\"tiny.gguf\""), std::string::npos) << exe.message();
  LoadOptions options;
  options.fill = [](const Weight& w, std::span<uint8_t>) -> Status { return error("tiny.gguf: no ", w.name); };
  const auto failed = Executable::load(path, options);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.message().substr(0, 14), "tiny.gguf: no ");
}

TEST(Prx, ReadDescription) {
  TemporaryFolder folder;
  const Program p = rich_program();
  for (const WeightFiller& fill : {WeightFiller(fill_tiny), WeightFiller()}) {
    const auto description = read_description(write(folder, p, fill));
    ASSERT_TRUE(description) << description.message();
    expect_equal(*description, p);
    EXPECT_EQ(description->weights_embedded, bool(fill));
    EXPECT_TRUE(description->codes[0].data.empty());
  }
}

TEST(Prx, WritingIsDeterministicAndLeavesNothingElse) {
  TemporaryFolder folder;
  const auto first = read_bytes(write(folder, tiny_program(), fill_tiny));
  EXPECT_EQ(read_bytes(write(folder, tiny_program(), fill_tiny)), first);
  EXPECT_EQ(first, prx_bytes(tiny_program(), tiny_weights()));
  size_t files = 0;
  for (const auto& f : std::filesystem::directory_iterator(folder.path())) files += f.is_regular_file();
  EXPECT_EQ(files, 1u);
}

TEST(Prx, AFailedWriteKeepsTheOldFile) {
  TemporaryFolder folder;
  const std::string path = write(folder, tiny_program(), fill_tiny);
  const auto before = read_bytes(path);
  const auto failing = [](const Weight& w, std::span<uint8_t> dst) -> Status {
    return w.name == "bias" ? Status(error("model: bias is missing")) : fill_tiny(w, dst);
  };
  const Status s = write_executable(tiny_program(), path, failing);
  ASSERT_FALSE(s);
  EXPECT_EQ(s.message(), "model: bias is missing");
  Program wrong = tiny_program();
  wrong.entries[0].launches[0].kernel = 7;
  const Status invalid = write_executable(wrong, path, fill_tiny);
  ASSERT_FALSE(invalid);
  expect_clear(invalid.message(), path);
  EXPECT_EQ(read_bytes(path), before);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);

  const std::string nowhere = folder / "none/m.prx";
  const Status missing = write_executable(tiny_program(), nowhere, fill_tiny);
  ASSERT_FALSE(missing);
  expect_clear(missing.message(), nowhere);
  std::filesystem::create_directory(folder / "folder");
  const Status onto_folder = write_executable(tiny_program(), folder / "folder", fill_tiny);
  ASSERT_FALSE(onto_folder);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 2);
}

/// More weights than one hash covers, of many sizes, filled and checked by several threads.
TEST(Prx, ManyWeightsInManyChunks) {
  TemporaryFolder folder;
  Program p = tiny_program();
  p.weights.clear();
  uint64_t at = 0;
  for (int i = 0; i < 61; ++i) {
    const uint64_t bytes = 1 + uint64_t(i * i * 97) * uint64_t(i % 7);
    p.weights.push_back({"w" + std::to_string(i), "u8", "plain", {int64_t(bytes)}, at, bytes, {}, 0});
    at = round_up(at + bytes, 64) + (i == 30 ? 6 << 20 : 0);  // a gap wider than a chunk
  }
  p.weight_bytes = at;
  ASSERT_GT(at, 2 * kHashedBytes);
  p.entries.clear();
  std::mutex mutex;
  std::set<std::string> filled;
  const auto value = [](const std::string& name, size_t j) { return uint8_t(j * 31 + size_t(name.back())); };
  const WeightFiller fill = [&](const Weight& w, std::span<uint8_t> dst) -> Status {
    std::lock_guard lock(mutex);
    EXPECT_TRUE(filled.insert(w.name).second) << w.name;
    EXPECT_EQ(dst.size(), w.bytes);
    for (size_t j = 0; j < dst.size(); ++j) dst[j] = value(w.name, j);
    return ok();
  };
  double last = 0;
  const Progress progress = [&](const std::string& what, double done) {
    EXPECT_FALSE(what.empty());
    EXPECT_GE(done, last);
    EXPECT_LE(done, 1);
    last = done;
  };
  const auto check = [&](const Executable& exe) {
    for (const Weight& w : exe.program().weights)
      for (size_t j = 0; j < w.bytes; ++j)
        ASSERT_EQ(exe.weight(size_t(&w - exe.program().weights.data()))[j], value(w.name, j)) << w.name << " " << j;
  };
  const std::string path = folder / "m.prx";
  ASSERT_TRUE(write_executable(p, path, fill, progress));
  EXPECT_EQ(last, 1);
  EXPECT_EQ(filled.size(), 61u);
  for (unsigned threads : {1u, 3u}) {
    last = 0;
    const auto exe = Executable::load(path, {threads, nullptr, progress});
    ASSERT_TRUE(exe) << exe.message();
    EXPECT_EQ(last, 1);
    check(**exe);
  }
  filled.clear();
  last = 0;
  const auto exe = Executable::from_program(p, {4, fill, progress});
  ASSERT_TRUE(exe) << exe.message();
  EXPECT_EQ(last, 1);
  check(**exe);

  // A bit in the last byte, in the gap, and in the middle of each chunk.
  auto bytes = read_bytes(path);
  const size_t start = bytes.size() - size_t(at);
  for (size_t i : {bytes.size() - 1, start, start + size_t(kHashedBytes) + 5, start + size_t(2 * kHashedBytes)}) {
    bytes[i] ^= 4;
    write_bytes(path, bytes);
    const auto damaged = Executable::load(path);
    ASSERT_FALSE(damaged) << i;
    expect_clear(damaged.message(), path);
    bytes[i] ^= 4;
  }
}

TEST(Prx, CodeIsChosenForTheMachine) {
  const auto code = [](const char* isa) { return Code{"cpu", isa, "elf", {}}; };
  const std::vector<Code> all = {code("generic"), code("avx512"), code("avx2")};
  EXPECT_EQ(*choose_code(all, Isa::Generic, "f"), 0u);
  EXPECT_EQ(*choose_code(all, Isa::Avx2, "f"), 2u);
  EXPECT_EQ(*choose_code(all, Isa::Avx512, "f"), 1u);
  const auto wrong = choose_code({code("avx512")}, Isa::Avx2, "m.prx");
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.message(), "m.prx: code: found \"avx512\", this machine has \"avx2\": recompile with --isa avx2");
  EXPECT_FALSE(choose_code({}, Isa::Avx512, "m.prx"));
}

TEST(Prx, SymbolsAndCodeAreChecked) {
  LoadOptions options;
  options.fill = fill_tiny;
  Program p = tiny_program();
  p.kernels[1].symbol = "absent";
  const auto symbol = Executable::from_program(p, options);
  ASSERT_FALSE(symbol);
  EXPECT_EQ(symbol.message(), "tiny: kernel \"absent\": found no such symbol in the code");
  p = tiny_program();
  p.codes[0].data = std::vector<uint8_t>(100, 'x');
  const auto code = Executable::from_program(p, options);
  ASSERT_FALSE(code);
  expect_clear(code.message(), "tiny: code: ");
}

TEST(Prx, FilesThatAreNotThere) {
  TemporaryFolder folder;
  for (const std::string& path : {folder / "absent.prx", folder.path(), std::string("/dev/null")}) {
    const auto exe = Executable::load(path);
    ASSERT_FALSE(exe) << path;
    expect_clear(exe.message(), path);
    EXPECT_FALSE(read_description(path));
  }
}

}  // namespace
}  // namespace prism::rt::testing
