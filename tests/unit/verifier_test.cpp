#include "ir/verifier.h"

#include <gtest/gtest.h>

#include "ir/builder.h"
#include "ir/text.h"

namespace prism::ir {
namespace {

Type type(const char* text) { return *Type::parse(text); }

/// x -> rms_norm -> relu -> returned, with a weight.
struct Small {
  Module m;
  Graph* g;
  Value *x, *w, *h, *y;
  Small() {
    m.name = "m";
    m.dims["n"] = {1, 64};
    w = &m.add_weight("w", type("f32[8]"))->value;
    g = m.add_graph("f");
    x = g->add_arg(type("f32[?n,8]"), "x");
    Builder b(g);
    h = b.RmsNorm({x, w}, {}, "h");
    y = b.Relu({h}, {}, "y");
    b.set_return({y});
    EXPECT_TRUE(b.status());
    EXPECT_TRUE(verify(m));
  }
  std::string error() const {
    auto s = verify(m);
    return s ? "" : s.message();
  }
};

TEST(Verifier, FindsBrokenModules) {
  struct Case {
    void (*damage)(Small&);
    const char* message;
  };
  const Case cases[] = {
      {[](Small& s) { s.m.dims.clear(); }, "module @m: graph @f: size ?n uses ?n, expected a declared dim"},
      {[](Small& s) {
         s.m.dims["n"] = {9, 1};
       },
       "module @m: dim ?n is in [9,1], expected a range of sizes"},
      {[](Small& s) { s.y->type = type("f32[?n,9]"); },
       "module @m: graph @f: %y: relu: result 0 is f32[?n,9], expected f32[?n,8]"},
      {[](Small& s) { s.y->name = "x"; }, "module @m: graph @f: %x: two values are named %x"},
      {[](Small& s) { s.h->def->attrs["eps"] = int64_t(1); },
       "module @m: graph @f: %h: rms_norm: attribute 'eps' is not a number"},
      {[](Small& s) { s.h->def->attrs["mode"] = true; },
       "module @m: graph @f: %h: rms_norm: found attribute 'mode', which the op does not have"},
      {[](Small& s) { s.y->def->op = Op::Softcap; },
       "module @m: graph @f: %y: softcap: attribute 'cap' is missing, expected a number"},
      {[](Small& s) { s.m.level = Level::Kernel; },
       "module @m: graph @f: %h: rms_norm stands at the top of a graph at level kernel, expected only kernel"},
      {[](Small& s) { s.y->def->op = Op::FlashAttention; },
       "module @m: graph @f: %y: flash_attention is not legal at level graph, expected fused to plan"},
      {[](Small& s) { s.g->ops.splice(s.g->ops.end(), s.g->ops, s.h->def->getIterator()); },
       "module @m: graph @f: %y: uses a value that is not defined before it"},
      {[](Small& s) { s.g->returns = {s.w}; }, "module @m: graph @f: returns a value that it does not define"},
      {[](Small& s) { s.x->uses.clear(); }, "module @m: value x misses a use"},
      {[](Small& s) { s.x->uses.push_back(s.h->uses[0]); }, "module @m: value x lists a use that does not exist"},
      {[](Small& s) { s.x->uses.push_back(s.x->uses[0]); }, "module @m: value x lists a use that does not exist"},
      {[](Small& s) {
         s.m.attrs = {{"a", true}, {"a", 1.0}};
       },
       "module @m: two attributes are named 'a'"},
      {[](Small& s) { s.m.add_graph("f"); }, "module @m: two graphs are named @f"},
      {[](Small& s) { s.m.add_weight("q", type("q4_1[4,33]")); },
       "module @m: weight @q: type q4_1[4,33] needs a last axis divisible by 32"},
      {[](Small& s) { s.m.add_weight("q", type("f32[3]"))->values = {1, 2}; }, "module @m: weight @q: has 2 values, expected 3 for f32[3]"},
      {[](Small& s) { s.m.add_weight("q", type("f16[2]"))->values = {1, 2}; }, "module @m: weight @q: has values, expected a row-major f32 tensor without bytes or sources"},
      {[](Small& s) { s.m.add_weight("q", type("f32[2]"))->values = {1, 1e300}; }, "module @m: weight @q: has values that no f32 has"},
      {[](Small& s) { s.m.add_weight("q", type("f32[?n]")); },
       "module @m: weight @q: type f32[?n] is not a fixed-size tensor"},
      {[](Small& s) { s.m.weight("w")->data = &s; }, "module @m: weight @w: has 0 bytes, expected 32 for f32[8]"},
      {[](Small& s) { s.y->def->body = std::make_unique<Graph>(&s.m); },
       "module @m: graph @f: %y: relu has a body, expected none"},
      {[](Small& s) { s.x->type.shape[0] = Dim::symbol("n") * (INT64_MAX / 2) * 4; },
       "module @m: graph @f: a size does not fit 64 bits"},
      {[](Small& s) { s.x->type.shape[0] = Dim(-3); }, "module @m: graph @f: size -3 is negative"},
  };
  for (const Case& c : cases) {
    Small s;
    c.damage(s);
    EXPECT_EQ(s.error(), c.message);
  }
}

TEST(Verifier, ChecksKernelBodies) {
  auto check = [](const std::string& body, const char* message) {
    auto m = parse(
        "module @m level=kernel { weight @w : f32[8] graph @f(%x: f32[4,8]) -> (f32[4,8]) { %y = kernel(%x) : f32[4,8] "
        "{" +
            body + "} return %y } }",
        "t");
    ASSERT_TRUE(m) << m.message();
    auto s = verify(**m);
    EXPECT_EQ(s ? "" : s.message(), message);
  };
  check("(%a: f32[4,8]) %z = relu(%a) : f32[4,8] return %z", "");
  check("() return", "module @m: graph @f: %y: kernel has 1 operands, expected its body's 0");
  check("(%a: f32[4,9]) return %a",
        "module @m: graph @f: %y: kernel: operand 0 is f32[4,8], expected its body's f32[4,9]");
  check("(%a: f32[4,8]) return", "module @m: graph @f: %y: kernel returns nothing");
  check("(%a: f32[4,8]) return %a, %a", "module @m: graph @f: %y: kernel has 1 results, expected 2");
  check("(%a: f32[4,8]) %z = rms_norm(%a, @w) : f32[4,8] return %z",
        "module @m: graph @f: %y: %z: uses a value that is not defined before it");
}

TEST(Graph, ReplacesUsesAndReturns) {
  Small s;
  s.y->replace_all_uses_with(s.h);
  EXPECT_EQ(s.g->returns, std::vector<Value*>{s.h});
  s.y->def->erase();
  EXPECT_EQ(s.error(), "");
  EXPECT_TRUE(s.h->uses.empty());
  s.g->returns = {s.x};
  Value* z = s.g->add_arg(s.x->type, "z");
  s.x->replace_all_uses_with(z);
  EXPECT_EQ(s.g->returns, std::vector<Value*>{z});
  EXPECT_EQ(s.h->def->operand(0), z);
  EXPECT_TRUE(s.x->uses.empty());
  EXPECT_EQ(s.error(), "");
}

TEST(Graph, NamesStayUnique) {
  Small s;
  EXPECT_EQ(s.g->unique_name("h"), "h.1");
  EXPECT_EQ(s.g->unique_name("h"), "h.2");
  EXPECT_EQ(s.g->unique_name("h.1"), "h.3");
  s.g->rename(s.h, "h");
  EXPECT_EQ(s.h->name, "h");
  EXPECT_EQ(s.g->add_arg(s.x->type, "x")->name, "x.1");
}

TEST(Graph, CloneSubstitutesDimsAndIsIndependent) {
  auto m = parse(R"(module @m level=fused {
    dim ?past in [0,64] dim ?seq in [1,64]
    weight @w : f32[8]
    graph @f(%x: f32[?seq,8]) -> (f32[?seq,2,4], i32[?seq]) {
      %k = kernel(%x, @w) : f32[?seq,8] { (%x: f32[?seq,8], %w: f32[8]) %n = rms_norm(%x, %w) : f32[?seq,8] return %n }
      %r = reshape(%k) {shape="?seq,2,4"} : f32[?seq,2,4]
      %p = positions() {start="?past", count="?seq"} : i32[?seq]
      return %r, %p
    } })", "t");
  ASSERT_TRUE(m) << m.message();
  const std::string before = print(**m);
  std::map<const Value*, Value*> map;
  auto one = [](std::string_view s) { return s == "seq" ? std::optional<Dim>(1) : std::nullopt; };
  auto copy = clone_graph(*(*m)->graph("f"), **m, one, &map);
  copy->name = "decode";
  EXPECT_EQ(print(*copy), R"(graph @decode(%x: f32[1,8]) -> (f32[1,2,4], i32[1]) {
  %k = kernel(%x, @w) : f32[1,8] {
    (%x: f32[1,8], %w: f32[8])
    %n = rms_norm(%x, %w) : f32[1,8]
    return %n
  }
  %r = reshape(%k) {shape="1,2,4"} : f32[1,2,4]
  %p = positions() {count="1", start="?past"} : i32[1]
  return %r, %p
}
)");
  EXPECT_EQ(map.at((*m)->graph("f")->args[0].get()), copy->args[0].get());
  (*m)->graphs.push_back(std::move(copy));
  auto status = verify(**m);
  EXPECT_TRUE(status) << status.message();
  (*m)->graphs.pop_back();
  EXPECT_EQ(print(**m), before);
  EXPECT_TRUE(verify(**m));

  Module other;
  other.dims = (*m)->dims;
  other.level = Level::Fused;
  other.graphs.push_back(clone_graph(*(*m)->graph("f"), other));
  auto moved = verify(other);
  EXPECT_TRUE(moved) << moved.message();
  EXPECT_NE(other.weight("w"), nullptr);
}

}  // namespace
}  // namespace prism::ir
