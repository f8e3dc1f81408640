// Embedding, positions, rotary embedding, KV cache, attention.
#include "ir/ops/infer.h"
#include "runtime/base/kv_pages.h"

namespace prism::ir {

Result<Types> infer_Embedding(InferContext& c) {
  return Types{Type::tensor(DType::F32, {c.axis("n"), c.axis("d")})};
}

Result<Types> infer_Positions(InferContext& c) {
  for (const char* key : {"start", "count"})
    if (auto d = Dim::parse(c.text(key)); !d) return c.fail("attribute '", key, "': ", d.message());
  if (c.integer("most") < 0) return c.fail("most is ", c.integer("most"), ", expected at least 0");
  return Types{Type::tensor(DType::I32, {*Dim::parse(c.text("count"))})};
}

Result<Types> infer_Rope(InferContext& c) {
  PRISM_CHECK(c.one_of("mode", {"adjacent", "half"}));
  const Type& x = c.type(0);
  const auto size = c.axis("d").constant();
  const int64_t dims = c.integer("dims") ? c.integer("dims") : size.value_or(0);
  if (!size || dims <= 0 || dims > *size || dims % 2 != 0)
    return c.fail("rotates ", dims, " of ", x.str(), ", expected an even number up to the last axis");
  if (c.operands.size() == 3 && !(c.type(2).rank() == 1 && c.type(2).dim(0) == Dim(dims / 2)))
    return c.fail("factors are ", c.type(2).str(), ", expected [", dims / 2, "]");
  return Types{x};
}

Result<Types> infer_KvAppend(InferContext& c) {
  Type t = c.type(0);
  t.shape[0] = c.axis("p") + c.axis("s");
  return Types{t};
}

Result<Types> infer_KvDemote(InferContext& c) {
  if (!c.type(0).is_compressed()) return c.fail("kv is ", c.type(0).str(), ", expected bits for demoted positions, as in kv<f16,k4v3>");
  return Types{c.type(0)};
}

namespace {

Result<Types> attention(InferContext& c) {
  const auto heads = c.axis("n").constant(), kv_heads = c.axis("h").constant();
  if (!heads || !kv_heads || *kv_heads <= 0 || *heads % *kv_heads != 0)
    return c.fail("q is ", c.type(0).str(), " and kv is ", c.type(1).str(),
                  ", expected heads to be a multiple of kv heads");
  if (less_equal(c.axis("s"), c.axis("p"), c.module.ranges()) == Answer::No)
    return c.fail("q has ", c.axis("s").str(), " rows, expected at most the cache's ", c.axis("p").str());
  const int64_t window = c.integer("window"), sinks = c.integer("sinks");
  if (window < 0) return c.fail("window is ", window, ", expected at least 0");
  if (sinks < 0 || sinks % rt::kKvPage) return c.fail("sinks is ", sinks, ", expected a multiple of ", rt::kKvPage);
  if ((sinks > 0) != (c.operands.size() > 2)) return c.fail("sinks is ", sinks, ", expected more than 0 with queries of sinks and 0 without");
  if (sinks > 0 && !window) return c.fail("sinks is ", sinks, ", expected 0 without a window");
  if (sinks > 0 && c.type(2) != c.type(0)) return c.fail("sink_q is ", c.type(2).str(), ", expected ", c.type(0).str(), " as q is");
  return Types{c.type(0)};
}

}  // namespace

Result<Types> infer_Attention(InferContext& c) { return attention(c); }

Result<Types> infer_FlashAttention(InferContext& c) {
  for (const char* key : {"tile_k", "most_tokens"})
    if (c.integer(key) <= 0) return c.fail(key, " is ", c.integer(key), ", expected at least 1");
  return attention(c);
}

}  // namespace prism::ir
