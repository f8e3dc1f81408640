#include "tools/key_balance.h"

#include <cmath>

#include "ir/key_balance.h"
#include "ir/module.h"
#include "runtime/base/kv_pages.h"

namespace prism::tools {

KeyStatistics::Layer& KeyStatistics::layer(const ir::Value* cache) {
  const auto [at, added] = index_.try_emplace(cache->name, layers_.size());
  if (added) {
    Layer& made = layers_.emplace_back();
    made.heads = *cache->type.dim(1).constant();
    made.size = *cache->type.dim(2).constant();
    made.keys.resize(size_t(made.heads * made.size));
    made.queries = made.keys;
  }
  return layers_[at->second];
}

void KeyStatistics::observe(const ir::Operation& op, const std::vector<const ir::Tensor*>& in) {
  if (op.op == ir::Op::KvAppend) {
    Layer& l = layer(op.operand(0));
    const std::vector<float>& keys = in[1]->f;
    const int64_t tokens = in[1]->shape[0], width = l.heads * l.size;
    for (int64_t first = 0; first < tokens; first += rt::kKvPage) {
      const int64_t end = std::min(first + rt::kKvPage, tokens);
      for (int64_t c = 0; c < width; ++c) {
        double sum = 0, squares = 0;
        for (int64_t t = first; t < end; ++t) {
          const double k = keys[size_t(t * width + c)];
          sum += k;
          squares += k * k;
        }
        l.keys[size_t(c)] += std::max(squares - sum * sum / double(end - first), 0.0);
      }
    }
  } else if (op.op == ir::Op::Attention && op.operand(1)->def && op.operand(1)->def->op == ir::Op::KvAppend) {
    Layer& l = layer(op.operand(1)->def->operand(0));
    const std::vector<float>& queries = in[0]->f;
    const int64_t heads = in[0]->shape[1], share = heads / l.heads;
    for (size_t i = 0; i < queries.size(); ++i) {
      const int64_t head = int64_t(i) / l.size % heads;
      l.queries[size_t(head / share * l.size + int64_t(i) % l.size)] += double(queries[i]) * queries[i] / double(share);
    }
  }
}

Result<std::string> KeyStatistics::balance() const {
  std::string text;
  for (const Layer& l : layers_) {
    if (&l != &layers_.front()) text += '/';
    for (int64_t h = 0; h < l.heads; ++h) {
      const auto of_head = [&](const std::vector<double>& all) { return std::span(all).subspan(size_t(h * l.size), size_t(l.size)); };
      const auto keys = of_head(l.keys), queries = of_head(l.queries);
      for (const auto& [what, all] : {std::pair{"key", keys}, {"query", queries}})
        for (double x : all)
          if (!std::isfinite(x)) return error("a ", what, " of layer ", &l - &layers_.front(), " is not finite");
      text += ir::key_balance_text(ir::key_balance(keys, queries));
    }
  }
  return text;
}

}  // namespace prism::tools
