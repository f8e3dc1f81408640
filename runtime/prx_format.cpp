#include "runtime/prx_format.h"

#include <algorithm>
#include <bit>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "runtime/executable_generated.h"

namespace prism::rt {
namespace {

static_assert(std::endian::native == std::endian::little, ".prx files are little-endian");

using flatbuffers::FlatBufferBuilder;
using flatbuffers::Offset;

/// Builds the FlatBuffer of a program, one method per table.
class Encoder {
 private:
  FlatBufferBuilder b_;

  template <class T, class F>
  auto each(const std::vector<T>& items, F&& encode) {
    std::vector<decltype(encode(items[0]))> offsets;
    offsets.reserve(items.size());
    for (const T& item : items) offsets.push_back(encode(item));
    return b_.CreateVector(offsets);
  }

  Offset<flatbuffers::String> text(const std::string& s) { return b_.CreateString(s); }
  Offset<flatbuffers::Vector<uint8_t>> bytes(const std::string& s) {
    return b_.CreateVector(reinterpret_cast<const uint8_t*>(s.data()), s.size());
  }
  Offset<fb::Expr> expr(const Expr& e) { return fb::CreateExpr(b_, b_.CreateVector(e.code)); }

  Offset<fb::Slot> slot(const Slot& s) {
    const auto name = text(s.name), dtype = text(s.dtype);
    const auto shape = each(s.shape, [&](auto& e) { return expr(e); });
    return fb::CreateSlot(b_, name, dtype, shape, s.offset);
  }

  Offset<fb::Launch> launch(const Launch& l) {
    const auto args = each(l.args, [&](auto& a) { return fb::CreateArg(b_, fb::Space(a.space), a.index, a.offset); });
    const auto tasks = expr(l.tasks);
    Offset<fb::Product> product;
    if (const auto& p = l.product) {
      const auto m = expr(p->m);
      const auto result = text(p->result);
      product = fb::CreateProduct(b_, m, p->n, p->k, p->x, p->w, p->y, p->c, result);
    }
    return fb::CreateLaunch(b_, l.kernel, args, tasks, product);
  }

  Offset<fb::EntryPoint> entry(const EntryPoint& e) {
    const auto name = text(e.name);
    const auto inputs = each(e.inputs, [&](auto& s) { return slot(s); });
    const auto outputs = each(e.outputs, [&](auto& s) { return slot(s); });
    const auto dim_min = b_.CreateVector(e.dim_min), dim_max = b_.CreateVector(e.dim_max);
    const auto launches = each(e.launches, [&](auto& l) { return launch(l); });
    return fb::CreateEntryPoint(b_, name, inputs, outputs, dim_min, dim_max, e.arena_bytes, launches, e.persistent);
  }

  Offset<fb::Weight> weight(const Weight& w) {
    const auto name = text(w.name), dtype = text(w.dtype), layout = text(w.layout);
    const auto shape = b_.CreateVector(w.shape);
    const auto sources = each(w.sources, [&](auto& s) { return text(s); });
    const auto scales = text(w.scales);
    const auto values = b_.CreateVector(w.values);
    return fb::CreateWeight(b_, name, dtype, layout, shape, w.offset, w.bytes, sources, w.interleave, w.hadamard, scales, values);
  }

