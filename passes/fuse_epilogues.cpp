// fuse-epilogues: groups ops into kernels. Work is never done twice: an op is in exactly one kernel (positions and
// constants are copied). The kinds of kernels, which are those code generation knows:
//   linear     a linear and what follows for the same rows: bias, residual, activation, glu, scale, q8a or bf16; with norms=linear
//              also the norm before it, and its q8a, of a single row: each block of a GPU computes it, which is quicker than to wait.
//              Linears that share a norm get one each
//   product    a conv2d or matmul and the elementwise ops and batch_norm of the same shape that follow
//   append     split, norm, rope, hadamard of q, k and v, and kv_append; with appends=joined also the kv_demote of few tokens
//   attention  flash_attention, hadamard, its heads side by side, q8a; with appends=joined also what a single token appends to the
//              cache before it, unless that is compressed or has sinks
//   row-wise   any connected group of elementwise ops, norms, softmax, q8a, embedding over the same rows; `tail` starts
//   one single     anything else

#include "llvm/ADT/SetVector.h"
#include "passes/clusters.h"
#include "passes/util.h"
#include "runtime/base/kv_pages.h"

namespace prism::passes {

using namespace ir;

namespace {

/// Gives activations the type the next kernel multiplies.
bool is_narrowing(const Operation& op) {
  return (op.op == Op::Quantize && op.attr<std::string>("format") == "q8a") ||
         (op.op == Op::Cast && op.result()->type.dtype == DType::BF16);
}

/// Is computing a norm of what it reads in every block no great part of its work? Of a single row.
bool can_compute_norm(const Operation& linear) {
  constexpr int64_t kMostInputs = 8192;   // are in a block's memory as f32 and as q8a
  constexpr int64_t kMostOutputs = 16;    // for each input
  const Type& w = linear.operand(1)->type;
  const auto n = w.dim(0).constant(), k = w.dim(1).constant();
  return rows_of(linear.result()->type) == Dim(1) && n && k && *k <= kMostInputs && *n <= kMostOutputs * *k;
}

bool is_norm(const Operation& op) { return op.op == Op::RmsNorm || op.op == Op::LayerNorm; }

/// The linears that are all that read v, each able to compute its norm; empty if there is another reader.
llvm::SmallVector<Operation*> linears_reading(Graph& g, const Value* v) {
  llvm::SmallVector<Operation*> linears;
  if (g.returned(v)) return {};
  for (const Use& u : v->uses) {
    if (u.op->op != Op::Linear || u.operand != 0 || !can_compute_norm(*u.op)) return {};
    linears.push_back(u.op);
  }
  return linears;
}

/// A norm, and its q8a, that several linears read: once for each of them.
void copy_norms(Graph& g) {
  llvm::SmallVector<Operation*> norms;
  for (Operation& op : g.ops)
    if (is_norm(op)) norms.push_back(&op);
  const auto copy = [&](Operation* op, Value* input, Operation* before) {
    llvm::SmallVector<Value*, 3> operands(op->operands().begin(), op->operands().end());
    operands[0] = input;
    return g.insert(op->op, operands, op->attrs, op->result()->type, before)->result();
  };
  for (Operation* norm : norms) {
    Operation* user = only_user(norm->result());
    Operation* quantize = user && user->op == Op::Quantize ? user : nullptr;
    const auto linears = linears_reading(g, (quantize ? quantize : norm)->result());
    for (size_t i = 1; i < linears.size(); ++i) {
      Value* v = copy(norm, norm->operand(0), linears[i]);
      linears[i]->set_operand(0, quantize ? copy(quantize, v, linears[i]) : v);
    }
  }
}

class Fuser {
 public:
  Fuser(Graph& g, bool norms_of_linears, bool join_appends)
      : graph_(g), clusters_(g), norms_of_linears_(norms_of_linears), join_appends_(join_appends) {}

  void run() {
    for_each(Op::Linear, &Fuser::fuse_linear);
    for_each(Op::Conv2d, &Fuser::fuse_product);
    for_each(Op::Matmul, &Fuser::fuse_product);
    for_each(Op::KvAppend, &Fuser::fuse_append);
    for_each(Op::FlashAttention, &Fuser::fuse_attention);
    if (join_appends_) for_each(Op::FlashAttention, &Fuser::fuse_append_of);
    for (Operation& op : graph_.ops) fuse_rows(&op);
    clusters_.outline();
  }

 private:
  void for_each(Op kind, void (Fuser::*fuse)(Operation*)) {
    for (Operation& op : graph_.ops)
      if (op.op == kind) (this->*fuse)(&op);
  }

  /// Merges ops into one kernel that no other rule may extend.
  bool claim(llvm::ArrayRef<Operation*> ops) {
    if (!clusters_.merge(ops)) return false;
    claimed_.insert(ops.begin(), ops.end());
    return true;
  }
  bool claimed(const Operation* op) const { return claimed_.contains(op); }

