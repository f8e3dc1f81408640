// What a program must satisfy before anything in it is used. Kernels are trusted code, all that they are given is not.
#include <algorithm>
#include <unordered_set>

#include "runtime/base/kv_pages.h"
#include "runtime/cpu.h"
#include "runtime/prx_format.h"

namespace prism::rt {
namespace {

constexpr size_t kMaxDims = 64;
constexpr int64_t kMaxDim = int64_t(1) << 40;
constexpr uint64_t kMaxBytes = uint64_t(1) << 46;      // of an arena or the weights
constexpr uint64_t kMaxScratch = uint64_t(1) << 30;    // per thread
constexpr int64_t kMaxBlockThreads = 1024, kMaxShared = int64_t(1) << 20;
constexpr int64_t kMaxKvHeads = 1 << 16, kMaxKvHeadSize = 1 << 16;
constexpr int64_t kMaxVocab = (int64_t(1) << 31) - 1;  // ids are i32

std::optional<uint64_t> scalar_bytes(const std::string& dtype) {
  static constexpr std::pair<std::string_view, uint64_t> kScalars[] = {
      {"f32", 4}, {"i32", 4}, {"f16", 2}, {"bf16", 2}, {"i8", 1}, {"u8", 1}, {"i16", 2}, {"i64", 8}, {"f64", 8}};
  for (auto [name, bytes] : kScalars)
    if (name == dtype) return bytes;
  return std::nullopt;
}

/// Every item of a list has a name, and no two the same.
template <class T, class Name>
Status check_names(const std::vector<T>& items, const char* what, const std::string& file, Name name) {
  std::unordered_set<std::string_view> seen;
  for (size_t i = 0; i < items.size(); ++i) {
    const std::string& n = name(items[i]);
    if (n.empty()) return error(file, ": ", what, " ", i, ": found no name, expected one");
    if (!seen.insert(n).second) return error(file, ": ", what, " ", quoted(n), ": found twice, expected once");
  }
  return ok();
}

class Validator {
 public:
  Validator(const Program& p, const std::string& file) : p_(p), file_(file) {}

  Status run() {
    PRISM_CHECK(limit("dims", p_.dims.size(), kMaxDims));
    PRISM_CHECK(check_names(p_.dims, "dim", file_, [](auto& d) -> auto& { return d; }));
    PRISM_CHECK(check_names(p_.entries, "entry point", file_, [](auto& e) -> auto& { return e.name; }));
    PRISM_CHECK(check_names(p_.kernels, "kernel", file_, [](auto& k) -> auto& { return k.symbol; }));
    PRISM_CHECK(check_names(p_.weights, "weight", file_, [](auto& w) -> auto& { return w.name; }));
    for (const Code& c : p_.codes) PRISM_CHECK(code(c));
    for (const Kernel& k : p_.kernels) PRISM_CHECK(kernel(k));
    PRISM_CHECK(weights());
    for (size_t i = 0; i < p_.kv.size(); ++i) PRISM_CHECK(kv_layer(i));
    PRISM_CHECK(range("context length", p_.context_length, 0, kMaxDim));
    PRISM_CHECK(range("vocabulary size", p_.vocab, 0, kMaxVocab));
    for (const EntryPoint& e : p_.entries) PRISM_CHECK(entry(e));
    return ok();
  }

 private:
  Status range(const std::string& what, int64_t found, int64_t least, int64_t most) const {
    if (found >= least && found <= most) return ok();
    return error(file_, ": ", what, ": found ", found, ", expected ", least, " to ", most);
  }
  Status limit(const std::string& what, uint64_t found, uint64_t most) const {
    if (found <= most) return ok();
    return error(file_, ": ", what, ": found ", found, ", expected at most ", most);
  }

