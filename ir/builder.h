// Builds operations with inferred result types.
//   Builder b(graph);
//   Value* h = b.RmsNorm({x, w}, {{"eps", 1e-5}});
// The first inference error is kept and every later call returns a placeholder, so a frontend checks once: b.status().
#pragma once

#include "ir/op_info.h"

namespace prism::ir {

class Builder {
 public:
  explicit Builder(Graph* g, Operation* before = nullptr) : graph_(g), before_(before) {}

  /// One method per op of ir/ops.def; returns result 0. `name` is a hint for the result's name.
#define OP(id, Name, mnemonic, signature, attrs, traits, from, to, tolerance)                             \
  Value* Name(llvm::ArrayRef<Value*> operands, AttrMap attributes = {}, llvm::StringRef name = "") {      \
    return build(Op::Name, operands, std::move(attributes), name);                                        \
  }
#include "ir/ops.def"

  Value* build(Op op, llvm::ArrayRef<Value*> operands, AttrMap attrs, llvm::StringRef name = "");
  void set_return(llvm::ArrayRef<Value*> values);
  Status status() const;
  Graph* graph() const { return graph_; }

 private:
  Graph* graph_;
  Operation* before_;
  std::optional<Error> error_;
};

}  // namespace prism::ir
