// Attention of many tokens (FlashAttention-2, Dao 2023): a block has a tile of one head's queries and walks over tiles of keys, which
// are copied while the tile before is computed. A warp has whole rows: scores, weights and sums stay in its registers, and
// the accumulators of the first product are, rounded to f16, the operand of the second.
//
// Tiles of keys begin at multiples of their size, so a token's bits do not depend on how a prompt was cut.
#include "codegen/kernels/gpu/attention.h"
#include "codegen/kernels/gpu/gpu.h"

namespace prism::codegen {

using namespace kir;
using ir::DType;

namespace {

constexpr int kWarps = 4, kThreads = kWarps * 32;
constexpr double kNothing = -1e30;     // the largest score before there is one
constexpr double kSlack = 8;           // a weight is at most 2^8, far from the largest f16
constexpr int64_t kRegisters = 168;    // for operands and sums, at most

class FlashPrefill : GpuAttention {
 public:
  FlashPrefill(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims)
      : GpuAttention(op, name, dims, kThreads) {}

  Result<LoweredKernel> run() {
    PRISM_CHECK(read());
    blocks_ = d_ > 128 ? 1 : 2;
    tile_k_ = d_ > 128 ? 32 : 64;
    span_ = d_ > 80 ? 32 : 64;  // as registers allow
    rows_ = kWarps * 16 * blocks_;
    queries_ = b_.shared("queries", Elem::F16, rows_ * d_);
    tiles_ = b_.shared("tiles", Elem::F16, 2 * tile_elements(tile_k_));

    // Late tiles see most keys: they begin first. The heads that share K and V are neighbours.
    const ir::Dim tiles = ir::Dim::floor_div(op_->operand(0)->type.dim(0) + ir::Dim(rows_ - 1), rows_);
    head_ = b_.let(b_.task() % heads_);
    t0_ = b_.let((b_.let((tokens_ + Ex(rows_ - 1)) / rows_) - Ex(1) - b_.task() / heads_) * rows_);
    row0_ = b_.let(warp_ * (16 * blocks_));
    column_ = b_.let(lane_ % 4 * 2);
    walk();
    finish_rows();
    return r_.finish(tiles * ir::Dim(heads_));
  }

 private:
  void walk() {
    set_kv_head(head_ / (heads_ / kv_heads_));
    const Ex end = b_.let(causal_ ? min(past_ + t0_ + Ex(rows_), total_) : total_);
    const Ex begin = window_ > 0 ? b_.let(max(past_ + t0_ - Ex(window_ - 1), Ex(0)) / tile_k_ * tile_k_) : constant({Elem::I32, 1}, 0);
    const Copy copy = [&](Ex to, Ex key0) { copy_tile(tiles_, to, key0, tile_k_, b_.thread(), kThreads); };
    const Ex start = constant({Elem::I32, 1}, 0);
    const bool at_once = !compressed() && !sinks_;   // the first tile is under way while queries are stored
    if (at_once) {
      copy(start, begin);
      b_.async_commit();
    }
    begin_rows(sinks_ ? sink_q_ : q_);
    if (at_once) return tiles(begin, end, Part::All, copy);

    const Copy widen = [&](Ex to, Ex key0) { store_page(to, key0); };
    const Ex last = b_.let(min(past_ + t0_ + Ex(rows_), total_) - Ex(1));
    const auto part = [&](Ex first, Ex stop, Part which, const Copy& how) {
      b_.if_(first < stop, [&] {
        how(start, first);
        b_.async_commit();
        tiles(first, stop, which, how);
        b_.barrier();
      });
    };
    const auto keys = [&](Ex first, Ex stop) {
      if (!compressed()) return part(first, stop, Part::All, copy);
      part(first, b_.let(min(stop, demoted_pages(last) * rt::kKvPage)), Part::Demoted, widen);
      part(b_.let(max(first, demoted_pages(past_ + t0_) * rt::kKvPage)), stop, Part::Exact, copy);
    };
    if (sinks_) {
      in_sinks_ = true;
      keys(start, b_.let(min(end, Ex(sinks_))));
      in_sinks_ = false;
      load_queries(q_);
    }
    keys(sinks_ ? b_.let(max(begin, Ex(sinks_))) : begin, end);
  }

  void begin_rows(const Buffer& queries) {
    queries_lane_ = b_.let(halves_lane() + row0_ * 16);
    keys_lane_ = halves_lane();
    values_lane_ = b_.let(values_lane() + Ex(tile_k_ * d_));
    load_queries(queries);
    for (int64_t i = 0; i < 2 * blocks_; ++i) top_.push_back(b_.var(Ex(kNothing)));
    for (int64_t i = 0; i < blocks_ * (d_ / 8 + 1); ++i) out_.push_back(b_.var(constant({Elem::F32, 4}, 0)));
  }

