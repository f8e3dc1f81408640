// The bytes of a .prx file; runtime/executable.h describes the layout.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/checked.h"
#include "runtime/memory.h"
#include "runtime/program.h"

namespace prism::rt {

inline constexpr uint32_t kPrxVersion = 2;
inline constexpr uint64_t kSegmentAlignment = 4096;   // of the weight segment in the file
inline constexpr uint64_t kWeightAlignment = 64;      // of a weight in the segment
inline constexpr uint64_t kHashedBytes = 4ull << 20;  // of weights per hash

struct PrxHeader {
  char magic[4];
  uint32_t version;
  uint64_t metadata_bytes;  // of the FlatBuffer, which follows the header
  uint64_t weight_offset;
  uint64_t weight_bytes;    // in this file
  uint64_t metadata_hash;   // of [64, weight_offset)
  uint64_t header_hash;     // of the bytes before this field
  uint8_t zeros[16];
};
static_assert(sizeof(PrxHeader) == 64);

inline constexpr uint64_t kMaxMetadata = (1ull << 31) - 2;  // of a FlatBuffer

constexpr uint64_t hash_count(uint64_t weight_bytes) {
  return weight_bytes / kHashedBytes + (weight_bytes % kHashedBytes != 0);
}
uint64_t xxh3(const void* data, size_t bytes);

/// Header and metadata, up to the weight segment: `flatbuffer` may not be empty.
std::vector<uint8_t> frame_metadata(std::span<const uint8_t> flatbuffer, uint64_t embedded_weight_bytes);

/// The FlatBuffer of a program. `weight_hashes` only when `embedded`.
std::vector<uint8_t> encode_program(const Program& p, bool embedded, std::span<const uint64_t> weight_hashes);

/// A verified file: header, metadata hash, FlatBuffer and every field; not the weights' hashes.
struct PrxFile {
  std::string path;
  Mapping map;
  Program program;                                ///< codes without data
  std::vector<std::span<const uint8_t>> code;     ///< of each Program::codes, in `map`
  std::vector<uint64_t> weight_hashes;
  std::span<const uint8_t> weights;               ///< in `map`, empty when not embedded
};
Result<PrxFile> open_prx(const std::string& path);

/// Checks every index, offset, size, range and expression. `name` begins the error message.
Status validate(const Program& p, const std::string& name);

/// A name from a file as it may stand in an error message: in quotes, printable, not too long.
std::string quoted(std::string_view name);

}  // namespace prism::rt
