// Random values in every weight format, made as fast as memory takes them. Each block has its own place in a counted
// sequence of random words, so a tensor's bytes are the same whoever makes which part of it.
#pragma once

#include <span>
#include <string_view>

#include "ir/quants.h"

namespace prism::gguf {

struct Distribution {
  double mean = 0, deviation = 1;  ///< block formats have mean 0
};

/// What makes one tensor's sequence different from another's.
uint64_t sequence_key(uint64_t seed, std::string_view tensor);

/// Elements of a tensor may be made in parts that begin at a multiple of this.
constexpr uint64_t kMadeUnit = 256;

/// The elements from `first`, as many as `out` holds, of a type that random_type() knows.
void make_values(ir::DType type, uint64_t key, const Distribution& d, uint64_t first, std::span<uint8_t> out);
bool random_type(ir::DType type);

}  // namespace prism::gguf
