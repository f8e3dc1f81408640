#include "ir/builder.h"

namespace prism::ir {

namespace {

/// What a failed builder hands out: a value that may be looked at, in no graph.
Value* placeholder() {
  static Value v = [] {
    Value p;
    p.kind = Value::Kind::Argument;
    p.type = Type::tensor(DType::F32, {1, 1, 1, 1});
    p.name = "error";
    return p;
  }();
  return &v;
}

}  // namespace

Value* Builder::build(Op op, llvm::ArrayRef<Value*> operands, AttrMap attrs, llvm::StringRef name) {
  if (error_) return placeholder();
  normalize_attrs(op, attrs);
  auto types = infer(op, operands, attrs, *graph_->module);
  if (!types) {
    error_ = error("graph @", graph_->name, name.empty() ? "" : ": %", name.str(), ": ", types.message());
    return placeholder();
  }
  Operation* o = graph_->insert(op, operands, std::move(attrs), *types, before_);
  if (!name.empty()) graph_->rename(o->result(), name);
  return o->result();
}

void Builder::set_return(llvm::ArrayRef<Value*> values) {
  if (!error_) graph_->returns.assign(values.begin(), values.end());
}

Status Builder::status() const {
  if (error_) return *error_;
  return ok();
}

}  // namespace prism::ir