 public:
  std::vector<uint8_t> run(const Program& p, bool embedded, std::span<const uint64_t> weight_hashes) {
    const auto name = text(p.name), producer = text(p.producer);
    const auto features = each(p.required_features, [&](auto& s) { return text(s); });
    const auto dims = each(p.dims, [&](auto& s) { return text(s); });
    const auto entries = each(p.entries, [&](auto& e) { return entry(e); });
    const auto kernels = each(p.kernels, [&](auto& k) {
      const auto symbol = text(k.symbol), description = text(k.description), computes = text(k.computes);
      Offset<fb::Work> work;
      if (const auto& w = k.work) {
        const auto weights = expr(w->weights), kv = expr(w->kv), activations = expr(w->activations), operations = expr(w->operations);
        work = fb::CreateWork(b_, weights, kv, activations, operations);
      }
      return fb::CreateKernel(b_, symbol, description, k.scratch_bytes, k.block_threads, k.shared_bytes, computes, work);
    });
    const auto codes = each(p.codes, [&](auto& c) {
      const auto target = text(c.target), isa = text(c.isa), format = text(c.format);
      return fb::CreateCode(b_, target, isa, format, b_.CreateVector(c.data));
    });
    const auto weights = each(p.weights, [&](auto& w) { return weight(w); });
    const auto kv = each(p.kv, [&](auto& l) {
      const auto dtype = text(l.dtype);
      return fb::CreateKvLayer(b_, dtype, l.heads, l.head_size, l.window, l.key_bits, l.value_bits, l.ring, l.sinks);
    });
    const auto metadata = bytes(p.metadata), ir = bytes(p.ir);
    const auto path = text(p.model.path);
    const auto model = fb::CreateModelReference(b_, path, p.model.size, p.model.hash);
    const auto hashes = b_.CreateVector(weight_hashes.data(), weight_hashes.size());
    fb::FinishExecutableBuffer(
        b_, fb::CreateExecutable(b_, name, producer, features, dims, entries, kernels, codes, weights, p.weight_bytes,
                                 kv, p.context_length, p.vocab, metadata, ir, model, embedded, hashes));
    return {b_.GetBufferPointer(), b_.GetBufferPointer() + b_.GetSize()};
  }
};

/// Turns a verified FlatBuffer into a program. Verified offsets may still point at the same bytes many times, so what
/// is copied is charged against the size of the buffer: a small file cannot become a large program.
class Decoder {
 public:
  explicit Decoder(uint64_t budget) : budget_(budget) {}
  bool exhausted() const { return exhausted_; }

  void program(const fb::Executable& f, PrxFile& out) {
    Program& p = out.program;
    p.name = text(f.name());
    p.producer = text(f.producer());
    p.required_features = texts(f.required_features());
    p.dims = texts(f.dims());
    each(f.entries(), p.entries, [&](auto& t, EntryPoint& e) { entry(t, e); });
    each(f.kernels(), p.kernels, [&](auto& t, Kernel& k) {
      k.symbol = text(t.symbol());
      k.description = text(t.description());
      k.scratch_bytes = t.scratch_bytes();
      k.block_threads = t.block_threads();
      k.shared_bytes = t.shared_bytes();
      k.computes = text(t.computes());
      if (const fb::Work* w = t.work()) {
        k.work.emplace();
        expr(w->weights(), k.work->weights);
        expr(w->kv(), k.work->kv);
        expr(w->activations(), k.work->activations);
        expr(w->operations(), k.work->operations);
      }
    });
    each(f.codes(), p.codes, [&](auto& t, Code& c) {
      c.target = text(t.target());
      c.isa = text(t.isa());
      c.format = text(t.format());
      out.code.emplace_back();
      if (t.data()) out.code.back() = {t.data()->data(), t.data()->size()};
    });
    each(f.weights(), p.weights, [&](auto& t, Weight& w) {
      w.name = text(t.name());
      w.dtype = text(t.dtype());
      w.layout = text(t.layout());
      w.shape = numbers<int64_t>(t.shape());
      w.offset = t.offset();
      w.bytes = t.bytes();
      w.sources = texts(t.sources());
      w.interleave = t.interleave();
      w.hadamard = t.hadamard();
      if (t.scales()) w.scales = text(t.scales());
      w.values = numbers<float>(t.values());
    });
    p.weight_bytes = f.weight_bytes();
    each(f.kv(), p.kv, [&](auto& t, KvLayer& l) {
      l = {text(t.dtype()), t.heads(), t.head_size(), t.window(), t.key_bits(), t.value_bits(), t.ring(), t.sinks()};
    });
    p.context_length = f.context_length();
    p.vocab = f.vocab();
    p.metadata = bytes(f.metadata());
    p.ir = bytes(f.ir());
    if (const auto* m = f.model()) p.model = {text(m->path()), m->size(), m->hash()};
    p.weights_embedded = f.weights_embedded();
    out.weight_hashes = numbers<uint64_t>(f.weight_hashes());
  }

