#include "codegen/kernels/weights.h"

#include "codegen/pack.h"

namespace prism::codegen {

using namespace kir;
using ir::DType;

namespace {

/// Loads at byte offsets of the interleaved block, whole vectors or one lane.
struct Reader {
  Builder& b;
  const Buffer& w;
  std::optional<Ex> lane;

  Ex at(Elem e, Ex offset) const {
    return lane ? b.load({e, 1}, w, offset + *lane * int64_t(elem_bytes(e))) : b.load({e, kLanes}, w, offset);
  }
  Ex f32(Elem e, Ex offset) const { return b.let(cast(Elem::F32, at(e, offset))); }
  Ex word(Ex offset) const { return b.let(at(Elem::U32, offset)); }

  /// Words 0-3 are the low nibbles, 4-7 the high ones.
  std::vector<Ex> nibbles(Ex offset) const {
    std::vector<Ex> words(8);
    for (int j = 0; j < 4; ++j) {
      const Ex v = word(offset + 64 * j);
      words[size_t(j)] = b.let(v & 0x0f0f0f0f);
      words[size_t(j + 4)] = b.let((v >> 4) & 0x0f0f0f0f);
    }
    return words;
  }

  /// Adds bit 4 of every byte: bit 8*i+j of the plane belongs to byte i of word j.
  void fifth_bits(std::vector<Ex>& words, Ex offset) const {
    const Ex plane = word(offset);
    for (int j = 0; j < 8; ++j)
      words[size_t(j)] = b.let(words[size_t(j)] | ((j < 4 ? plane << (4 - j) : plane >> (j - 4)) & 0x10101010));
  }
};

/// 32 weights in formats whose blocks are that long, at byte `at`.
WeightBlock block32(const Reader& r, DType format, Ex at) {
  Builder& b = r.b;
  WeightBlock block{{}, 1, {}, {}, true};
  const Ex d = r.f32(Elem::F16, at);
  block.scale[0] = d;
  switch (format) {
    case DType::Q4_0: block.words = r.nibbles(at + 32); block.minimum[0] = b.let(d * Ex(-8.0)); break;
    case DType::Q4_1: block.words = r.nibbles(at + 64); block.minimum[0] = r.f32(Elem::F16, at + 32); break;
    case DType::Q5_0:
      block.words = r.nibbles(at + 96);
      r.fifth_bits(block.words, at + 32);
      block.minimum[0] = b.let(d * Ex(-16.0));
      break;
    case DType::Q5_1:
      block.words = r.nibbles(at + 128);
      r.fifth_bits(block.words, at + 64);
      block.minimum[0] = r.f32(Elem::F16, at + 32);
      break;
    default:  // Q8_0, stored with 128 added
      for (int j = 0; j < 8; ++j) block.words.push_back(r.word(at + 32 + 64 * j));
      block.minimum[0] = b.let(d * Ex(-128.0));
      block.small = false;
  }
  return block;
}

/// K-quants: 256 weights share d (and dmin); each 32 have integer scales.
struct KUnit {
  const Reader& r;
  DType format;
  Ex d, dmin;

  static int64_t header(DType f) { return f == DType::Q6_K ? 32 : 64; }
  static int64_t part(DType f) { return (rows16_block_bytes(f) - header(f)) / 8; }

  KUnit(const Reader& reader, DType f, Ex at) : r(reader), format(f), d(r.f32(Elem::F16, at)) {
    if (f != DType::Q6_K) dmin = r.b.let(Ex(0.0) - r.f32(Elem::F16, at + 32));
  }

  /// The 32 weights whose part begins at byte p.
  WeightBlock block(Ex p) const {
    Builder& b = r.b;
    const bool q6 = format == DType::Q6_K;
    WeightBlock block{{}, q6 ? 2 : 1, {}, {}, true};
    if (q6) {
      for (int i = 0; i < 2; ++i) {
        block.scale[i] = b.let(d * r.f32(Elem::I8, p + 16 * i));
        block.minimum[i] = b.let(block.scale[i] * Ex(-32.0));
      }
      block.words = r.nibbles(p + 32);
      for (int j = 0; j < 8; ++j) {
        const int shift = 2 * (j % 4) - 4;
        const Ex plane = r.word(p + 288 + 64 * (j / 4));
        block.words[size_t(j)] = b.let(block.words[size_t(j)] | ((shift < 0 ? plane << -shift : plane >> shift) & 0x30303030));
      }
      return block;
    }
    block.scale[0] = b.let(d * r.f32(Elem::U8, p));
    block.minimum[0] = b.let(dmin * r.f32(Elem::U8, p + 16));
    block.words = r.nibbles(p + (format == DType::Q5_K ? 96 : 32));
    if (format == DType::Q5_K) r.fifth_bits(block.words, p + 32);
    return block;
  }
};

Ex group_base(Builder& b, DType format, Ex group, int64_t columns) {
  return b.let(cast(Elem::I64, group) * rows16_group_bytes(format, columns));
}

}  // namespace

Ex WeightBlock::value(int i) const {
  const int p = parts == 2 ? i / 16 : 0;
  const Ex byte = cast(Elem::F32, cast(Elem::I32, (words[size_t(i / 4)] >> (8 * (i % 4))) & 0xff));
  return fma(byte, scale[p], minimum[p]);
}

WeightBlock weight_block(Builder& b, DType format, const Buffer& w, Ex group, int64_t columns, std::optional<Ex> lane, Ex k) {
  const Reader r{b, w, lane};
  const Ex base = group_base(b, format, group, columns);
  if (ir::info(format).block == 32) return block32(r, format, b.let(base + k * rows16_block_bytes(format)));
  const Ex at = b.let(base + k / 8 * rows16_block_bytes(format));
  return KUnit(r, format, at).block(b.let(at + Ex(KUnit::header(format)) + k % 8 * KUnit::part(format)));
}

void for_each_block(Builder& b, DType format, const Buffer& w, Ex group, int64_t columns, std::optional<Ex> lane,
                    int64_t prefetch, const std::function<void(Ex, const WeightBlock&)>& fn) {
  const Reader r{b, w, lane};
  const int64_t unit_bytes = rows16_block_bytes(format);
  const Ex base = group_base(b, format, group, columns);

  auto ahead = [&](Ex at, int64_t bytes) {
    if (prefetch)
      for (int64_t line = 0; line < bytes; line += 64) b.prefetch(w, at + Ex(prefetch + line));
  };

  if (ir::info(format).block == 32) {
    b.for_(0, columns / 32, 1, [&](Ex k) {
      const Ex at = b.let(base + k * unit_bytes);
      ahead(at, unit_bytes);
      fn(k, block32(r, format, at));
    });
    return;
  }
  const int64_t header = KUnit::header(format), part = KUnit::part(format);
  b.for_(0, columns / 256, 1, [&](Ex unit) {
    const Ex at = b.let(base + unit * unit_bytes);
    const KUnit k(r, format, at);
    b.for_(0, 8, 1, [&](Ex sub) {
      const Ex p = b.let(at + Ex(header) + sub * part);
      ahead(p, part);
      fn(b.let(unit * 8 + sub), k.block(p));
    });
  });
}

}  // namespace prism::codegen
