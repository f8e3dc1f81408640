#include "tests/fake_libcublaslt/fake_cublaslt.h"

#include <cstring>
#include <set>
#include <type_traits>

#include "runtime/base/half.h"
#include "runtime/gpu/cublaslt_api.h"

namespace prism::rt::gpu::cublaslt {

struct OpaqueHandle {};
struct OpaqueOperation { int transpose_a = 0; };
struct OpaqueLayout {
  int type = 0;
  uint64_t rows = 0, columns = 0;
  int64_t stride = 0;
};
struct OpaquePreference {
  uint64_t workspace_bytes = 0;
  uint32_t alignments[4] = {256, 256, 256, 256};
};

namespace {

constexpr int kInvalidValue = 7;
constexpr uint64_t kMagic = 0x70726f64;
constexpr uint64_t kWorkspace = 4096;  // what every algorithm uses if it may

struct State {
  fake::CublasLt shown;
  std::set<void*> objects;
};
State* state = new State;

int mistake(const std::string& what) {
  state->shown.mistakes.push_back(what);
  return kInvalidValue;
}

int fault(const char* function) {
  fake::Fault& f = state->shown.fault;
  ++state->shown.calls;
  if (f.nth == 0 || (!f.function.empty() && f.function != function) || ++f.seen != f.nth) return 0;
  state->shown.failed = function;
  return f.code;
}

template <class T>
int create(T** out, const char* kind) {
  *out = new T;
  state->objects.insert(*out);
  ++state->shown.live[kind];
  return 0;
}

template <class T>
int destroy(T* object, const char* kind) {
  if (!state->objects.erase(object)) return mistake(std::string("destroyed what is no ") + kind);
  --state->shown.live[kind];
  delete object;
  return 0;
}

bool exist(std::initializer_list<void*> objects) {
  for (void* object : objects)
    if (!state->objects.contains(object)) return false;
  return true;
}

float read(const void* matrix, const OpaqueLayout& l, uint64_t row, uint64_t column) {
  const size_t at = row + column * size_t(l.stride);
  if (l.type == kF32) return static_cast<const float*>(matrix)[at];
  const uint16_t bits = static_cast<const uint16_t*>(matrix)[at];
  return l.type == kF16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

void write(void* matrix, const OpaqueLayout& l, uint64_t row, uint64_t column, float value) {
  const size_t at = row + column * size_t(l.stride);
  if (l.type == kF32)
    static_cast<float*>(matrix)[at] = value;
  else
    static_cast<uint16_t*>(matrix)[at] = l.type == kF16 ? f32_to_f16(value) : f32_to_bf16(value);
}

/// The sizes of d = op(a) * b fit each other, and the types are such as there are algorithms for.
bool fits(const OpaqueOperation& o, const OpaqueLayout& a, const OpaqueLayout& b, const OpaqueLayout& c, const OpaqueLayout& d) {
  const uint64_t m = o.transpose_a ? a.columns : a.rows, k = o.transpose_a ? a.rows : a.columns;
  for (const OpaqueLayout* l : {&a, &b, &c, &d})
    if (l->rows == 0 || l->columns == 0 || l->stride < int64_t(l->rows)) return false;
  if (b.rows != k || d.rows != m || d.columns != b.columns || c.rows != d.rows || c.columns != d.columns) return false;
  return a.type == b.type && a.type != kF32 && c.type == d.type && (d.type == kF32 || d.type == a.type);
}

}  // namespace

#define FAKE(name) \
  if (const int fault_code = fault(#name)) return fault_code
#define FAKE_RELEASE(name, object, kind)                                \
  const int fault_code = fault(#name), code = destroy(object, kind); \
  return code ? code : fault_code

extern "C" {

fake::CublasLt* fake_cublaslt() { return &state->shown; }
void fake_cublaslt_reset() {
  delete state;
  state = new State;
}

const char* cublasLtGetStatusString(int code) { return code == kInvalidValue ? "an unsupported value or parameter was passed" : "some status"; }

int cublasLtCreate(Handle* handle) {
  FAKE(cublasLtCreate);
  return create(handle, "handle");
}
int cublasLtDestroy(Handle handle) { FAKE_RELEASE(cublasLtDestroy, handle, "handle"); }

int cublasLtMatmulDescCreate(Operation* operation, int compute_type, int scale_type) {
  FAKE(cublasLtMatmulDescCreate);
  if (compute_type != kComputeF32 || scale_type != kF32) return kInvalidValue;
  return create(operation, "operation");
}
int cublasLtMatmulDescDestroy(Operation operation) { FAKE_RELEASE(cublasLtMatmulDescDestroy, operation, "operation"); }
int cublasLtMatmulDescSetAttribute(Operation operation, int attribute, const void* value, size_t bytes) {
  FAKE(cublasLtMatmulDescSetAttribute);
  if (!exist({operation}) || attribute != kTransposeA || bytes != sizeof(int)) return kInvalidValue;
  std::memcpy(&operation->transpose_a, value, bytes);
  return 0;
}

int cublasLtMatrixLayoutCreate(Layout* layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
  FAKE(cublasLtMatrixLayoutCreate);
  create(layout, "layout");
  **layout = {type, rows, columns, stride};
  return 0;
}
int cublasLtMatrixLayoutDestroy(Layout layout) { FAKE_RELEASE(cublasLtMatrixLayoutDestroy, layout, "layout"); }

int cublasLtMatmulPreferenceCreate(Preference* preference) {
  FAKE(cublasLtMatmulPreferenceCreate);
  return create(preference, "preference");
}
int cublasLtMatmulPreferenceDestroy(Preference preference) { FAKE_RELEASE(cublasLtMatmulPreferenceDestroy, preference, "preference"); }
int cublasLtMatmulPreferenceSetAttribute(Preference preference, int attribute, const void* value, size_t bytes) {
  FAKE(cublasLtMatmulPreferenceSetAttribute);
  if (!exist({preference})) return kInvalidValue;
  if (attribute == kMaxWorkspace && bytes == sizeof(uint64_t))
    std::memcpy(&preference->workspace_bytes, value, bytes);
  else if (attribute >= kAlignmentOfA && attribute < kAlignmentOfA + 4 && bytes == sizeof(uint32_t))
    std::memcpy(&preference->alignments[attribute - kAlignmentOfA], value, bytes);
  else
    return kInvalidValue;
  return 0;
}

int cublasLtMatmulAlgoGetHeuristic(Handle handle, Operation o, Layout a, Layout b, Layout c, Layout d, Preference p, int wanted, Choice* choices, int* found) {
  FAKE(cublasLtMatmulAlgoGetHeuristic);
  if (!exist({handle, o, a, b, c, d, p}) || wanted < 1) return kInvalidValue;
  if (!fits(*o, *a, *b, *c, *d)) return mistake("cublasLtMatmulAlgoGetHeuristic: sizes or types that do not fit");
  ++state->shown.choices;
  *found = state->shown.algorithms;
  if (*found == 0) return kNotSupported;
  Algorithm& algorithm = choices[0].algorithm;
  choices[0].workspace_bytes = std::min(kWorkspace, p->workspace_bytes);
  choices[0].status = 0;
  const uint64_t data[] = {kMagic, d->rows, d->columns, b->rows, choices[0].workspace_bytes, p->alignments[0] | uint64_t(p->alignments[1]) << 32,
                           p->alignments[2] | uint64_t(p->alignments[3]) << 32};
  std::memcpy(algorithm.data, data, sizeof data);
  return 0;
}

int cublasLtMatmul(Handle handle, Operation o, const void* alpha, const void* a, Layout la, const void* b, Layout lb, const void* beta, const void* c,
                   Layout lc, void* d, Layout ld, const Algorithm* algorithm, void* workspace, size_t workspace_bytes, Stream stream) {
  FAKE(cublasLtMatmul);
  if (!exist({handle, o, la, lb, lc, ld})) return kInvalidValue;
  if (!fits(*o, *la, *lb, *lc, *ld)) return mistake("cublasLtMatmul: sizes or types that do not fit");
  const uint64_t* chosen = algorithm->data;
  if (chosen[0] != kMagic || chosen[1] != ld->rows || chosen[2] != ld->columns || chosen[3] != lb->rows)
    return mistake("cublasLtMatmul: an algorithm for another product");
  if (workspace_bytes < chosen[4] || (chosen[4] && !workspace)) return mistake("cublasLtMatmul: too little workspace");
  const void* matrices[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i)
    if (reinterpret_cast<uintptr_t>(matrices[i]) % uint32_t(chosen[5 + i / 2] >> (i % 2 * 32)) != 0)
      return mistake("cublasLtMatmul: an address aligned less than was said");
  if (!state->shown.multiplies) {
    state->shown.noted.push_back({ld->rows, ld->columns, lb->rows, a, b, c, d});
    return 0;
  }
  if (workspace) std::memset(workspace, 0xEE, chosen[4]);
  const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  for (uint64_t row = 0; row < ld->rows; ++row)
    for (uint64_t column = 0; column < ld->columns; ++column) {
      float sum = 0;
      for (uint64_t i = 0; i < lb->rows; ++i) sum += (o->transpose_a ? read(a, *la, i, row) : read(a, *la, row, i)) * read(b, *lb, i, column);
      write(d, *ld, row, column, keep == 0 ? scale * sum : scale * sum + keep * read(c, *lc, row, column));
    }
  ++state->shown.products;
  state->shown.stream = stream;
  return 0;
}

}  // extern "C"

// All that is called is here, with the same parameters.
#define PRISM_CUBLASLT(member, name, result, parameters) static_assert(std::is_same_v<decltype(&name), decltype(Api::member)>);
#include "runtime/gpu/cublaslt_api.def"

}  // namespace prism::rt::gpu::cublaslt
