// Passes keep the numbers: a small llama-like model and random graphs, evaluated before and after every pass.

#include <gtest/gtest.h>

#include <fstream>
#include <random>
#include <sstream>

#include "ir/builder.h"
#include "ir/text.h"
#include "ir/verifier.h"
#include "passes/bisect.h"
#include "passes/plan_memory.h"

namespace prism::passes {
namespace {

using namespace ir;

/// A weight of random values; vectors are near one.
Value* random_weight(Module& m, std::mt19937& rng, const std::string& name, DType type, std::vector<int64_t> shape) {
  Shape dims(shape.begin(), shape.end());
  Weight* w = m.add_weight(name, Type::tensor(type, dims));
  const size_t n = size_t(*w->value.type.elements()), row = size_t(shape.back());
  std::normal_distribution<float> normal(shape.size() == 1 ? 1.0f : 0.0f,
                                         shape.size() == 1 ? 0.1f : 1.0f / std::sqrt(float(row)));
  std::vector<float> values(n);
  for (float& x : values) x = normal(rng);
  auto bytes = std::make_shared<std::vector<uint8_t>>(size_t(*w->value.type.bytes()));
  const size_t row_bytes = bytes->size() / (n / row);
  for (size_t r = 0; r < n / row; ++r) EXPECT_TRUE(quantize_row(type, &values[r * row], &(*bytes)[r * row_bytes], row));
  w->data = bytes->data();
  w->bytes = bytes->size();
  m.keep_alive.push_back(bytes);
  return &w->value;
}

struct Variant {
  const char* name;
  DType weights = DType::F32;    ///< matrices
  DType v_weights = DType::F32;  ///< the matrix of v, which may differ
  bool bias = false, head_norms = false, post_norms = false, tied = false;
  int64_t window = 0;
};

constexpr int64_t kLayers = 2, kModel = 64, kHeads = 4, kKvHeads = 2, kHead = 16, kFeed = 96, kVocab = 90;

/// @forward as the GGUF frontend makes it.
std::unique_ptr<Module> tiny_model(const Variant& v) {
  auto m = std::make_unique<Module>();
  m->name = v.name;
  m->dims = {{"seq", {1, 128}}, {"past", {0, 128}}, {"out", {1, 128}}};
  std::mt19937 rng(7);
  const Dim seq = Dim::symbol("seq"), past = Dim::symbol("past");
  Graph* g = m->add_graph("forward");
  Value* ids = g->add_arg(Type::tensor(DType::I32, {seq}), "ids");
  std::vector<Value*> caches;
  for (int64_t l = 0; l < kLayers; ++l)
    caches.push_back(g->add_arg(Type::kv(DType::F16, past, kKvHeads, kHead), "kv" + std::to_string(l)));

  Builder b(g);
  auto matrix = [&](const std::string& name, int64_t n, int64_t k) {
    return random_weight(*m, rng, name, v.weights, {n, k});
  };
  auto vector = [&](const std::string& name, int64_t n) { return random_weight(*m, rng, name, DType::F32, {n}); };
  auto linear = [&](Value* x, Value* w, const std::string& bias) {
    return v.bias ? b.Linear({x, w, vector(bias, *w->type.dim(0).constant())}) : b.Linear({x, w});
  };
  auto heads = [&](Value* x, int64_t n) {
    return b.Reshape({x}, {{"shape", "?seq," + std::to_string(n) + "," + std::to_string(kHead)}});
  };

  Value* table = matrix("token_embd.weight", kVocab, kModel);
  Value* x = b.Scale({b.Embedding({ids, table})}, {{"by", 3.0}});
  std::vector<Value*> results;
  for (int64_t l = 0; l < kLayers; ++l) {
    const std::string p = "blk." + std::to_string(l) + ".";
    Value* h = b.RmsNorm({x, vector(p + "attn_norm.weight", kModel)});
    Value* q = heads(linear(h, matrix(p + "attn_q.weight", kHeads * kHead, kModel), p + "attn_q.bias"), kHeads);
    Value* k = heads(linear(h, matrix(p + "attn_k.weight", kKvHeads * kHead, kModel), p + "attn_k.bias"), kKvHeads);
    Value* wv = random_weight(*m, rng, p + "attn_v.weight", v.v_weights, {kKvHeads * kHead, kModel});
    Value* val = heads(linear(h, wv, p + "attn_v.bias"), kKvHeads);
    if (v.head_norms) {
      q = b.RmsNorm({q, vector(p + "attn_q_norm.weight", kHead)});
      k = b.RmsNorm({k, vector(p + "attn_k_norm.weight", kHead)});
    }
    Value* pos = b.Positions({}, {{"start", std::string("?past")}, {"count", std::string("?seq")}});
    q = b.Rope({q, pos}, {{"mode", std::string("half")}});
    k = b.Rope({k, pos}, {{"mode", std::string("half")}});
    Value* kv = b.KvAppend({caches[l], k, val});
    results.push_back(kv);
    Value* a = b.Attention({q, kv}, {{"scale", 0.25}, {"window", l % 2 ? v.window : int64_t{0}}});
    a = b.Reshape({a}, {{"shape", "?seq," + std::to_string(kHeads * kHead)}});
    a = b.Linear({a, matrix(p + "attn_output.weight", kModel, kHeads * kHead)});
    if (v.post_norms) a = b.RmsNorm({a, vector(p + "post_attention_norm.weight", kModel)});
    x = b.Add({x, a});
    h = b.RmsNorm({x, vector(p + "ffn_norm.weight", kModel)});
    Value* gate = b.Silu({b.Linear({h, matrix(p + "ffn_gate.weight", kFeed, kModel)})});
    Value* f = b.Mul({gate, b.Linear({h, matrix(p + "ffn_up.weight", kFeed, kModel)})});
    f = b.Linear({f, matrix(p + "ffn_down.weight", kModel, kFeed)});
    if (v.post_norms) f = b.RmsNorm({f, vector(p + "post_ffw_norm.weight", kModel)});
    x = b.Add({x, f});
  }
  x = b.Tail({b.RmsNorm({x, vector("output_norm.weight", kModel)})}, {{"rows", std::string("?out")}});
  results.insert(results.begin(), b.Linear({x, v.tied ? table : matrix("output.weight", kVocab, kModel)}));
  b.set_return(results);
  EXPECT_TRUE(b.status()) << b.status().message();
  return m;
}

BisectCase call(int64_t seq, int64_t past, int64_t out) {
  std::mt19937 rng(unsigned(seq * 100 + past));
  BisectCase c;
  c.dims = {{"seq", seq}, {"past", past}, {"out", out}};
  Tensor ids{{seq}, {}, {}};
  for (int64_t i = 0; i < seq; ++i) ids.i.push_back(rng() % kVocab);
  c.inputs["ids"] = ids;
  for (int64_t l = 0; l < kLayers; ++l) {
    Tensor kv{{past, kKvHeads, kHead}, {}, {}};
    std::uniform_int_distribution<int> sixteenths(-16, 16);  // exact in f16
    for (int64_t i = 0; i < 2 * past * kKvHeads * kHead; ++i) kv.f.push_back(float(sixteenths(rng)) / 16);
    c.inputs["kv" + std::to_string(l)] = kv;
  }
  return c;
}

std::vector<BisectCase> calls() { return {call(7, 0, 1), call(5, 9, 1), call(1, 6, 1), call(1, 0, 1), call(4, 3, 4)}; }

std::vector<PipelineStep> pipeline(const std::string& text) {
  auto steps = parse_pipeline(text);
  EXPECT_TRUE(steps) << steps.message();
  return steps ? *steps : std::vector<PipelineStep>{};
}

void run(Module& m, const std::string& passes) {
  const Status status = Manager().run(m, pipeline(passes));
  ASSERT_TRUE(status) << status.message() << "\n" << print(m);
}

size_t count(const Graph& g, Op kind) {
  return size_t(llvm::count_if(g.ops, [&](const Operation& op) { return op.op == kind; }));
}

const Variant kVariants[] = {
    {.name = "llama"},
    {.name = "llama_q8_0", .weights = DType::Q8_0, .v_weights = DType::Q8_0},
    {.name = "qwen2_mixed_types", .weights = DType::Q8_0, .v_weights = DType::F32, .bias = true, .tied = true},
    {.name = "qwen3", .weights = DType::Q8_0, .v_weights = DType::Q8_0, .head_norms = true},
    {.name = "gemma3",
     .weights = DType::Q8_0,
     .v_weights = DType::Q8_0,
     .head_norms = true,
     .post_norms = true,
     .tied = true,
     .window = 5},
};

class EveryPass : public testing::TestWithParam<Variant> {};

/// Passes move, merge and drop work: results stay equal to the last bit, except where the arithmetic changes.
double tolerance(const PassInfo& pass) {
  if (pass.precision == Precision::Reduces) return 0.03;
  if (pass.name == "fuse-projections") return 1e-4;  // glu rounds once less, which may tip a rounding to f16 in the cache
  return 0;
}

TEST_P(EveryPass, KeepsTheNumbers) {
  auto m = tiny_model(GetParam());
  ASSERT_TRUE(verify(*m)) << verify(*m).message();
  std::vector<std::vector<Tensor>> expected;
  for (const BisectCase& c : calls()) {
    auto results = evaluate(*m, c);
    ASSERT_TRUE(results) << results.message();
    expected.push_back(*results);
  }
  ManagerOptions options;
  options.after_pass = [&](const PipelineStep& step, size_t index, const Module& now) -> Status {
    for (size_t i = 0; i < calls().size(); ++i) {
      PRISM_TRY(auto results, evaluate(now, calls()[i]));
      if (results.size() != expected[i].size()) return error("found ", results.size(), " results");
      for (size_t r = 0; r < results.size(); ++r) {
        const double e = relative_error(expected[i][r], results[r]);
        if (!(e <= tolerance(*step.pass)))
          return error(index, " ", step.pass->name, ": case ", i, ", result ", r, " is off by ", e);
      }
      expected[i] = std::move(results);
    }
    return ok();
  };
  const Status status = Manager(options).run(*m, pipeline("cpu"));
  ASSERT_TRUE(status) << status.message() << "\n" << print(*m);
  EXPECT_EQ(m->level, Level::Plan);
}

/// What is inserted and then folded computes the same numbers; rotated and rounded to 8 bits they are near the model's, to 16 nearer.
TEST(Quantization, IsFoldedWithoutChange) {
  const BisectCase at = call(5, 9, 5);
  const auto changed = [&](const std::string& insert) {
    auto m = tiny_model({.name = "llama"});
    const auto before = evaluate(*m, at);
    run(*m, insert);
    const auto inserted = evaluate(*m, at);
    run(*m, "fold-quantization,dce");
    const auto folded = evaluate(*m, at);
    EXPECT_TRUE(before && inserted && folded) << before.message() << inserted.message() << folded.message();
    if (!before || !inserted || !folded) return 1.0;
    EXPECT_EQ(relative_error((*inserted)[0], (*folded)[0]), 0) << insert;
    for (const Operation& op : m->graphs[0]->ops) EXPECT_NE(op.op, Op::Dequantize) << insert;
    return relative_error((*before)[0], (*folded)[0]);
  };
  const double block = changed("insert-quantization{protect=none}"), half = changed("insert-quantization{type=f16,protect=none}");
  EXPECT_GT(half, 0);
  EXPECT_LT(half, block / 5);
  EXPECT_LT(block, 0.02);
  for (const char* scales : {"row", "tensor"}) {
    const double coarser = changed("insert-quantization{protect=none,scales=" + std::string(scales) + "}");
    EXPECT_GT(coarser, block) << scales;
    EXPECT_LT(coarser, 0.04) << scales;
  }
  EXPECT_EQ(changed("insert-quantization{only=blk.0.attn_q}"), 0) << "both layers are protected";
}

/// The same with one scale for all inputs; beyond the range they become its ends. Without a zero point nothing is widened any more.
TEST(Quantization, OfKnownRanges) {
  const BisectCase at = call(5, 9, 5);
  double last = 0;
  for (const double most : {8.0, 16.0, 1.0}) {
    auto m = tiny_model({.name = "llama"});
    const auto before = evaluate(*m, at);
    for (const auto& g : m->graphs)
      for (Operation& op : g->ops)
        if (op.op == Op::Linear) op.attrs["x_min"] = -most, op.attrs["x_max"] = most;
    run(*m, "insert-quantization{protect=none,inputs=symmetric}");
    const auto inserted = evaluate(*m, at);
    run(*m, "fold-quantization,dce");
    const auto folded = evaluate(*m, at);
    ASSERT_TRUE(before && inserted && folded) << before.message() << inserted.message() << folded.message();
    if (most > 1) {
      EXPECT_EQ(relative_error((*inserted)[0], (*folded)[0]), 0) << most;
    }
    for (const Operation& op : m->graphs[0]->ops) EXPECT_NE(op.op, Op::Dequantize) << most;
    const double error = relative_error((*before)[0], (*folded)[0]);
    EXPECT_GT(error, 1.2 * last) << "a scale twice as large, and then a range that is too small";
    last = error;
  }
}

TEST_P(EveryPass, LayersHaveTheExpectedKernels) {
  auto m = tiny_model(GetParam());
  ASSERT_NO_FATAL_FAILURE(run(*m, "cpu"));
  // A layer: qkv, append, attention, output + residual, norm, gate and up, down + residual, norm of what comes next.
  // Norms after the linears take the residual out of their kernels but join the next norm. v may stay alone.
  const size_t layer = GetParam().weights == GetParam().v_weights ? 8 : 9;
  const size_t expected = 1 + kLayers * layer + 1;  // embedding + norm, head
  for (const char* entry : {"decode", "verify"})
    EXPECT_EQ(m->graph(entry)->ops.size(), expected) << print(*m->graph(entry));
  // The last rows of the attention and of the residual, which norms after the linears can take in.
  EXPECT_EQ(m->graph("prefill")->ops.size(), expected + (GetParam().post_norms ? 1 : 2)) << print(*m->graph("prefill"));
}

/// The plan gives values that live at the same time different bytes.
TEST_P(EveryPass, PlanHasNoOverlaps) {
  auto m = tiny_model(GetParam());
  ASSERT_NO_FATAL_FAILURE(run(*m, "cpu"));
  for (const auto& g : m->graphs) {
    struct Life {
      const Value* v;
      size_t first, last;
      int64_t offset, bytes;
    };
    std::vector<Life> lives;
    std::map<const Operation*, size_t> position;
    for (const Operation& op : g->ops) position.emplace(&op, position.size());
    int64_t total = 0;
    for (const Operation& op : g->ops) {
      const auto offsets = op.attr<std::vector<int64_t>>("offsets");
      ASSERT_EQ(offsets.size(), op.results.size());
      for (size_t i = 0; i < offsets.size(); ++i) {
        const Value* r = op.result(unsigned(i));
        EXPECT_EQ(offsets[i] == -1, r->type.is_kv());
        if (offsets[i] < 0) continue;
        EXPECT_EQ(offsets[i] % 64, 0);
        auto bytes = arena_bytes(r->type, entry_ranges(*m, *g));
        ASSERT_TRUE(bytes) << bytes.message();
        size_t last = g->returned(r) ? position.size() : position[&op];
        for (const Use& u : r->uses) last = std::max(last, position[u.op]);
        lives.push_back({r, position[&op], last, offsets[i], *bytes});
        total += *bytes;
      }
    }
    int64_t arena = 0;
    for (size_t i = 0; i < lives.size(); ++i)
      for (size_t j = 0; j < i; ++j) {
        const Life &a = lives[i], &b = lives[j];
        if (a.last < b.first || b.last < a.first) continue;
        EXPECT_TRUE(a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset) << a.v->name << " " << b.v->name;
      }
    for (const auto& [key, value] : m->attrs)
      if (key == g->name + ".arena_bytes") arena = std::get<int64_t>(value);
    EXPECT_GT(arena, 0);
    EXPECT_LT(arena, total) << "nothing was reused";
  }
  EXPECT_NE(memory_plan_table(*m).find("@decode: "), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Passes, EveryPass, testing::ValuesIn(kVariants),
                         [](const auto& i) { return std::string(i.param.name); });

TEST(PlanMemory, TilesHaveRoomForWholeBlocksOf32Rows) {
  const auto ranges = [](std::string_view) { return ir::Range{1, 40}; };
  const auto bytes = [&](Layout l) { return *arena_bytes(Type::tensor(DType::BF16, {Dim::symbol("seq"), 64}, l), ranges); };
  EXPECT_EQ(bytes(Layout::Tiles), 64 * 64 * 2);
  EXPECT_EQ(bytes(Layout::RowMajor), 40 * 64 * 2);
}

TEST(Passes, WeightsOfProjectionsMergeByType) {
  auto m = tiny_model(kVariants[2]);  // v has another type than q and k
  ASSERT_NO_FATAL_FAILURE(run(*m, "fuse-projections,dce"));
  const Weight* qk = m->weight("blk.0.attn_q_k.weight");
  ASSERT_TRUE(qk);
  EXPECT_EQ(qk->sources, (std::vector<std::string>{"blk.0.attn_q.weight", "blk.0.attn_k.weight"}));
  EXPECT_EQ(qk->value.type.str(), "q8_0[96,64]");
  EXPECT_TRUE(m->weight("blk.0.attn_q_k.bias"));
  const Weight* gate_up = m->weight("blk.1.ffn_gate_up.weight");
  ASSERT_TRUE(gate_up);
  EXPECT_EQ(gate_up->interleave, 16);
  EXPECT_EQ(count(*m->graph("forward"), Op::Linear), size_t(kLayers * 5 + 1));
}

TEST(Passes, TiedEmbeddingIsPackedOnce) {
  auto m = tiny_model(kVariants[2]);
  ASSERT_NO_FATAL_FAILURE(run(*m, "pack-weights,dce"));
  const Weight* packed = m->weight("token_embd.weight.rows16");
  ASSERT_TRUE(packed);
  EXPECT_EQ(packed->value.uses.size(), 2u);
  EXPECT_EQ(packed->value.type.layout, Layout::Rows16);
  EXPECT_TRUE(m->weight("token_embd.weight")->value.uses.empty());
}

TEST(Passes, LastLayerComputesOnlyRowsThatAreNeeded) {
  auto m = tiny_model(kVariants[0]);
  ASSERT_NO_FATAL_FAILURE(run(*m, "canonicalize,cse,dce,specialize-entry-points,canonicalize"));
  size_t one_row = 0;
  for (const Operation& op : m->graph("prefill")->ops)
    one_row += op.op == Op::Linear && op.result()->type.dim(0) == Dim(1);
  EXPECT_EQ(one_row, 5u);                                // output projection, gate, up, down, head
  EXPECT_EQ(count(*m->graph("prefill"), Op::Tail), 2u);  // of the residual and of the attention
  EXPECT_EQ(count(*m->graph("decode"), Op::Tail), 0u);
  EXPECT_EQ(count(*m->graph("verify"), Op::Tail), 0u);
}

/// Random graphs of row-wise ops and linears, with many ways to make a cycle when grouping.
std::unique_ptr<Module> random_graph(unsigned seed) {
  auto m = std::make_unique<Module>();
  m->name = "random";
  m->dims = {{"n", {1, 64}}};
  std::mt19937 rng(seed);
  Graph* g = m->add_graph("main");
  std::vector<Value*> values = {g->add_arg(Type::tensor(DType::F32, {Dim::symbol("n"), 32}), "x")};
  Builder b(g);
  auto pick = [&] { return values[rng() % values.size()]; };
  int weights = 0;
  auto weight = [&](std::vector<int64_t> shape, DType type) {
    return random_weight(*m, rng, "w" + std::to_string(weights++), type, std::move(shape));
  };
  for (int i = 0; i < 40; ++i) {
    Value* x = pick();
    switch (rng() % 10) {
      case 0:
        x = b.Linear({x, weight({32, 32}, rng() % 2 ? DType::Q8_0 : DType::F32)});
        break;
      case 1:
        x = b.Add({x, pick()});
        break;
      case 2:
        x = b.Mul({x, b.Sigmoid({x})});
        break;
      case 3:
        x = b.Mul({x, weight({rng() % 2 ? 32 : 1}, DType::F32)});
        break;
      case 4:
        x = b.RmsNorm({x, weight({32}, DType::F32)});
        break;
      case 5:
        x = b.Softmax({x});
        break;
      case 6:
        x = b.Reshape({b.Reshape({x}, {{"shape", std::string("?n,4,8")}})}, {{"shape", std::string("?n,32")}});
        break;
      case 7:
        x = b.Mul({b.Silu({b.Linear({x, weight({32, 32}, DType::F32)})}), b.Linear({x, weight({32, 32}, DType::F32)})});
        break;
      case 8:
        x = b.Concat({b.Slice({x}, {{"axis", int64_t{1}}, {"begin", int64_t{16}}, {"end", int64_t{32}}}),
                      b.Slice({x}, {{"axis", int64_t{1}}, {"begin", int64_t{0}}, {"end", int64_t{16}}})},
                     {{"axis", int64_t{1}}});
        break;
      case 9:
        x = b.Scale({b.Maximum({x, pick()})}, {{"by", 0.5}, {"plus", 0.25}});
        break;
    }
    values.push_back(x);
  }
  b.set_return({values.back(), pick(), b.Tail({pick()}, {{"rows", std::string("1")}})});
  EXPECT_TRUE(b.status()) << b.status().message();
  return m;
}

TEST(Passes, RandomGraphsKeepTheNumbers) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    auto m = random_graph(seed);
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    BisectCase c{"main", {}, {{"n", 5}}};
    Tensor x{{5, 32}, {}, {}};
    for (int i = 0; i < 5 * 32; ++i) x.f.push_back(normal(rng));
    c.inputs["x"] = x;
    // canonicalize turns x * sigmoid(x) into silu(x), which rounds once less
    auto guilty = bisect(
        *m, pipeline("canonicalize,constant-fold,cse,dce,fuse-projections,pack-weights,dce,fuse-epilogues,plan-memory"),
        {c}, 1e-6);
    ASSERT_TRUE(guilty) << "seed " << seed << ": " << guilty.message() << "\n" << print(*m);
    ASSERT_EQ(*guilty, "") << "seed " << seed;
  }
}

TEST(Bisect, NamesThePassThatChangedTheNumbers) {
  auto m = tiny_model(kVariants[1]);
  auto guilty = bisect(*m, pipeline("canonicalize,dce,quantize-activations,fuse-projections"), calls(), 1e-6);
  ASSERT_TRUE(guilty) << guilty.message();
  EXPECT_EQ(*guilty, "2: quantize-activations");
}

std::string pipeline_error(const std::string& text) {
  auto steps = parse_pipeline(text);
  return steps ? "" : steps.message();
}

TEST(Pipeline, PrintsWhatItParses) {
  const std::string text = "canonicalize,fuse-attention{tile_k=32},quantize-activations{bf16_linears=dense,bf16_rows=8}";
  EXPECT_EQ(print_pipeline(pipeline(text)), text);
  EXPECT_EQ(print_pipeline(pipeline(" canonicalize , dce ")), "canonicalize,dce");
  EXPECT_EQ(pipeline("cpu").back().pass->name, "plan-memory");
  EXPECT_TRUE(pipeline("").empty());
}

TEST(Pipeline, ErrorsSuggestTheNearestName) {
  EXPECT_EQ(pipeline_error("fuse-atention"), "pipeline: unknown pass 'fuse-atention', did you mean 'fuse-attention'?");
  EXPECT_EQ(pipeline_error("fuse-attention{tile_x=3}"),
            "pipeline: pass fuse-attention: unknown option 'tile_x', did you mean 'tile_k'?");
  EXPECT_EQ(pipeline_error("fuse-attention{tile_k=no}"),
            "pipeline: pass fuse-attention, option tile_k: found 'no', expected a positive integer");
  EXPECT_EQ(pipeline_error("pack-weights{dense=x}"),
            "pipeline: pass pack-weights, option dense: found 'x', expected rows16|row_major|swizzled|mixed");
  EXPECT_EQ(pipeline_error("cse{x=1}"), "pipeline: pass cse: found option 'x', expected none");
  EXPECT_EQ(pipeline_error("cse,"), "pipeline: found the end after ',', expected a pass");
  EXPECT_EQ(pipeline_error("fuse-attention{tile_k=3"), "pipeline: pass fuse-attention: found no '}' after its options");
  EXPECT_NE(pipeline_error(","), "");
  EXPECT_NE(pipeline_error("cse dce"), "");
}

TEST(Manager, TimesPrintsAndChecksLevels) {
  auto m = tiny_model(kVariants[0]);
  std::string printed;
  ManagerOptions options;
  options.print_after = {"dce"};
  options.print = [&](std::string_view text) { printed += text; };
  Manager manager(options);
  ASSERT_TRUE(manager.run(*m, pipeline("cse,dce,fuse-attention")));
  ASSERT_EQ(manager.timings().size(), 3u);
  EXPECT_EQ(manager.timings()[0].pass, "cse");
  EXPECT_GT(manager.timings()[0].ops_before, manager.timings()[0].ops_after);  // one `positions` is enough
  EXPECT_EQ(printed.find("// ----- after dce\nmodule @llama"), 0u) << printed.substr(0, 100);
  EXPECT_EQ(m->level, Level::Fused);

  const Status early = Manager().run(*m, pipeline("plan-memory"));
  ASSERT_FALSE(early);
  EXPECT_EQ(early.message(),
            "pass plan-memory: found a module at level fused, expected kernel: run fuse-epilogues first");
  const Status late = Manager().run(*m, pipeline("specialize-entry-points"));
  ASSERT_FALSE(late);
  EXPECT_EQ(late.message(), "pass specialize-entry-points: found a module at level fused, expected at most graph");
}

TEST(Manager, WritesAReproducer) {
  auto m = tiny_model(kVariants[0]);
  ManagerOptions options;
  options.reproducer = testing::TempDir() + "/passes_test_reproducer.prism";
  const Status status = Manager(options).run(*m, pipeline("cse,plan-memory"));
  ASSERT_FALSE(status);
  EXPECT_NE(status.message().find(options.reproducer), std::string::npos);
  std::ifstream in(options.reproducer);
  std::stringstream text;
  text << in.rdbuf();
  EXPECT_EQ(text.str().find("// RUN: prism opt %s --passes='plan-memory'\nmodule @llama"), 0u)
      << text.str().substr(0, 100);
  EXPECT_TRUE(parse(text.str(), "reproducer"));
}

}  // namespace
}  // namespace prism::passes
