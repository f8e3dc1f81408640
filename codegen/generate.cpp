#include "codegen/generate.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "codegen/cpu/compile.h"
#include "codegen/cuda/emulate.h"
#include "codegen/expr.h"
#include "codegen/fill_weight.h"
#include "codegen/kernels/gpu/gpu.h"
#include "codegen/pack.h"
#include "codegen/render/c.h"
#include "codegen/work.h"
#include "ir/text.h"
#include "passes/plan_memory.h"
#include "runtime/base/checked.h"
#include "runtime/base/kv_pages.h"

namespace prism::codegen {

using ir::DType;

namespace {

bool is_anchor(ir::Op op) {
  using ir::Op;
  return op == Op::Linear || op == Op::FlashAttention || op == Op::KvAppend || op == Op::KvDemote || op == Op::Embedding || op == Op::Conv2d || op == Op::Matmul;
}

/// "linear(q8a[1,576], q4_1[576,576]{rows16}), add": ops that only rename elements are left out.
std::string summary(const ir::Graph& body) {
  const auto hidden = [](ir::Op op) { return op == ir::Op::Reshape || op == ir::Op::Slice || op == ir::Op::Positions || op == ir::Op::Constant; };
  const ir::Operation* anchor = nullptr;
  for (const ir::Operation& o : body.ops)
    if (is_anchor(o.op) || (!anchor && !hidden(o.op))) anchor = &o;
  if (!anchor) anchor = &*body.ops.begin();
  std::string text(ir::info(anchor->op).mnemonic), types;
  for (const ir::Value* v : anchor->operands()) types += (types.empty() ? "" : ", ") + v->type.str();
  text += "(" + types + ")";
  std::vector<std::string_view> others;
  for (const ir::Operation& o : body.ops) {
    const std::string_view name = ir::info(o.op).mnemonic;
    if (o.op == anchor->op || hidden(o.op) || std::find(others.begin(), others.end(), name) != others.end()) continue;
    others.push_back(name);
    text += ", " + std::string(name);
  }
  return text;
}

/// The body's argument that a cache is, after what is appended or demoted.
const ir::Value* cache_argument(const ir::Value* v) {
  while (v->def) v = v->def->operand(0);
  return v;
}

/// The fastest that it uses.
MathUnit math_unit(const kir::Block& block) {
  MathUnit unit = MathUnit::Cores;
  for (const kir::Stmt& s : block) {
    if (s.kind == kir::Stmt::Kind::Wgmma) return MathUnit::Wgmma;
    const bool mma = s.a && s.a->kind == kir::Kind::Call && s.a->fn >= kir::Fn::MmaBf16 && s.a->fn <= kir::Fn::MmaU8;   // at the root of a statement
    unit = std::max({unit, mma ? MathUnit::Mma : MathUnit::Cores, math_unit(s.body), math_unit(s.otherwise)});
  }
  return unit;
}

class Generator {
 public:
  Generator(const ir::Module& m, const GenerateOptions& o) : m_(m), options_(o) {}

  Result<rt::Program> run() {
    p_.name = m_.name;
    p_.producer = "prism " PRISM_VERSION;
    for (const auto& [symbol, range] : m_.dims) p_.dims.push_back(symbol);
    p_.dims.push_back("ctx");
    if (any_cache([](const ir::Type& kv) { return kv.is_compressed(); })) {
      p_.dims.insert(p_.dims.end(), {rt::kDemotedDim, rt::kDemoteDim});
      p_.required_features.push_back(rt::kKvPagesFeature);
    }
    if (any_cache([](const ir::Type& kv) { return kv.ring > 0; })) p_.required_features.push_back(rt::kKvRingFeature);
    if (any_cache([](const ir::Type& kv) { return kv.sinks > 0; })) p_.required_features.push_back(rt::kKvSinksFeature);
    for (const auto& [key, value] : m_.attrs) {
      if (key == "context_length") p_.context_length = std::get<int64_t>(value);
      if (key == "vocab_size") p_.vocab = std::get<int64_t>(value);
    }
    PRISM_CHECK(weights());
    for (const auto& g : m_.graphs) PRISM_CHECK(entry(*g));
    if (gpu()) PRISM_CHECK(largest_logits());
    place_counters();
    PRISM_CHECK(gpu() ? gpu_code() : machine_code());
    return std::move(p_);
  }

