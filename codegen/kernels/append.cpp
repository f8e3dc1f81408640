// Per head: slice, optional norm, rotary position, and the store into the KV cache or the rotated queries.
// A task is one head of one token; on GPUs each warp has one.
#include <cmath>

#include "codegen/kernels/kv_store.h"

namespace prism::codegen {

using namespace kir;
using ir::Op;

namespace {

/// What happens to one tensor [tokens, heads, size] before it is stored.
struct Chain {
  const ir::Value* source = nullptr;          ///< body argument [tokens, width]
  int64_t offset = 0;                         ///< first column in it
  std::vector<const ir::Operation*> steps;    ///< rms_norm, rope, elementwise, in order
  int64_t heads = 0, size = 0;
};

class Append {
 public:
  Append(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, int block_threads)
      : r_(op, name, dims, block_threads), b_(r_.b), work_(r_.work) {
    work_.by_warps();
  }

  Result<LoweredKernel> run() {
    struct Part {
      Chain chain;
      std::function<void(Ex token, Ex head, const Buffer& x)> store;
    };
    std::vector<Part> parts;
    std::optional<ir::Dim> of_all;
    const auto same_tokens = [&](const ir::Value* v) -> Status {
      if (of_all && !(*of_all == v->type.dim(0))) return error("append kernel: %", v->name, " is ", v->type.str(), ", expected ", of_all->str(), " rows as of its other results");
      of_all = v->type.dim(0);
      return ok();
    };
    for (const ir::Value* v : r_.body.returns) {
      if (v->type.is_kv()) {
        const ir::Operation& append = *v->def;
        if (append.op != Op::KvAppend) return r_.unsupported(append, "expected kv_append");
        const ir::Value* kv = append.operand(0);
        PRISM_TRY(Chain k, trace(append.operand(1)));
        PRISM_TRY(Chain val, trace(append.operand(2)));
        PRISM_CHECK(same_tokens(append.operand(1)));
        const Ex past = b_.let(r_.dim(kv->type.dim(0))), room = r_.kv_room(kv->type);
        const ir::Type type = kv->type;
        if (kv->type.is_compressed()) {
          PRISM_CHECK(open_stores(append));
          for (const KvStore* store : {&stores_->keys, &stores_->values})
            parts.push_back({store->shape().keys ? k : val, [store, this](Ex token, Ex head, const Buffer& x) { store_exact(*store, b_.let(past_ + token), head, x); }});
          continue;
        }
        const Buffer keys = r_.keys(kv), values = r_.values(kv);
        const int64_t d = k.size, dv = val.size;
        parts.push_back({k, [=, this](Ex token, Ex head, const Buffer& x) {
          // K is tiled: [head][position/16][size][16].
          const Ex pos = b_.let(Region::kv_slot(type, past + token));
          const Ex at = b_.let(head * room * d + pos / 16 * (d * 16) + pos % 16);
          work_.over_each(d, [&](Ex i) { b_.store(keys, at + i * 16, cast(keys.elem, b_.load(x, x0_ + i))); });
        }});
        parts.push_back({val, [=, this](Ex token, Ex head, const Buffer& x) {
          const Ex at = b_.let((head * room + Region::kv_slot(type, past + token)) * dv);
          work_.over(dv, [&](Ex i, int l) { b_.store(values, at + i, cast(values.elem, b_.load(x, x0_ + i, l))); });
        }});
      } else {
        PRISM_TRY(Chain q, trace(v));
        PRISM_CHECK(same_tokens(v));
        const Buffer out = r_.buffer(v);
        const int64_t heads = q.heads, d = q.size;
        parts.push_back({q, [=, this](Ex token, Ex head, const Buffer& x) {
          const Ex at = b_.let((token * heads + head) * d);
          work_.over(d, [&](Ex i, int l) { b_.store(out, at + i, cast(out.elem, b_.load(x, x0_ + i, l))); });
        }});
      }
    }
    const ir::Dim tokens = *of_all;
    int64_t total = 0, widest = 0;
    for (const Part& p : parts) {
      total += p.chain.heads;
      widest = std::max(widest, p.chain.size);
    }
    const Buffer x = work_.memory("x", Elem::F32, widest);
    x0_ = work_.begin(widest);
    const int64_t at_once = work_.rows_at_once();
    const Ex job = at_once > 1 ? b_.let(b_.task() * at_once + b_.thread() / 32) : b_.task();
    Status status = ok();
    const auto append = [&] {
      const Ex token = b_.let(job / total), slot = b_.let(job % total);
      int64_t first = 0;
      for (const Part& p : parts) {
        const Ex head = b_.let(slot - Ex(first));
        b_.if_(Ex(first) <= slot, [&] {
          b_.if_(slot < Ex(first + p.chain.heads), [&] {
            if (Status s = apply(p.chain, token, head, x); !s) status = s;
            p.store(token, head, x);
          });
        });
        first += p.chain.heads;
      }
    };
    ir::Dim jobs = tokens * ir::Dim(total);
    if (stores_ && stores_->keys.staged()) {
      const int64_t heads = stores_->keys.shape().heads, filling = kStaged * 2 * heads;
      const Ex appended = b_.let(r_.dim(jobs)), further = b_.let(job - appended), head = b_.let(further - Ex(filling));
      b_.if_(job < appended, append, [&] {
        b_.if_(further < Ex(filling), [&] { fill_stage(further); }, [&] {
          b_.if_(head < Ex(heads), [&] { clear_tail(head, b_.let(past_ + r_.dim(tokens))); });
        });
      });
      jobs = jobs + ir::Dim(filling + heads);
    } else if (at_once > 1) {
      b_.if_(job < b_.let(r_.dim(jobs)), append);
    } else {
      append();
    }
    PRISM_CHECK(status);
    return r_.finish(at_once > 1 ? ir::Dim::floor_div(jobs + ir::Dim(at_once - 1), at_once) : jobs);
  }

