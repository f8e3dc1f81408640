#include "codegen/kernels/gpu/rows16.h"

#include "codegen/pack.h"

namespace prism::codegen {

using namespace kir;
using ir::DType;

int Rows16Lane::middle() const {
  switch (format_) {
    case DType::Q4_0: return 8;
    case DType::Q5_0: return 16;
    case DType::Q6_K: return 32;
    case DType::Q8_0: return 128;
    default: return 0;
  }
}

// Quants, then high bits, then scales (and minima).
std::vector<Ex> Rows16Lane::load(Ex base, Ex k) const {
  const Ex word_offset = cast(Elem::I64, word_ * 64), other = Ex(1) - swapped_;
  auto of_word = [&](int64_t at, const Ex& which, int64_t apart) { return Ex(at) + cast(Elem::I64, which * apart); };
  if (ir::info(format_).block == 32) {
    const Ex at = b_.let(base + cast(Elem::I64, k) * rows16_block_bytes(format_));
    switch (format_) {
      case DType::Q4_0: return {words(at + Ex(32) + word_offset), halves(at)};
      case DType::Q4_1: return {words(at + Ex(64) + word_offset), halves(at), halves(at + Ex(32))};
      case DType::Q5_0: return {words(at + Ex(96) + word_offset), words(at + Ex(32)), halves(at)};
      case DType::Q5_1: return {words(at + Ex(128) + word_offset), words(at + Ex(64)), halves(at), halves(at + Ex(32))};
      default:  // Q8_0
        return {words(at + of_word(32, swapped_, 256) + word_offset), words(at + of_word(32, other, 256) + word_offset), halves(at)};
    }
  }
  const bool q6 = format_ == DType::Q6_K;
  const int64_t header = q6 ? 32 : 64, part = (rows16_block_bytes(format_) - header) / 8;
  const Ex unit = b_.let(base + cast(Elem::I64, k / 8) * rows16_block_bytes(format_));
  const Ex p = b_.let(unit + Ex(header) + cast(Elem::I64, k % 8 * part));
  switch (format_) {
    case DType::Q4_K: return {words(p + Ex(32) + word_offset), halves(unit), halves(unit + Ex(32)), bytes(Elem::U8, p), bytes(Elem::U8, p + Ex(16))};
    case DType::Q5_K:
      return {words(p + Ex(96) + word_offset), words(p + Ex(32)), halves(unit), halves(unit + Ex(32)), bytes(Elem::U8, p), bytes(Elem::U8, p + Ex(16))};
    default:  // Q6_K
      return {words(p + Ex(32) + word_offset), words(p + of_word(288, swapped_, 64)), words(p + of_word(288, other, 64)), halves(unit),
              bytes(Elem::I8, p + of_word(0, swapped_, 16)), bytes(Elem::I8, p + of_word(0, other, 16))};
  }
}

LaneWeights Rows16Lane::weights(const std::vector<Ex>& raw, int row) const {
  auto f32 = [&](const Ex& v) { return cast(Elem::F32, lane(v, row)); };
  const Ex first = cast(Elem::U32, swapped_ * 4), second = constant({Elem::U32, 1}, 4) - first;   // bits of the first word's nibbles, the second's
  auto nibbles = [&](LaneWeights& w) {
    const Ex q = lane(raw[0], row);
    w.word[0] = b_.let((q >> first) & 0x0f0f0f0f);
    w.word[1] = b_.let((q >> second) & 0x0f0f0f0f);
  };
  const Ex shift = cast(Elem::U32, word_);
  auto fifth = [&](LaneWeights& w) {
    const Ex plane = b_.let(lane(raw[1], row) >> shift);
    w.word[0] = b_.let(w.word[0] | ((plane << second) & 0x10101010));
    w.word[1] = b_.let(w.word[1] | ((plane << first) & 0x10101010));
  };
  LaneWeights w;
  switch (format_) {
    case DType::Q4_0: nibbles(w); w.scale[0] = f32(raw[1]); w.minimum[0] = f32(raw[1]) * Ex(-8.0); break;
    case DType::Q4_1: nibbles(w); w.scale[0] = f32(raw[1]); w.minimum[0] = f32(raw[2]); break;
    case DType::Q5_0: nibbles(w); fifth(w); w.scale[0] = f32(raw[2]); w.minimum[0] = f32(raw[2]) * Ex(-16.0); break;
    case DType::Q5_1: nibbles(w); fifth(w); w.scale[0] = f32(raw[2]); w.minimum[0] = f32(raw[3]); break;
    case DType::Q4_K:
      nibbles(w);
      w.scale[0] = f32(raw[1]) * f32(raw[3]);
      w.minimum[0] = f32(raw[2]) * Ex(-1.0) * f32(raw[4]);
      break;
    case DType::Q5_K:
      nibbles(w);
      fifth(w);
      w.scale[0] = f32(raw[2]) * f32(raw[4]);
      w.minimum[0] = f32(raw[3]) * Ex(-1.0) * f32(raw[5]);
      break;
    case DType::Q6_K: {
      nibbles(w);
      const Ex twice = b_.let(shift * 2);
      for (int p = 0; p < 2; ++p) {
        w.word[p] = b_.let(w.word[p] | (((lane(raw[size_t(1 + p)], row) >> twice) & 0x03030303) << 4));
        w.scale[p] = b_.let(f32(raw[3]) * f32(raw[size_t(4 + p)]));
        w.minimum[p] = w.scale[p] * Ex(-32.0);
      }
      break;
    }
    default:  // Q8_0, stored with 128 added
      w.word[0] = lane(raw[0], row);
      w.word[1] = lane(raw[1], row);
      w.scale[0] = f32(raw[2]);
      w.minimum[0] = f32(raw[2]) * Ex(-128.0);
  }
  w.scale[0] = b_.let(w.scale[0]);
  w.minimum[0] = b_.let(w.minimum[0]);
  return w;
}

}  // namespace prism::codegen