  Status kernel(const Kernel& k) const {
    const std::string what = "kernel " + quoted(k.symbol);
    PRISM_CHECK(limit(what + ": scratch bytes", k.scratch_bytes, kMaxScratch));
    PRISM_CHECK(range(what + ": threads of a block", k.block_threads, 0, kMaxBlockThreads));
    if (k.block_threads % 32) return error(file_, ": ", what, ": found blocks of ", k.block_threads, " threads, expected a multiple of 32");
    PRISM_CHECK(range(what + ": shared bytes", k.shared_bytes, 0, kMaxShared));
    const bool gpu = !p_.codes.empty() && p_.codes[0].target != "cpu";
    if (gpu != (k.block_threads > 0)) return error(file_, ": ", what, ": found one for a ", gpu ? "CPU" : "GPU", ", expected a ", gpu ? "GPU's" : "CPU's");
    return ok();
  }

  Status code(const Code& c) const {
    const bool cuda = c.target == "cuda";
    if (!cuda && c.target != "cpu" && c.target != "emu")
      return error(file_, ": code: found target ", quoted(c.target), ", expected \"cpu\", \"cuda\" or \"emu\"");
    if ((c.target == "cpu") != (p_.codes[0].target == "cpu"))
      return error(file_, ": code: found targets ", quoted(p_.codes[0].target), " and ", quoted(c.target), ", expected all for CPUs or all for GPUs");
    const std::string format = cuda ? "cubin" : "elf";
    if (c.format != format) return error(file_, ": code: found format ", quoted(c.format), ", expected ", quoted(format));
    if (cuda ? !c.isa.starts_with("sm_") : !isa_from_name(c.isa).has_value())
      return error(file_, ": code: found ISA ", quoted(c.isa), ", expected ", cuda ? "\"sm_...\"" : "\"generic\", \"avx2\", \"avx512\" or \"amx\"");
    return ok();
  }

  Status weights() const {
    PRISM_CHECK(limit("weight segment bytes", p_.weight_bytes, kMaxBytes));
    std::vector<const Weight*> order;
    for (const Weight& w : p_.weights) {
      const std::string what = "weight " + quoted(w.name);
      if (w.offset % kWeightAlignment)
        return error(file_, ": ", what, ": found offset ", w.offset, ", expected a multiple of ", kWeightAlignment);
      const auto end = checked_add(w.offset, w.bytes);
      if (!end || *end > p_.weight_bytes)
        return error(file_, ": ", what, ": found offset ", w.offset, " and ", w.bytes,
                     " bytes, expected an end within ", p_.weight_bytes, " bytes");
      for (int64_t d : w.shape) PRISM_CHECK(range(what + ": shape", d, 1, kMaxDim));
      if (w.scales != "block" && w.scales != "row" && w.scales != "tensor")
        return error(file_, ": ", what, ": scales: found ", quoted(w.scales), ", expected \"block\", \"row\" or \"tensor\"");
      if (!w.values.empty() && (w.dtype != "f32" || w.layout != "row_major" || w.bytes != w.values.size() * sizeof(float)))
        return error(file_, ": ", what, ": found ", w.values.size(), " values, expected as many as ", w.bytes, " bytes of row_major f32 have");
      order.push_back(&w);
    }
    std::sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->offset < b->offset; });
    for (size_t i = 1; i < order.size(); ++i) {
      const uint64_t end = order[i - 1]->offset + order[i - 1]->bytes;
      if (order[i]->offset < end)
        return error(file_, ": weight ", quoted(order[i]->name), ": found offset ", order[i]->offset,
                     ", expected at least ", end, ", the end of ", quoted(order[i - 1]->name));
    }
    return ok();
  }