 private:
  static constexpr int64_t kStaged = rt::kKvPage * (rt::kKvRecentPages + 1) / rt::kKvGroup;  ///< groups before the new tokens, at most

  Status open_stores(const ir::Operation& append) {
    if (stores_) return r_.unsupported(append, "two compressed caches in one kernel");
    const ir::Value* kv = append.operand(0);
    past_ = b_.let(r_.dim(kv->type.dim(0)));
    stores_.emplace(open_kv_stores(r_, kv, append.attr<int64_t>("most_tokens")));
    return ok();
  }

  void store_exact(const KvStore& store, Ex position, Ex head, const Buffer& x) {
    const int64_t d = store.shape().size, bytes = elem_bytes(store.element());
    const Ex group = store.group(head, b_.let(position / rt::kKvGroup)), row = b_.let(position % rt::kKvGroup);
    if (store.shape().keys) {
      const Ex at = b_.let(group + row * bytes);
      work_.over_each(d, [&](Ex i) { b_.store(store.exact(), at + i * (rt::kKvGroup * bytes), cast(store.element(), b_.load(x, x0_ + i))); });
    } else {
      const Ex at = b_.let(group + row * (d * bytes));
      work_.over(d, [&](Ex i, int l) { b_.store(store.exact(), at + i * bytes, cast(store.element(), b_.load(x, x0_ + i, l))); });
    }
  }

  /// One group of a head before the new tokens; of the last one the positions that are there, as others write the next.
  void fill_stage(Ex task) {
    const int64_t heads = stores_->keys.shape().heads;
    const Ex index = b_.let(task % (2 * heads)), head = b_.let(index / 2), group = b_.let(stores_->keys.first_staged() + task / (2 * heads));
    const Ex there = b_.let(min(past_ - group * rt::kKvGroup, Ex(rt::kKvGroup)));
    for (const KvStore* plane : {&stores_->keys, &stores_->values}) {
      const KvStore& store = *plane;
      const int64_t d = store.shape().size, bytes = elem_bytes(store.element());
      b_.if_(index % 2 == Ex(int64_t(!store.shape().keys)), [&] {
        b_.if_(Ex(0) < there, [&] {
          const Ex from = store.ring(head, group), to = store.group(head, group);
          work_.over(d * rt::kKvGroup, [&](Ex i, int l) {
            const Ex at = b_.let(i * bytes), values = b_.let(b_.load({store.element(), l}, store.plane(), from + at));
            const auto copy = [&] { b_.store(store.exact(), to + at, values); };
            if (!store.shape().keys) b_.if_(i / d < there, copy);
            else if (l == kLanes) b_.store_n(store.exact(), to + at, values, there);
            else b_.if_(i % rt::kKvGroup < there, copy);
          });
        });
      });
    }
  }

