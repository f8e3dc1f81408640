// prism inspect: what a model or .prx holds.
#include <cstdio>
#include <iostream>

#include "runtime/base/checked.h"
#include "runtime/kv_cache.h"
#include "tools/commands.h"
#include "tools/model.h"

namespace prism::tools {

namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string s = "[";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? "," : "") + std::to_string(shape[i]);
  return s + "]";
}

template <class T>
std::string list_text(const std::vector<T>& v) {
  std::ostringstream s;
  s << "[" << v.size() << "]";
  for (size_t i = 0; i < v.size() && i < 6; ++i) s << (i ? ", " : " ") << v[i];
  if (v.size() > 6) s << ", ...";
  return s.str();
}

/// One line, whatever bytes the file holds.
std::string printable(std::string_view text, size_t most = 100) {
  std::string s;
  for (char c : text.substr(0, most)) {
    if (c == '\n') s += "\\n";
    else s += uint8_t(c) < 32 || c == 127 ? '?' : c;
  }
  return text.size() > most ? s + "..." : s;
}

Status inspect_gguf(const std::string& path) {
  PRISM_TRY(auto f, gguf::File::open(path));
  printf("%s: GGUF, %.1f MiB, %zu tensors\n\nmetadata\n", path.c_str(), double(f->size()) / 1048576, f->tensors().size());
  for (const auto& [key, value] : f->metadata()) {
    const std::string text = std::visit([](const auto& v) -> std::string {
      using T = std::decay_t<decltype(v)>;
      std::ostringstream s;
      if constexpr (std::is_arithmetic_v<T>) s << v;
      else if constexpr (std::is_same_v<T, std::string>) s << v;
      else s << list_text(v);
      return s.str();
    }, value);
    printf("  %-44s %s\n", printable(key).c_str(), printable(text).c_str());
  }
  printf("\ntensors\n");
  for (const gguf::TensorInfo& t : f->tensors())
    printf("  %-44s %-6s %-18s %12llu bytes at %llu\n", printable(t.name).c_str(), std::string(ir::info(t.dtype).name).c_str(),
           shape_text(t.shape).c_str(), (unsigned long long)t.bytes, (unsigned long long)t.offset);
  return ok();
}

std::string arg_text(const rt::Program& p, const rt::Arg& a) {
  switch (a.space) {
    case rt::Space::Arena: return "arena+" + std::to_string(a.offset);
    case rt::Space::Weight: return "@" + p.weights[a.index].name;
    case rt::Space::KvK: return "kv" + std::to_string(a.index) + ".k";
    case rt::Space::KvV: return "kv" + std::to_string(a.index) + ".v";
  }
  return {};
}

/// Layers by what their caches are, in the order of the first of each.
std::vector<std::pair<std::string, size_t>> kv_kinds(const std::vector<rt::KvLayer>& layers) {
  std::vector<std::pair<std::string, size_t>> kinds;
  for (const rt::KvLayer& l : layers) {
    std::string kind = l.name() + ", " + std::to_string(l.heads) + " heads of " + std::to_string(l.head_size);
    if (l.sinks) kind += ", the first " + std::to_string(l.sinks);
    if (l.ring) kind += std::string(l.sinks ? " and" : ",") + " the newest " + std::to_string(l.ring - l.sinks) + " positions for a window of " + std::to_string(l.window);
    const auto known = std::ranges::find(kinds, kind, &std::pair<std::string, size_t>::first);
    if (known == kinds.end()) kinds.emplace_back(kind, 1);
    else ++known->second;
  }
  return kinds;
}

/// What the cache holds, and how large it is with so many positions in it.
Status print_kv(const rt::Program& p, int64_t positions) {
  if (p.kv.empty()) return ok();
  for (const char* title = "kv cache      "; const auto& [kind, layers] : kv_kinds(p.kv)) {
    printf("%s %zu layers, %s\n", title, layers, kind.c_str());
    title = "              ";
  }
  if (p.context_length > 0) positions = std::min(positions, p.context_length);
  const auto capacity = int64_t(round_up(uint64_t(positions), rt::kKvCapacityMultiple));
  PRISM_TRY(const auto layout, rt::KvLayout::create(p.kv, capacity, "kv cache"));
  const rt::KvStats s = layout.stats(positions, capacity);
  printf("               at %lld positions %.2f MiB, %.2f of them exact, %.2f times less than in f16", (long long)positions,
         double(s.bytes_used) / 1048576, double(s.bytes_exact) / 1048576, double(s.bytes_f16) / double(s.bytes_used));
  if (s.demoted) printf("; %lld positions demoted", (long long)s.demoted);
  if (s.evicted) printf("; %lld evicted, added up over layers", (long long)s.evicted);
  printf("\n");
  return ok();
}