 private:
  bool any_cache(llvm::function_ref<bool(const ir::Type&)> holds) const {
    return llvm::any_of(m_.graphs, [&](const auto& g) { return llvm::any_of(g->args, [&](const auto& a) { return a->type.is_kv() && holds(a->type); }); });
  }

  Result<int64_t> attr_int(const std::string& key) {
    for (const auto& [k, v] : m_.attrs)
      if (k == key)
        if (auto* i = std::get_if<int64_t>(&v)) return *i;
    return error("module ", m_.name, ": attribute ", key, " is missing; run plan-memory first");
  }

  rt::Expr expression(ir::Dim d) {
    return {d.postfix([&](std::string_view symbol) {
      for (size_t i = 0; i < p_.dims.size(); ++i)
        if (p_.dims[i] == symbol) return int64_t(i);
      return int64_t(-1);
    })};
  }

  rt::Expr tasks(const LoweredKernel& k) {
    const rt::Expr whole = expression(k.tasks);
    return k.most_pieces == 1 ? whole : whole * min(expression(k.pieces), rt::Expr::constant(k.most_pieces));
  }

  /// Beyond what vectors become: f32.
  bool is_converted(const ir::Weight& w) const {
    return !w.values.empty() || llvm::any_of(w.sources, [&](const std::string& name) {
      const DType type = w.value.type.dtype;
      const ir::Weight* source = m_.weight(name);
      return w.conversion.hadamard || (source && type != source->value.type.dtype && !(type == DType::F32 && w.value.type.rank() == 1));
    });
  }

  Status weights() {
    uint64_t at = 0;
    std::map<std::string, bool> used;
    bool converted = false;
    for (const auto& g : m_.graphs)
      for (const ir::Operation& op : g->ops)
        for (const ir::Value* v : op.operands())
          if (v->is_weight()) used[v->name] = true;
    std::vector<const ir::Weight*> order;   // those with values last: of variants the others are the same
    for (bool values : {false, true})
      for (const auto& w : m_.weights)
        if (used.count(w->value.name) && w->values.empty() != values) order.push_back(w.get());
    for (const ir::Weight* w : order) {
      rt::Weight out;
      out.name = w->value.name;
      ir::Type type = w->value.type;
      out.dtype = ir::info(type.dtype).name;
      out.layout = ir::layout_name(type.layout);
      for (ir::Dim d : type.shape) out.shape.push_back(*d.constant());
      if (!w->values.empty()) out.values.assign(w->values.begin(), w->values.end());
      else out.sources = w->sources.empty() ? std::vector<std::string>{w->value.name} : w->sources;
      out.interleave = w->interleave;
      out.hadamard = w->conversion.hadamard;
      out.scales = ir::scales_name(w->conversion.scales);
      converted = converted || is_converted(*w);
      PRISM_TRY(out.bytes, weight_bytes(type));
      out.offset = at;
      at = round_up(at + out.bytes + rt::kWeightSlack, 64);
      weight_index_[out.name] = uint32_t(p_.weights.size());
      p_.weights.push_back(std::move(out));
    }
    p_.weight_bytes = at;
    if (converted) p_.required_features.push_back(rt::kConvertedWeightsFeature);
    return ok();
  }

  /// GPU kernels multiply keys and values as they are copied, in f16.
  Status cache_type(const ir::Value& kv) const {
    const ir::DType t = kv.type.dtype;
    if (t == ir::DType::F16 || (!gpu() && (t == ir::DType::BF16 || t == ir::DType::F32))) return ok();
    return error("KV cache %", kv.name, " (see --kv): found ", ir::info(t).name, ", expected f16", gpu() ? ", the only type on GPUs" : ", bf16 or f32");
  }

