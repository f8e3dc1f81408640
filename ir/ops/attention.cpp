// What transformers need: embedding, positions, rotary embedding, KV cache and attention.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ir/kv_pages.h"
#include "ir/ops/eval_util.h"

namespace prism::ir {
namespace {

Result<int64_t> dim_attr(const EvalContext& c, std::string_view name) {
  const auto text = c.op.attr<std::string>(name);
  PRISM_TRY(Dim dim, Dim::parse(text));
  const auto value = dim.evaluate(c.dims);
  if (!value) return error(name, "=", text, " has no value; give its symbols in `dims`");
  return *value;
}

/// K and V as pages have them.
std::vector<float> demote(const Tensor& kv, const Type& type) {
  std::vector<float> planes = kv.f;
  const int64_t heads = kv.shape[1], size = kv.shape[2], row = heads * size;
  for (int64_t page = 0; page < rt::demoted_pages(kv.shape[0]); ++page)
    for (int64_t h = 0; h < heads; ++h)
      for (bool keys : {true, false}) {
        float* first = planes.data() + (keys ? 0 : kv.elements()) + page * rt::kKvPage * row + h * size;
        demote_page(first, row, size, keys ? type.key_bits : type.value_bits, keys);
      }
  return planes;
}

Status attention(EvalContext& c) {
  const Tensor &q = *c.in[0], &kv = *c.in[1];
  const int64_t queries = q.shape[0], heads = q.shape[1], size = q.shape[2];
  const int64_t positions = kv.shape[0], kv_heads = kv.shape[1];
  if (positions < queries) return error("the cache has ", positions, " positions, expected at least ", queries);
  const double scale = c.op.attr<double>("scale"), cap = c.op.attr<double>("softcap");
  const bool causal = c.op.attr<bool>("causal");
  const int64_t window = c.op.attr<int64_t>("window"), sinks = c.op.attr<int64_t>("sinks");
  const Type& type = c.op.operand(1)->type;
  const std::vector<float> demoted = type.is_compressed() ? demote(kv, type) : std::vector<float>();

  in_two_threads(heads, queries * positions * size, [&](int64_t begin, int64_t end) {
    std::vector<double> scores(positions), sums(size);
    for (int64_t h = begin; h < end; ++h) {
      const int64_t kv_head = h / (heads / kv_heads);
      for (int64_t i = 0; i < queries; ++i) {
        const int64_t at = positions - queries + i;  // the query's own position
        const int64_t exact = type.is_compressed() ? rt::kKvPage * rt::demoted_pages(at + 1) : 0;  // the first after the sinks
        const auto row = [&](int plane, int64_t j) {
          const float* planes = j >= rt::kKvSinks && j < exact ? demoted.data() : kv.f.data();
          return planes + plane * kv.elements() + (j * kv_heads + kv_head) * size;
        };
        const int64_t last = causal ? at : positions - 1;
        const int64_t first = window > 0 ? std::max<int64_t>(0, at - window + 1) : 0;
        const auto sees = [&](int64_t j) { return j >= first || j < sinks; };
        double max = -std::numeric_limits<double>::infinity();
        for (int64_t j = 0; j <= last; ++j) {
          if (!sees(j)) continue;
          const float* query = (j < sinks ? *c.in[2] : q).f.data() + (i * heads + h) * size;
          double sum = 0;
          const float* key = row(0, j);
          for (int64_t d = 0; d < size; ++d) sum += double(query[d]) * key[d];
          sum *= scale;
          scores[j] = cap > 0 ? cap * std::tanh(sum / cap) : sum;
          max = std::max(max, scores[j]);
        }
        double total = 0;
        std::ranges::fill(sums, 0.0);
        for (int64_t j = 0; j <= last; ++j) {
          if (!sees(j)) continue;
          const double weight = std::exp(scores[j] - max);
          total += weight;
          const float* value = row(1, j);
          for (int64_t d = 0; d < size; ++d) sums[d] += weight * value[d];
        }
        float* out = c.out[0].f.data() + (i * heads + h) * size;
        for (int64_t d = 0; d < size; ++d) out[d] = float(sums[d] / total);
      }
    }
  });
  return ok();
}

}  // namespace

Status eval_Embedding(EvalContext& c) {
  const Tensor &ids = *c.in[0], &table = *c.in[1];
  const int64_t rows = table.shape[0], size = table.shape[1];
  for (size_t i = 0; i < ids.i.size(); ++i) {
    const int64_t id = ids.i[i];
    if (id < 0 || id >= rows) return error("id ", id, " at ", i, ", expected 0 to ", rows - 1);
    std::copy_n(table.f.begin() + id * size, size, c.out[0].f.begin() + int64_t(i) * size);
  }
  return ok();
}

Status eval_Positions(EvalContext& c) {
  PRISM_TRY(const int64_t start, dim_attr(c, "start"));
  const int64_t most = c.op.attr<int64_t>("most");
  for (size_t i = 0; i < c.out[0].i.size(); ++i) {
    const int64_t position = start + int64_t(i);
    c.out[0].i[i] = most > 0 ? std::min(position, most) : position;
  }
  return ok();
}

Status eval_Rope(EvalContext& c) {
  const Tensor &x = *c.in[0], &pos = *c.in[1];
  const Tensor* factors = c.in.size() > 2 ? c.in[2] : nullptr;
  const int64_t heads = x.shape[1], size = x.shape[2];
  const int64_t dims = c.op.attr<int64_t>("dims") ? c.op.attr<int64_t>("dims") : size;
  const double base = c.op.attr<double>("base"), scale = c.op.attr<double>("scale");
  const auto mode = c.op.attr<std::string>("mode");
  if (mode != "adjacent" && mode != "half") return error("unknown mode '", mode, "', expected adjacent or half");
  const bool adjacent = mode == "adjacent";
  c.out[0].f = x.f;
  for (int64_t s = 0; s < x.shape[0]; ++s) {
    for (int64_t i = 0; i < dims / 2; ++i) {
      const double factor = factors ? double(factors->f[i]) : 1.0;
      const double angle = double(pos.i[s]) * scale * std::pow(base, -2.0 * double(i) / double(dims)) / factor;
      const double cos = std::cos(angle), sin = std::sin(angle);
      const int64_t first = adjacent ? 2 * i : i, second = adjacent ? 2 * i + 1 : i + dims / 2;
      for (int64_t h = 0; h < heads; ++h) {
        const float* in = x.f.data() + (s * heads + h) * size;
        float* out = c.out[0].f.data() + (s * heads + h) * size;
        out[first] = float(in[first] * cos - in[second] * sin);
        out[second] = float(in[first] * sin + in[second] * cos);
      }
    }
  }
  return ok();
}

Status eval_KvAppend(EvalContext& c) {
  const Tensor& kv = *c.in[0];
  Tensor& out = c.out[0];
  const DType dtype = c.op.result()->type.dtype;
  const int64_t size = out.shape[2];
  for (int plane = 0; plane < 2; ++plane) {
    auto to = out.f.begin() + plane * out.elements();
    const auto old = kv.f.begin() + plane * kv.elements();
    to = std::copy(old, old + kv.elements(), to);
    const Tensor& added = *c.in[1 + plane];
    std::ranges::copy(added.f, to);
    if (size > 0 && !round_rows(dtype, &*to, added.elements() / size, size)) {
      return error("cannot convert to ", info(dtype).name);
    }
  }
  return ok();
}

Status eval_KvDemote(EvalContext& c) {  // attention does it, so that a query can still read the page as it was
  c.out[0].f = c.in[0]->f;
  return ok();
}

Status eval_Attention(EvalContext& c) { return attention(c); }
Status eval_FlashAttention(EvalContext& c) { return attention(c); }  // tiles change the order of sums, not the result

Status eval_Tail(EvalContext& c) {
  const Tensor& x = *c.in[0];
  const int64_t rows = c.out[0].shape[0];
  if (rows > x.shape[0]) return error("the last ", rows, " rows of ", x.shape[0]);
  const int64_t skipped = (x.shape[0] - rows) * x.shape[1];
  copy_elements(x, c.out[0], [&](int64_t i) { return skipped + i; });
  return ok();
}

}  // namespace prism::ir
