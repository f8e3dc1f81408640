// Reading Rows16 (codegen/pack.h) with the lanes of a warp: 16 lanes have a block of 32 columns of the 16 rows; lane (quad r,
// word j) takes words j and j+4 of rows 4r..4r+3, in loads of 16 bytes.
#pragma once

#include "codegen/kernels/region.h"
#include "codegen/pack.h"

namespace prism::codegen {

/// Two words of one of the lane's rows as unsigned bytes: value = scale * byte + minimum.
struct LaneWeights {
  kir::Ex word[2], scale[2], minimum[2];   ///< parts 1: one scale and minimum for both
};

class Rows16Lane {
 public:
  /// quad, word: i32 in [0, 4). The lane's first word is j, or, where `swapped` is 1 and not 0, j+4.
  Rows16Lane(kir::Builder& b, ir::DType format, const kir::Buffer& w, kir::Ex quad, kir::Ex word, kir::Ex swapped = 0)
      : b_(b), f_(rows16_format(format)), w_(w), quad_(quad), word_(word), swapped_(swapped) {}

  int parts() const { return f_.parts; }
  bool small() const { return f_.most() <= 63; }   ///< bytes at most 63
  int middle() const { return f_.zero; }      ///< the byte whose value is 0 in all rows; 0: there is none
  /// What the lane loads of block k of the group that begins at byte `base` (i64).
  std::vector<kir::Ex> load(kir::Ex base, kir::Ex k) const;
  LaneWeights weights(const std::vector<kir::Ex>& raw, int row) const;   ///< row in [0, 4)

  // The same of formats with a d and an m for several blocks whose scales are bytes, in two parts.
  bool has_supers() const { return f_.blocks > 1 && f_.scales == Rows16Format::Scales::Bytes; }
  int blocks() const { return f_.blocks; }
  /// d and m of the blocks from the one on which is number `super` of its kind.
  std::vector<kir::Ex> load_super(kir::Ex base, kir::Ex super) const;
  /// Block `k` of them: planes, then its scales and its minima, four bytes each.
  std::vector<kir::Ex> load_block(kir::Ex base, kir::Ex super, kir::Ex k) const;
  /// Words of one of the lane's rows, and without d and m its scale and minimum as integers in f32.
  LaneWeights block_weights(const std::vector<kir::Ex>& raw, int row) const;

 private:
  void load_planes(kir::Ex block, std::vector<kir::Ex>& raw) const;
  /// The row's words; `next` is the first of what planes there are, and then of what follows them.
  void unpack(const std::vector<kir::Ex>& raw, int row, size_t& next, LaneWeights& w) const;
  kir::Ex words(kir::Ex at) const { return b_.load({kir::Elem::U32, 4}, w_, at + cast(kir::Elem::I64, quad_ * 16)); }
  kir::Ex halves(kir::Ex at) const { return b_.load({kir::Elem::F16, 4}, w_, at + cast(kir::Elem::I64, quad_ * 8)); }
  kir::Ex bytes(kir::Elem e, kir::Ex at) const { return b_.load({e, 4}, w_, at + cast(kir::Elem::I64, quad_ * 4)); }

  kir::Ex part(int p) const { return p == 0 ? swapped_ : kir::Ex(1) - swapped_; }   ///< of the 32 columns, that has word p of the lane

  kir::Builder& b_;
  const Rows16Format& f_;
  const kir::Buffer& w_;
  kir::Ex quad_, word_, swapped_;
};

}  // namespace prism::codegen