  /// Values of a head after the new tokens, up to the page's end: attention reads whole pages and multiplies these by 0.
  void clear_tail(Ex head, Ex end) {
    const KvStore& store = stores_->values;
    const int64_t d = store.shape().size, bytes = elem_bytes(store.element());
    b_.for_(end, b_.let((end + Ex(rt::kKvPage - 1)) / rt::kKvPage * rt::kKvPage), 1, [&](Ex position) {
      const Ex at = b_.let(store.group(head, b_.let(position / rt::kKvGroup)) + position % rt::kKvGroup * (d * bytes));
      work_.over(d, [&](Ex i, int l) { b_.store(store.exact(), at + i * bytes, cast(store.element(), constant({Elem::F32, l}, 0))); });
    });
  }

  Result<Chain> trace(const ir::Value* v) {
    Chain c;
    if (v->type.rank() != 3) return error("append kernel: %", v->name, " is ", v->type.str(), ", expected [tokens, heads, size]");
    c.heads = *v->type.dim(1).constant();
    c.size = *v->type.dim(2).constant();
    while (!r_.is_argument(v)) {
      const ir::Operation& o = *v->def;
      if (o.op == Op::Slice) {
        if (o.attr<int64_t>("axis") != int64_t(v->type.rank()) - 1) return r_.unsupported(o, "only along the last axis");
        c.offset += o.attr<int64_t>("begin");
      } else if (o.op != Op::Reshape) {
        c.steps.insert(c.steps.begin(), &o);
      }
      v = o.operand(0);
    }
    c.source = v;
    return c;
  }

  Status apply(const Chain& c, Ex token, Ex head, const Buffer& x) {
    const Buffer& src = r_.buffer(c.source);
    int64_t width = 1;
    for (size_t i = 1; i < c.source->type.rank(); ++i) width *= *c.source->type.dim(int(i)).constant();
    const Ex column = b_.let(head * c.size + Ex(c.offset)), at = b_.let(token * width + column);
    work_.over(c.size, [&](Ex i, int l) { b_.store(x, x0_ + i, b_.load(src, at + i, l)); });
    for (const ir::Operation* o : c.steps) {
      if (o->op == Op::RmsNorm) {
        const Ex squares = work_.reduce(c.size, Fn::ReduceAdd, [&](Ex i, int l) {
          const Ex v = b_.let(b_.load(x, x0_ + i, l));
          return v * v;
        });
        const Ex mean = squares * Ex(1.0 / double(c.size));
        const Ex scale = b_.let(constant({Elem::F32, 1}, 1.0) / call(Fn::Sqrt, {mean + Ex(o->attr<double>("eps"))}));
        const Buffer& w = r_.buffer(o->operand(1));
        work_.over(c.size, [&](Ex i, int l) { b_.store(x, x0_ + i, b_.load(x, x0_ + i, l) * scale * b_.load(w, i, l)); });
      } else if (o->op == Op::Rope) {
        PRISM_CHECK(rope(*o, token, c.size, x));
      } else if (o->op == Op::Hadamard) {
        work_.hadamard(x, x0_, c.size);
      } else {
        Status status = ok();
        work_.over(c.size, [&](Ex i, int l) {
          std::vector<Ex> in{b_.let(b_.load(x, x0_ + i, l))};
          for (size_t k = 1; k < o->operands().size(); ++k) {
            const ir::Value* v = o->operand(unsigned(k));
            const Buffer& buf = r_.buffer(v);
            in.push_back(b_.let(v->type.elements() == 1 ? splat(b_.load(buf, 0), l)
                                : v->type.rank() == 1 && *v->type.elements() == c.size && c.heads > 1 ? b_.load(buf, i, l)
                                : b_.load(buf, head * c.size + i, l)));
          }
          if (auto y = elementwise(*o, in)) b_.store(x, x0_ + i, *y);
          else status = r_.unsupported(*o, "cannot precede a KV append");
        });
        PRISM_CHECK(status);
      }
    }
    return ok();
  }