 private:
  bool charge(uint64_t n) {
    if (n > budget_) exhausted_ = true;
    if (exhausted_) return false;
    budget_ -= n;
    return true;
  }

  std::string text(const flatbuffers::String* s) { return s && charge(s->size()) ? s->str() : std::string(); }
  std::string bytes(const flatbuffers::Vector<uint8_t>* v) {
    return v && charge(v->size()) ? std::string(v->begin(), v->end()) : std::string();
  }
  std::vector<std::string> texts(const flatbuffers::Vector<Offset<flatbuffers::String>>* v) {
    std::vector<std::string> out;
    if (v && charge(uint64_t(v->size()) * 4))
      for (const auto* s : *v) out.push_back(text(s));
    return out;
  }
  template <class T>
  std::vector<T> numbers(const flatbuffers::Vector<T>* v) {
    if (!v || v->size() == 0 || !charge(uint64_t(v->size()) * sizeof(T))) return {};
    std::vector<T> out(v->size());
    std::memcpy(out.data(), v->Data(), out.size() * sizeof(T));  // the verifier allows elements that are not aligned
    return out;
  }
  template <class Table, class T, class F>
  void each(const flatbuffers::Vector<Offset<Table>>* tables, std::vector<T>& out, F&& decode) {
    if (!tables || !charge(uint64_t(tables->size()) * 8)) return;  // an offset to it and one to its vtable
    out.reserve(tables->size());
    for (const Table* t : *tables) {
      if (exhausted_) return;
      decode(*t, out.emplace_back());
    }
  }

  void expr(const fb::Expr* t, Expr& e) {
    if (t) e.code = numbers<int64_t>(t->code());
  }
  void slots(const flatbuffers::Vector<Offset<fb::Slot>>* v, std::vector<Slot>& out) {
    each(v, out, [&](auto& t, Slot& s) {
      s.name = text(t.name());
      s.dtype = text(t.dtype());
      each(t.shape(), s.shape, [&](auto& d, Expr& e) { expr(&d, e); });
      s.offset = t.offset();
    });
  }
  void entry(const fb::EntryPoint& t, EntryPoint& e) {
    e.name = text(t.name());
    slots(t.inputs(), e.inputs);
    slots(t.outputs(), e.outputs);
    e.dim_min = numbers<int64_t>(t.dim_min());
    e.dim_max = numbers<int64_t>(t.dim_max());
    e.arena_bytes = t.arena_bytes();
    e.persistent = t.persistent();
    each(t.launches(), e.launches, [&](auto& l, Launch& launch) {
      launch.kernel = l.kernel();
      each(l.args(), launch.args, [&](auto& a, Arg& arg) { arg = {Space(a.space()), a.index(), a.offset()}; });
      expr(l.tasks(), launch.tasks);
      if (const fb::Product* p = l.product()) {
        launch.product = Product{{}, p->n(), p->k(), p->x(), p->w(), p->y(), p->c(), text(p->result())};
        expr(p->m(), launch.product->m);
      }
    });
  }