  /// Can `user` continue a linear kernel whose last value is v?
  static bool is_epilogue(const Operation& user, const Value* v) {
    switch (user.op) {
      case Op::Relu:
      case Op::Silu:
      case Op::Gelu:
      case Op::Tanh:
      case Op::Sigmoid:
      case Op::Softcap:
      case Op::Scale:
      case Op::Glu:
        return true;
      case Op::Add:
      case Op::Mul: {
        if (user.result()->type != v->type) return false;
        const Value* other = user.operand(user.operand(0) == v);
        return is_row_vector(other) || (user.op == Op::Add && other->type == v->type);
      }
      default:
        return false;
    }
  }

  /// The norm whose result the linear reads, and what quantizes it in between, if nobody else reads them.
  llvm::SmallVector<Operation*, 2> norm_before(const Operation& linear) const {
    if (!norms_of_linears_ || !can_compute_norm(linear)) return {};
    const auto alone_before = [&](const Operation& user) {
      Operation* op = user.operand(0)->def;
      return op && !claimed(op) && only_user(op->result()) == &user ? op : nullptr;
    };
    Operation* norm = alone_before(linear);
    Operation* quantize = norm && norm->op == Op::Quantize ? norm : nullptr;
    if (quantize) norm = alone_before(*quantize);
    if (!norm || !is_norm(*norm)) return {};
    if (quantize) return {norm, quantize};
    return {norm};
  }

  void fuse_linear(Operation* op) {
    claim({op});
    llvm::SmallVector<Operation*, 3> with_norm = norm_before(*op);
    if (!with_norm.empty()) {
      with_norm.push_back(op);
      claim(with_norm);
    }
    for (;;) {
      const Value* v = op->result();
      for (const Use& u : v->uses)  // q8a or bf16 beside other uses: the kernel returns both
        if (is_narrowing(*u.op) && !claimed(u.op) && claim({op, u.op})) return;
      Operation* user = only_user(v);
      if (!user || claimed(user) || !is_epilogue(*user, v) || !claim({op, user})) return;
      op = user;
    }
  }

  void fuse_product(Operation* op) {
    claim({op});
    for (;;) {
      const Value* v = op->result();
      Operation* user = only_user(v);
      if (!user || claimed(user) || user->results.size() != 1 || user->result()->type != v->type) return;
      const bool follows = has_trait(user->op, Elementwise) || (user->op == Op::BatchNorm && user->operand(0) == v);
      if (!follows || !claim({op, user})) return;
      op = user;
    }
  }

  /// Ops between the linears and the cache or the queries.
  static bool belongs_to_append(const Operation& op) {
    switch (op.op) {
      case Op::Reshape:
      case Op::Rope:
      case Op::Scale:
      case Op::Hadamard:
        return true;
      case Op::Cast:
        return is_narrowing(op) && op.result()->type.rank() == 3;
      case Op::Slice:
        return op.attr<int64_t>("axis") + 1 == int64_t(op.operand(0)->type.rank());
      case Op::RmsNorm:
        return op.result()->type.rank() == 3;
      case Op::Add:
      case Op::Mul:
        return (is_row_vector(op.operand(0)) || is_row_vector(op.operand(1)) || is_of_heads(op)) && op.result()->type.rank() <= 3;
      default:
        return false;
    }
  }

  /// Does it combine [tokens, heads, size] with a weight [heads, size]?
  static bool is_of_heads(const Operation& op) {
    const Type &type = op.result()->type, &weight = op.operand(1)->type;
    return op.operand(1)->is_weight() && type.rank() == 3 && weight.rank() == 2 && weight.shape[0] == type.shape[1] && weight.shape[1] == type.shape[2];
  }

  /// The region is for the tokens that are appended; queries may be fewer, and then come from elsewhere.
  void fuse_append(Operation* append) {
    llvm::SetVector<Operation*> region;
    const Dim tokens = append->operand(1)->type.dim(0);
    region.insert(append);
    const Value* cache = append->result();
    if (const Operation* demote = only_user(cache); demote && demote->op == Op::KvDemote) cache = demote->result();
    for (const Use& u : cache->uses) {
      if (u.op->op != Op::FlashAttention) continue;
      for (const Value* q : u.op->operands()) {
        Operation* query = q->def;
        if (query && !claimed(query) && belongs_to_append(*query) && query->result()->type.dim(0) == tokens) region.insert(query);
      }
    }
    auto joins = [&](const Operation* op) {
      return op && !claimed(op) && !region.contains(const_cast<Operation*>(op)) && belongs_to_append(*op) &&
             op->result()->type.dim(0) == tokens && !graph_.returned(op->result()) &&
             llvm::all_of(op->result()->uses, [&](const Use& u) { return region.contains(u.op); });
    };
    for (size_t before = 0; before != region.size();) {  // an op joins once all its users have
      before = region.size();
      for (size_t i = 0; i < region.size(); ++i)
        for (Value* v : region[i]->operands())
          if (joins(v->def)) region.insert(v->def);
    }
    claim(region.getArrayRef());
    if (Operation* demote = only_user(append->result()); join_appends_ && demote && demote->op == Op::KvDemote && demote->attr<int64_t>("most_tokens") <= rt::kKvRollback) claim({append, demote});
  }