  Status rope(const ir::Operation& o, Ex token, int64_t size, const Buffer& x) {
    int64_t dims = o.attr<int64_t>("dims");
    if (dims == 0) dims = size;
    const int64_t pairs = dims / 2;
    const double base = o.attr<double>("base"), scale = o.attr<double>("scale");
    // Position * turns keeps its fraction up to 2^24: turns are three f32, of which two have 11 bits, positions whole blocks and what is beyond.
    constexpr int64_t kBlock = 4096;
    std::vector<float> high, middle, low;
    for (int64_t i = 0; i < pairs; ++i) {
      double turns = scale * std::pow(base, -2.0 * double(i) / double(dims)) / (2 * M_PI), unit = std::exp2(std::floor(std::log2(turns)) - 10);
      for (std::vector<float>* part : {&high, &middle}) {
        part->push_back(float(std::floor(turns / unit) * unit));
        turns -= double(part->back());
        unit = std::ldexp(unit, -11);
      }
      low.push_back(float(turns));
    }
    const std::string id = std::to_string(tables_++);
    const Buffer tables[] = {b_.table("turns_high" + id, high), b_.table("turns_middle" + id, middle), b_.table("turns_low" + id, low)};
    const bool factors = o.operands().size() > 2;
    const ir::Value* pos = o.operand(1);
    Ex position;
    if (!r_.is_argument(pos) && pos->def->op == Op::Positions) {
      PRISM_TRY(position, r_.position(*pos->def, token));
    } else {
      position = cast(Elem::I64, b_.load(r_.buffer(pos), token));
    }
    position = b_.let(position);
    const Ex blocks = b_.let(cast(Elem::F32, position / kBlock * kBlock)), beyond = b_.let(cast(Elem::F32, position % kBlock));
    const bool adjacent = o.attr<std::string>("mode") == "adjacent";
    auto rotate = [&](Ex i, int l) {
      std::vector<Ex> turns;
      for (const Buffer& table : tables) turns.push_back(b_.let(b_.load(table, i, l)));
      std::vector<Ex> parts = {blocks * turns[0], beyond * turns[0], blocks * turns[1], beyond * turns[1] + (blocks + beyond) * turns[2]};
      for (Ex& part : parts) {
        // With factors no longer exact, but they only stretch low frequencies.
        part = b_.let(factors ? part / b_.load(r_.buffer(o.operand(2)), i, l) : part);
        part = b_.let(part - call(Fn::RoundEven, {part}));
      }
      const Ex t = b_.let(parts[0] + parts[1] + parts[2] + parts[3]);
      const Ex turn = b_.let(t - call(Fn::RoundEven, {t}));
      return std::pair(b_.let(call(Fn::CosTurns, {turn})), b_.let(call(Fn::SinTurns, {turn})));
    };
    if (!adjacent) {
      work_.over(pairs, [&](Ex i, int l) {
        auto [cosine, sine] = rotate(i, l);
        const Ex u = b_.let(b_.load(x, x0_ + i, l)), v = b_.let(b_.load(x, x0_ + i + pairs, l));
        b_.store(x, x0_ + i, u * cosine - v * sine);
        b_.store(x, x0_ + i + pairs, u * sine + v * cosine);
      });
      return ok();
    }
    const Buffer cs = work_.memory("cos" + id, Elem::F32, pairs), sn = work_.memory("sin" + id, Elem::F32, pairs);
    const Ex turns = work_.begin(pairs);
    work_.over(pairs, [&](Ex i, int l) {
      auto [cosine, sine] = rotate(i, l);
      b_.store(cs, turns + i, cosine);
      b_.store(sn, turns + i, sine);
    });
    work_.over_each(pairs, [&](Ex i) {
      const Ex u = b_.let(b_.load(x, x0_ + i * 2)), v = b_.let(b_.load(x, x0_ + i * 2 + 1));
      const Ex cosine = b_.let(b_.load(cs, turns + i)), sine = b_.let(b_.load(sn, turns + i));
      b_.store(x, x0_ + i * 2, u * cosine - v * sine);
      b_.store(x, x0_ + i * 2 + 1, u * sine + v * cosine);
    });
    return ok();
  }

  Region r_;
  Builder& b_;
  Worker& work_;
  int tables_ = 0;
  std::optional<KvStores> stores_;   ///< of a compressed cache
  Ex past_;
  Ex x0_;                            ///< where the head's values begin in their memory
};

}  // namespace

Result<LoweredKernel> lower_append(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, int block_threads) {
  return Append(op, name, dims, block_threads).run();
}

}  // namespace prism::codegen