  /// Into shared memory, and registers if there are enough.
  void load_queries(const Buffer& queries) {
    store_queries(queries);
    b_.barrier();
    loaded_.clear();
    if (blocks_ * (d_ / 4 + d_ / 2 + span_ / 2) <= kRegisters)
      for (int64_t k = 0; k < d_ / 16; ++k)
        for (int64_t m = 0; m < blocks_; ++m) loaded_.push_back(query(k, m));
  }

  using Copy = std::function<void(Ex to, Ex key0)>;

  /// Tiles of keys [begin, end), the first of which was copied to the beginning.
  void tiles(Ex begin, Ex end, Part part, const Copy& copy) {
    const Ex from = b_.var(constant({Elem::I32, 1}, 0));
    b_.for_(begin, end, tile_k_, [&](Ex key0) {
      b_.async_wait(0);
      b_.barrier();
      const Ex next = b_.let(key0 + Ex(tile_k_)), other = b_.let(Ex(tile_elements(tile_k_)) - from);
      b_.if_(next < end, [&] { copy(other, next); });
      b_.async_commit();
      auto compute = [&](Ex key) {
        const Ex i = b_.let(key - key0);
        std::vector<Ex> s = scores(b_.let(from + keys_lane_ + i * d_));
        mask(s, key, part);
        softmax(s);
        add_values(s, b_.let(from + values_lane_ + i * value_stride()));
      };
      if (span_ == tile_k_) compute(key0);
      else b_.for_(key0, b_.let(min(next, end)), span_, compute);
      b_.assign(from, other);
    });
  }

  /// A tile of demoted keys.
  void store_page(Ex to, Ex key0) {
    const PageTile tile(b_, *stores_, kv_head_, tile_shape(tile_k_), b_.thread(), kThreads);
    const PageTile::Place place = tile.place(b_.let(key0 / rt::kKvPage), b_.let(key0 / rt::kKvGroup % (rt::kKvPage / rt::kKvGroup)));
    tile.copy_keys(tiles_, to, place);
    tile.copy_values(tiles_, to, place);
    b_.if_(key0 == Ex(0), [&] {
      b_.barrier();
      for (const bool keys : {true, false}) tile.copy_sinks(tiles_, to, keys);
    });
  }

  Ex token(Ex row) const { return t0_ + row; }

  /// The tile's queries as f16 with their factor, as [size/16][rows][16] in halves; past the last token it again.
  void store_queries(const Buffer& queries) {
    const int lanes = 16 / elem_bytes(queries.elem);
    b_.for_(b_.thread(), rows_ * d_ / 8, kThreads, [&](Ex chunk) {
      const Ex row = b_.let(chunk / (d_ / 8)), part = b_.let(chunk % (d_ / 8));
      const Ex at = b_.let((min(token(row), tokens_ - Ex(1)) * heads_ + head_) * d_ + part * 8);
      std::vector<Ex> values, packed;
      for (int i = 0; i < 8; i += lanes) {
        const Ex v = b_.let(b_.load(queries, at + Ex(i), lanes));
        for (int l = 0; l < lanes; ++l) values.push_back(cast(Elem::F32, lane(v, l)) * Ex(query_unit()));
      }
      for (size_t i = 0; i < 8; i += 2) packed.push_back(pack_f16(values[i], values[i + 1]));
      b_.store(queries_, part / 2 * (rows_ * 16) + half_at(row, part % 2), pack(packed));
    });
  }

  Ex query(int64_t k, int64_t m) { return b_.ld_matrix(queries_, queries_lane_ + Ex((k * rows_ + m * 16) * 16)); }
  Ex& at(std::vector<Ex>& v, int64_t m, int64_t n) { return v[size_t(m) * (v.size() / size_t(blocks_)) + size_t(n)]; }

