// The Rows16 layout: 16 output rows interleaved, so that a vector's lane is a row and a 64-byte load brings 4 weights of
// each. Rows are padded to a multiple of 16 with zeros. A group is 16 rows; inside it, for every block of columns:
//   f32, f16, bf16  one column: value[16]
//   q4_0            32 columns: d[16], nibbles 4x64         (f16 d, m; word j of a row: weights 4j..4j+3 of the 32,
//   q4_1            d[16], m[16], nibbles                    words 0-3 in low nibbles, 4-7 in high ones)
//   q5_0 / q5_1     d[16], (m[16],) fifth bits 64, nibbles   (u32 per row, bit 8i+j: byte i of word j)
//   q8_0            d[16], 8x64 bytes with 128 added
//   q4_k            256 columns: d[16], dmin[16], then 8 x {scale u8[16], min u8[16], nibbles}
//   q5_k            the same with fifth bits before the nibbles
//   q6_k            d[16], then 8 x {scale i8[2][16], nibbles, high pairs 2x64}: bits 2(j%4) of byte i in plane j/4: word j
#pragma once

#include <functional>

#include "ir/quants.h"
#include "runtime/base/result.h"

namespace prism::codegen {

bool rows16_supports(ir::DType t);
int64_t rows16_block_bytes(ir::DType t);                     ///< 16 rows x one block
int64_t rows16_group_bytes(ir::DType t, int64_t columns);    ///< 16 rows
int64_t rows16_bytes(ir::DType t, int64_t rows, int64_t columns);

/// Packs groups [begin, end) of a matrix into `dst` (the start of group `begin`); row(i) is the bytes of row i.
void pack_rows16(ir::DType t, int64_t rows, int64_t columns, const std::function<const uint8_t*(int64_t)>& row,
                 int64_t begin, int64_t end, uint8_t* dst);

}  // namespace prism::codegen
