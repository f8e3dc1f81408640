// fuse-projections: linears that read the same value become one, so that it is read (and quantized) once and the
// matrix is longer:
//   mul(silu(linear(x, @gate)), linear(x, @up))  ->  glu(linear(x, @gate_up)) {act=silu}
//   linear(x, @q), linear(x, @k), linear(x, @v)  ->  slices of linear(x, @q_k_v)
// Only weights of one type merge; linears followed by a scale of their own tensor stay alone.

#include "llvm/ADT/MapVector.h"
#include "passes/pattern.h"
#include "passes/util.h"

namespace prism::passes {

using namespace ir;

namespace {

constexpr int64_t kInterleave = 16;  // rows of gate and up alternate in groups, so that a kernel's tile holds both

/// What must be equal for linears to merge; weights that are interleaved already cannot.
bool mergeable(const Module& m, const Operation* a, const Operation* b) {
  if (a->operand(0) != b->operand(0) || a->operands().size() != b->operands().size()) return false;
  for (unsigned i = 1; i < a->operands().size(); ++i) {
    const Value *wa = a->operand(i), *wb = b->operand(i);
    if (!wa->is_weight() || !wb->is_weight() || wa == wb) return false;
    if (wa->type.dtype != wb->type.dtype || wa->type.layout != wb->type.layout) return false;
    if (m.weight_of(wa)->interleave || m.weight_of(wb)->interleave || m.weight_of(wa)->conversion != m.weight_of(wb)->conversion) return false;
  }
  return a->result()->type.dtype == b->result()->type.dtype;
}

/// One linear before `before` that computes all of `linears`.
Operation* merge(llvm::ArrayRef<Operation*> linears, int64_t interleave, Operation* before) {
  Graph& g = *before->parent;
  llvm::SmallVector<Value*, 3> operands = {linears.front()->operand(0)};
  for (unsigned i = 1; i < linears.front()->operands().size(); ++i) {
    llvm::SmallVector<Value*> parts;
    for (Operation* l : linears) parts.push_back(l->operand(i));
    operands.push_back(concatenated_weight(*g.module, parts, interleave));
  }
  Type type = linears.front()->result()->type;
  type.shape.back() = operands[1]->type.dim(0);
  return g.insert(Op::Linear, operands, linears.front()->attrs, type, before);
}

/// The name glu has for the activation, empty if it has none.
std::string glu_activation(const Operation* op) {
  if (op->op == Op::Silu || op->op == Op::Relu) return std::string(info(op->op).mnemonic);
  if (op->op != Op::Gelu) return "";
  const auto approximate = op->attr<std::string>("approximate");
  return approximate == "tanh" ? "gelu_tanh" : approximate == "none" ? "gelu" : "";
}

bool fuse_gate_up(Operation* mul, Rewriter& rw) {
  const Module& m = *mul->parent->module;
  for (unsigned side : {0u, 1u}) {
    Operation* act = mul->operand(side)->def;
    Operation* up = defined_by(mul->operand(1 - side), Op::Linear);
    if (!act || !up || only_user(act->result()) != mul || only_user(up->result()) != mul) continue;
    const std::string activation = glu_activation(act);
    if (activation.empty()) continue;
    Operation* gate = defined_by(act->operand(0), Op::Linear);
    if (!gate || only_user(gate->result()) != act || !mergeable(m, gate, up)) continue;
    if (gate->result()->type != up->result()->type) continue;
    const std::optional<int64_t> rows = up->operand(1)->type.dim(0).constant();
    if (!rows) continue;

    const bool interleaved = *rows % kInterleave == 0;
    Operation* linear = merge({gate, up}, interleaved ? kInterleave : 0, mul);
    AttrMap attrs = {{"act", activation}, {"group", interleaved ? kInterleave : *rows}};
    Operation* glu = mul->parent->insert(Op::Glu, linear->result(), std::move(attrs), mul->result()->type, mul);
    rw.replace(mul, glu->result());
    return true;
  }
  return false;
}

constexpr Pattern kGateUp[] = {{Op::Mul, fuse_gate_up}};

bool scaled_per_tensor(const Operation* linear) {
  const Operation* user = only_user(linear->result());
  if (!user || user->op != Op::Mul) return user && user->op == Op::Scale;
  return is_row_vector(user->operand(0)) || is_row_vector(user->operand(1));
}

Status fuse_shared_input(Graph& g) {
  llvm::MapVector<Value*, std::vector<std::vector<Operation*>>> by_input;
  for (Operation& op : g.ops) {
    if (op.op != Op::Linear || !op.operand(1)->is_weight() || scaled_per_tensor(&op)) continue;
    auto& groups = by_input[op.operand(0)];
    auto group = llvm::find_if(groups, [&](auto& members) {
      return llvm::all_of(members, [&](Operation* l) { return mergeable(*g.module, l, &op); });
    });
    if (group == groups.end()) {
      groups.push_back({&op});
    } else {
      group->push_back(&op);
    }
  }
  for (auto& [input, groups] : by_input)
    for (auto& linears : groups) {
      if (linears.size() < 2) continue;
      Operation* merged = merge(linears, 0, linears.front());
      const int64_t axis = int64_t(merged->result()->type.rank()) - 1;
      int64_t begin = 0;
      for (Operation* l : linears) {
        const std::optional<int64_t> rows = l->operand(1)->type.dim(0).constant();
        if (!rows) return error("weight @", l->operand(1)->name, ": found a symbolic number of rows");
        AttrMap attrs = {{"axis", axis}, {"begin", begin}, {"end", begin + *rows}};
        begin += *rows;
        Operation* part = g.insert(Op::Slice, merged->result(), std::move(attrs), l->result()->type, linears.front());
        l->result()->replace_all_uses_with(part->result());
      }
      for (Operation* l : linears) l->erase();
    }
  return ok();
}

}  // namespace

Status fuse_projections(Module& m, const Options&) {
  for (const auto& g : m.graphs) {
    PRISM_CHECK(apply_patterns(*g, kGateUp));
    PRISM_CHECK(fuse_shared_input(*g));
  }
  return ok();
}

}  // namespace prism::passes
