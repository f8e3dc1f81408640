// Demoted positions of a compressed KV cache (runtime/base/kv_pages.h) on their way from memory to a tile of keys and values in shared
// memory: threads load words of codes, and store them as f16. Loads and stores are apart, so that loads can be under way
// while the tile before is computed.
//
// A thread has the same lane (a position of keys, a channel of values) in every turn, and its addresses differ by constants.
#pragma once

#include "codegen/kernels/kv_store.h"

namespace prism::codegen {

class PageTile {
 public:
  /// How the tile lies in shared memory (f16): keys as [keys/16][size][16], halves of 8 changing places where channel / 4 is odd, then values
  /// as [keys][value_stride].
  struct Shape {
    int64_t keys, size, value_stride;
    /// A key's place in a row of 16, that of a channel.
    static kir::Ex half_at(kir::Ex row, kir::Ex half) { return row * 16 + (half ^ (row / 4 % 2)) * 8; }
  };

  /// Tiles of 16, 32 or 64 keys, by `workers` (32 or 128) threads of which this one is `worker`.
  PageTile(kir::Builder& b, const KvStores& stores, kir::Ex kv_head, const Shape& shape, kir::Ex worker, int workers);

  /// Positions from 16 * group of a page on: where this thread's loads of the first turn are.
  struct Place {
    kir::Ex key_codes, key_means, key_scales, key_bases, value_codes, value_scales, value_base;
    kir::Ex odd;   ///< of 16 values, whether they are the second half of a block's 32 positions
  };
  Place place(kir::Ex page, kir::Ex group) const;

  using Loaded = std::vector<kir::Ex>;
  /// All that a warp's thread loads of 16 keys or values, and what is stored of it.
  Loaded load_keys(const Place& p) const;
  Loaded load_values(const Place& p) const;
  void store_keys(const kir::Buffer& tiles, kir::Ex at, const Loaded& loaded) const;
  void store_values(const kir::Buffer& tiles, kir::Ex at, const Place& p, const Loaded& loaded) const;
  /// Both in turns, which takes few registers.
  void copy_keys(const kir::Buffer& tiles, kir::Ex at, const Place& p) const;
  void copy_values(const kir::Buffer& tiles, kir::Ex at, const Place& p) const;
  /// The first 16 keys or values of page 0, as they were appended: after what was stored of it, and a barrier.
  void copy_sinks(const kir::Buffer& tiles, kir::Ex at, bool keys) const;

 private:
  /// In which turn of its work a thread is: at words quad_ + quad and 4 more of block block_ + block. A warp has two for each block.
  struct Turn {
    int64_t quad;
    kir::Ex block;
  };
  static Turn of_warp(int64_t turn) { return {turn % 2 * 2, kir::Ex(turn / 2)}; }
  int64_t blocks() const { return shape_.size / 32; }                                ///< of keys in 16 positions
  int64_t pieces() const { return std::max<int64_t>(shape_.keys / 32, 1); }          ///< of values in 16 channels
  int64_t value_words() const { return shape_.keys == rt::kKvGroup ? 1 : 2; }
  kir::Ex value_words_from(const Place& p) const { return value_words() == 1 ? p.odd : kir::Ex(0); }

  /// A thread has a part of the tile in each of so many turns.
  int64_t key_turns() const { return shape_.keys * shape_.size / 8 / workers_; }
  int64_t value_turns() const { return pieces() * shape_.size * 4 / workers_; }
  /// A warp's turns of equal numbers have the same scales.
  int64_t key_scales_of(int64_t turn) const { return turn / (rt::kv_scale_group(shape_.size) / 16); }
  int64_t value_scales_of(int64_t turn) const { return turn / (rt::kv_scale_group(shape_.size) / 8) * 2 + turn % 2; }
  Loaded key_bases(const Place& p) const;
  Loaded value_bases(const Place& p) const;
  Loaded key_loads(const Place& p, const Turn& turn) const;
  Loaded value_loads(const Place& p, const Turn& turn) const;
  Loaded key_scales(const Place& p, const Turn& turn) const;
  Loaded value_scales(const Place& p, const Turn& turn) const;
  /// A turn's part.
  void put_keys(const kir::Buffer& tiles, kir::Ex at, const Turn& turn, const Loaded& bases, const Loaded& scales, const Loaded& loaded) const;
  void put_values(const kir::Buffer& tiles, kir::Ex at, const Turn& turn, const Place& p, const Loaded& bases, const Loaded& scales, const Loaded& loaded) const;
  Loaded here(Loaded loads) const;   ///< loads them now
  void each_turn(int64_t turns, const std::function<void(const Turn&)>& body) const;

  Loaded word_loads(const KvStore& store, kir::Ex at, int64_t quad, int64_t words, kir::Ex from) const;
  Loaded words(const KvStore& store, const Loaded& loaded, int64_t quad, int64_t words, kir::Ex from) const;
  static size_t loads_of(const KvStore& store, int64_t words);   ///< how many word_loads gives
  static bool has_single_bits(const KvStore& store) { return store.shape().bits % 2; }
  /// Of what a warp loaded the words of a turn; `single`: the vector of single bits of the turn before.
  static Loaded take_words(const KvStore& store, int64_t words, int64_t turn, Loaded::const_iterator& next, kir::Ex& single);
  kir::Ex load(const KvStore& store, kir::Elem elem, kir::Ex at) const { return b_.load({elem, 1}, store.plane(), at); }

  kir::Builder& b_;
  const KvStores& stores_;
  kir::Ex kv_head_, worker_, lane_, quad_, block_;
  kir::Ex key_at_, value_at_;   ///< elements of the tile where those of the first turn go
  Shape shape_;
  int64_t workers_;
};

}  // namespace prism::codegen
