#include "codegen/kernels/gpu/rows16.h"

#include "codegen/kernels/weights.h"

namespace prism::codegen {

using namespace kir;
using ir::DType;
using Scales = Rows16Format::Scales;

namespace {

Ex wide(const Ex& e, int64_t apart) { return cast(Elem::I64, e * apart); }

}  // namespace

void Rows16Lane::load_planes(Ex block, std::vector<Ex>& raw) const {
  auto planes = [&](int64_t at, int bits) {   // one has both words, unless it is one word
    if (bits == 8)
      for (int i = 0; i < 2; ++i) raw.push_back(words(block + Ex(at) + wide(part(i), 256) + wide(word_, 64)));
    else if (bits)
      raw.push_back(words(block + Ex(at) + (bits == 1 ? Ex(0) : wide(bits == 2 ? word_ / 2 : word_, 64))));
  };
  planes(f_.low_at(), f_.low);
  planes(f_.high_at(), f_.high);
}

// Low bits, high bits, d, m, scales and minima.
std::vector<Ex> Rows16Lane::load(Ex base, Ex k) const {
  const Ex unit = b_.let(base + wide(f_.blocks == 1 ? k : k / f_.blocks, f_.bytes()));
  const Ex p = f_.blocks == 1 ? unit + Ex(f_.header()) : b_.let(unit + Ex(f_.header()) + wide(k % f_.blocks, f_.block_bytes()));
  std::vector<Ex> raw;
  load_planes(p, raw);
  raw.push_back(halves(unit));
  if (f_.minimum) raw.push_back(halves(unit + Ex(32)));
  if (f_.scales == Scales::Bytes)
    for (int i = 0; i < 2; ++i) raw.push_back(bytes(Elem::U8, p + Ex(16 * i)));
  else if (f_.scales != Scales::None)
    for (int i = 0; i < f_.parts; ++i) raw.push_back(bytes(f_.scales == Scales::Signed ? Elem::I8 : Elem::U8, f_.parts == 1 ? p : p + wide(part(i), 16)));
  return raw;
}

std::vector<Ex> Rows16Lane::load_super(Ex base, Ex super) const {
  const Ex unit = b_.let(base + wide(super, f_.bytes()));
  return {halves(unit), halves(unit + Ex(32))};
}

std::vector<Ex> Rows16Lane::load_block(Ex base, Ex super, Ex k) const {
  const Ex p = b_.let(base + wide(super, f_.bytes()) + Ex(f_.header()) + wide(k, f_.block_bytes()));
  std::vector<Ex> raw;
  load_planes(p, raw);
  for (int i = 0; i < 2; ++i) raw.push_back(b_.load({Elem::U32, 1}, w_, p + Ex(16 * i) + wide(quad_, 4)));
  return raw;
}

LaneWeights Rows16Lane::block_weights(const std::vector<Ex>& raw, int row) const {
  LaneWeights w;
  size_t next = 0;
  unpack(raw, row, next, w);
  // A byte below the bits of 2^23 is 2^23 + byte: quicker than a conversion.
  const Ex large = constant({Elem::U32, 1}, double(0x4b000000));
  auto integer = [&](const Ex& bytes) { return b_.let(bitcast({Elem::F32, 1}, byte_permute(bytes, large, 0x7540 + row)) - Ex(8388608.0)); };
  w.scale[0] = integer(raw[next]);
  w.minimum[0] = integer(raw[next + 1]);
  return w;
}

void Rows16Lane::unpack(const std::vector<Ex>& raw, int row, size_t& next, LaneWeights& w) const {
  auto take = [&] { return lane(raw[next++], row); };
  const Ex from[2] = {cast(Elem::U32, swapped_ * 4), constant({Elem::U32, 1}, 4) - cast(Elem::U32, swapped_ * 4)};   // the first word's bits in a plane, the second's
  auto add_bits = [&](int bits, int to) {
    const int64_t mask = (int64_t(1 << bits) - 1) * 0x01010101;
    const Ex plane = bits == 4 ? take() : b_.let(take() >> cast(Elem::U32, word_ * bits % 4));
    for (int p = 0; p < 2; ++p) {
      const Ex v = to == 4 ? (plane << from[1 - p]) & (mask << 4) : to ? ((plane >> from[p]) & mask) << to : (plane >> from[p]) & mask;
      w.word[p] = b_.let(to ? w.word[p] | v : v);
    }
  };
  if (f_.low == 8) {
    for (Ex& word : w.word) word = take();
  } else if (f_.iq4) {
    const Ex plane = take();
    const Ex low = b_.let(lookup(Fn::LookupLow, plane, iq4_table())), high = b_.let(lookup(Fn::LookupHigh, plane, iq4_table()));
    w.word[0] = b_.let(select(swapped_ == Ex(0), low, high));
    w.word[1] = b_.let(select(swapped_ == Ex(0), high, low));
  } else {
    add_bits(f_.low, 0);
  }
  if (f_.high) add_bits(f_.high, f_.low);
}

LaneWeights Rows16Lane::weights(const std::vector<Ex>& raw, int row) const {
  LaneWeights w;
  size_t next = 0;
  unpack(raw, row, next, w);
  auto take = [&] { return lane(raw[next++], row); };
  auto f32 = [&](const Ex& v) { return cast(Elem::F32, v); };
  const Ex d = f32(take()), m = f_.minimum ? f32(take()) * Ex(f_.scales == Scales::None ? 1.0 : -1.0) : Ex();
  for (int p = 0; p < f_.parts; ++p) {
    w.scale[p] = d;
    w.minimum[p] = m;
    if (f_.scales == Scales::Nibbles) {
      const Ex both = b_.let(cast(Elem::I32, take()));
      w.scale[p] = b_.let(d * f32(both & 15));
      w.minimum[p] = b_.let(m * f32(both >> 4));
    } else if (f_.scales != Scales::None) {
      w.scale[p] = b_.let(d * f32(take()));
      if (f_.minimum) w.minimum[p] = b_.let(m * f32(take()));
    }
    if (!f_.minimum) w.minimum[p] = b_.let(w.scale[p] * Ex(double(-f_.zero)));
  }
  return w;
}

}  // namespace prism::codegen