  /// Attention has memory for the tokens that it says there can be.
  Status most_tokens(const ir::Graph& g, const ir::Operation& kernel) const {
    for (const ir::Operation& o : kernel.body->ops) {
      const bool append = o.op == ir::Op::KvAppend && o.result()->type.is_compressed();
      if (o.op != ir::Op::FlashAttention && !append) continue;
      const int64_t most = o.operand(append ? 1 : 0)->type.dim(0).bounds(passes::entry_ranges(m_, g)).hi, said = o.attr<int64_t>("most_tokens");
      if (said < most) return error("graph @", g.name, ": ", ir::info(o.op).mnemonic, ": most_tokens: found ", said, ", expected at least ", most);
      if (append) continue;
      const int64_t ring = o.operand(1)->type.ring, window = o.attr<int64_t>("window"), sinks = o.attr<int64_t>("sinks");
      if (o.operand(1)->type.sinks != (ring ? sinks : 0)) return error("graph @", g.name, ": ", ir::info(o.op).mnemonic, " with sinks=", sinks, ": found ", o.operand(1)->type.str(), ", expected the cache to keep them");
      if (ring && (!window || ring - sinks < window - 1 + most)) return error("graph @", g.name, ": ", ir::info(o.op).mnemonic, " of a cache with ring=", ring, ": found a window of ", window, " and ", most, " tokens, expected all of them to fit");
    }
    return ok();
  }

  /// Of a compressed cache that can get many positions at once, what is exact lies in the workspace until it is read: nobody may append to
  /// another in between. `staged`: the layer that did last.
  Status keeps_stage(const ir::Graph& g, const ir::Operation& kernel, const std::map<const ir::Value*, uint32_t>& layers, std::optional<uint32_t>& staged) const {
    for (const ir::Operation& o : kernel.body->ops) {
      const bool append = o.op == ir::Op::KvAppend, reads = o.op == ir::Op::FlashAttention;
      if (!append && !reads && o.op != ir::Op::KvDemote) continue;
      const ir::Value* cache = o.operand(reads ? 1 : 0);
      const int64_t most = std::max(o.attr<int64_t>("most_tokens"), reads ? o.attr<int64_t>("most_appended") : 0);
      if (!cache->type.is_compressed() || most <= rt::kKvRollback) continue;
      const uint32_t layer = layers.at(kernel.operand(cache->index));
      if (append) staged = layer;
      else if (staged != layer) return error("graph @", g.name, ": ", ir::info(o.op).mnemonic, " of KV cache ", layer, ": found an append to another compressed cache before it, expected it right after its own");
    }
    return ok();
  }

