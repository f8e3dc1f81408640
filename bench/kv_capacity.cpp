// How much memory a long context takes: layers of keys and values appended through kv_append, by what the allocator was asked for and by
// what the process has resident. The keys and values are synthetic; the last token of every piece attends to all of them.
//
//   prism_bench_kv_capacity [BITS [POSITIONS [LAYERS [HEADS [SIZE]]]]]     (default: k3v3 32768 32 32 128, the shape of a 7B model)
#include <malloc.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "codegen/fill_weight.h"
#include "codegen/generate.h"
#include "ir/text.h"
#include "passes/pass.h"
#include "runtime/session.h"

namespace prism {
namespace {

constexpr int64_t kVocab = 64, kPiece = 512;

struct Shape {
  std::string bits = "k3v3";
  int64_t positions = 32768, layers = 32, heads = 32, size = 128;
};

/// Of each layer k and v are the token's vector scaled and moved by vectors of the layer's own.
std::string text_of(const Shape& s) {
  const std::string width = std::to_string(s.heads * s.size), kv = "," + std::to_string(s.heads) + "," + std::to_string(s.size) + "]", x = "f32[?seq," + width + "]";
  const std::string shape = "{shape=\"?seq," + std::to_string(s.heads) + "," + std::to_string(s.size) + "\"}", last = "f32[?out," + width + "]";
  std::string weights, arguments, results, types, body, sum = "%x1";
  for (int64_t l = 0; l < s.layers; ++l) {
    const std::string n = std::to_string(l);
    weights += "  weight @k" + n + " : f32[" + width + "]\n  weight @v" + n + " : f32[" + width + "]\n";
    arguments += ", %kv" + n + ": kv<f16>[?past" + kv;
    results += ", %kv" + n + "a";
    types += ", kv<f16>[?past+?seq" + kv;
    body += "    %k" + n + " = mul(%x, @k" + n + ") : " + x + "\n    %v" + n + " = add(%x, @v" + n + ") : " + x + "\n    %kh" + n + " = reshape(%k" + n + ") " + shape + " : f32[?seq" + kv +
            "\n    %vh" + n + " = reshape(%v" + n + ") " + shape + " : f32[?seq" + kv + "\n    %kr" + n + " = rope(%kh" + n + ", %pos) {mode=half} : f32[?seq" + kv + "\n    %kv" + n + "a = kv_append(%kv" +
            n + ", %kr" + n + ", %vh" + n + ") : kv<f16>[?past+?seq" + kv + "\n    %q" + n + " = tail(%k" + n + ") {rows=\"?out\"} : " + last + "\n    %qh" + n + " = reshape(%q" + n + ") {shape=\"?out" + kv.substr(0, kv.size() - 1) + "\"} : f32[?out" + kv + "\n    %a" + n +
            " = attention(%qh" + n + ", %kv" + n +
            "a) {scale=" + std::to_string(1 / std::sqrt(double(s.size))) + "} : f32[?out" + kv + "\n    %r" + n + " = reshape(%a" + n + ") {shape=\"?out," + width + "\"} : " + last + "\n    %s" + n +
            " = add(" + sum + ", %r" + n + ") : " + last + "\n";
    sum = "%s" + n;
  }
  return "module @capacity level=graph {\n  dim ?out in [1," + std::to_string(kPiece) + "]\n  dim ?past in [0," + std::to_string(s.positions) + "]\n  dim ?seq in [1," + std::to_string(kPiece) +
         "]\n  attr context_length=" + std::to_string(s.positions) + "\n  attr vocab_size=" + std::to_string(kVocab) + "\n  weight @table : f32[" + std::to_string(kVocab) + "," + width + "]\n" + weights +
         "  graph @forward(%ids: i32[?seq]" + arguments + ") -> (f32[?out," + std::to_string(kVocab) + "]" + types + ") {\n    %pos = positions() {count=\"?seq\", start=\"?past\"} : i32[?seq]\n" +
         "    %x = embedding(%ids, @table) : " + x + "\n    %x1 = tail(%x) {rows=\"?out\"} : " + last + "\n" + body + "    %y = linear(" + sum + ", @table) : f32[?out," + std::to_string(kVocab) +
         "]\n    return %y" + results + "\n  }\n}\n";
}

Result<std::shared_ptr<rt::Executable>> compile(const Shape& s) {
  PRISM_TRY(auto m, ir::parse(text_of(s), "capacity"));
  const std::string compression = s.bits == "exact" ? "" : "plan-kv-compression{bits=" + s.bits + "},";
  PRISM_TRY(const auto pipeline, passes::parse_pipeline(compression + codegen::default_pipeline("cpu", rt::best_isa())));
  PRISM_CHECK(passes::Manager().run(*m, pipeline));
  PRISM_TRY(auto program, codegen::generate(*m, {rt::best_isa()}));
  rt::LoadOptions load;
  load.fill = [&](const rt::Weight& w, std::span<uint8_t> dst) {
    std::mt19937 rng(unsigned(std::hash<std::string>()(w.name)));
    std::normal_distribution<float> normal;
    std::vector<float> values(size_t(s.heads * s.size * (w.sources[0] == "table" ? kVocab : 1)));
    for (float& v : values) v = normal(rng);
    return codegen::fill_weight(w, [&](const std::string& name) -> Result<codegen::SourceTensor> {
      std::vector<int64_t> shape = {s.heads * s.size};
      if (name == "table") shape.insert(shape.begin(), kVocab);
      return codegen::SourceTensor{ir::DType::F32, shape, reinterpret_cast<const uint8_t*>(values.data())};
    }, dst);
  };
  return rt::Executable::from_program(std::move(program), load);
}

/// Of this process; what the compiler gave back is not counted.
uint64_t resident() {
  malloc_trim(0);
  std::ifstream statm("/proc/self/statm");
  uint64_t all = 0, pages = 0;
  statm >> all >> pages;
  return pages * uint64_t(sysconf(_SC_PAGESIZE));
}

Status run(const Shape& s) {
  PRISM_TRY(const auto exe, compile(s));
  const uint64_t before = resident();
  PRISM_TRY(const auto session, rt::Session::create(exe, {0, s.positions}));
  const auto start = std::chrono::steady_clock::now();
  std::mt19937 rng(1);
  std::vector<int32_t> ids(kPiece);
  for (int64_t at = 0; at < s.positions; at += kPiece) {
    ids.resize(size_t(std::min(kPiece, s.positions - at)));
    for (int32_t& id : ids) id = int32_t(rng() % kVocab);
    PRISM_CHECK(session->feed(ids));
    if (isatty(2)) fprintf(stderr, "\r%lld of %lld positions", (long long)(at + int64_t(ids.size())), (long long)s.positions);
  }
  PRISM_TRY(const auto logits, session->logits());
  for (float x : logits)
    if (!std::isfinite(x)) return error("found a logit that is no number");
  const rt::KvStats stats = session->kv_stats();
  const double f16 = double(stats.bytes_f16);
  const uint64_t grown = resident() - before;
  const nlohmann::json out = {{"bits", s.bits}, {"positions", stats.positions}, {"layers", s.layers}, {"heads", s.heads}, {"head_size", s.size}, {"bytes_f16", stats.bytes_f16}, {"bytes_used", stats.bytes_used},
                              {"bytes_exact", stats.bytes_exact}, {"bytes_allocated", stats.bytes_allocated}, {"resident_growth", grown}, {"used_of_f16", double(stats.bytes_used) / f16},
                              {"allocated_of_f16", double(stats.bytes_allocated) / f16}, {"resident_of_f16", double(grown) / f16},
                              {"seconds", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()}};
  printf("%s\n", out.dump(2).c_str());
  return ok();
}

}  // namespace
}  // namespace prism

int main(int argc, char** argv) {
  prism::Shape s;
  if (argc > 1) s.bits = argv[1];
  int64_t* const numbers[] = {&s.positions, &s.layers, &s.heads, &s.size};
  for (int i = 2; i < argc && i < 6; ++i) *numbers[i - 2] = atoll(argv[i]);
  const prism::Status done = prism::run(s);
  if (!done) fprintf(stderr, "%s\n", done.message().c_str());
  return done ? 0 : 1;
}
