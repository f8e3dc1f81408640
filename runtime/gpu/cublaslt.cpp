#include "runtime/gpu/cublaslt.h"

#include <dlfcn.h>

#include <bit>
#include <cstdlib>
#include <filesystem>
#include <vector>

namespace prism::rt::gpu {
namespace cublaslt {
namespace {

void* open_library(std::string& why) {
  std::vector<std::string> names;
  if (const char* chosen = std::getenv("PRISM_LIBCUBLASLT"); chosen && *chosen) {
    names.push_back(chosen);
  } else {
    std::vector<std::string> folders = {""};  // the loader's own first
    for (const char* variable : {"CUDA_HOME", "CUDA_PATH"})
      if (const char* home = std::getenv(variable); home && *home) folders.push_back(std::string(home) + "/lib64/");
    folders.push_back("/usr/local/cuda/lib64/");
    for (const std::string& folder : folders)
      for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"})
        if (folder.empty() || std::filesystem::exists(folder + name)) names.push_back(folder + name);
  }
  for (const std::string& name : names) {
    if (void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    if (why.empty()) why = dlerror();
  }
  return nullptr;
}

}  // namespace

Result<Api> open_api() {
  std::string why;
  void* library = open_library(why);
  if (!library) return error("cuBLASLt cannot be loaded (", why, "); install the CUDA 12 or 13 toolkit or set CUDA_HOME to it");
  Api api;
  auto bind = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
    if (!function && why.empty()) why = name;
  };
  why.clear();
#define PRISM_CUBLASLT(member, name, result, parameters) bind(api.member, #name);
#include "runtime/gpu/cublaslt_api.def"
  if (!why.empty()) return error("libcublasLt: found no ", why, ", expected that of CUDA 12 or 13");
  return api;
}

}  // namespace cublaslt

namespace {

constexpr size_t kMostPlans = 4096;  // a prompt's length is part of a plan's key: what must not grow for ever

int type_of(Float f) { return f == Float::F16 ? cublaslt::kF16 : f == Float::Bf16 ? cublaslt::kBf16 : cublaslt::kF32; }
const char* name_of(Float f) { return f == Float::F16 ? "f16" : f == Float::Bf16 ? "bf16" : "f32"; }

std::string describe(const Matmul& p) {
  std::ostringstream text;
  text << name_of(p.out) << "[" << p.m << "," << p.n << "] = " << name_of(p.in) << "[" << p.m << "," << p.k << "] * " << name_of(p.in) << "[" << p.n << ","
       << p.k << "]^T";
  return std::move(text).str();
}

/// The largest power of two that divides it, up to 256, more than which no algorithm asks for.
uint32_t alignment(Address a) { return uint32_t(1) << std::countr_zero(a | 256); }

/// A descriptor of cuBLASLt with the function that destroys it.
template <class T>
using Owned = std::unique_ptr<std::remove_pointer_t<T>, int (*)(T)>;

}  // namespace

struct Blas::Plan {
  Owned<cublaslt::Operation> operation;
  Owned<cublaslt::Layout> w, x, y;
  cublaslt::Algorithm algorithm;
};

Blas::Blas(const cublaslt::Api& api) : lt_(api) {}

Blas::~Blas() {
  if (handle_) lt_.destroy(handle_);
}

Result<std::unique_ptr<Blas>> Blas::open() {
  PRISM_TRY(const cublaslt::Api api, cublaslt::open_api());
  std::unique_ptr<Blas> blas(new Blas(api));
  if (const int code = api.create(&blas->handle_)) return error("cuBLASLt: cublasLtCreate failed: ", api.status_string(code), "; is there an NVIDIA driver?");
  return blas;
}

Status Blas::check(int code, const Matmul& p, const char* call) const {
  return code == 0 ? ok() : error("cuBLASLt: ", describe(p), ": ", call, " failed: ", lt_.status_string(code));
}

// cuBLASLt thinks in columns: by columns, the memory of y is y^T[n,m], that of x is x^T[k,m], that of w is w^T[k,n]. So it is
// asked for y^T = (w^T)^T * x^T.
Result<std::unique_ptr<Blas::Plan>> Blas::choose(const Matmul& p, const Key& key) const {
  cublaslt::Operation operation = nullptr;
  PRISM_CHECK(check(lt_.operation_create(&operation, cublaslt::kComputeF32, cublaslt::kF32), p, "cublasLtMatmulDescCreate"));
  Plan plan = {{operation, lt_.operation_destroy}, {nullptr, lt_.layout_destroy}, {nullptr, lt_.layout_destroy}, {nullptr, lt_.layout_destroy}};
  const int transpose = cublaslt::kTranspose;
  PRISM_CHECK(check(lt_.operation_set(operation, cublaslt::kTransposeA, &transpose, sizeof transpose), p, "cublasLtMatmulDescSetAttribute"));
  const auto layout = [&](Owned<cublaslt::Layout>& owner, Float type, int64_t rows, int64_t columns) {
    cublaslt::Layout made = nullptr;
    Status status = check(lt_.layout_create(&made, type_of(type), uint64_t(rows), uint64_t(columns), rows), p, "cublasLtMatrixLayoutCreate");
    owner.reset(made);
    return status;
  };
  PRISM_CHECK(layout(plan.w, p.in, p.k, p.n));
  PRISM_CHECK(layout(plan.x, p.in, p.k, p.m));
  PRISM_CHECK(layout(plan.y, p.out, p.n, p.m));

  cublaslt::Preference made = nullptr;
  PRISM_CHECK(check(lt_.preference_create(&made), p, "cublasLtMatmulPreferenceCreate"));
  const Owned<cublaslt::Preference> preference(made, lt_.preference_destroy);
  const auto prefer = [&](int attribute, const auto& value) {
    return check(lt_.preference_set(made, attribute, &value, sizeof value), p, "cublasLtMatmulPreferenceSetAttribute");
  };
  PRISM_CHECK(prefer(cublaslt::kMaxWorkspace, p.workspace_bytes));
  const uint32_t alignments[] = {std::get<5>(key), std::get<6>(key), std::get<7>(key), std::get<8>(key)};
  for (int i = 0; i < 4; ++i) PRISM_CHECK(prefer(cublaslt::kAlignmentOfA + i, alignments[i]));

  cublaslt::Choice choice;
  int found = 0;
  const int code = lt_.choose(handle_, operation, plan.w.get(), plan.x.get(), plan.y.get(), plan.y.get(), made, 1, &choice, &found);
  if (code == cublaslt::kNotSupported || (code == 0 && (found < 1 || choice.status != 0)))
    return error("cuBLASLt: ", describe(p), ": found no algorithm for it, expected one: is the GPU too old, or an address not aligned to 16 bytes?");
  PRISM_CHECK(check(code, p, "cublasLtMatmulAlgoGetHeuristic"));
  plan.algorithm = choice.algorithm;
  return std::make_unique<Plan>(std::move(plan));
}

Status Blas::matmul(const Matmul& p) {
  if (p.in == Float::F32 || (p.out != Float::F32 && p.out != p.in))
    return error("cuBLASLt: ", describe(p), ": expected a product of f16 or bf16 that is f32 or of the same type");
  if (p.c && p.out != Float::F32) return error("cuBLASLt: ", describe(p), ": found an f32 matrix to add, expected none where the result is ", name_of(p.out));
  if (p.m < 0 || p.n < 0 || p.k <= 0) return error("cuBLASLt: ", describe(p), ": expected sizes of at least 0, and k of at least 1");
  if (p.m == 0 || p.n == 0) return ok();

  const Address c = p.c ? p.c : p.y;  // not read where beta is 0
  const Key key = {p.in, p.out, p.m, p.n, p.k, alignment(p.w), alignment(p.x), alignment(c), alignment(p.y), p.workspace_bytes};
  auto plan = plans_.find(key);
  if (plan == plans_.end()) {
    if (plans_.size() >= kMostPlans) plans_.clear();
    PRISM_TRY(auto chosen, choose(p, key));
    plan = plans_.emplace(key, std::move(chosen)).first;
  }
  const Plan& use = *plan->second;
  const float alpha = 1, beta = p.c ? p.beta : 0;
  const auto pointer = [](Address a) { return reinterpret_cast<void*>(a); };
  return check(lt_.matmul(handle_, use.operation.get(), &alpha, pointer(p.w), use.w.get(), pointer(p.x), use.x.get(), &beta, pointer(c), use.y.get(),
                          pointer(p.y), use.y.get(), &use.algorithm, pointer(p.workspace), p.workspace_bytes, static_cast<cublaslt::Stream>(p.stream)),
               p, "cublasLtMatmul");
}

}  // namespace prism::rt::gpu