  Status entry(const ir::Graph& g) {
    rt::EntryPoint e;
    e.name = g.name;
    PRISM_TRY(int64_t arena, attr_int(g.name + ".arena_bytes"));
    e.arena_bytes = uint64_t(arena);
    for (const std::string& symbol : p_.dims) {
      auto it = m_.dims.find(symbol);
      ir::Range range = it == m_.dims.end() ? ir::Range{0, int64_t(round_up(uint64_t(p_.context_length), rt::kKvCapacityMultiple))} : it->second;  // "ctx": a capacity
      for (const auto& [k, v] : m_.attrs)
        if (k == g.name + "." + symbol + ".max") range.hi = std::get<int64_t>(v);
      e.dim_min.push_back(range.lo);
      e.dim_max.push_back(range.hi);
    }
    std::map<const ir::Value*, rt::Arg> place;          // where each value lives
    std::map<const ir::Value*, uint32_t> kv_layer;
    std::vector<int64_t> input_offsets;
    for (const auto& [k, v] : m_.attrs)
      if (k == g.name + ".input_offsets") input_offsets = std::get<std::vector<int64_t>>(v);
    std::vector<std::pair<size_t, size_t>> own_memory;  // launch and argument: workspaces and counters
    std::optional<uint32_t> staged;
    size_t input = 0;
    for (const auto& a : g.args) {
      if (a->type.is_kv()) {
        PRISM_CHECK(cache_type(*a));
        const uint32_t layer = uint32_t(kv_layer.size());
        kv_layer[a.get()] = layer;
        rt::KvLayer spec{std::string(ir::info(a->type.dtype).name), *a->type.dim(1).constant(), *a->type.dim(2).constant(), 0, a->type.key_bits, a->type.value_bits, a->type.ring, a->type.sinks};
        if (p_.kv.size() <= layer) p_.kv.push_back(spec);
        continue;
      }
      if (input >= input_offsets.size()) return error("graph @", g.name, ": no offset for input %", a->name);
      place[a.get()] = {rt::Space::Arena, 0, uint64_t(input_offsets[input++])};
      e.inputs.push_back(slot(*a, a->name, place[a.get()].offset));
    }
    for (const ir::Operation& op : g.ops) {
      if (op.op != ir::Op::Kernel) return error("graph @", g.name, ": ", ir::info(op.op).mnemonic, " is not a kernel; run the cpu pipeline");
      PRISM_CHECK(most_tokens(g, op));
      const auto offsets = op.attr<std::vector<int64_t>>("offsets");
      if (offsets.size() != op.results.size()) return error("graph @", g.name, ": kernel has no plan; run plan-memory");
      // A returned cache is the cache the body appended to.
      for (size_t i = 0; i < op.results.size(); ++i) {
        const ir::Value* v = op.result(unsigned(i));
        if (!v->type.is_kv()) {
          place[v] = {rt::Space::Arena, 0, uint64_t(offsets[i])};
          continue;
        }
        kv_layer[v] = kv_layer.at(op.operand(cache_argument(op.body->returns[i])->index));
      }
      PRISM_CHECK(keeps_stage(g, op, kv_layer, staged));
      PRISM_TRY(size_t k, kernel(op));
      rt::Launch launch;
      launch.kernel = uint32_t(k);
      launch.tasks = tasks(lowered_[k]);
      for (const ArgSource& a : lowered_[k].args) {
        if (a.from == ArgSource::From::Workspace || a.from == ArgSource::From::Counters) {
          own_memory.push_back({e.launches.size(), launch.args.size()});
          launch.args.push_back({rt::Space::Arena, 0, 0});
          continue;
        }
        const ir::Value* v = a.from == ArgSource::From::Result ? op.result(a.index) : op.operand(a.index);
        if (a.from == ArgSource::From::KeyPlane) launch.args.push_back({rt::Space::KvK, kv_layer.at(v), 0});
        else if (a.from == ArgSource::From::ValuePlane) launch.args.push_back({rt::Space::KvV, kv_layer.at(v), 0});
        else if (v->is_weight()) launch.args.push_back({rt::Space::Weight, weight_index_.at(v->name), 0});
        else launch.args.push_back(place.at(v));
      }
      if (gpu()) launch.product = product(*op.body, lowered_[k].args);
      for (const ir::Operation& inner : op.body->ops)
        if (inner.op == ir::Op::FlashAttention) {
          rt::KvLayer& layer = p_.kv[kv_layer.at(op.operand(cache_argument(inner.operand(1))->index))];
          const auto window = inner.attr<int64_t>("window");
          layer.window = layer.ring ? std::max(layer.window, window) : window;   // going back needs what the widest reader reads
        }
      e.launches.push_back(std::move(launch));
    }
    for (const ir::Value* v : g.returns)
      if (!v->type.is_kv()) e.outputs.push_back(slot(*v, e.outputs.empty() ? "logits" : v->name, place.at(v).offset));
    place_own_memory(e, own_memory);
    p_.entries.push_back(std::move(e));
    return ok();
  }

