// plan-kv-compression: what positions of a KV cache become once they are not among the newest, by layer. Keys and queries are rotated
// after their positions are in them, which changes no score, and values are rotated back after attention: channels that stand out are
// spread over all, so that few bits do (QuaRot, Ashkboos et al. 2024). Before that keys may be balanced against queries (ir/key_balance.h).
// Layers whose window is among the newest are left as they are.

#include <algorithm>

#include "ir/key_balance.h"
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

/// Factors of each layer's keys, by KV head and channel; none where a layer's text is empty.
Result<std::vector<std::vector<double>>> parse_balance(llvm::StringRef text, size_t layers) {
  std::vector<std::vector<double>> all;
  if (text.empty()) return std::vector<std::vector<double>>(layers);
  llvm::SmallVector<llvm::StringRef> items;
  text.split(items, '/');
  if (items.size() != layers) return error("option balance: found that of ", items.size(), " layers, expected ", layers);
  for (llvm::StringRef item : items) {
    auto factors = parse_key_balance(item);
    if (!factors) return error("option balance: ", factors.message());
    all.push_back(std::move(*factors));
  }
  return all;
}

/// A window in which no position is demoted.
bool reads_newest_only(const Operation& append) {
  return llvm::all_of(append.result()->uses, [](const Use& u) {
    const int64_t window = u.op->op == Op::Attention ? u.op->attr<int64_t>("window") : 0;
    return window > 0 && !u.op->attr<int64_t>("sinks") && window <= rt::kKvPage * rt::kKvRecentPages;
  });
}

class Compressor {
 public:
  explicit Compressor(Graph& g) : graph_(g) {}

  /// `balance`: of its keys; empty: none.
  Status layer(Operation& append, KvBits bits, const std::vector<double>& balance) {
    Value* cache = append.operand(0);
    std::vector<double> inverse = balance;
    for (double& factor : inverse) factor = 1 / factor;
    PRISM_CHECK(multiply(append, 1, balance));
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
      for (unsigned i = 0; i < u.op->operands().size(); ++i) {
        if (u.op->operand(i)->type.is_kv()) continue;
        PRISM_CHECK(multiply(*u.op, i, inverse));
        PRISM_CHECK(rotate(*u.op, i));
      }
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

  /// Multiplies an operand [tokens, heads, size] by factors of [KV heads, size], if there are any.
  Status multiply(Operation& op, unsigned operand, const std::vector<double>& factors) {
    if (factors.empty()) return ok();
    Value* v = op.operand(operand);
    const auto heads = v->type.dim(1).constant(), size = v->type.dim(2).constant();
    const int64_t kv_heads = int64_t(factors.size()) / *size;
    std::vector<double> all;
    for (int64_t h = 0; h < *heads; ++h) {
      const auto from = factors.begin() + h / (*heads / kv_heads) * *size;
      all.insert(all.end(), from, from + *size);
    }
    Builder b(&graph_, &op);
    Value* product = b.Mul({v, values_weight(*graph_.module, v->name + ".balance", {*heads, *size}, std::move(all))}, {}, v->name + ".balanced");
    PRISM_CHECK(b.status());
    op.set_operand(operand, product);
    return ok();
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
    PRISM_TRY(const auto balance, parse_balance(options.get("balance", ""), appends.size()));
    for (size_t i = 0; i < appends.size(); ++i) {
      const Type& type = appends[i]->operand(0)->type;
      if (!bits[i].key || reads_newest_only(*appends[i])) continue;
      if (type.is_compressed()) return error("kv cache %", appends[i]->operand(0)->name, " is ", type.str(), " already");
      const auto size = type.dim(2).constant();
      if (!size || *size % 32) return error("kv cache %", appends[i]->operand(0)->name, ": found ", type.str(), ", expected heads of a multiple of 32");
      const int64_t channels = type.dim(1).constant().value_or(0) * *size;
      if (!balance[i].empty() && int64_t(balance[i].size()) != channels)
        return error("option balance: found ", balance[i].size(), " channels of kv cache %", appends[i]->operand(0)->name, ", expected ", channels);
      PRISM_CHECK(Compressor(*g).layer(*appends[i], bits[i], balance[i]));
    }
  }
  return ok();
}

}  // namespace prism::passes