  Status kv_layer(size_t i) const {
    const KvLayer& l = p_.kv[i];
    const std::string what = "KV layer " + std::to_string(i);
    if (l.dtype != "f16" && l.dtype != "bf16" && l.dtype != "f32")
      return error(file_, ": ", what, ": found dtype ", quoted(l.dtype), ", expected \"f16\", \"bf16\" or \"f32\"");
    PRISM_CHECK(range(what + ": heads", l.heads, 1, kMaxKvHeads));
    PRISM_CHECK(range(what + ": head size", l.head_size, 1, kMaxKvHeadSize));
    PRISM_CHECK(range(what + ": window", l.window, 0, kMaxDim));
    PRISM_CHECK(range(what + ": ring", l.ring, l.ring ? std::max<int64_t>(l.window, 1) : 0, l.window ? kMaxDim : 0));
    if (l.ring % kKvPage) return error(file_, ": ", what, ": ring: found ", l.ring, ", expected a multiple of ", kKvPage);
    PRISM_CHECK(range(what + ": sinks", l.sinks, 0, l.ring ? l.ring - std::max<int64_t>(l.window, 1) : 0));
    if (l.sinks % kKvPage) return error(file_, ": ", what, ": sinks: found ", l.sinks, ", expected a multiple of ", kKvPage);
    if (!l.key_bits && !l.value_bits) return ok();
    PRISM_CHECK(range(what + ": bits of keys", l.key_bits, kKvLeastBits, kKvMostBits));
    PRISM_CHECK(range(what + ": bits of values", l.value_bits, kKvLeastBits, kKvMostBits));
    if (l.head_size % 32) return error(file_, ": ", what, ": head size: found ", l.head_size, ", expected a multiple of 32 where keys have bits");
    for (const char* dim : {kDemotedDim, kDemoteDim})
      if (std::find(p_.dims.begin(), p_.dims.end(), dim) == p_.dims.end()) return error(file_, ": ", what, ": found no dim ", quoted(dim), ", expected one");
    return ok();
  }

  Status entry(const EntryPoint& e) const {
    const std::string what = "entry point " + quoted(e.name);
    if (e.dim_min.size() != p_.dims.size() || e.dim_max.size() != p_.dims.size())
      return error(file_, ": ", what, ": found ranges of ", e.dim_min.size(), " and ", e.dim_max.size(),
                   " dims, expected ", p_.dims.size());
    for (size_t d = 0; d < p_.dims.size(); ++d) {
      PRISM_CHECK(range(what + ": least " + quoted(p_.dims[d]), e.dim_min[d], 0, kMaxDim));
      PRISM_CHECK(range(what + ": greatest " + quoted(p_.dims[d]), e.dim_max[d], e.dim_min[d], kMaxDim));
    }
    PRISM_CHECK(limit(what + ": arena bytes", e.arena_bytes, kMaxBytes));
    PRISM_CHECK(check_names(e.inputs, (what + ": input").c_str(), file_, [](auto& s) -> auto& { return s.name; }));
    PRISM_CHECK(check_names(e.outputs, (what + ": output").c_str(), file_, [](auto& s) -> auto& { return s.name; }));
    for (const Slot& s : e.inputs) PRISM_CHECK(slot(s, e, what + ": input " + quoted(s.name)));
    for (const Slot& s : e.outputs) PRISM_CHECK(slot(s, e, what + ": output " + quoted(s.name)));
    for (size_t i = 0; i < e.launches.size(); ++i) PRISM_CHECK(launch(i, e, what));
    PRISM_CHECK(range(what + ": persistent kernel", e.persistent, -1, int64_t(p_.kernels.size()) - 1));
    return ok();
  }

  /// The slot fits in the arena when every dim has its greatest value.
  Status slot(const Slot& s, const EntryPoint& e, const std::string& what) const {
    std::optional<uint64_t> bytes = scalar_bytes(s.dtype);
    if (!bytes) return error(file_, ": ", what, ": found dtype ", quoted(s.dtype), ", expected a scalar type");
    for (const Expr& dim : s.shape) {
      const auto n = dim.evaluate(e.dim_max);
      if (!n) return error(file_, ": ", what, ": shape: ", n.message());
      PRISM_CHECK(range(what + ": shape", *n, 0, kMaxDim));
      if (bytes) bytes = checked_mul(*bytes, uint64_t(*n));
    }
    const auto end = bytes ? checked_add(*bytes, s.offset) : std::nullopt;
    if (!end || *end > e.arena_bytes)
      return error(file_, ": ", what, ": found offset ", s.offset, " and a size past the end, expected an arena of ",
                   e.arena_bytes, " bytes");
    return ok();
  }

