// Small questions several passes ask.
#pragma once

#include "ir/builder.h"
#include "passes/pass.h"

namespace prism::passes {

/// The number of rows of a tensor: the product of all dims but the last.
ir::Dim rows_of(const ir::Type& t);

/// "blk.12" of "blk.12.attn_q.weight", up to the first number; a weight whose name has none is a layer of its own.
std::string_view layer_of(std::string_view weight);

/// The op `kind` that computes v, or nullptr.
ir::Operation* defined_by(const ir::Value* v, ir::Op kind);

/// v's only user when v has exactly one use and the graph does not return it, or nullptr.
ir::Operation* only_user(const ir::Value* v);

/// A vector that is the same for all rows: a weight or constant of shape [n] or [1].
bool is_row_vector(const ir::Value* v);

/// The first operation that may use v: after its definition, or the graph's first. nullptr = append.
ir::Operation* insertion_point_after(ir::Graph& g, const ir::Value* v);

void set_module_attr(ir::Module& m, std::string_view key, ir::Attr value);
const ir::Attr* find_module_attr(const ir::Module& m, std::string_view key);

/// The weight of a type made from others, by name; made once per module, its own name derived from `base`.
ir::Weight* made_weight(ir::Module& m, const std::string& base, const ir::Type& type, std::vector<std::string> sources, ir::Conversion conversion = {}, int64_t interleave = 0);

/// The f32 weight of these values; made once per module, its own name derived from `base`.
ir::Value* values_weight(ir::Module& m, const std::string& base, std::vector<ir::Dim> shape, std::vector<double> values);

/// The weight made from `parts` (weights with equal dtype, conversion and trailing dims) along axis 0; made once per module.
ir::Value* concatenated_weight(ir::Module& m, llvm::ArrayRef<ir::Value*> parts, int64_t interleave);

/// The name in `names` closest to `name`.
std::string_view nearest(std::string_view name, const std::vector<std::string_view>& names);

}  // namespace prism::passes
