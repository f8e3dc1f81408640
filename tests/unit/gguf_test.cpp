#include "frontends/gguf/gguf.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/unit/gguf_writer.h"
#include "tests/unit/reference.h"

namespace prism::gguf {
namespace {

std::string parse_error(const std::vector<uint8_t>& bytes) {
  auto f = File::parse(bytes, "t.gguf");
  return f ? "no error" : f.message();
}

#define EXPECT_ERROR(writer, text)                                                        \
  do {                                                                                    \
    const std::string message = parse_error((writer).bytes());                            \
    EXPECT_EQ(message.find("t.gguf: "), 0u) << message;                                   \
    EXPECT_NE(message.find(text), std::string::npos) << message << "\nlacks: " << (text); \
  } while (0)

GgufWriter everything() {
  GgufWriter w;
  w.key("u8", 0, uint8_t(200)).key("i8", 1, int8_t(-3)).key("u16", 2, uint16_t(60000)).key("i16", 3, int16_t(-300));
  w.u32("u32", 4000000000u).key("i32", 5, int32_t(-70000)).f32("f32", 0.5f).boolean("yes", true).boolean("no", false);
  w.string("text", "hello").key("u64", 10, uint64_t(1) << 63).key("i64", 11, int64_t(-1) << 40).key("f64", 12, 0.1);
  w.array<uint8_t>("bytes", 0, {1, 255})
      .array<int32_t>("ints", 5, {-1, 2, 3})
      .array<float>("floats", 6, {0.25f, -2.0f});
  w.array<uint8_t>("flags", 7, {1, 0, 1}).strings("words", {"a", "", "long word"});
  w.tensor("q", {64, 2}, 2, 0).tensor("f", {3}, 0, 96).data(96 + 12);
  return w;
}

TEST(Gguf, ReadsEveryKindOfValue) {
  const auto bytes = everything().bytes();
  auto file = File::parse(bytes, "t.gguf");
  ASSERT_TRUE(file) << file.message();
  const File& f = **file;
  EXPECT_EQ(*f.get_int("u8"), 200);
  EXPECT_EQ(*f.get_int("i8"), -3);
  EXPECT_EQ(*f.get_int("u16"), 60000);
  EXPECT_EQ(*f.get_int("i16"), -300);
  EXPECT_EQ(*f.get_int("u32"), 4000000000);
  EXPECT_EQ(*f.get_int("i32"), -70000);
  EXPECT_EQ(*f.get_int("i64"), -(int64_t(1) << 40));
  EXPECT_EQ(std::get<uint64_t>(*f.find("u64")), uint64_t(1) << 63);
  EXPECT_EQ(*f.get_float("f32"), 0.5);
  EXPECT_EQ(*f.get_float("f64"), 0.1);
  EXPECT_TRUE(*f.get_bool("yes"));
  EXPECT_FALSE(*f.get_bool("no"));
  EXPECT_EQ(*f.get_string("text"), "hello");
  EXPECT_EQ(std::get<std::vector<int64_t>>(*f.find("bytes")), (std::vector<int64_t>{1, 255}));
  EXPECT_EQ(std::get<std::vector<int64_t>>(*f.find("ints")), (std::vector<int64_t>{-1, 2, 3}));
  EXPECT_EQ(std::get<std::vector<double>>(*f.find("floats")), (std::vector<double>{0.25, -2}));
  EXPECT_EQ(std::get<std::vector<bool>>(*f.find("flags")), (std::vector<bool>{true, false, true}));
  EXPECT_EQ(std::get<std::vector<std::string_view>>(*f.find("words")),
            (std::vector<std::string_view>{"a", "", "long word"}));
}

TEST(Gguf, ReadsTensors) {
  const auto bytes = everything().bytes();
  auto file = File::parse(bytes, "t.gguf");
  ASSERT_TRUE(file) << file.message();
  const File& f = **file;
  ASSERT_EQ(f.tensors().size(), 2u);
  const TensorInfo* q = f.tensor("q");
  ASSERT_NE(q, nullptr);
  EXPECT_EQ(q->shape, (std::vector<int64_t>{2, 64}));  // outermost first
  EXPECT_EQ(q->dtype, ir::DType::Q4_0);
  EXPECT_EQ(q->bytes, 2u * 2 * 18);
  EXPECT_EQ(q->offset, f.header_bytes());
  EXPECT_EQ(f.header_bytes() % 32, 0u);
  EXPECT_EQ(f.header_bytes() + 96 + 12, bytes.size());
  EXPECT_EQ(f.data(*q)[1], uint8_t(37 + 11));
  EXPECT_EQ(f.tensor("f")->offset, f.header_bytes() + 96);
  EXPECT_EQ(f.tensor("missing"), nullptr);
}

TEST(Gguf, TypedLookupsSayWhatIsWrong) {
  const auto bytes = everything().bytes();
  auto file = File::parse(bytes, "t.gguf");
  ASSERT_TRUE(file) << file.message();
  const File& f = **file;
  EXPECT_EQ(f.get_int("none").message(), "t.gguf: key 'none': not found, expected an integer");
  EXPECT_EQ(*f.get_int("none", 7), 7);
  EXPECT_EQ(f.get_int("text", 7).message(), "t.gguf: key 'text': found a string, expected an integer");
  EXPECT_NE(f.get_int("u64").message().find("expected at most 9223372036854775807"), std::string::npos);
  EXPECT_EQ(f.get_bool("u8").message(), "t.gguf: key 'u8': found an integer, expected a bool");
  EXPECT_EQ(f.get_float("words").message(), "t.gguf: key 'words': found an array of strings, expected a float");
  EXPECT_EQ(*f.get_string("none", "x"), "x");
  EXPECT_EQ(*f.get_ints("u8", 3), (std::vector<int64_t>{200, 200, 200}));
  EXPECT_EQ(*f.get_ints("ints", 3), (std::vector<int64_t>{-1, 2, 3}));
  EXPECT_EQ(f.get_ints("ints", 2).message(), "t.gguf: key 'ints': found 3 integers, expected 2");
}

TEST(Gguf, Versions) {
  GgufWriter w = everything();
  w.version = 2;
  EXPECT_EQ(parse_error(w.bytes()), "no error");
  w.version = 1;
  EXPECT_ERROR(w, "found GGUF version 1, expected 2 or 3");
  w.version = 4;
  EXPECT_ERROR(w, "found GGUF version 4, expected 2 or 3");
  w.version = 0x03000000;
  EXPECT_ERROR(w, "found a big-endian GGUF file");
  auto bytes = w.bytes();
  bytes[0] = '\n';
  EXPECT_EQ(parse_error(bytes), "t.gguf: magic: found '\\x0aGUF', expected 'GGUF'");
}

TEST(Gguf, RefusesBadMetadata) {
  EXPECT_ERROR(GgufWriter().u32("a", 1).u32("a", 2), "key 'a': found twice, expected once");
  EXPECT_ERROR(GgufWriter().u32("", 1), "metadata entry 0: found a key of 0 bytes, expected 1 to 65535");
  EXPECT_ERROR(GgufWriter().u32(std::string(65536, 'k'), 1), "found a key of 65536 bytes");
  EXPECT_ERROR(GgufWriter().key("a", 13, 0), "key 'a': found value type 13, expected 0 to 12");
  EXPECT_ERROR(GgufWriter().array<uint64_t>("a", 9, {4, 0}), "key 'a': found an array of arrays");
  EXPECT_ERROR(GgufWriter().array<uint64_t>("a", 14, {4, 0}), "key 'a': found element type 14, expected 0 to 12");
  EXPECT_ERROR(GgufWriter().array<uint64_t>("a", 10, {1, uint64_t(1) << 63}),
               "key 'a': element 1: found 9223372036854775808");
  EXPECT_ERROR(GgufWriter().key("split.count", 2, uint16_t(3)), "found one of 3 parts of a split model");
  EXPECT_ERROR(GgufWriter().u32("general.alignment", 0), "key 'general.alignment': found 0, expected a power of two");
  EXPECT_ERROR(GgufWriter().u32("general.alignment", 48), "found 48, expected a power of two");
  EXPECT_ERROR(GgufWriter().u32("general.alignment", 1 << 21), "found 2097152, expected a power of two up to 1048576");
  EXPECT_ERROR(GgufWriter().string("general.alignment", "32"), "found a string, expected an integer");
}

TEST(Gguf, RefusesBadTensors) {
  auto one = [](const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset, size_t data = 4096) {
    return GgufWriter().tensor("w", dims, type, offset).data(data);
  };
  EXPECT_EQ(parse_error(one({256, 4}, 14, 0).bytes()), "no error");
  EXPECT_ERROR(one({}, 0, 0), "tensor 'w': found 0 dims, expected 1 to 4");
  EXPECT_ERROR(one({1, 1, 1, 1, 1}, 0, 0), "tensor 'w': found 5 dims, expected 1 to 4");
  EXPECT_ERROR(one({4, 0}, 0, 0), "tensor 'w': dim 1: found 0, expected 1 to 9223372036854775807");
  EXPECT_ERROR(one({uint64_t(1) << 63}, 0, 0), "tensor 'w': dim 0: found 9223372036854775808");
  EXPECT_ERROR(one({uint64_t(1) << 32, uint64_t(1) << 32}, 0, 0),
               "tensor 'w': found more than 9223372036854775807 elements");
  EXPECT_ERROR(one({uint64_t(1) << 62}, 0, 0), "tensor 'w': found a size that does not fit 64 bits");
  EXPECT_ERROR(one({4}, 16, 0), "tensor 'w': found type IQ2_XXS (id 16), which is not supported");
  EXPECT_ERROR(one({4}, 1000, 0), "tensor 'w': found type id 1000, which is not supported");
  EXPECT_ERROR(one({4}, UINT32_MAX, 0), "tensor 'w': found type id 4294967295, which is not supported");
  EXPECT_ERROR(one({48}, 2, 0), "tensor 'w': found rows of 48 elements, expected a multiple of 32 for q4_0");
  EXPECT_ERROR(one({4}, 0, 8), "tensor 'w': found offset 8, expected a multiple of 32");
  EXPECT_ERROR(one({4}, 0, 4096), "tensor 'w': found 16 bytes at offset 4096");
  EXPECT_ERROR(one({4}, 0, ~uint64_t(31)), "tensor 'w': found 16 bytes at offset 18446744073709551584");
  EXPECT_ERROR(one({1025}, 0, 0), "tensor 'w': found 4100 bytes at offset 0");
  EXPECT_ERROR(GgufWriter().tensor("", {4}, 0, 0).data(64), "tensor 0: found a name of 0 bytes, expected 1 to 255");
  EXPECT_ERROR(GgufWriter().tensor(std::string(256, 'n'), {4}, 0, 0).data(64), "found a name of 256 bytes");
  EXPECT_ERROR(GgufWriter().tensor("w", {4}, 0, 0).tensor("w", {4}, 0, 32).data(64), "tensor 'w': found twice");
  EXPECT_ERROR(GgufWriter().tensor("a", {16}, 0, 32).tensor("b", {9}, 0, 0).data(128), "expected after tensor 'b'");
  EXPECT_ERROR(GgufWriter().tensor("a\nb", {4}, 0, 1), "tensor 'a\\x0ab'");
}

TEST(Gguf, AlignmentOfTheFile) {
  GgufWriter w;
  w.alignment = 256;
  w.u32("general.alignment", 256).tensor("a", {4}, 0, 0).tensor("b", {4}, 0, 256).data(272);
  const auto bytes = w.bytes();
  auto file = File::parse(bytes, "t.gguf");
  ASSERT_TRUE(file) << file.message();
  EXPECT_EQ((*file)->header_bytes() % 256, 0u);
  EXPECT_EQ((*file)->tensor("b")->offset, (*file)->header_bytes() + 256);
}

TEST(Gguf, ExtractedMetadataIsAFileOfItsOwn) {
  const auto bytes = everything().bytes();
  auto file = File::parse(bytes, "t.gguf");
  ASSERT_TRUE(file) << file.message();
  const std::string_view prefixes[] = {"words", "u", "text"};
  const std::string out = extract_metadata(**file, prefixes);
  auto again = File::parse({reinterpret_cast<const uint8_t*>(out.data()), out.size()}, "extract");
  ASSERT_TRUE(again) << again.message();
  EXPECT_TRUE((*again)->tensors().empty());
  EXPECT_EQ((*again)->metadata().size(), 6u);  // words text u8 u16 u32 u64
  for (const auto& [key, value] : (*again)->metadata()) EXPECT_EQ(value, *(*file)->find(key)) << key;
  EXPECT_EQ((*again)->find("i8"), nullptr);
}

TEST(Gguf, OpenSaysWhyItCannot) {
  const auto folder = std::filesystem::temp_directory_path() / ("prism_gguf_test_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  const std::string path = (folder / "m.gguf").string();
  EXPECT_EQ(File::open(path).message(), path + ": cannot open: No such file or directory");
  EXPECT_NE(File::open(folder.string()).message().find("not a regular file"), std::string::npos);
  std::ofstream(path).close();
  EXPECT_EQ(File::open(path).message(), path + ": found an empty file, expected a GGUF file or a Hugging Face folder");
  const auto bytes = everything().bytes();
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
  auto file = File::open(path);
  EXPECT_TRUE(file) << file.message();
  std::filesystem::remove_all(folder);
}

TEST(Gguf, OpensAModel) {
  auto file = File::open(model_path("smollm2"));
  ASSERT_TRUE(file) << file.message();
  const File& f = **file;
  EXPECT_EQ(*f.get_string("general.architecture"), "llama");
  EXPECT_EQ(*f.get_int("llama.block_count"), 30);
  EXPECT_EQ(f.tensors().size(), 272u);
  ASSERT_NE(f.tensor("blk.0.attn_q.weight"), nullptr);
  EXPECT_EQ(f.tensor("blk.0.attn_q.weight")->shape, (std::vector<int64_t>{576, 576}));
  EXPECT_EQ(f.tensor("blk.0.attn_q.weight")->dtype, ir::DType::Q4_1);
}

}  // namespace
}  // namespace prism::gguf
