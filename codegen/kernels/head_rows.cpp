#include "codegen/kernels/head_rows.h"

#include <cmath>

namespace prism::codegen {

using namespace kir;
using ir::Op;

Result<HeadChain> HeadRows::trace(const ir::Value* v) const {
  HeadChain c;
  if (v->type.rank() != 3) return error("heads: %", v->name, " is ", v->type.str(), ", expected [tokens, heads, size]");
  c.heads = *v->type.dim(1).constant();
  c.size = *v->type.dim(2).constant();
  while (!r_.is_argument(v)) {
    const ir::Operation& o = *v->def;
    if (o.op == Op::Slice) {
      if (o.attr<int64_t>("axis") != int64_t(v->type.rank()) - 1) return r_.unsupported(o, "only along the last axis");
      c.offset += o.attr<int64_t>("begin");
    } else if (o.op != Op::Reshape) {
      c.steps.insert(c.steps.begin(), &o);
    }
    v = o.operand(0);
  }
  c.source = v;
  return c;
}

Status HeadRows::make(const HeadChain& c, Ex token, Ex head, const Buffer& x, Ex at) {
  const Buffer& src = r_.buffer(c.source);
  int64_t width = 1;
  for (size_t i = 1; i < c.source->type.rank(); ++i) width *= *c.source->type.dim(int(i)).constant();
  const Ex from = b_.let(token * width + (head * c.size + Ex(c.offset)));
  work_.over(c.size, [&](Ex i, int l) { b_.store(x, at + i, b_.load(src, from + i, l)); });
  for (const ir::Operation* o : c.steps) {
    if (o->op == Op::RmsNorm) {
      const Ex squares = work_.reduce(c.size, Fn::ReduceAdd, [&](Ex i, int l) {
        const Ex v = b_.let(b_.load(x, at + i, l));
        return v * v;
      });
      const Ex mean = squares * Ex(1.0 / double(c.size));
      const Ex scale = b_.let(constant({Elem::F32, 1}, 1.0) / call(Fn::Sqrt, {mean + Ex(o->attr<double>("eps"))}));
      const Buffer& w = r_.buffer(o->operand(1));
      work_.over(c.size, [&](Ex i, int l) { b_.store(x, at + i, b_.load(x, at + i, l) * scale * b_.load(w, i, l)); });
    } else if (o->op == Op::Rope) {
      PRISM_CHECK(rope(*o, token, c.size, x, at));
    } else if (o->op == Op::Hadamard) {
      work_.hadamard(x, at, c.size);
    } else {
      Status status = ok();
      work_.over(c.size, [&](Ex i, int l) {
        std::vector<Ex> in{b_.let(b_.load(x, at + i, l))};
        for (size_t k = 1; k < o->operands().size(); ++k) {
          const ir::Value* v = o->operand(unsigned(k));
          const Buffer& buf = r_.buffer(v);
          in.push_back(b_.let(v->type.elements() == 1 ? splat(b_.load(buf, 0), l)
                              : v->type.rank() == 1 && *v->type.elements() == c.size && c.heads > 1 ? b_.load(buf, i, l)
                              : b_.load(buf, head * c.size + i, l)));
        }
        if (auto y = elementwise(*o, in)) b_.store(x, at + i, *y);
        else status = r_.unsupported(*o, "cannot precede a KV append");
      });
      PRISM_CHECK(status);
    }
  }
  return ok();
}

void HeadRows::store_key(const ir::Value* kv, Ex position, Ex head, int64_t size, const Buffer& x, Ex at) {
  // K is tiled: [head][position/16][size][16].
  const Buffer& keys = r_.keys(kv);
  const Ex slot = b_.let(Region::kv_slot(kv->type, position)), to = b_.let(head * r_.kv_room(kv->type) * size + slot / 16 * (size * 16) + slot % 16);
  work_.over_each(size, [&](Ex i) { b_.store(keys, to + i * 16, cast(keys.elem, b_.load(x, at + i))); });
}

void HeadRows::store_value(const ir::Value* kv, Ex position, Ex head, int64_t size, const Buffer& x, Ex at) {
  const Buffer& values = r_.values(kv);
  const Ex to = b_.let((head * r_.kv_room(kv->type) + Region::kv_slot(kv->type, position)) * size);
  work_.over(size, [&](Ex i, int l) { b_.store(values, to + i, cast(values.elem, b_.load(x, at + i, l))); });
}

Status HeadRows::rope(const ir::Operation& o, Ex token, int64_t size, const Buffer& x, Ex at) {
  int64_t dims = o.attr<int64_t>("dims");
  if (dims == 0) dims = size;
  const int64_t pairs = dims / 2;
  const double base = o.attr<double>("base"), scale = o.attr<double>("scale");
  // Position * turns keeps its fraction up to 2^24: turns are three f32, of which two have 11 bits, positions whole blocks and what is beyond.
  constexpr int64_t kBlock = 4096;
  std::vector<float> high, middle, low;
  for (int64_t i = 0; i < pairs; ++i) {
    double turns = scale * std::pow(base, -2.0 * double(i) / double(dims)) / (2 * M_PI), unit = std::exp2(std::floor(std::log2(turns)) - 10);
    for (std::vector<float>* part : {&high, &middle}) {
      part->push_back(float(std::floor(turns / unit) * unit));
      turns -= double(part->back());
      unit = std::ldexp(unit, -11);
    }
    low.push_back(float(turns));
  }
  const std::string id = std::to_string(tables_++);
  const Buffer tables[] = {b_.table("turns_high" + id, high), b_.table("turns_middle" + id, middle), b_.table("turns_low" + id, low)};
  const bool factors = o.operands().size() > 2;
  const ir::Value* pos = o.operand(1);
  Ex position;
  if (!r_.is_argument(pos) && pos->def->op == Op::Positions) {
    PRISM_TRY(position, r_.position(*pos->def, token));
  } else {
    position = cast(Elem::I64, b_.load(r_.buffer(pos), token));
  }
  position = b_.let(position);
  const Ex blocks = b_.let(cast(Elem::F32, position / kBlock * kBlock)), beyond = b_.let(cast(Elem::F32, position % kBlock));
  const bool adjacent = o.attr<std::string>("mode") == "adjacent";
  auto rotate = [&](Ex i, int l) {
    std::vector<Ex> turns;
    for (const Buffer& table : tables) turns.push_back(b_.let(b_.load(table, i, l)));
    std::vector<Ex> parts = {blocks * turns[0], beyond * turns[0], blocks * turns[1], beyond * turns[1] + (blocks + beyond) * turns[2]};
    for (Ex& part : parts) {
      // With factors no longer exact, but they only stretch low frequencies.
      part = b_.let(factors ? part / b_.load(r_.buffer(o.operand(2)), i, l) : part);
      part = b_.let(part - call(Fn::RoundEven, {part}));
    }
    const Ex t = b_.let(parts[0] + parts[1] + parts[2] + parts[3]);
    const Ex turn = b_.let(t - call(Fn::RoundEven, {t}));
    return std::pair(b_.let(call(Fn::CosTurns, {turn})), b_.let(call(Fn::SinTurns, {turn})));
  };
  if (!adjacent) {
    work_.over(pairs, [&](Ex i, int l) {
      auto [cosine, sine] = rotate(i, l);
      const Ex u = b_.let(b_.load(x, at + i, l)), v = b_.let(b_.load(x, at + i + pairs, l));
      b_.store(x, at + i, u * cosine - v * sine);
      b_.store(x, at + i + pairs, u * sine + v * cosine);
    });
    return ok();
  }
  if (b_.block_threads()) {   // threads compute single elements anyway
    work_.over_each(pairs, [&](Ex i) {
      auto [cosine, sine] = rotate(i, 1);
      const Ex u = b_.let(b_.load(x, at + i * 2)), v = b_.let(b_.load(x, at + i * 2 + 1));
      b_.store(x, at + i * 2, u * cosine - v * sine);
      b_.store(x, at + i * 2 + 1, u * sine + v * cosine);
    });
    return ok();
  }
  const Buffer cs = work_.memory("cos" + id, Elem::F32, pairs), sn = work_.memory("sin" + id, Elem::F32, pairs);
  const Ex turns = work_.begin(pairs);
  work_.over(pairs, [&](Ex i, int l) {
    auto [cosine, sine] = rotate(i, l);
    b_.store(cs, turns + i, cosine);
    b_.store(sn, turns + i, sine);
  });
  work_.over_each(pairs, [&](Ex i) {
    const Ex u = b_.let(b_.load(x, at + i * 2)), v = b_.let(b_.load(x, at + i * 2 + 1));
    const Ex cosine = b_.let(b_.load(cs, turns + i)), sine = b_.let(b_.load(sn, turns + i));
    b_.store(x, at + i * 2, u * cosine - v * sine);
    b_.store(x, at + i * 2 + 1, u * sine + v * cosine);
  });
  return ok();
}

}  // namespace prism::codegen
