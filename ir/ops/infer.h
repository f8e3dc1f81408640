// Result types that a signature cannot express: one `infer_<Name>` per op with the trait CustomInfer.
#pragma once

#include "ir/signature.h"

namespace prism::ir {

using Types = llvm::SmallVector<Type, 2>;

struct InferContext {
  const OpInfo& op;
  llvm::ArrayRef<Value*> operands;
  const AttrMap& attrs;  ///< known, of the right kind, the required ones present
  const Module& module;
  Axes axes;             ///< as unified with the signature

  const Type& type(unsigned i) const { return operands[i]->type; }
  Dim axis(std::string_view name) const { return axes.named.find(name)->second; }
  template <class T>
  T attr(std::string_view key) const {
    return attr_or_default<T>(op.op, attrs, key);
  }
  int64_t integer(std::string_view key) const { return attr<int64_t>(key); }
  std::string text(std::string_view key) const { return attr<std::string>(key); }

  template <class... Parts>
  Error fail(const Parts&... parts) const {
    return error(op.mnemonic, ": ", parts...);
  }
  /// The attribute, one of `words`.
  Result<std::string> one_of(std::string_view key, std::initializer_list<std::string_view> words) const;
  /// The attribute's `count` integers, each at least `least`.
  Result<std::vector<int64_t>> integers(std::string_view key, size_t count, int64_t least) const;
  /// The attribute `axis`, in [0, rank).
  Result<size_t> axis_index(size_t rank) const;
};

using InferFn = Result<Types> (*)(InferContext&);

#define OP(id, Name, mnemonic, signature, attrs, traits, from, to, tolerance) \
  Result<Types> infer_##Name(InferContext& c);
#include "ir/ops.def"

}  // namespace prism::ir
