// Per head: slice, optional norm, rotary position, and the store into the KV cache or the rotated queries.
// A task is one head of one token; on GPUs each warp has one.
#include "codegen/kernels/demote.h"
#include "codegen/kernels/head_rows.h"

namespace prism::codegen {

using namespace kir;
using ir::Op;

namespace {

class Append {
 public:
  Append(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, int block_threads)
      : r_(op, name, dims, block_threads), b_(r_.b), work_(r_.work), rows_(r_) {}

  Result<LoweredKernel> run() {
    struct Part {
      HeadChain chain;
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
        const ir::Operation* demote = v->def->op == Op::KvDemote ? v->def : nullptr;
        const ir::Operation& append = demote ? *demote->operand(0)->def : *v->def;
        if (append.op != Op::KvAppend) return r_.unsupported(append, "expected kv_append");
        const ir::Value* kv = append.operand(0);
        PRISM_TRY(HeadChain k, rows_.trace(append.operand(1)));
        PRISM_TRY(HeadChain val, rows_.trace(append.operand(2)));
        PRISM_CHECK(same_tokens(append.operand(1)));
        const Ex past = b_.let(r_.dim(kv->type.dim(0)));
        if (kv->type.is_compressed()) {
          PRISM_CHECK(open_stores(append));
          if (demote && (work_.rows_at_once() == 1 || stores_->keys.staged())) return r_.unsupported(*demote, "demotion of many tokens in the kernel that appends");
          if (demote) demote_.emplace(r_, *demote, kv);
          for (const KvStore* store : {&stores_->keys, &stores_->values})
            parts.push_back({store->shape().keys ? k : val, [store, this](Ex token, Ex head, const Buffer& x) { store_exact(*store, b_.let(past_ + token), head, x); }});
          continue;
        }
        parts.push_back({k, [=, size = k.size, this](Ex token, Ex head, const Buffer& x) { rows_.store_key(kv, past + token, head, size, x, x0_); }});
        parts.push_back({val, [=, size = val.size, this](Ex token, Ex head, const Buffer& x) { rows_.store_value(kv, past + token, head, size, x, x0_); }});
      } else {
        PRISM_TRY(HeadChain q, rows_.trace(v));
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
            if (Status s = rows_.make(p.chain, token, head, x, x0_); !s) status = s;
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
      const auto some = [&] { b_.if_(job < b_.let(r_.dim(jobs)), append); };
      const Ex blocks = b_.let(r_.dim(blocks_of(jobs, at_once)));
      if (demote_) b_.if_(b_.task() < blocks, some, [&] { demote_->run(b_.let(b_.task() - blocks)); });
      else some();
    } else {
      append();
    }
    PRISM_CHECK(status);
    return r_.finish(blocks_of(jobs, at_once) + (demote_ ? demote_->tasks() : ir::Dim(0)));
  }

 private:
  static ir::Dim blocks_of(ir::Dim jobs, int64_t at_once) { return at_once > 1 ? ir::Dim::floor_div(jobs + ir::Dim(at_once - 1), at_once) : jobs; }

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

  Region r_;
  Builder& b_;
  Worker& work_;
  HeadRows rows_;
  std::optional<KvStores> stores_;   ///< of a compressed cache
  std::optional<Demote> demote_;     ///< further blocks do
  Ex past_;
  Ex x0_;                            ///< where the head's values begin in their memory
};

}  // namespace

Result<LoweredKernel> lower_append(const ir::Operation& op, const std::string& name, const std::vector<std::string>& dims, int block_threads) {
  return Append(op, name, dims, block_threads).run();
}

}  // namespace prism::codegen