  Status launch(size_t i, const EntryPoint& e, const std::string& entry_name) const {
    const Launch& l = e.launches[i];
    // Built only for an error: there are thousands of launches.
    const auto what = [&] { return file_ + ": " + entry_name + ": launch " + std::to_string(i); };
    if (l.kernel >= p_.kernels.size())
      return error(what(), ": found kernel ", l.kernel, ", expected less than ", p_.kernels.size());
    if (const auto tasks = l.tasks.evaluate(e.dim_max); !tasks) return error(what(), ": tasks: ", tasks.message());
    if (const auto& w = p_.kernels[l.kernel].work)
      for (const Expr* x : {&w->weights, &w->kv, &w->activations, &w->operations})
        if (const auto amount = x->evaluate(e.dim_max); !amount) return error(what(), ": work: ", amount.message());
    if (l.product) PRISM_CHECK(product(*l.product, l, e, what()));
    for (size_t a = 0; a < l.args.size(); ++a) {
      const Arg& arg = l.args[a];
      const auto bad = [&](const char* item, uint64_t found, uint64_t end) {
        return error(what(), ": argument ", a, ": found ", item, " ", found, ", expected less than ", end);
      };
      switch (arg.space) {
        case Space::Arena:
          if (arg.offset >= e.arena_bytes) return bad("arena offset", arg.offset, e.arena_bytes);
          break;
        case Space::Weight:
          if (arg.index >= p_.weights.size()) return bad("weight", arg.index, p_.weights.size());
          if (const uint64_t bytes = p_.weights[arg.index].bytes; arg.offset >= bytes)
            return bad("weight offset", arg.offset, bytes);
          break;
        case Space::KvK:
        case Space::KvV:
          if (arg.index >= p_.kv.size()) return bad("KV layer", arg.index, p_.kv.size());
          if (arg.offset != 0) return bad("KV offset", arg.offset, 1);
          break;
        default: return bad("space", uint64_t(arg.space), 4);
      }
    }
    return ok();
  }

  /// Its matrices have room where its arguments are when every dim has its greatest value.
  Status product(const Product& p, const Launch& l, const EntryPoint& e, const std::string& what) const {
    if (p.result != "f32" && (p.result != "bf16" || p.c >= 0))
      return error(what, ": product: found a result of ", quoted(p.result), ", expected \"f32\" or, without c, \"bf16\"");
    PRISM_CHECK(range(what + ": product: n", p.n, 1, kMaxDim));
    PRISM_CHECK(range(what + ": product: k", p.k, 1, kMaxDim));
    const auto m = p.m.evaluate(e.dim_max);
    if (!m) return error(what, ": product: m: ", m.message());
    PRISM_CHECK(range(what + ": product: m", *m, 0, kMaxDim));
    const auto room = [&](const char* item, int64_t at, int64_t rows, int64_t columns, uint64_t value_bytes) -> Status {
      if (at < 0 || size_t(at) >= l.args.size())
        return error(what, ": product: ", item, ": found argument ", at, ", expected less than ", l.args.size());
      const Arg& a = l.args[size_t(at)];
      const auto values = checked_mul(uint64_t(rows), uint64_t(columns));
      const auto bytes = values ? checked_mul(*values, value_bytes) : std::nullopt;
      const auto end = bytes ? checked_add(*bytes, a.offset) : std::nullopt;
      const uint64_t size = a.space == Space::Arena ? e.arena_bytes
                            : a.space == Space::Weight && a.index < p_.weights.size() ? p_.weights[a.index].bytes : 0;
      if (!end || *end > size) return error(what, ": product: ", item, ": found ", rows, " x ", columns, " values, expected them within ", size, " bytes");
      return ok();
    };
    PRISM_CHECK(room("x", p.x, *m, p.k, 2));
    PRISM_CHECK(room("w", p.w, p.n, p.k, 2));
    PRISM_CHECK(room("y", p.y, *m, p.n, p.result == "f32" ? 4 : 2));
    return p.c < 0 ? ok() : room("c", p.c, *m, p.n, 4);
  }

  const Program& p_;
  const std::string& file_;
};

}  // namespace

Status validate(const Program& p, const std::string& name) { return Validator(p, name).run(); }

std::string quoted(std::string_view name) {
  constexpr size_t kLongest = 80;
  std::string out = "\"";
  for (char c : name.substr(0, kLongest)) out += c >= ' ' && c != '\x7f' && c != '"' ? c : '?';
  return out + (name.size() > kLongest ? "...\"" : "\"");
}

}  // namespace prism::rt
