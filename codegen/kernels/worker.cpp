#include "codegen/kernels/worker.h"

namespace prism::codegen {

using namespace kir;

Buffer Worker::memory(const std::string& name, Elem elem, int64_t n) {
  return gpu() ? b_.shared(name, elem, n) : b_.scratch(name, elem, n);
}

void Worker::over(int64_t n, const std::function<void(Ex, int)>& body) {
  if (gpu()) return over_each(n, [&](Ex i) { body(i, 1); });
  const int64_t whole = n / kLanes * kLanes;
  b_.for_(0, whole, kLanes, [&](Ex i) { body(i, kLanes); });
  b_.for_(whole, n, 1, [&](Ex i) { body(i, 1); });
}

void Worker::over_each(int64_t n, const std::function<void(Ex)>& body) {
  if (!gpu()) return b_.for_(0, n, 1, body);
  b_.for_(b_.thread(), n, b_.block_threads(), body);
  b_.barrier();
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
  b_.for_(b_.thread(), n, b_.block_threads(), [&](Ex i) { b_.assign(tail, join(fn, tail, f(i, 1))); });
  const Ex mine = warp_reduce(b_, fn, tail);
  const int warps = b_.block_threads() / 32;
  const Buffer partial = b_.shared("partial" + std::to_string(partials_++), Elem::F32, warps);
  b_.if_(b_.thread() % 32 == Ex(0), [&] { b_.store(partial, b_.thread() / 32, mine); });
  b_.barrier();
  Ex all = b_.load(partial, 0);
  for (int w = 1; w < warps; ++w) all = join(fn, all, b_.load(partial, w));
  return b_.let(all);
}

void Worker::quantize(const Buffer& out, Ex row, int64_t n, Ex first, int64_t blocks, const std::function<Ex(Ex, int)>& values) {
  if (gpu()) {
    const Ex lane = b_.let(b_.thread() % 32);
    b_.for_(b_.let(b_.thread() / 32), blocks, b_.block_threads() / 32, [&](Ex k) {
      const Ex block = b_.let(first + k);
      store_q8a_warp(b_, out, row, n, block, values(block * 32 + lane, 1));
    });
    return;
  }
  b_.for_(0, blocks, 1, [&](Ex k) {
    const Ex block = b_.let(first + k);
    store_q8a(b_, out, row, n, block, values(block * 32, kLanes), values(block * 32 + kLanes, kLanes));
  });
}

namespace {

Ex inverse_scale(Builder& b, Ex amax) {
  return b.let(select(Ex(0.0) < amax, constant({Elem::F32, 1}, 127.0) / amax, constant({Elem::F32, 1}, 0.0)));
}

Ex quantized(Builder& b, Ex x, Ex inverse) { return b.let(cast(Elem::I32, call(Fn::RoundEven, {x * inverse}))); }

/// d: scale; h0, h1: i32 sums of the halves.
void store_scales(Builder& b, const Buffer& out, Ex row, int64_t n, Ex block, Ex d, Ex h0, Ex h1) {
  b.store(out, row + Ex(n) + block * 4, d);
  const Ex zero = constant({Elem::I32, 1}, 0);
  b.store(out, row + Ex(n + n / 8) + block * 4, zero - (h0 + h1));
  b.store(out, row + Ex(n + n / 4) + block * 8, zero - h0);
  b.store(out, row + Ex(n + n / 4) + block * 8 + 4, zero - h1);
}

}  // namespace

void store_q8a(Builder& b, const Buffer& out, Ex row, int64_t n, Ex block, Ex lo, Ex hi) {
  lo = b.let(lo);
  hi = b.let(hi);
  const Ex amax = b.let(call(Fn::ReduceMax, {max(call(Fn::Abs, {lo}), call(Fn::Abs, {hi}))})), inverse = inverse_scale(b, amax);
  const Ex q0 = quantized(b, lo, inverse), q1 = quantized(b, hi, inverse);
  b.store(out, row + block * 32, cast(Elem::I8, q0));
  b.store(out, row + block * 32 + 16, cast(Elem::I8, q1));
  store_scales(b, out, row, n, block, b.let(amax * Ex(1.0 / 127.0)), b.let(call(Fn::ReduceAdd, {q0})), b.let(call(Fn::ReduceAdd, {q1})));
}

void store_q8a_warp(Builder& b, const Buffer& out, Ex row, int64_t n, Ex block, Ex value) {
  const Ex lane = b.let(b.thread() % 32), x = b.let(value);
  const Ex amax = warp_reduce(b, Fn::ReduceMax, b.let(call(Fn::Abs, {x})));
  const Ex q = quantized(b, x, inverse_scale(b, amax));
  b.store(out, row + block * 32 + lane, cast(Elem::I8, q));
  const Ex low = warp_reduce(b, Fn::ReduceAdd, q, 16), high = b.shuffle_xor(low, 16);
  b.if_(lane == Ex(0), [&] { store_scales(b, out, row, n, block, b.let(amax * Ex(1.0 / 127.0)), low, high); });
}

void store_q8a_quad(Builder& b, const Buffer& out, Ex row, int64_t n, Ex block, std::vector<Ex> values, Ex stored) {
  Ex amax = Ex(0.0);
  for (Ex& v : values) {
    v = b.let(v);
    amax = b.let(max(amax, b.let(call(Fn::Abs, {v}))));
  }
  amax = warp_reduce(b, Fn::ReduceMax, amax, 4);
  const Ex inverse = inverse_scale(b, amax), place = b.let(b.thread() % 4);
  for (Ex& v : values) v = quantized(b, v, inverse);
  Ex halves[2];
  for (size_t h = 0; h < 2; ++h) {
    const Ex* v = &values[4 * h];
    halves[h] = warp_reduce(b, Fn::ReduceAdd, b.let((v[0] + v[1]) + (v[2] + v[3])), 4);
  }
  b.if_(stored, [&] {
    for (size_t i = 0; i < values.size(); i += 2)
      b.store(out, row + block * 32 + place * 2 + Ex(int64_t(4 * i)), pack({cast(Elem::I8, values[i]), cast(Elem::I8, values[i + 1])}));
    b.if_(place == Ex(0), [&] { store_scales(b, out, row, n, block, b.let(amax * Ex(1.0 / 127.0)), halves[0], halves[1]); });
  });
}

}  // namespace prism::codegen
