#include "codegen/kernels/gpu/page_tile.h"

namespace prism::codegen {

using namespace kir;

namespace {

void append(PageTile::Loaded& all, const PageTile::Loaded& more) { all.insert(all.end(), more.begin(), more.end()); }

Ex byte_of(Ex word, int i) { return cast(Elem::F32, (word >> (8 * i)) & 255); }
Ex signed_byte_of(Ex word, int i) { return cast(Elem::F32, cast(Elem::I32, ((word >> (8 * i)) & 255) ^ 128) - 128); }

}  // namespace

PageTile::PageTile(Builder& b, const KvStores& stores, Ex kv_head, const Shape& shape, Ex worker, int workers)
    : b_(b), stores_(stores), kv_head_(kv_head), worker_(worker), lane_(b.let(worker % 16)), shape_(shape), workers_(workers) {
  const Ex row = b_.let(worker / 16);
  quad_ = b_.let(row % 4);
  block_ = workers == 32 ? Ex(0) : b_.let(row / 4);
  key_at_ = b_.let(Shape::half_at(quad_ * 4, lane_ / 8) + lane_ % 8);
  value_at_ = b_.let(quad_ * (4 * shape.value_stride) + lane_ + Ex(shape.keys * shape.size));
}

PageTile::Place PageTile::place(Ex page, Ex group) const {
  const KvStore &keys = stores_.keys, &values = stores_.values;
  const Ex key_scales = keys.scales(page, kv_head_), value_scales = values.scales(page, kv_head_);
  const auto codes = [&](const KvStore& store, Ex block) { return b_.let(store.codes(page, kv_head_) + block * store.block_bytes() + lane_ * 4); };
  return {codes(keys, group * blocks()), b_.let(key_scales + Ex(keys.means_at()) + quad_ * 4), b_.let(key_scales + group * rt::kKvGroup + lane_), key_scales,
          codes(values, group / 2), b_.let(value_scales + group / 2 * 32 + quad_ * 4 + (value_words() == 1 ? group % 2 * 16 : Ex(0))), value_scales, b_.let(group % 2)};
}

PageTile::Loaded PageTile::key_bases(const Place& p) const {
  return {load(stores_.keys, Elem::F32, stores_.keys.scale_base_at(p.key_bases)), load(stores_.keys, Elem::F32, stores_.keys.mean_base_at(p.key_bases))};
}

PageTile::Loaded PageTile::value_bases(const Place& p) const { return {load(stores_.values, Elem::F32, stores_.values.scale_base_at(p.value_base))}; }

// Words j and j + 4 are in the same vector of a plane of less than 8 bits, 4 bits apart (codegen/kernels/planes.h). A warp's quad_ is
// 0 or 1 and what a turn adds 0 or 2, so that their places add up.
PageTile::Loaded PageTile::word_loads(const KvStore& store, Ex at, int64_t quad, int64_t words, Ex from) const {
  const rt::KvPlanes planes = rt::kv_planes(store.shape().bits);
  Loaded loaded;
  int64_t before = 0;
  for (int plane = 0; plane < planes.count; before += planes.width[size_t(plane++)]) {
    const int64_t width = planes.width[size_t(plane)];
    const auto vector = [&](Ex v, int64_t more) { loaded.push_back(load(store, Elem::U32, at + b_.let(v * 64) + Ex(64 * more))); };
    if (width < 8) vector(quad_ * width / 4, quad * width / 4 + before);
    else for (int64_t w = 0; w < words; ++w) vector(quad_ + from * 4, quad + 4 * w);
  }
  return loaded;
}

size_t PageTile::loads_of(const KvStore& store, int64_t words) {
  const rt::KvPlanes planes = rt::kv_planes(store.shape().bits);
  return planes.width[0] == 8 ? size_t(words) : size_t(planes.count);
}

PageTile::Loaded PageTile::words(const KvStore& store, const Loaded& loaded, int64_t quad, int64_t words, Ex from) const {
  const rt::KvPlanes planes = rt::kv_planes(store.shape().bits);
  std::vector<Ex> all;
  for (int64_t w = 0; w < words; ++w) {
    Ex word;
    int64_t before = 0;
    for (int plane = 0; plane < planes.count; before += planes.width[size_t(plane++)]) {
      const int64_t width = planes.width[size_t(plane)];
      if (width == 8) {
        word = loaded[size_t(w)];
        continue;
      }
      const Ex shift = b_.let(cast(Elem::U32, quad_ * width % 4 + from * 4)) + Ex(quad * width % 4 + 4 * w);
      Ex bits = (loaded[size_t(plane)] >> shift) & (int64_t((1 << width) - 1) * 0x01010101);
      if (before) bits = bits << before;
      word = word.node ? word | bits : bits;
    }
    all.push_back(b_.let(word));
  }
  return all;
}

PageTile::Loaded PageTile::key_loads(const Place& p, const Turn& turn) const {
  const KvStore& store = stores_.keys;
  const auto& [quad, more] = turn;
  const Ex block = b_.let(block_ + more), channels = b_.let(block % blocks());
  Loaded loaded = word_loads(store, p.key_codes + block * store.block_bytes(), quad, 2, Ex(0));
  for (int64_t w = 0; w < 2; ++w) loaded.push_back(load(store, Elem::U32, p.key_means + channels * 32 + Ex(4 * quad + 16 * w)));
  return loaded;
}

PageTile::Loaded PageTile::key_scales(const Place& p, const Turn& turn) const {
  const Ex block = b_.let(block_ + turn.block), scales = block % blocks() / (rt::kv_scale_group(shape_.size) / 32) * rt::kKvPage;
  return {load(stores_.keys, Elem::U8, p.key_scales + scales + block / blocks() * rt::kKvGroup)};
}

void PageTile::put_keys(const Buffer& tiles, Ex at, const Turn& turn, const Loaded& bases, const Loaded& scales, const Loaded& loaded) const {
  const KvStore& store = stores_.keys;
  const auto& [quad, more] = turn;
  const size_t words_loaded = loads_of(store, 2);
  const std::vector<Ex> codes = words(store, loaded, quad, 2, Ex(0));
  const Ex byte = b_.let(cast(Elem::F32, scales[0])), scale = b_.let(byte * byte * bases[0]), least = b_.let(scale * Ex(-store.middle()));
  const Ex to = b_.let(at + key_at_), first = b_.let((block_ + more) * (32 * 16));   // groups follow each other
  for (int64_t w = 0; w < 2; ++w)
    for (int i = 0; i < 4; ++i) {
      const Ex mean = signed_byte_of(loaded[words_loaded + size_t(w)], i);
      b_.store(tiles, to + first + Ex((4 * quad + 16 * w + i) * 16), cast(Elem::F16, fma(byte_of(codes[size_t(w)], i), scale, fma(mean, bases[1], least))));
    }
}

PageTile::Loaded PageTile::value_loads(const Place& p, const Turn& turn) const {
  const KvStore& store = stores_.values;
  const auto& [quad, more] = turn;
  const Ex block = b_.let(block_ + more), channels = b_.let(block / pieces()), piece = b_.let(block % pieces());
  return word_loads(store, p.value_codes + (channels * 2 + piece) * store.block_bytes(), quad, value_words(), value_words_from(p));
}

PageTile::Loaded PageTile::value_scales(const Place& p, const Turn& turn) const {
  const auto& [quad, more] = turn;
  const Ex block = b_.let(block_ + more), at = b_.let(p.value_scales + block / pieces() / (rt::kv_scale_group(shape_.size) / 16) * rt::kKvPage + block % pieces() * 32);
  Loaded loaded;
  for (int64_t w = 0; w < value_words(); ++w) loaded.push_back(load(stores_.values, Elem::U32, at + Ex(4 * quad + 16 * w)));
  return loaded;
}

void PageTile::put_values(const Buffer& tiles, Ex at, const Turn& turn, const Place& p, const Loaded& bases, const Loaded& scales, const Loaded& loaded) const {
  const KvStore& store = stores_.values;
  const auto& [quad, more] = turn;
  const std::vector<Ex> codes = words(store, loaded, quad, value_words(), value_words_from(p));
  const Ex block = b_.let(block_ + more), to = b_.let(at + value_at_), first = b_.let(block % pieces() * (32 * shape_.value_stride) + block / pieces() * 16);
  for (int64_t w = 0; w < value_words(); ++w)
    for (int i = 0; i < 4; ++i) {
      const Ex byte = b_.let(byte_of(scales[size_t(w)], i)), scale = byte * byte * bases[0];
      b_.store(tiles, to + first + Ex((4 * quad + 16 * w + i) * shape_.value_stride), cast(Elem::F16, (byte_of(codes[size_t(w)], i) - Ex(store.middle())) * scale));
    }
}

// A plane of 1 bit has all words of a block in one vector: of a warp's turns, two for each block, the second has it already.

PageTile::Loaded PageTile::load_keys(const Place& p) const {
  Loaded all = key_bases(p);
  for (int64_t t = 0; t < key_turns(); ++t)
    if (!t || key_scales_of(t) > key_scales_of(t - 1)) append(all, key_scales(p, of_warp(t)));
  for (int64_t t = 0; t < key_turns(); ++t) {
    Loaded loads = key_loads(p, of_warp(t));
    if (t % 2 && has_single_bits(stores_.keys)) loads.erase(loads.end() - 3);   // before the means
    append(all, loads);
  }
  return all;
}

PageTile::Loaded PageTile::load_values(const Place& p) const {
  Loaded all = value_bases(p);
  for (int64_t t = 0; t < value_turns(); ++t)
    if (t < 2 || value_scales_of(t) > value_scales_of(t - 2)) append(all, value_scales(p, of_warp(t)));
  for (int64_t t = 0; t < value_turns(); ++t) {
    Loaded loads = value_loads(p, of_warp(t));
    if (t % 2 && has_single_bits(stores_.values)) loads.pop_back();
    append(all, loads);
  }
  return all;
}

void PageTile::store_keys(const Buffer& tiles, Ex at, const Loaded& loaded) const {
  const auto scales = loaded.begin() + 2;
  auto next = scales + long(key_scales_of(key_turns() - 1) + 1);
  Ex single;
  for (int64_t t = 0; t < key_turns(); ++t) {
    Loaded words = take_words(stores_.keys, 2, t, next, single);
    append(words, Loaded(next, next + 2));
    next += 2;
    put_keys(tiles, at, of_warp(t), {loaded[0], loaded[1]}, {scales[key_scales_of(t)]}, words);
  }
}

void PageTile::store_values(const Buffer& tiles, Ex at, const Place& p, const Loaded& loaded) const {
  const auto scales = loaded.begin() + 1;
  auto next = scales + long(value_scales_of(value_turns() - 1) + 1);
  Ex single;
  for (int64_t t = 0; t < value_turns(); ++t) put_values(tiles, at, of_warp(t), p, {loaded[0]}, {scales[value_scales_of(t)]}, take_words(stores_.values, 1, t, next, single));
}

PageTile::Loaded PageTile::take_words(const KvStore& store, int64_t words, int64_t turn, Loaded::const_iterator& next, Ex& single) {
  const bool again = turn % 2 && has_single_bits(store);
  const auto begin = next;
  next += long(loads_of(store, words)) - again;
  Loaded taken(begin, next);
  if (again) taken.push_back(single);
  single = taken.back();
  return taken;
}

PageTile::Loaded PageTile::here(Loaded loads) const {
  for (Ex& v : loads) v = b_.let(v);
  return loads;
}

void PageTile::each_turn(int64_t turns, const std::function<void(const Turn&)>& body) const {
  const auto loop = [&](int64_t n, const std::function<void(Ex)>& turn) { b_.for_(constant({Elem::I32, 1}, 0), Ex(n), 1, turn, 2); };
  if (workers_ > 32) return loop(turns, [&](Ex turn) { body({0, turn * (workers_ / 64)}); });
  loop(turns / 2, [&](Ex block) {
    body({0, block});
    body({2, block});
  });
}

void PageTile::copy_keys(const Buffer& tiles, Ex at, const Place& p) const {
  const Loaded bases = here(key_bases(p));
  each_turn(key_turns(), [&](const Turn& turn) { put_keys(tiles, at, turn, bases, here(key_scales(p, turn)), here(key_loads(p, turn))); });
}

void PageTile::copy_values(const Buffer& tiles, Ex at, const Place& p) const {
  const Loaded bases = here(value_bases(p));
  each_turn(value_turns(), [&](const Turn& turn) { put_values(tiles, at, turn, p, bases, here(value_scales(p, turn)), here(value_loads(p, turn))); });
}

void PageTile::copy_sinks(const Buffer& tiles, Ex at, bool keys) const {
  const KvStore& store = keys ? stores_.keys : stores_.values;
  const Ex from = store.sinks(kv_head_);
  const int64_t size = shape_.size;
  b_.for_(worker_, size * rt::kKvGroup, workers_, [&](Ex i) {
    const Ex to = keys ? Shape::half_at(i / 16, i / 8 % 2) + i % 8 : Ex(shape_.keys * size) + i / size * shape_.value_stride + i % size;
    b_.store(tiles, at + to, load(store, Elem::F16, from + i * elem_bytes(Elem::F16)));
  });
}

}  // namespace prism::codegen