  /// Accumulators of 16 rows by 8 keys.
  std::vector<Ex> scores(Ex keys) {
    std::vector<Ex> s;
    for (int64_t i = 0; i < blocks_ * span_ / 8; ++i) s.push_back(b_.var(constant({Elem::F32, 4}, 0)));
    for (int64_t k = 0; k < d_ / 16; ++k) {
      std::vector<Ex> q;
      for (int64_t m = 0; m < blocks_; ++m) q.push_back(loaded_.empty() ? query(k, m) : loaded_[size_t(k * blocks_ + m)]);
      for (int64_t n = 0; n < span_ / 8; n += 2) {
        const Ex f = b_.ld_matrix(tiles_, keys + Ex((n / 2 * d_ + k * 16) * 16), true);
        for (int i = 0; i < 2; ++i) {
          const Ex operand = b_.let(pack({lane(f, 2 * i), lane(f, 2 * i + 1)}));
          for (int64_t m = 0; m < blocks_; ++m) b_.mma(Fn::MmaF16, at(s, m, n + i), q[size_t(m)], operand);
        }
      }
    }
    return s;
  }

  /// Caps scores and hides keys, where there are any to hide for this warp.
  void mask(std::vector<Ex> s, Ex key0, Part part) {
    auto change = [&](const std::function<Ex(Ex score, int64_t m, int half, int64_t column)>& f) {
      for (int64_t m = 0; m < blocks_; ++m)
        for (int64_t n = 0; n < span_ / 8; ++n) {
          std::vector<Ex> changed;
          for (int i = 0; i < 4; ++i) changed.push_back(f(lane(at(s, m, n), i), m, i / 2, 8 * n + i % 2));
          b_.assign(at(s, m, n), pack(changed));
        }
    };
    if (cap_ > 0) change([&](Ex score, int64_t, int, int64_t) { return b_.let(capped(score)); });
    const Ex first = b_.let(past_ + token(row0_)), page = b_.let(key0 / rt::kKvPage);
    Ex hides = last_key(first) < key0 + Ex(span_ - 1);
    if (window_ > 0 && !in_sinks_) hides = hides | (key0 + Ex(window_) <= first + Ex(16 * blocks_ - 1));
    // Of the warp's rows the first reads the fewest pages demoted.
    if (part == Part::Demoted) hides = hides | (demoted_pages(first) <= page);
    if (part == Part::Exact) hides = hides | (page < demoted_pages(first + Ex(16 * blocks_ - 1)));
    b_.if_(hides, [&] {
      const Ex distance = b_.let(last_key(past_ + token(row(0, 0))) - key0 - column_);
      std::vector<Ex> rows;
      for (int64_t m = 0; m < blocks_; ++m)
        for (int half = 0; half < 2; ++half) {
          const Ex of_row = causal_ ? distance + Ex(16 * m + 8 * half) : distance;
          rows.push_back(part == Part::All ? of_row : seen(of_row, part, page, demoted_pages(past_ + token(row(m, half)))));
        }
      change([&](Ex score, int64_t m, int half, int64_t column) { return masked(score, rows[size_t(2 * m + half)] - Ex(column)); });
    });
  }

  /// The lane's row of a block of 16: half 0 or 1.
  Ex row(int64_t m, int half) const { return row0_ + lane_ / 4 + Ex(m * 16 + half * 8); }

  /// Scores become weights relative to the largest score so far, or to one not much smaller: the sums rarely need a factor.
  void softmax(std::vector<Ex>& s) {
    std::vector<Ex> decay;
    for (int64_t r = 0; r < 2 * blocks_; ++r) {
      Ex most;
      for (int64_t n = 0; n < span_ / 8; ++n)
        for (int64_t i = r % 2 * 2; i < r % 2 * 2 + 2; ++i) {
          const Ex x = lane(at(s, r / 2, n), int(i));
          most = most.node ? b_.let(max(most, x)) : x;
        }
      most = row_reduce(Fn::ReduceMax, most);
      const Ex before = top_[size_t(r)], top = b_.let(select(before + Ex(kSlack) < most, most, before));
      decay.push_back(weight(before - top));
      b_.assign(before, top);
    }
    Ex least = decay[0];
    for (const Ex& d : decay) least = b_.let(min(least, d));
    b_.if_(least < Ex(1.0), [&] {
      for (int64_t m = 0; m < blocks_; ++m)
        for (int64_t n = 0; n <= d_ / 8; ++n) {
          std::vector<Ex> scaled;
          for (int i = 0; i < 4; ++i) scaled.push_back(lane(at(out_, m, n), i) * decay[size_t(2 * m + i / 2)]);
          b_.assign(at(out_, m, n), pack(scaled));
        }
    });
    for (int64_t m = 0; m < blocks_; ++m)
      for (int64_t n = 0; n < span_ / 8; ++n) {
        std::vector<Ex> w;
        for (int i = 0; i < 4; ++i) w.push_back(weight(lane(at(s, m, n), i) - top_[size_t(2 * m + i / 2)]));
        at(s, m, n) = b_.let(pack({pack_f16(w[0], w[1]), pack_f16(w[2], w[3])}));  // half of an operand a
      }
  }