Status inspect_prx(const std::string& path, int64_t positions) {
  PRISM_TRY(auto p, rt::read_description(path));
  PRISM_TRY(auto metadata, metadata_of(p, path));
  PRISM_TRY(auto architecture, metadata->get_string("general.architecture", "unknown"));
  printf("%s: .prx by %s\n\nmodel          %s, architecture %s, context %lld, vocabulary %lld\n", path.c_str(), printable(p.producer).c_str(),
         printable(p.name).c_str(), printable(architecture).c_str(), (long long)p.context_length, (long long)p.vocab);
  for (const rt::Code& c : p.codes) printf("code           %s, isa %s, %s\n", c.target.c_str(), c.isa.c_str(), c.format.c_str());
  if (p.weights_embedded) printf("weights        embedded, %.1f MiB in %zu tensors\n", double(p.weight_bytes) / 1048576, p.weights.size());
  else printf("weights        packed on load from %s, %.1f MiB in %zu tensors\n", printable(p.model.path, 1000).c_str(), double(p.weight_bytes) / 1048576, p.weights.size());
  PRISM_CHECK(print_kv(p, positions));
  printf("\nentry points\n");
  for (const rt::EntryPoint& e : p.entries) {
    printf("  %s: %zu launches, arena %.2f MiB", e.name.c_str(), e.launches.size(), double(e.arena_bytes) / 1048576);
    for (size_t i = 0; i < p.dims.size(); ++i) printf(", %s in [%lld,%lld]", p.dims[i].c_str(), (long long)e.dim_min[i], (long long)e.dim_max[i]);
    printf("\n");
    for (size_t i = 0; i < e.launches.size(); ++i) {
      const rt::Launch& l = e.launches[i];
      printf("    %4zu %-16s", i, p.kernels[l.kernel].symbol.c_str());
      for (const rt::Arg& a : l.args) printf(" %s", arg_text(p, a).c_str());
      printf("\n");
    }
  }
  printf("\nkernels\n");
  for (const rt::Kernel& k : p.kernels) printf("%s, %llu bytes of scratch\n%s\n", k.symbol.c_str(), (unsigned long long)k.scratch_bytes, k.description.c_str());
  printf("weights\n");
  for (const rt::Weight& w : p.weights) {
    printf("  %-36s %-6s %-14s %-10s %12llu bytes at %llu  from", printable(w.name).c_str(), w.dtype.c_str(), shape_text(w.shape).c_str(), w.layout.c_str(),
           (unsigned long long)w.bytes, (unsigned long long)w.offset);
    for (const std::string& s : w.sources) printf(" %s", printable(s).c_str());
    printf("\n");
  }
  return ok();
}

}  // namespace

void add_inspect(CLI::App& app, Action& chosen) {
  auto path = std::make_shared<std::string>();
  auto positions = std::make_shared<int64_t>(8192);
  CLI::App* c = app.add_subcommand("inspect", "Show what a model or .prx holds: metadata, tensors, entry points, memory plan, kernels");
  c->add_option("file", *path, kModelOrPrxHelp)->required();
  c->add_option("--positions", *positions, "State the size of a KV cache with so many, or as many as the model has")->capture_default_str()->check(CLI::Range(int64_t(1), int64_t(1) << 40));
  c->callback([path, positions, &chosen] {
    chosen = [path, positions]() -> Status {
      PRISM_TRY(FileKind kind, file_kind(*path));
      return kind == FileKind::Gguf ? inspect_gguf(*path) : inspect_prx(*path, *positions);
    };
  });
}

}  // namespace prism::tools