  /// The region as a product that a library can do: a linear of bf16, then at most a residual, or a rounding to bf16.
  std::optional<rt::Product> product(const ir::Graph& body, const std::vector<ArgSource>& args) {
    const ir::Operation& linear = body.ops.front();
    if (linear.op != ir::Op::Linear || linear.operands().size() != 2 || body.returns.size() != 1) return {};
    const ir::Value *x = linear.operand(0), *w = linear.operand(1), *y = linear.result(), *c = nullptr;
    if (x->type.dtype != DType::BF16 || w->type.dtype != DType::BF16 || w->type.layout != ir::Layout::RowMajor) return {};
    for (const ir::Operation& op : body.ops) {
      if (&op == &linear) continue;
      const bool last = op.operand(0) == y || (op.operands().size() > 1 && op.operand(1) == y);
      if (!last) return {};
      if (op.op == ir::Op::Add && !c && y->type.dtype == DType::F32) {
        c = op.operand(op.operand(0) == y);
        if (c->kind != ir::Value::Kind::Argument || c->type != y->type) return {};
      } else if (op.op != ir::Op::Cast || c || op.result()->type.dtype != DType::BF16 || op.result()->type.layout != ir::Layout::RowMajor) {
        return {};
      }
      y = op.result();
    }
    if (y != body.returns[0]) return {};
    const auto place = [&](const ir::Value* v) {  // the argument
      const bool result = v == y;
      for (size_t i = 0; i < args.size(); ++i)
        if (args[i].from == (result ? ArgSource::From::Result : ArgSource::From::Operand) && args[i].index == (result ? 0 : v->index)) return int64_t(i);
      return int64_t(-1);
    };
    return rt::Product{expression(Region::rows_of(x->type)), *w->type.dim(0).constant(), *w->type.dim(1).constant(), uint32_t(place(x)), uint32_t(place(w)),
                       uint32_t(place(y)), c ? place(c) : -1, std::string(ir::info(y->type.dtype).name)};
  }

  /// Kernels' workspaces are one place after the values, their counters another after all arenas, where nothing else may be.
  void place_own_memory(rt::EntryPoint& e, const std::vector<std::pair<size_t, size_t>>& args) {
    int64_t bytes = 0;
    const uint64_t workspace = round_up(e.arena_bytes, 256);
    for (auto [launch, arg] : args) {
      const LoweredKernel& k = lowered_[e.launches[launch].kernel];
      const bool counter = k.args[arg].from == ArgSource::From::Counters;
      e.launches[launch].args[arg].offset = counter ? kCountersLater : workspace + k.args[arg].index;
      bytes = std::max(bytes, k.workspace_bytes);
      counters_ = std::max(counters_, k.counters);
    }
    if (bytes) e.arena_bytes = workspace + uint64_t(bytes);
  }

  void place_counters() {
    uint64_t at = 0;
    for (const rt::EntryPoint& e : p_.entries) at = std::max(at, round_up(e.arena_bytes, 256));
    for (rt::EntryPoint& e : p_.entries) {
      if (counters_) e.arena_bytes = at + uint64_t(counters_) * sizeof(uint32_t);
      for (rt::Launch& l : e.launches)
        for (rt::Arg& a : l.args)
          if (a.space == rt::Space::Arena && a.offset == kCountersLater) a.offset = at;
    }
  }

