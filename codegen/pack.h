// The Rows16 layout: 16 output rows interleaved, so that a vector's lane is a row and a 64-byte load brings 4 weights of
// each. Rows are padded to a multiple of 16 with zeros. A group is 16 rows; inside it:
//   f32, f16, bf16  column after column: value[16]
//   quantized       for each of the file's blocks d[16] and, of formats with minima, m[16] (f16); then 32 columns at a time the
//                   integer scales that the format has, [16] each, the planes of high bits, those of low bits
// A plane is a u32 per row. Weights 4j..4j+3 of 32 are the bytes of word j. A plane of all 8 bits is one word; of 4, 2 or 1 bits
// it has 2, 4 or 8 words, byte beside byte at different bits: see plane_of, shift_of.
//
// The Swizzled layout of bf16: tiles of 64 rows by 64 columns, [rows/64][columns/64][64][64], padded with zeros. A tile is 8 KiB
// that one copy brings to shared memory as matrix products want it: chunk c of row r, 8 columns, is in place c ^ (r % 8).
#pragma once

#include <array>
#include <functional>

#include "ir/quants.h"
#include "runtime/base/result.h"

namespace prism::codegen {

/// What a quantized format is when it is packed: value = scale * byte + minimum.
struct Rows16Format {
  enum class Scales : uint8_t {
    None,     ///< d; m
    Bytes,    ///< d * u8; -m * u8, which comes after
    Nibbles,  ///< d * low nibble of a u8; -m * its high one
    Signed,   ///< d * i8
  };
  ir::DType type;
  int blocks;            ///< of 32 columns, to a d
  bool minimum;          ///< there is an m
  Scales scales;
  int parts;             ///< scales of 32 columns
  int low, high;         ///< bits of a weight
  int zero;              ///< the byte whose value is 0, where there is no m
  bool iq4 = false;      ///< the byte is what the low bits stand for in ir::kIq4Values, with 128 added

  int64_t header() const { return minimum ? 64 : 32; }                        ///< bytes before the blocks
  int64_t high_at() const { return scales == Scales::None ? 0 : scales == Scales::Bytes ? 32 : 16 * parts; }   ///< in a block
  int64_t low_at() const { return high_at() + 64 * high; }
  int64_t block_bytes() const { return low_at() + 64 * low; }
  int64_t bytes() const { return header() + blocks * block_bytes(); }
  int most() const { return iq4 ? 255 : (1 << (low + high)) - 1; }            ///< largest byte
};
const Rows16Format& rows16_format(ir::DType t);                ///< quantized ones that rows16_supports

/// The plane of `bits` bits that has word j, and where in its bytes they begin.
constexpr int plane_of(int bits, int j) { return bits == 8 ? j : j % 4 * bits / 4; }
constexpr int shift_of(int bits, int j) { return bits == 8 ? 0 : j % 4 * bits % 4 + j / 4 * 4; }

bool rows16_supports(ir::DType t);
int64_t rows16_block_bytes(ir::DType t);                     ///< 16 rows x one block
int64_t rows16_group_bytes(ir::DType t, int64_t columns);    ///< 16 rows
int64_t rows16_bytes(ir::DType t, int64_t rows, int64_t columns);

constexpr int64_t kTileSide = 64;                            ///< Swizzled: rows and columns of a tile
int64_t swizzled_group_bytes(int64_t columns);               ///< 64 rows

/// Packs groups [begin, end) of a matrix into `dst` (the start of group `begin`); row(i) is the bytes of row i.
void pack_rows16(ir::DType t, int64_t rows, int64_t columns, const std::function<const uint8_t*(int64_t)>& row,
                 int64_t begin, int64_t end, uint8_t* dst);
void pack_swizzled(int64_t rows, int64_t columns, const std::function<const uint8_t*(int64_t)>& row, int64_t begin, int64_t end, uint8_t* dst);

}  // namespace prism::codegen