  void fuse_attention(Operation* op) {
    claim({op});
    if (Operation* rotation = only_user(op->result()); rotation && rotation->op == Op::Hadamard && !claimed(rotation) && claim({op, rotation})) op = rotation;
    Operation* heads = only_user(op->result());
    if (!heads || heads->op != Op::Reshape || rows_of(heads->result()->type) != op->result()->type.dim(0)) return;
    if (!claim({op, heads})) return;
    Operation* quantize = only_user(heads->result());
    if (quantize && is_narrowing(*quantize)) claim({heads, quantize});
  }

  /// With its queries, which must be computed where the append is.
  void fuse_append_of(Operation* attention) {
    Operation* append = defined_by(attention->operand(1), Op::KvAppend);
    Operation* query = attention->operand(0)->def;
    if (!append || !query || !claimed(query) || append->result()->type.is_compressed() || attention->attr<int64_t>("sinks")) return;
    if (attention->operand(0)->type.dim(0) != Dim(1) || append->operand(1)->type.dim(0) != Dim(1) || attention->attr<int64_t>("most_tokens") != 1) return;
    const auto is_other = [&](const Use& u) { return u.op != attention; };
    if (llvm::any_of(append->result()->uses, is_other) || only_user(query->result()) != attention) return;
    clusters_.merge({append, query, attention});
  }

  /// Each row of the result depends on the same row of the operands only.
  static bool is_row_wise(const Operation& op) {
    if (op.results.size() != 1 || op.result()->type.rank() < 2) return false;
    const Type& type = op.result()->type;
    if (op.op == Op::Embedding || op.op == Op::Tail || has_trait(op.op, RowReduce) || is_narrowing(op)) return true;
    if (op.op == Op::Reshape) return rows_of(op.operand(0)->type) == rows_of(type);
    if (op.op == Op::Quantize || op.op == Op::Dequantize) return !info(type.dtype).quantized && !info(op.operand(0)->type.dtype).quantized;
    return has_trait(op.op, Elementwise) &&
           llvm::all_of(op.operands(), [&](const Value* v) { return v->type.shape == type.shape || is_row_vector(v); });
  }

  void fuse_rows(Operation* op) {
    if (claimed(op) || !is_row_wise(*op) || op->op == Op::Tail) return;
    for (Value* v : op->operands()) {
      Operation* def = v->def;
      if (!def || claimed(def) || !is_row_wise(*def) || rows_of(v->type) != rows_of(op->result()->type)) continue;
      clusters_.merge({def, op});  // two kernels if they cannot be one
    }
  }

  Graph& graph_;
  Clusters clusters_;
  const bool norms_of_linears_, join_appends_;
  llvm::DenseSet<const Operation*> claimed_;
};

bool feeds_compressed_cache(const Operation& kernel) {
  return kernel.body && llvm::any_of(kernel.body->ops, [](const Operation& o) { return (o.op == Op::KvAppend || o.op == Op::KvDemote) && o.result()->type.is_compressed(); });
}

/// What is appended to a compressed cache is read right after: its kernels go to before their first user.
void sink_appends(Graph& g) {
  llvm::SmallVector<Operation*> kernels;
  for (Operation& op : g.ops)
    if (feeds_compressed_cache(op)) kernels.push_back(&op);
  for (Operation* kernel : llvm::reverse(kernels)) {
    const auto uses_it = [&](const Operation& op) { return llvm::any_of(op.operands(), [&](const Value* v) { return v->def == kernel; }); };
    const auto user = std::find_if(std::next(kernel->getIterator()), g.ops.end(), uses_it);
    if (user != g.ops.end()) g.ops.splice(user, g.ops, kernel->getIterator());
  }
}

}  // namespace

Status fuse_epilogues(Module& m, const Options& options) {
  const bool norms_of_linears = options.get("norms", "apart") == "linear";
  const bool join_appends = options.get("appends", "apart") == "joined";
  for (const auto& g : m.graphs) {
    if (norms_of_linears) copy_norms(*g);
    Fuser(*g, norms_of_linears, join_appends).run();
    sink_appends(*g);
  }
  return ok();
}

}  // namespace prism::passes