  uint64_t budget_;
  bool exhausted_ = false;
};

Status check_header(const PrxHeader& h, uint64_t file_bytes, const std::string& path) {
  if (std::memcmp(h.magic, "PRX1", 4) != 0)
    return error(path, ": magic: found ", quoted({h.magic, 4}), ", expected \"PRX1\": not a .prx file");
  if (const uint64_t hash = xxh3(&h, offsetof(PrxHeader, header_hash)); hash != h.header_hash)
    return error(path, ": header hash: found ", hash, ", expected ", h.header_hash, ": the file is damaged");
  if (h.version != kPrxVersion) return error(path, ": format version: found ", h.version, ", expected ", kPrxVersion);
  if (std::any_of(std::begin(h.zeros), std::end(h.zeros), [](uint8_t z) { return z != 0; }))
    return error(path, ": header: found other bytes, expected zeros at the end: the file is damaged");
  const auto end = checked_add(h.weight_offset, h.weight_bytes);
  if (!end || *end != file_bytes)
    return error(path, ": file size: found ", file_bytes, " bytes, expected ", h.weight_offset, " + ", h.weight_bytes);
  if (h.weight_offset % kSegmentAlignment || h.weight_offset < sizeof h || h.metadata_bytes == 0 ||
      h.metadata_bytes > h.weight_offset - sizeof h)
    return error(path, ": metadata: found ", h.metadata_bytes, " bytes before weights at ", h.weight_offset,
                 ", expected at least 1 byte that fits and a multiple of ", kSegmentAlignment);
  return ok();
}

}  // namespace

uint64_t xxh3(const void* data, size_t bytes) { return XXH3_64bits(data, bytes); }

std::vector<uint8_t> frame_metadata(std::span<const uint8_t> flatbuffer, uint64_t embedded_weight_bytes) {
  std::vector<uint8_t> out(round_up(sizeof(PrxHeader) + flatbuffer.size(), kSegmentAlignment));
  std::memcpy(out.data() + sizeof(PrxHeader), flatbuffer.data(), flatbuffer.size());
  PrxHeader h = {{'P', 'R', 'X', '1'}, kPrxVersion, flatbuffer.size(), out.size(), embedded_weight_bytes, 0, 0, {}};
  h.metadata_hash = xxh3(out.data() + sizeof h, out.size() - sizeof h);
  h.header_hash = xxh3(&h, offsetof(PrxHeader, header_hash));
  std::memcpy(out.data(), &h, sizeof h);
  return out;
}

std::vector<uint8_t> encode_program(const Program& p, bool embedded, std::span<const uint64_t> weight_hashes) {
  return Encoder().run(p, embedded, weight_hashes);
}

Result<PrxFile> open_prx(const std::string& path) {
  PrxFile out;
  out.path = path;
  PRISM_TRY(out.map, Mapping::file(path));
  const uint8_t* base = out.map.data();
  const uint64_t file_bytes = out.map.bytes();
  if (file_bytes < sizeof(PrxHeader))
    return error(path, ": file size: found ", file_bytes, " bytes, expected at least ", sizeof(PrxHeader));
  PrxHeader h;
  std::memcpy(&h, base, sizeof h);
  PRISM_CHECK(check_header(h, file_bytes, path));
  const uint8_t* metadata = base + sizeof h;
  if (const uint64_t hash = xxh3(metadata, h.weight_offset - sizeof h); hash != h.metadata_hash)
    return error(path, ": metadata hash: found ", hash, ", expected ", h.metadata_hash, ": the file is damaged");

  constexpr flatbuffers::uoffset_t kMaxDepth = 16;
  if (h.metadata_bytes > kMaxMetadata)
    return error(path, ": metadata: found ", h.metadata_bytes, " bytes, expected at most ", kMaxMetadata);
  const auto most_tables = flatbuffers::uoffset_t(h.metadata_bytes / 8);  // each has two offsets of 4 bytes
  flatbuffers::Verifier verifier(metadata, h.metadata_bytes, kMaxDepth, most_tables);
  if (!fb::VerifyExecutableBuffer(verifier))
    return error(path, ": metadata: found an invalid FlatBuffer, expected one of runtime/executable.fbs");
  Decoder decoder(h.metadata_bytes);
  decoder.program(*fb::GetExecutable(metadata), out);
  if (decoder.exhausted())
    return error(path, ": metadata: found more than its own ", h.metadata_bytes, " bytes, expected no shared parts");

  const Program& p = out.program;
  for (const std::string& feature : p.required_features)
    if (feature != kKvPagesFeature && feature != kKvRingFeature && feature != kKvSinksFeature && feature != kConvertedWeightsFeature)
      return error(path, ": required feature ", quoted(feature), ": found no support for it, expected a newer Prism");
  PRISM_CHECK(validate(p, path));
  const uint64_t embedded = p.weights_embedded ? p.weight_bytes : 0;
  if (h.weight_bytes != embedded)
    return error(path, ": weights: found ", h.weight_bytes, " bytes in the file, expected ", embedded);
  if (out.weight_hashes.size() != hash_count(embedded))
    return error(path, ": weight hashes: found ", out.weight_hashes.size(), ", expected ", hash_count(embedded));
  out.weights = {base + h.weight_offset, h.weight_bytes};
  return out;
}

}  // namespace prism::rt