  /// For each entry point with logits another that picks the largest of its first row: all that the sampler mostly needs.
  Status largest_logits() {
    std::optional<uint32_t> kernel;
    for (size_t i = 0, entries = p_.entries.size(); i < entries; ++i) {
      rt::EntryPoint e = p_.entries[i];
      const auto logits = std::find_if(e.outputs.begin(), e.outputs.end(), [](const rt::Slot& s) { return s.name == "logits"; });
      if (p_.vocab < 1 || logits == e.outputs.end() || logits->dtype != "f32" || logits->shape.empty() ||
          logits->shape.back().code != rt::Expr::constant(p_.vocab).code) continue;
      if (!kernel) {
        kernel = uint32_t(lowered_.size());
        PRISM_CHECK(add("largest_logits", "", gpu_largest_logits("largest_logits", p_.dims, p_.vocab)));
        p_.kernels.back().computes = "the " + std::to_string(std::min(rt::kMostLargest, p_.vocab)) + " largest of " + std::to_string(p_.vocab) + " logits";
      }
      const LoweredKernel& k = lowered_[*kernel];
      const uint64_t at = logits->offset, count = uint64_t(std::min(rt::kMostLargest, p_.vocab));
      auto reserve = [&, end = round_up(e.arena_bytes, 256)](uint64_t bytes) mutable {
        const uint64_t begin = std::exchange(end, round_up(end + bytes, 64));
        e.arena_bytes = end;
        return begin;
      };
      const uint64_t temperature = reserve(4), values = reserve(4 * count), ids = reserve(4 * count), sum = reserve(4);
      const uint64_t workspace = reserve(uint64_t(k.workspace_bytes));
      e.name += rt::kLargestSuffix;
      e.inputs = {{"temperature", "f32", {rt::Expr::constant(1)}, temperature}};
      e.outputs = {{"logits", "f32", {rt::Expr::constant(int64_t(count))}, values}, {"ids", "i32", {rt::Expr::constant(int64_t(count))}, ids},
                   {"sum", "f32", {rt::Expr::constant(1)}, sum}};
      rt::Launch launch{*kernel, {}, expression(k.tasks)};
      for (uint64_t offset : {temperature, at, values, ids, sum, workspace, kCountersLater}) launch.args.push_back({rt::Space::Arena, 0, offset});
      e.launches = {std::move(launch)};
      counters_ = std::max(counters_, k.counters);
      p_.entries.push_back(std::move(e));
    }
    return ok();
  }

  bool gpu() const { return options_.target != "cpu"; }

  rt::Slot slot(const ir::Value& v, const std::string& name, uint64_t offset) {
    rt::Slot s{name, std::string(ir::info(v.type.dtype).name), {}, offset};
    for (ir::Dim d : v.type.shape) s.shape.push_back(expression(d));
    return s;
  }

  /// Index of the kernel that computes this region; regions with the same text share one.
  Result<size_t> kernel(const ir::Operation& op) {
    const std::string text = ir::print(*op.body);
    if (auto it = index_.find(text); it != index_.end()) return it->second;
    const std::string anchor = [&] {
      std::string name = "rows";
      for (const ir::Operation& o : op.body->ops)
        if (is_anchor(o.op)) name = std::string(ir::info(o.op).mnemonic);
      return name;
    }();
    const std::string symbol = anchor + "_" + std::to_string(lowered_.size());
    PRISM_TRY(LoweredKernel k, gpu() ? lower_gpu_kernel(op, symbol, p_.dims, gpu_target(options_.archs)) : lower_kernel(op, symbol, p_.dims, options_.isa));
    index_[text] = lowered_.size();
    PRISM_CHECK(add(symbol, text, std::move(k)));
    p_.kernels.back().computes = summary(*op.body);
    PRISM_TRY(p_.kernels.back().work, work_of(op, [&](ir::Dim d) { return expression(d); }));
    return lowered_.size() - 1;
  }

  Status add(const std::string& symbol, const std::string& text, LoweredKernel k) {
    PRISM_CHECK(kir::verify(k.kernel));
    p_.kernels.push_back({symbol, text, uint64_t(k.kernel.scratch_bytes), k.kernel.block_threads, k.kernel.shared_bytes});
    lowered_.push_back(std::move(k));
    return ok();
  }

  Status machine_code() {
    // A few units, so that they compile on several cores; the cost of a kernel is about the length of its text.
    std::vector<std::vector<const kir::Kernel*>> groups(4);
    std::vector<size_t> load(groups.size());
    std::string kir_text;
    for (const LoweredKernel& k : lowered_) {
      const std::string text = kir::print(k.kernel);
      kir_text += text + "\n";
      size_t best = 0;
      for (size_t i = 1; i < groups.size(); ++i)
        if (load[i] < load[best]) best = i;
      groups[best].push_back(&k.kernel);
      load[best] += text.size();
    }
    std::vector<std::string> units;
    std::string all;
    for (const auto& g : groups)
      if (!g.empty()) {
        units.push_back(render_cpu(g));
        all += units.back();
      }
    if (options_.dump) {
      options_.dump("kernels.kir", kir_text);
      options_.dump("kernels.c", all);
    }
    PRISM_TRY(std::vector<uint8_t> object, compile_c(units, options_.isa));
    p_.codes.push_back({"cpu", std::string(rt::isa_name(options_.isa)), "elf", std::move(object)});
    return ok();
  }