  void add_values(std::vector<Ex> weights, Ex values) {
    const Ex ones = pack({constant({Elem::U32, 1}, 0x3c003c00), constant({Elem::U32, 1}, 0x3c003c00)});
    for (int64_t k = 0; k < span_ / 16; ++k) {
      std::vector<Ex> w;
      for (int64_t m = 0; m < blocks_; ++m) {
        const Ex low = at(weights, m, 2 * k), high = at(weights, m, 2 * k + 1);
        w.push_back(b_.let(pack({lane(low, 0), lane(low, 1), lane(high, 0), lane(high, 1)})));
        b_.mma(Fn::MmaF16, at(out_, m, d_ / 8), w.back(), ones);
      }
      for (int64_t n = 0; n < d_ / 8; n += 2) {
        const Ex f = b_.ld_matrix(tiles_, values + Ex(k * 16 * value_stride() + n * 8), true);
        for (int i = 0; i < 2; ++i) {
          const Ex operand = b_.let(pack({lane(f, 2 * i), lane(f, 2 * i + 1)}));
          for (int64_t m = 0; m < blocks_; ++m) b_.mma(Fn::MmaF16, at(out_, m, n + i), w[size_t(m)], operand);
        }
      }
    }
  }

  void rotate_sums() {
    for (int64_t m = 0; m < blocks_; ++m) {
      std::vector<Ex> halves[2];
      for (int half = 0; half < 2; ++half) {
        for (int64_t n = 0; n < d_ / 8; ++n)
          for (int i = 0; i < 2; ++i) halves[half].push_back(b_.let(lane(at(out_, m, n), 2 * half + i)));
        rotate_columns(halves[half]);
      }
      for (size_t n = 0; n < size_t(d_ / 8); ++n) b_.assign(at(out_, m, int64_t(n)), pack({halves[0][2 * n], halves[0][2 * n + 1], halves[1][2 * n], halves[1][2 * n + 1]}));
    }
  }

  void finish_rows() {
    const int64_t width = heads_ * d_;
    if (rotated_) rotate_sums();
    for (int64_t m = 0; m < blocks_; ++m)
      for (int half = 0; half < 2; ++half) {
        const Ex t = b_.let(token(row(m, half))), inside = b_.let(t < tokens_);
        const Ex inverse = b_.let(constant({Elem::F32, 1}, 1.0) / lane(at(out_, m, d_ / 8), 2 * half));
        auto value = [&](int64_t n, int i) { return lane(at(out_, m, n), 2 * half + i) * inverse; };
        for (const ir::Value* result : r_.body.returns) {
          const Buffer& out = r_.buffer(result);
          if (result->type.dtype == DType::Q8A) {
            const Ex to = b_.let(t * (width / 32 * ir::info(DType::Q8A).bytes));
            for (int64_t k = 0; k < d_ / 32; ++k) {
              std::vector<Ex> values;
              for (int i = 0; i < 8; ++i) values.push_back(value(4 * k + i / 2, i % 2));
              store_q8a_quad(b_, out, to, width, b_.let(head_ * (d_ / 32) + Ex(k)), values, inside, q8a_scale(result));
            }
          } else {
            b_.if_(inside, [&] {
              const Ex column = b_.let(head_ * d_ + column_);
              for (int64_t n = 0; n < d_ / 8; ++n)
                b_.store(out, element_index(result->type.layout, width, t, column + Ex(8 * n)), pack({cast(out.elem, value(n, 0)), cast(out.elem, value(n, 1))}));
            });
          }
        }
      }
  }

  int64_t blocks_ = 1, rows_ = 64;                   ///< a warp's blocks of 16 rows; rows of a block
  int64_t tile_k_ = 64, span_ = 64;                  ///< keys of a tile; keys whose scores are in registers
  Buffer queries_, tiles_;
  Ex head_, t0_, row0_, column_;                     ///< first token of the tile, first row of the warp, first of the lane's columns of an accumulator
  Ex queries_lane_, keys_lane_, values_lane_;
  std::vector<Ex> loaded_;                           ///< operands of the queries, where registers suffice
  std::vector<Ex> top_;                              ///< of the lane's rows: largest score
  std::vector<Ex> out_;                              ///< weighted values, accumulators of 16 rows by 8 dimensions; then of ones: the sum of the weights
};

}  // namespace

Result<LoweredKernel> lower_gpu_flash_prefill(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims) {
  return FlashPrefill(op, name, dims).run();
}

}  // namespace prism::codegen
