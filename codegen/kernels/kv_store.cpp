#include "codegen/kernels/kv_store.h"

#include "codegen/kernels/planes.h"
#include "ir/kv_pages.h"
#include "runtime/base/checked.h"

namespace prism::codegen {

using namespace kir;

namespace {

constexpr int64_t kLine = 64;   // bytes that come from memory together

/// Groups of the pages from that of the first position that is not demoted to that of the last new one.
int64_t stage_groups(int64_t most_tokens) {
  return ceil_div(rt::kKvPage * (rt::kKvRecentPages + 1) - 1 + most_tokens, rt::kKvPage) * (rt::kKvPage / rt::kKvGroup);
}

}  // namespace

KvStore::KvStore(Region& r, const ir::Value* kv, bool keys, const std::optional<Buffer>& stage, int64_t most_tokens)
    : r_(r), b_(r.b), type_(kv->type), plane_(keys ? r.keys(kv) : r.values(kv)), stage_(stage), shape_(ir::kv_plane(kv->type, keys)), element_(Region::elem_of(kv->type)), stage_groups_(stage_groups(most_tokens)) {}

KvStores open_kv_stores(Region& r, const ir::Value* kv, int64_t most_tokens) {
  const rt::KvPlane shape = ir::kv_plane(kv->type, true);
  std::optional<Buffer> stage;
  if (most_tokens > rt::kKvRollback) stage = r.workspace(Elem::U8, 2 * shape.heads * stage_groups(most_tokens) * shape.group_bytes());
  return {KvStore(r, kv, true, stage, most_tokens), KvStore(r, kv, false, stage, most_tokens)};
}

Ex KvStore::first_staged() const { return b_.dim(rt::kDemotedDim) * (rt::kKvPage / rt::kKvGroup); }

Ex KvStore::group(Ex head, Ex group) const {
  if (!stage_) return ring(head, group);
  const Ex plane = head + Ex(shape_.keys ? 0 : shape_.heads);
  return b_.let((wide(plane) * stage_groups_ + group - first_staged()) * shape_.group_bytes());
}

Ex KvStore::ring(Ex head, Ex group) const {
  return b_.let(ring_at(head, select(group == Ex(0), group, (group - Ex(1)) % rt::kKvRing + Ex(1))));
}

Ex KvStore::codes(Ex page, Ex head) const {
  return b_.let((wide(page_slot(page)) * shape_.heads + head) * rt::kv_code_bytes(shape_.size, shape_.bits) + Ex(shape_.exact_bytes()));
}

Ex KvStore::scales(Ex page, Ex head) const {
  const Ex begin = wide(r_.kv_room(type_) / rt::kKvPage) * page_code_bytes() + Ex(shape_.exact_bytes());
  return b_.let(begin + (wide(page_slot(page)) * shape_.heads + head) * rt::kv_scale_bytes(shape_.size, shape_.keys));
}

void KvStore::prefetch_next_scales(Ex scales) const {
  for (int64_t at = 0; at < rt::kv_scale_bytes(shape_.size, shape_.keys); at += kLine) b_.prefetch(plane_, scales + Ex(page_scale_bytes() + at), 2);
}

std::vector<Ex> KvStore::words(Ex codes, Ex block, bool ahead) const {
  const Ex at = b_.let(codes + block * block_bytes());
  std::vector<Ex> words;
  const rt::KvPlanes planes = rt::kv_planes(shape_.bits);
  for (int i = 0, from = 0; i < planes.count; from += planes.width[size_t(i++)])
    add_plane(b_, words, planes.width[size_t(i)], from, [&](int v) {
      if (ahead) b_.prefetch(plane_, at + Ex(64 * (from + v) + page_code_bytes()), 2);
      return b_.let(b_.load({Elem::U32, kLanes}, plane_, at + Ex(64 * (from + v))));
    });
  return words;
}

void KvStore::store_words(Ex codes, Ex block, Ex lane, const std::vector<Ex>& words) const {
  const Ex at = b_.let(codes + block * block_bytes() + lane * 4);
  const rt::KvPlanes planes = rt::kv_planes(shape_.bits);
  for (int i = 0, from = 0; i < planes.count; from += planes.width[size_t(i++)]) {
    const std::vector<Ex> vectors = make_plane(b_, words, planes.width[size_t(i)], from);
    for (size_t v = 0; v < vectors.size(); ++v) b_.store(plane_, at + Ex(int64_t(64 * (from + int(v)))), vectors[v]);
  }
}

Ex KvStore::mean(Ex scales, Ex base, Ex i) const {
  return b_.let(cast(Elem::F32, cast(Elem::I32, b_.load({Elem::I8, kLanes}, plane_, scales + Ex(means_at()) + i))) * base);
}

Ex KvStore::scale(Ex scales, Ex base, int64_t g, Ex p) const {
  const Ex byte = b_.let(cast(Elem::F32, cast(Elem::I32, b_.load({Elem::U8, kLanes}, plane_, scales + p * kLanes + Ex(g * rt::kKvPage)))));
  return b_.let(byte * byte * base);
}

}  // namespace prism::codegen
