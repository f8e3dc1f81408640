// plan-kv-compression: what positions of a KV cache become once they are not among the newest, by layer. Keys and queries are rotated
// after their positions are in them, which changes no score, and values are rotated back after attention: channels that stand out are
// spread over all, so that few bits do (QuaRot, Ashkboos et al. 2024). Layers whose window is among the newest are left as they are.

#include <algorithm>

#include "ir/kv_pages.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringRef.h"
#include "passes/util.h"

namespace prism::passes {

using namespace ir;

namespace {

/// "k4v3" or "k4v3*2/k8v8/exact/...", the bits of each layer; none where it stays exact.
Result<std::vector<KvBits>> parse_bits(llvm::StringRef text, size_t layers) {
  std::vector<KvBits> all;
  llvm::SmallVector<llvm::StringRef> items;
  text.split(items, '/');
  for (llvm::StringRef item : items) {
    auto [bits, times] = item.split('*');
    unsigned count = 1;
    if (item.contains('*') && (!llvm::to_integer(times, count, 10) || count < 1 || count > layers))
      return error("option bits: found '", times.str(), "' after *, expected 1 to ", layers);
    KvBits parsed;
    if (bits != llvm::StringRef(kKvExact)) {
      const auto found = KvBits::parse(bits);
      if (!found) return error("option bits: expected ", found.message(), ", or ", std::string(kKvExact));
      parsed = *found;
    }
    all.insert(all.end(), count, parsed);
  }
  if (all.size() == 1) all.assign(layers, all[0]);
  if (all.size() != layers) return error("option bits: found bits of ", all.size(), " layers, expected ", layers, ", or one for all");
  return all;
}

/// A window in which no position is demoted.
bool reads_newest_only(const Operation& append) {
  return llvm::all_of(append.result()->uses, [](const Use& u) {
    const int64_t window = u.op->op == Op::Attention ? u.op->attr<int64_t>("window") : 0;
    return window > 0 && window <= rt::kKvPage * rt::kKvRecentPages;
  });
}

class Compressor {
 public:
  explicit Compressor(Graph& g) : graph_(g) {}

  Status layer(Operation& append, KvBits bits) {
    Value* cache = append.operand(0);
    for (Value* v : {cache, append.result()}) {
      v->type.key_bits = bits.key;
      v->type.value_bits = bits.value;
    }
    for (unsigned i : {1u, 2u}) PRISM_CHECK(rotate(append, i));
    const llvm::SmallVector<Use> uses(append.result()->uses.begin(), append.result()->uses.end());
    Builder b(&graph_, insertion_point_after(graph_, append.result()));
    Value* demoted = b.KvDemote({append.result()}, {}, append.result()->name + ".demoted");
    PRISM_CHECK(b.status());
    follow(append.result(), demoted);
    for (const Use& u : uses) {
      if (u.op->op != Op::Attention) return error("kv cache %", append.result()->name, " is read by ", info(u.op->op).mnemonic, ", expected attention");
      PRISM_CHECK(rotate(*u.op, 0));
      Value* old = u.op->result();
      Builder after(&graph_, insertion_point_after(graph_, old));
      Value* back = after.Hadamard({old}, {}, old->name + ".rotated");
      PRISM_CHECK(after.status());
      follow(old, back);
    }
    return ok();
  }

 private:
  /// Whoever used `old`, but for the op that makes `next` of it, uses that.
  void follow(Value* old, Value* next) {
    old->replace_uses_if(next, [&](const Use& u) { return u.op != next->def; });
    std::ranges::replace(graph_.returns, old, next);
  }

  Status rotate(Operation& op, unsigned operand) {
    Builder b(&graph_, &op);
    Value* rotated = b.Hadamard({op.operand(operand)}, {}, op.operand(operand)->name + ".rotated");
    PRISM_CHECK(b.status());
    op.set_operand(operand, rotated);
    return ok();
  }

  Graph& graph_;
};

}  // namespace

Status plan_kv_compression(Module& m, const Options& options) {
  for (const auto& g : m.graphs) {
    llvm::SmallVector<Operation*> appends;
    for (Operation& op : g->ops)
      if (op.op == Op::KvAppend) appends.push_back(&op);
    if (appends.empty()) continue;
    PRISM_TRY(const auto bits, parse_bits(options.get("bits", "k4v4"), appends.size()));
    for (size_t i = 0; i < appends.size(); ++i) {
      const Type& type = appends[i]->operand(0)->type;
      if (!bits[i].key || reads_newest_only(*appends[i])) continue;
      if (type.is_compressed()) return error("kv cache %", appends[i]->operand(0)->name, " is ", type.str(), " already");
      const auto size = type.dim(2).constant();
      if (!size || *size % 32) return error("kv cache %", appends[i]->operand(0)->name, ": found ", type.str(), ", expected heads of a multiple of 32");
      PRISM_CHECK(Compressor(*g).layer(*appends[i], bits[i]));
    }
  }
  return ok();
}

}  // namespace prism::passes