  Status gpu_code() {
    std::vector<const kir::Kernel*> kernels;
    std::string kir_text;
    for (const LoweredKernel& k : lowered_) {
      kernels.push_back(&k.kernel);
      kir_text += kir::print(k.kernel) + "\n";
    }
    const std::string persistent = persistent_kernel(kernels);
    const std::string source = render_cuda(kernels, CudaTarget::Device) + persistent;
    if (options_.dump) {
      options_.dump("kernels.kir", kir_text);
      options_.dump("kernels.cu", source);
    }
    if (options_.target == "emu") {
      PRISM_TRY(auto emulated, compile_emulated(kernels, persistent));
      p_.codes.push_back({"emu", std::string(rt::isa_name(emulated.isa)), "elf", std::move(emulated.code)});
      return ok();
    }
    std::vector<KernelReport> reports;
    for (const rt::Kernel& k : p_.kernels) reports.push_back({k.symbol, k.computes, k.block_threads, k.shared_bytes});
    for (size_t i = 0; i < lowered_.size(); ++i) reports[i].unit = math_unit(lowered_[i].kernel.body);
    for (const rt::EntryPoint& e : p_.entries)
      for (const rt::Launch& l : e.launches)
        if (e.persistent >= 0) reports[size_t(e.persistent)].unit = std::max(reports[size_t(e.persistent)].unit, reports[l.kernel].unit);
    for (const std::string& arch : options_.archs) {
      PRISM_TRY(Cubin cubin, compile_cuda(source, arch));
      for (KernelReport& r : reports)
        for (const KernelUsage& u : cubin.kernels)
          if (u.name == r.symbol) r.usage[arch] = u;
      p_.codes.push_back({"cuda", arch, "cubin", std::move(cubin.bytes)});
    }
    if (options_.report) options_.report(reports);
    return ok();
  }

  /// The text of a kernel that does all launches of @decode, or "" if they cannot be one.
  std::string persistent_kernel(const std::vector<const kir::Kernel*>& kernels) {
    for (rt::EntryPoint& e : p_.entries) {
      if (e.name != "decode" || e.launches.empty()) continue;
      std::map<size_t, const kir::Kernel*> used;
      rt::Kernel all{"persistent", "all launches of decode"};
      all.computes = all.description;
      all.block_threads = p_.kernels[e.launches[0].kernel].block_threads;
      for (const rt::Launch& l : e.launches) {
        const rt::Kernel& k = p_.kernels[l.kernel];
        if (l.tasks.code.size() != 2 || l.tasks.code[0] != rt::Expr::Const || k.block_threads != all.block_threads) return {};
        all.shared_bytes = std::max(all.shared_bytes, k.shared_bytes);
        used[l.kernel] = kernels[l.kernel];
      }
      e.persistent = int64_t(p_.kernels.size());
      p_.kernels.push_back(all);
      return render_persistent(all.symbol, used);
    }
    return {};
  }

  static constexpr uint64_t kCountersLater = UINT64_MAX;  // an offset until place_counters

  const ir::Module& m_;
  const GenerateOptions& options_;
  int64_t counters_ = 0;                                 ///< of the kernel that has most
  rt::Program p_;
  std::map<std::string, uint32_t> weight_index_;
  std::map<std::string, size_t> index_;
  std::vector<LoweredKernel> lowered_;
};

}  // namespace

std::string default_pipeline(const std::string& target, rt::Isa isa) {
  if (target != "cpu") return "gpu";
  return isa >= rt::Isa::Amx ? "cpu-amx" : isa >= rt::Isa::Avx512 ? "cpu-avx512" : "cpu";
}

Result<rt::Program> generate(const ir::Module& m, const GenerateOptions& options) { return Generator(m, options).run(); }

}  // namespace prism::codegen
