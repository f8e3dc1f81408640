#include "codegen/kernels/weights.h"

#include "codegen/kernels/planes.h"

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

  /// `bits` bits of every weight, in the planes that begin at byte `at`, put at bit `to` of the words' bytes.
  void add_bits(std::vector<Ex>& words, Ex at, int bits, int to) const {
    add_plane(b, words, bits, to, [&](int p) { return word(at + 64 * p); });
  }

  /// What the nibbles in planes stand for.
  std::vector<Ex> iq4(Ex at) const {
    const auto table = iq4_table();
    std::vector<Ex> words(8);
    for (size_t j = 0; j < 4; ++j) {
      const Ex v = word(at + 64 * int64_t(j));
      words[j] = b.let(lookup(Fn::LookupLow, v, table));
      words[j + 4] = b.let(lookup(Fn::LookupHigh, v, table));
    }
    return words;
  }
};

/// What the file has as a block: d and m, and parts of 32 weights.
struct Unit {
  const Reader& r;
  const Rows16Format& f;
  Ex d, m;   ///< m: what integer minima are multiplied by, or the minimum

  Unit(const Reader& reader, const Rows16Format& format, Ex at) : r(reader), f(format), d(r.f32(Elem::F16, at)) {
    if (!f.minimum) return;
    m = r.f32(Elem::F16, at + 32);
    if (f.scales != Rows16Format::Scales::None) m = r.b.let(Ex(0.0) - m);
  }

  /// The 32 weights whose part begins at byte p.
  WeightBlock block(Ex p) const {
    Builder& b = r.b;
    WeightBlock block{{}, f.parts, {}, {}, f.most(), f.minimum ? 0 : f.zero};
    for (int i = 0; i < f.parts; ++i) {
      switch (f.scales) {
        case Rows16Format::Scales::None:
          block.scale[i] = d;
          block.minimum[i] = m;
          break;
        case Rows16Format::Scales::Bytes:
          block.scale[i] = b.let(d * r.f32(Elem::U8, p));
          block.minimum[i] = b.let(m * r.f32(Elem::U8, p + 16));
          break;
        case Rows16Format::Scales::Nibbles: {
          const Ex both = b.let(cast(Elem::I32, r.at(Elem::U8, p + 16 * i)));
          block.scale[i] = b.let(d * cast(Elem::F32, both & 15));
          block.minimum[i] = b.let(m * cast(Elem::F32, both >> 4));
          break;
        }
        case Rows16Format::Scales::Signed: block.scale[i] = b.let(d * r.f32(Elem::I8, p + 16 * i)); break;
      }
      if (!f.minimum) block.minimum[i] = b.let(block.scale[i] * Ex(double(-f.zero)));
    }
    if (f.iq4) {
      block.words = r.iq4(p + f.low_at());
      return block;
    }
    r.add_bits(block.words, p + f.low_at(), f.low, 0);
    if (f.high) r.add_bits(block.words, p + f.high_at(), f.high, f.low);
    return block;
  }
};

Ex group_base(Builder& b, DType format, Ex group, int64_t columns) {
  return b.let(cast(Elem::I64, group) * rows16_group_bytes(format, columns));
}

}  // namespace

LookupTable iq4_table() {
  LookupTable table;
  for (size_t i = 0; i < table.size(); ++i) table[i] = uint8_t(ir::kIq4Values[i] + 128);
  return table;
}

Ex WeightBlock::value(int i) const {
  const int p = parts == 2 ? i / 16 : 0;
  const Ex byte = cast(Elem::F32, cast(Elem::I32, (words[size_t(i / 4)] >> (8 * (i % 4))) & 0xff));
  return fma(byte, scale[p], minimum[p]);
}

WeightBlock weight_block(Builder& b, DType format, const Buffer& w, Ex group, int64_t columns, std::optional<Ex> lane, Ex k) {
  const Reader r{b, w, lane};
  const Rows16Format& f = rows16_format(format);
  const Ex at = b.let(group_base(b, format, group, columns) + (f.blocks == 1 ? k : k / f.blocks) * f.bytes());
  return Unit(r, f, at).block(f.blocks == 1 ? at + Ex(f.header()) : b.let(at + Ex(f.header()) + k % f.blocks * f.block_bytes()));
}

void for_each_block(Builder& b, DType format, const Buffer& w, Ex group, int64_t columns, std::optional<Ex> lane,
                    int64_t prefetch, const std::function<void(Ex, const WeightBlock&)>& fn) {
  const Reader r{b, w, lane};
  const Rows16Format& f = rows16_format(format);
  const Ex base = group_base(b, format, group, columns);

  auto ahead = [&](Ex at, int64_t bytes) {
    if (prefetch)
      for (int64_t line = 0; line < bytes; line += 64) b.prefetch(w, at + Ex(prefetch + line));
  };

  b.for_(0, columns / (32 * f.blocks), 1, [&](Ex k) {
    const Ex at = b.let(base + k * f.bytes());
    if (f.blocks == 1) {
      ahead(at, f.bytes());
      fn(k, Unit(r, f, at).block(at + Ex(f.header())));
      return;
    }
    const Unit unit(r, f, at);
    b.for_(0, f.blocks, 1, [&](Ex sub) {
      const Ex p = b.let(at + Ex(f.header()) + sub * f.block_bytes());
      ahead(p, f.block_bytes());
      fn(b.let(k * f.blocks + sub), unit.block(p));
    });
  });
}

}  // namespace prism::codegen
