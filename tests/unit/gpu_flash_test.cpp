// Attention on GPUs, for few tokens and for many: right numbers in every order of blocks and threads, and mistakes noticed.
#include "gpu_flash_fixture.h"
#include "kir_mutate.h"

namespace prism::gpu_test {
namespace {

struct Chunk {
  int64_t tokens, past;
};

/// How far a value may be from the evaluator's, relative to the largest. Both are rounded to the result's type, in the worst case
/// one step apart: 1/127 of a block's largest (and the error of that), 2^-7 of a bf16.
double tolerance(const Attention& a, double exact) { return exact + (a.end == "q8a" ? 1.0 / 126 : a.end == "bf16" || a.queries == "bf16" ? 1.0 / 128 : 0); }

void check(const std::vector<Attention>& cases, int64_t most, const std::vector<Chunk>& chunks, double exact) {
  for (const Attention& a : cases) {
    const FlashKernel f(a, most);
    expect_compiles(f.kernel());
    OnTarget code(f.kernel());
    uint64_t seed = 1;
    for (const Chunk& c : chunks) {
      std::string why;
      EXPECT_LT(f.error(code, c.tokens, c.past, seed++, &why), tolerance(a, exact)) << describe(a) << ", tokens " << c.tokens << " past " << c.past << " " << why;
    }
  }
}

// All in f32, or in two f16 that make one.
TEST(GpuFlash, DecodeAndVerify) {
  check({{9, 3, 64}, {14, 2, 128}, {4, 4, 80, 0, 0, "bf16"}, {4, 1, 256, 20, 0, "q8a"}, {2, 1, 32, 100, 5.0}, {12, 1, 96, 0, 0, "q8a", "f16"},
         {2, 2, 48, 0, 0, "f32", "f32", false}, {44, 44, 32}, {72, 72, 16, 300}},
        16, {{1, 0}, {3, 0}, {1, 63}, {1, 64}, {16, 60}, {2, 130}, {1, 383}}, 1e-5);
}

// So many keys that a job has more parts than a warp has lanes: 64 of these heads' keys, and 44.
TEST(GpuFlash, ManyParts) {
  for (const Attention& a : {Attention{3, 1, 32}, Attention{9, 3, 16}, Attention{2, 1, 144}}) {
    const FlashKernel f(a, 16, 8704);
    expect_compiles(f.kernel());
    OnTarget code(f.kernel());
    for (const int64_t past : {4095, 4500, 8191, 8639}) {
      std::string why;
      EXPECT_LT(f.error(code, 1, past, uint64_t(past), &why), 1e-5) << describe(a) << ", past " << past << " " << why;
    }
  }
}

// Queries and weights are rounded to f16, 2^-11 of each weight and 2^-11 in a score's terms: a few 1e-4 where values cancel.
TEST(GpuFlash, Prefill) {
  check({{9, 3, 64}, {7, 1, 128, 0, 0, "bf16"}, {2, 2, 80, 0, 0, "f32", "bf16"}, {2, 1, 256, 20, 0, "q8a"}, {1, 1, 128, 64, 0, "q8a"}, {2, 1, 32, 100, 5.0},
         {3, 1, 96, 0, 0, "q8a", "f16"}, {2, 2, 48, 0, 0, "f32", "f32", false}},
        256, {{1, 0}, {3, 1}, {17, 63}, {64, 64}, {65, 0}, {100, 130}, {200, 65}}, 1e-3);
}

// Scores of about 20: rounding a query is some 0.01 of one, and the largest so far rises often.
TEST(GpuFlash, PrefillOfLargeScores) {
  check({{2, 1, 64, 0, 0, "f32", "f32", true, 2.0}, {2, 2, 128, 0, 0, "f32", "f32", true, 1.5}}, 256, {{3, 1}, {64, 200}, {200, 65}}, 1e-2);
}

/// The bytes of tokens first, first + 1, ..., computed `at_once` at a time.
std::vector<uint8_t> in_chunks(const FlashKernel& f, OnTarget& code, int64_t first, int64_t tokens, int64_t at_once) {
  std::vector<uint8_t> all;
  for (int64_t t = 0; t < tokens; t += at_once) {
    const auto r = f.run(code, std::min(at_once, tokens - t), first + t, uint64_t(t + at_once));
    EXPECT_EQ(r.error, "");
    all.insert(all.end(), r.bytes.begin(), r.bytes.end());
  }
  return all;
}

TEST(GpuFlash, BitsDoNotDependOnTheTokensBeside) {
  for (const Attention& a : {Attention{6, 2, 64}, Attention{7, 1, 32, 50}, Attention{2, 2, 128, 0, 3.0, "q8a"}}) {
    const FlashKernel few(a, 16), many(a, 128);
    OnTarget decode(few.kernel()), prefill(many.kernel());
    for (int64_t first : {0, 57, 250}) {
      const auto one = in_chunks(few, decode, first, 16, 1);
      for (int64_t at_once : {5, 16}) EXPECT_EQ(one, in_chunks(few, decode, first, 16, at_once)) << describe(a) << " from " << first << ", " << at_once << " at once";
    }
    EXPECT_EQ(in_chunks(many, prefill, 30, 80, 80), in_chunks(many, prefill, 30, 80, 33)) << describe(a);
  }
}

TEST(GpuFlash, BitsDoNotDependOnTheOrder) {
  const Attention a{6, 2, 64};
  const FlashKernel few(a, 16), many(a, 128);
  OnTarget decode(few.kernel()), prefill(many.kernel());
  const auto first = few.run(decode, 5, 200, 1), first_many = many.run(prefill, 70, 20, 1);
  for (uint64_t seed = 2; seed < 8; ++seed) {
    const auto other = few.run(decode, 5, 200, seed), other_many = many.run(prefill, 70, 20, seed);
    EXPECT_EQ(other.error + other_many.error, "");
    EXPECT_EQ(first.bytes, other.bytes);
    EXPECT_EQ(first_many.bytes, other_many.bytes);
  }
}

TEST(GpuFlash, WhatItCannotDoIsAnError) {
  const auto lowering_error = [](const Attention& a) { return FlashKernel(a, 16).lowering_error(); };
  EXPECT_EQ(lowering_error({2, 1, 40}), "kernel decode: flash_attention: head size 40, expected a multiple of 16, at most 256");
  EXPECT_EQ(lowering_error({2, 1, 48, 0, 0, "q8a"}), "kernel decode: flash_attention: q8a result needs a head size that is a multiple of 32");
  EXPECT_EQ(lowering_error({2, 1, 64, 9, 0, "f32", "f32", false}), "kernel decode: flash_attention: a window that is not causal");
}

// --- mistakes ----------------------------------------------------------------------------------------------------------

/// What running the kernel says or, if it runs, how wrong it is; "" if nobody noticed.
std::string noticed(const FlashKernel& f, const Kernel& broken, const std::vector<Chunk>& chunks, double exact) {
  if (const Status status = verify(broken); !status) return "verifier: " + status.message();
  OnTarget code(broken);
  for (const Chunk& c : chunks)
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      std::string why;
      const double error = f.error(code, c.tokens, c.past, seed, &why);
      if (!why.empty()) return why;
      if (error > exact) return "wrong numbers: " + std::to_string(error);
    }
  return "";
}

struct Mutant {
  std::string name;
  std::function<Kernel(Kernel)> change;
  std::string noticed_by;   ///< part of the message
};

void expect_noticed(const FlashKernel& f, const std::vector<Mutant>& mutants, const std::vector<Chunk>& chunks, double exact) {
  EXPECT_EQ(noticed(f, f.kernel(), chunks, exact), "");
  for (const Mutant& m : mutants) {
    const Kernel broken = m.change(f.kernel());
    EXPECT_NE(print(broken), print(f.kernel())) << m.name << " changes nothing";
    const std::string message = noticed(f, broken, chunks, exact);
    EXPECT_NE(message.find(m.noticed_by), message.npos) << m.name << ": '" << message << "'";
    EXPECT_NE(message, "") << m.name;
  }
}

bool is_lane_times_value(const Ref& r) { return r->kind == kir::Kind::Mul && r->args[0]->kind == kir::Kind::Lane && r->args[1]->kind == kir::Kind::Var; }

/// A product of an accumulator's lane without its factor.
Kernel without_rescale(Kernel k) {
  return rewritten(std::move(k), [](const Ref& r) -> Ref { return is_lane_times_value(r) && r->ty.elem == Elem::F32 ? r->args[0] : nullptr; });
}

/// Operands b made of the lanes 0 and 2 of a fragment instead of 0 and 1.
Kernel with_wrong_fragment(Kernel k) {
  return rewritten(std::move(k), [](const Ref& r) -> Ref {
    if (r->kind != kir::Kind::Lane || r->ival != 1 || r->args[0]->ty != Ty{Elem::U32, 4}) return nullptr;
    return lane(Ex(r->args[0]), 2).node;
  });
}

std::vector<Mutant> each_left_out(const Kernel& k, const std::string& name, const StmtTest& test, const std::string& noticed_by) {
  std::vector<Mutant> all;
  for (int n = 0; n < count(k, test); ++n)
    all.push_back({"without " + name + " " + std::to_string(n), [=](Kernel kernel) { return without(std::move(kernel), test, n); }, noticed_by});
  return all;
}

std::vector<Mutant> joined(std::vector<std::vector<Mutant>> lists) {
  std::vector<Mutant> all;
  for (auto& l : lists) all.insert(all.end(), l.begin(), l.end());
  return all;
}

TEST(GpuFlash, MistakesInDecodeAreNoticed) {
  const FlashKernel f({72, 72, 16, 280}, 16);  // heads enough that a block has all keys
  const Kernel& k = f.kernel();
  const auto mutants = joined({
      each_left_out(k, "barrier", of_kind(Stmt::Kind::Barrier), " shared 'tiles' at byte "),
      each_left_out(k, "async_wait", of_kind(Stmt::Kind::AsyncWait), "under way"),
      each_left_out(k, "warp_sync", of_kind(Stmt::Kind::WarpSync), "no barrier between"),
      each_left_out(k, "async_copy", of_kind(Stmt::Kind::AsyncCopy), ""),
      {{"one key less", [](Kernel m) { return with_operation(std::move(m), kir::Kind::Le, kir::Kind::Lt); }, "wrong numbers"},
       {"a window of one key more", [](Kernel m) { return with_constant(std::move(m), 280, 281); }, "wrong numbers"},
       {"old sums without their factor", without_rescale, "wrong numbers"},
       {"a wrong fragment", with_wrong_fragment, "wrong numbers"}},
  });
  expect_noticed(f, mutants, {{1, 300}}, 1e-5);
}

// The barrier before the counter is raised orders global memory, which the emulator does not watch: it is not among these.
TEST(GpuFlash, MistakesInTheMergeAreNoticed) {
  const FlashKernel f({2, 1, 32}, 16);
  const Kernel& k = f.kernel();
  const auto no_factors = [&](Kernel k) {
    return rewritten(std::move(k), [](const Ref& r) -> Ref {
      if (r->kind != kir::Kind::Call || r->fn != Fn::Exp2Coarse) return nullptr;
      const Ref& x = r->args[0];  // top of a part - top of all: the latter comes from a shuffle or a load
      return x->kind == kir::Kind::Sub && x->args[0]->kind == kir::Kind::Var && x->args[1]->kind == kir::Kind::Var ? kir::constant({Elem::F32, 1}, 1).node : nullptr;
    });
  };
  const auto barrier = of_kind(Stmt::Kind::Barrier);
  ASSERT_EQ(count(k, barrier), 4);
  const auto mutants = joined({
      each_left_out(k, "counter's reset", store_to(k, "counters"), "counters are left raised"),
      {{"factors of all parts are 1", no_factors, "wrong numbers"},
       {"the last block does not wait for the counter", [=](Kernel m) { return without(std::move(m), barrier, 3); }, "no"},
       {"another part's sums", [](Kernel m) { return with_constant(std::move(m), 8 * (32 + 2), 8 * (32 + 2) - 1); }, "wrong numbers"}},
  });
  expect_noticed(f, mutants, {{1, 300}}, 1e-5);
}

TEST(GpuFlash, MistakesInPrefillAreNoticed) {
  const FlashKernel f({2, 1, 32, 70}, 256);
  const Kernel& k = f.kernel();
  const auto mutants = joined({
      each_left_out(k, "barrier", of_kind(Stmt::Kind::Barrier), "no barrier between"),
      each_left_out(k, "async_wait", of_kind(Stmt::Kind::AsyncWait), "under way"),
      each_left_out(k, "async_copy", of_kind(Stmt::Kind::AsyncCopy), ""),
      {{"one key less", [](Kernel m) { return with_operation(std::move(m), kir::Kind::Le, kir::Kind::Lt); }, "wrong numbers"},
       {"a window of one key more", [](Kernel m) { return with_constant(std::move(m), 70, 71); }, "wrong numbers"},
       {"a wrong fragment", with_wrong_fragment, "wrong numbers"}},
  });
  expect_noticed(f, mutants, {{200, 30}}, 1e-3);
  const FlashKernel large({2, 1, 32, 0, 0, "f32", "f32", true, 3.0}, 256);
  expect_noticed(large, {{"old sums without their factor", without_rescale, "wrong numbers"}}, {{200, 30}}, 1e-2);
}

}  // namespace
}  // namespace prism::gpu_test
