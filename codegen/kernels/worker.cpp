#include "codegen/kernels/worker.h"

#include <cmath>

#include "codegen/kernels/region.h"
#include "ir/hadamard.h"

namespace prism::codegen {

using namespace kir;

Buffer Worker::memory(const std::string& name, Elem elem, int64_t n) {
  return gpu() ? b_.shared(name, elem, n * warps_) : b_.scratch(name, elem, n);
}

Ex Worker::begin(int64_t n) { return warps_ > 1 ? b_.let(b_.thread() / 32 * n) : Ex(0); }

void Worker::over(int64_t n, const std::function<void(Ex, int)>& body) {
  if (gpu()) return over_each(n, [&](Ex i) { body(i, 1); });
  const int64_t whole = n / kLanes * kLanes;
  b_.for_(0, whole, kLanes, [&](Ex i) { body(i, kLanes); });
  b_.for_(whole, n, 1, [&](Ex i) { body(i, 1); });
}

void Worker::over_each(int64_t n, const std::function<void(Ex)>& body) {
  if (!gpu()) return b_.for_(0, n, 1, body);
  each_of_thread(n, body);
  meet();
}

void Worker::each_of_thread(int64_t n, const std::function<void(Ex)>& body) {
  if (!written_out(n)) return b_.for_(thread(), n, threads(), body);
  const size_t turns = size_t(n / threads());
  const Ex first = thread();
  for (turn_ = 0; turn_ < turns; ++turn_) body(b_.let(first + Ex(int64_t(turn_) * threads())));
}

std::function<Ex(Ex, int)> Worker::remember(int64_t n, std::function<Ex(Ex, int)> f) {
  if (!written_out(n)) return f;
  std::vector<Ex> values;
  each_of_thread(n, [&](Ex i) { values.push_back(b_.let(f(i, 1))); });
  return [values, this](Ex, int) { return values[turn_]; };
}

Ex warp_reduce(Builder& b, Fn fn, Ex value, int lanes) {
  for (int mask = lanes / 2; mask > 0; mask /= 2) {
    const Ex other = b.shuffle_xor(value, mask);
    value = b.let(fn == Fn::ReduceAdd ? value + other : max(value, other));
  }
  return value;
}

Ex Worker::reduce(int64_t n, Fn fn, const std::function<Ex(Ex, int)>& f) {
  const double start = fn == Fn::ReduceAdd ? 0 : -3.4e38;
  const Ex tail = b_.var(constant({Elem::F32, 1}, start));
  if (!gpu()) {
    const Ex acc = b_.var(constant({Elem::F32, kLanes}, start));
    over(n, [&](Ex i, int lanes) { b_.assign(lanes == 1 ? tail : acc, join(fn, lanes == 1 ? tail : acc, f(i, lanes))); });
    return b_.let(join(fn, call(fn, {acc}), tail));
  }
  each_of_thread(n, [&](Ex i) { b_.assign(tail, join(fn, tail, f(i, 1))); });
  const Ex mine = warp_reduce(b_, fn, tail);
  if (warps_ > 1) return mine;
  const int warps = b_.block_threads() / 32;
  const Buffer partial = b_.shared("partial" + std::to_string(partials_++), Elem::F32, warps);
  b_.if_(b_.thread() % 32 == Ex(0), [&] { b_.store(partial, b_.thread() / 32, mine); });
  b_.barrier();
  Ex all = b_.load(partial, 0);
  for (int w = 1; w < warps; ++w) all = join(fn, all, b_.load(partial, w));
  return b_.let(all);
}

void Worker::once(const std::function<void()>& body) {
  if (gpu()) b_.if_(thread() == Ex(0), body);
  else body();
}

void Worker::hadamard(const Buffer& x, Ex at, int64_t n) {
  if (!gpu()) return codegen::hadamard(b_, x, at, n);
  const int64_t block = ir::hadamard_block(n);
  for (int64_t half = 1; half < block; half *= 2) {
    const Ex factor(half * 2 == block ? 1 / std::sqrt(double(block)) : 1.0);
    over_each(n / 2, [&](Ex i) {
      const Ex first = b_.let(at + i / half * (2 * half) + i % half), low = b_.let(b_.load(x, first)), high = b_.let(b_.load(x, first + Ex(half)));
      b_.store(x, first, half * 2 == block ? (low + high) * factor : low + high);
      b_.store(x, first + Ex(half), half * 2 == block ? (low - high) * factor : low - high);
    });
  }
}

void Worker::quantize(const Buffer& out, Ex row, int64_t n, Ex first, int64_t blocks, const std::function<Ex(Ex, int)>& values, double scale) {
  if (gpu()) {
    const int64_t at_once = b_.block_threads() / 4;
    const Ex word = b_.let(b_.thread() % 4 * 4);
    const auto quantize_one = [&](Ex k, Ex stored) {
      const Ex block = b_.let(first + k), at = b_.let(block * 32 + word);
      store_q8a_words(b_, out, row, n, block, values(at, 4), values(at + Ex(16), 4), stored, scale);
    };
    const Ex begin = b_.let(b_.thread() / 4);
    b_.for_(constant({Elem::I32, 1}, 0), Ex((blocks + at_once - 1) / at_once), 1, [&](Ex turn) {  // as often for all threads
      const Ex k = b_.let(begin + turn * at_once);
      if (blocks % at_once == 0) quantize_one(k, Ex());
      else quantize_one(b_.let(min(k, Ex(blocks - 1))), b_.let(k < Ex(blocks)));
    }, 8);
    return;
  }
  b_.for_(0, blocks, 1, [&](Ex k) {
    const Ex block = b_.let(first + k);
    store_q8a(b_, out, row, n, block, values(block * 32, kLanes), values(block * 32 + kLanes, kLanes), scale);
  });
}

namespace {

/// How a block becomes integers: d its scale, which may be known.
struct Rounding {
  Rounding(Builder& b, double scale, const std::function<Ex()>& largest) : fixed(scale > 0) {
    if (fixed) {
      d = Ex(scale);
      inverse = Ex(1 / scale);
      return;
    }
    const Ex amax = b.let(largest());
    d = b.let(amax * Ex(1.0 / 127.0));
    inverse = b.let(select(Ex(0.0) < amax, constant({Elem::F32, 1}, 127.0) / amax, constant({Elem::F32, 1}, 0.0)));
  }
  Ex quantized(Builder& b, Ex x) const {
    Ex q = call(Fn::RoundEven, {x * inverse});
    if (fixed) q = min(max(q, constant(q.ty(), -127)), constant(q.ty(), 127));
    return b.let(cast(Elem::I32, q));
  }
  bool fixed;
  Ex d, inverse;
};

/// d: scale; h0, h1: i32 sums of the halves.
void store_scales(Builder& b, const Buffer& out, Ex row, int64_t n, Ex block, Ex d, Ex h0, Ex h1) {
  b.store(out, row + Ex(n) + block * 4, d);
  const Ex zero = constant({Elem::I32, 1}, 0);
  b.store(out, row + Ex(n + n / 8) + block * 4, zero - (h0 + h1));
  b.store(out, row + Ex(n + n / 4) + block * 8, zero - h0);
  b.store(out, row + Ex(n + n / 4) + block * 8 + 4, zero - h1);
}

}  // namespace

void store_q8a(Builder& b, const Buffer& out, Ex row, int64_t n, Ex block, Ex lo, Ex hi, double scale) {
  lo = b.let(lo);
  hi = b.let(hi);
  const Rounding r(b, scale, [&] { return call(Fn::ReduceMax, {max(call(Fn::Abs, {lo}), call(Fn::Abs, {hi}))}); });
  const Ex q0 = r.quantized(b, lo), q1 = r.quantized(b, hi);
  b.store(out, row + block * 32, cast(Elem::I8, q0));
  b.store(out, row + block * 32 + 16, cast(Elem::I8, q1));
  store_scales(b, out, row, n, block, r.d, b.let(call(Fn::ReduceAdd, {q0})), b.let(call(Fn::ReduceAdd, {q1})));
}

void store_q8a_warp(Builder& b, const Buffer& out, Ex row, int64_t n, Ex block, Ex value, double scale) {
  const Ex lane = b.let(b.thread() % 32), x = b.let(value);
  const Rounding r(b, scale, [&] { return warp_reduce(b, Fn::ReduceMax, b.let(call(Fn::Abs, {x}))); });
  const Ex q = r.quantized(b, x);
  b.store(out, row + block * 32 + lane, cast(Elem::I8, q));
  const Ex low = warp_reduce(b, Fn::ReduceAdd, q, 16), high = b.shuffle_xor(low, 16);
  b.if_(lane == Ex(0), [&] { store_scales(b, out, row, n, block, r.d, low, high); });
}

namespace {

/// Eight values in each of four neighbouring lanes, the first four of the block's first half. put(codes) stores the lane's.
void store_q8a_of_four(Builder& b, const Buffer& out, Ex row, int64_t n, Ex block, std::vector<Ex> values, Ex stored, double scale, const std::function<void(const std::vector<Ex>&)>& put) {
  for (Ex& v : values) v = b.let(v);
  const Rounding r(b, scale, [&] {
    Ex amax = Ex(0.0);
    for (const Ex& v : values) amax = b.let(max(amax, b.let(call(Fn::Abs, {v}))));
    return warp_reduce(b, Fn::ReduceMax, amax, 4);
  });
  for (Ex& v : values) v = r.quantized(b, v);
  Ex halves[2];
  for (size_t h = 0; h < 2; ++h) {
    const Ex* v = &values[4 * h];
    halves[h] = warp_reduce(b, Fn::ReduceAdd, b.let((v[0] + v[1]) + (v[2] + v[3])), 4);
  }
  const auto store = [&] {
    put(values);
    b.if_(b.thread() % 4 == Ex(0), [&] { store_scales(b, out, row, n, block, r.d, halves[0], halves[1]); });
  };
  if (stored.node) b.if_(stored, store);
  else store();
}

/// Stores values of a lane that lie side by side, `count` of them at a time, each time `apart` further on.
std::function<void(const std::vector<Ex>&)> bytes_at(Builder& b, const Buffer& out, Ex at, size_t count, int64_t apart) {
  return [=, &b](const std::vector<Ex>& codes) {
    for (size_t i = 0; i < codes.size(); i += count) {
      std::vector<Ex> bytes;
      for (size_t e = 0; e < count; ++e) bytes.push_back(cast(Elem::I8, codes[i + e]));
      b.store(out, at + Ex(int64_t(i / count) * apart), pack(bytes));
    }
  };
}

}  // namespace

void store_q8a_words(Builder& b, const Buffer& out, Ex row, int64_t n, Ex block, Ex low, Ex high, Ex stored, double scale) {
  std::vector<Ex> values;
  for (const Ex& word : {b.let(low), b.let(high)})
    for (int i = 0; i < 4; ++i) values.push_back(lane(word, i));
  store_q8a_of_four(b, out, row, n, block, values, stored, scale, bytes_at(b, out, row + block * 32 + b.let(b.thread() % 4) * 4, 4, 16));
}

void store_q8a_quad(Builder& b, const Buffer& out, Ex row, int64_t n, Ex block, std::vector<Ex> values, Ex stored, double scale) {
  store_q8a_of_four(b, out, row, n, block, values, stored, scale, bytes_at(b, out, row + block * 32 + b.let(b.thread() % 4) * 2, 2, 8));
}

}  // namespace prism::codegen
