// CUDA C++ for GPUs and for the emulated device. A kernel takes one struct by value, 8 bytes a member on GPUs: its buffers, then
// where its dims are, i64 in device memory, so that a recorded launch can be replayed with others. Every access names the buffer and a byte offset, so that the emulator can check it.
#include <cmath>

#include "codegen/render/c.h"
#include "runtime/base/half.h"

namespace prism::codegen {

using namespace kir;

namespace {

class CudaRenderer final : public CRenderer {
 public:
  explicit CudaRenderer(CudaTarget target) : target_(target) {}

 protected:
  std::string prelude() override { return cuda_primitives(target_) + "#line 1 \"kernels\"\n"; }

  std::string open(const Kernel& k) override {
    std::string s, members, body;
    for (const Buffer& b : k.buffers) {
      const std::string name = "b" + std::to_string(b.id), comment = ";  // " + b.name + "\n";
      if (b.space == Buffer::Space::Arg) {
        members += "  Global " + name + comment;
        body += "  const Global " + name + " = args." + name + comment;
      } else if (b.space == Buffer::Space::Shared) {
        body += "  const Shared " + name + " = shared(" + std::to_string(b.offset) + ", " + std::to_string(b.size * elem_bytes(b.elem)) + ")" + comment;
      } else {
        s += "CONSTANT f32 " + k.name + "_" + name + "[] = {";
        char text[32];
        for (float v : b.values) {
          snprintf(text, sizeof text, "%.9ef,", double(v));
          s += text;
        }
        s += "};\n";
        body += "  const Table " + name + " = (Table)" + k.name + "_" + name + comment;
      }
    }
    for (size_t i = 0; i < k.dims.size(); ++i) {
      body += "  i32 d" + std::to_string(i) + " = (i32)read<i64>(args.dims, " + std::to_string(8 * i) + ");  // " + k.dims[i] + "\n";
    }
    members += "  Global dims;\n";
    return s + "struct " + k.name + "_args {\n" + members + "};\ntemplate <class Phase> DEVICE void " + k.name + "_body(const " + k.name +
           "_args& args, const i32 task, Phase phase) {\n" + body + "  i32 v1 = thread_index();\n";
  }

  std::string close(const Kernel& k) override {
    return "}\nKERNEL(" + std::to_string(k.block_threads) + ", " + std::to_string(k.blocks_together) + ") " + k.name + "(ARGS(" + k.name + "_args) args) {\n  grid_begin();\n  " + k.name +
           "_body(args, block_index(), Alone());\n}\n\n";
  }

  std::string type(Ty t) override {
    const std::string e = CRenderer::type({t.elem, 1});
    return t.lanes > 1 ? "vec<" + e + ", " + std::to_string(t.lanes) + ">" : e;
  }

  std::string address(int buffer, const Ref& index) override {
    const Buffer& b = kernel_->buffers[size_t(buffer)];
    const Ex at = b.space == Buffer::Space::Shared ? Ex(index) : cast(Elem::I64, Ex(index));  // 32 bits: sums with constants become part of an instruction
    return "b" + std::to_string(b.id) + ", " + expr((at * Ex(int64_t(elem_bytes(b.elem)))).node);
  }

  std::string expr(const Ref& r) override {
    switch (r->kind) {
      case Kind::FloatConst:
        if (r->ty.elem == Elem::F16) return "((u16)" + std::to_string(f32_to_f16(float(r->fval))) + ")";
        if (r->ty.elem == Elem::BF16) return "((u16)" + std::to_string(f32_to_bf16(float(r->fval))) + ")";
        if (!std::isinf(r->fval)) break;
        return std::string(r->fval < 0 ? "-" : "") + "__builtin_bit_cast(f32, 0x7f800000u)";
      case Kind::Load: {
        const Buffer& b = kernel_->buffers[size_t(r->ival)];
        return (b.constant ? "read<" : "load<") + type(r->ty) + ">(" + address(b.id, r->args[0]) + ")";
      }
      case Kind::Min: case Kind::Max:
        if (r->ty.elem != Elem::F32) break;
        return std::string(r->kind == Kind::Min ? "min_f32(" : "max_f32(") + expr(r->args[0]) + ", " + expr(r->args[1]) + ")";
      case Kind::Splat: return "splat<" + type(r->ty) + ">(" + expr(r->args[0]) + ")";
      case Kind::Lane: return expr(r->args[0]) + ".e[" + std::to_string(r->ival) + "]";
      case Kind::Pack: {
        std::string list;
        for (const Ref& a : r->args) list += (list.empty() ? "" : ", ") + expr(a);
        return type(r->ty) + "{" + list + "}";
      }
      default: break;
    }
    return CRenderer::expr(r);
  }

  std::string load(Ty t, const std::string& address) override { return "load<" + type(t) + ">(" + address + ")"; }
  std::string store(Ty t, const std::string& address, const std::string& value) override {
    return "store<" + type(t) + ">(" + address + ", " + value + ")";
  }
  std::string store_n(Ty, const std::string&, const std::string&, const std::string&) override { return {}; }  // CPU kernels'

  std::string statement(const Stmt& s) override {
    switch (s.kind) {
      case Stmt::Kind::Prefetch: return "prefetch(" + address(s.id, s.a) + ")";
      case Stmt::Kind::Barrier: return "barrier()";
      case Stmt::Kind::WarpSync: return "warp_sync()";
      case Stmt::Kind::GridWait: return "phase_wait(phase)";
      case Stmt::Kind::AsyncCopy: return std::string(kernel_->buffers[size_t(s.source)].constant ? "async_copy_constant(" : "async_copy(") + address(s.id, s.a) + ", " + address(s.source, s.b) + ", " + expr(s.c) + ")";
      case Stmt::Kind::AsyncCommit: return "async_commit()";
      case Stmt::Kind::AsyncWait: return "async_wait<" + std::to_string(s.a->ival) + ">()";
      case Stmt::Kind::Wgmma: return "wgmma(v" + std::to_string(s.id) + ", " + address(s.source, s.a) + ", " + address(s.second, s.b) + ")";
      case Stmt::Kind::WgmmaFence: return "wgmma_fence()";
      case Stmt::Kind::WgmmaCommit: return "wgmma_commit()";
      case Stmt::Kind::WgmmaWait: return "wgmma_wait<" + std::to_string(s.a->ival) + ">()";
      case Stmt::Kind::AsyncFence: return "async_fence()";
      case Stmt::Kind::MbarrierInit: return "mbarrier_init(" + address(s.id, s.a) + ", " + expr(s.b) + ")";
      case Stmt::Kind::MbarrierExpect: return "mbarrier_expect(" + address(s.id, s.a) + ", " + expr(s.b) + ")";
      case Stmt::Kind::MbarrierWait: return "mbarrier_wait(" + address(s.id, s.a) + ", " + expr(s.b) + ")";
      case Stmt::Kind::BulkCopy:
        return "bulk_copy(" + address(s.id, s.a) + ", " + address(s.source, s.b) + ", " + std::to_string(s.bytes) + ", " + address(s.second, s.c) + ")";
      case Stmt::Kind::WaitAtLeast: return "wait_at_least(" + address(s.id, s.a) + ", " + expr(s.b) + ")";
      default: return {};  // CPU kernels'
    }
  }

  std::string convert(Ty to, Ty from, const std::string& v) override {
    auto half = [](Elem e) { return e == Elem::F16 || e == Elem::BF16; };
    if (half(from.elem)) return convert(to, {Elem::F32, 1}, std::string(elem_name(from.elem)) + "_f32(" + v + ")");
    if (half(to.elem)) return "f32_" + std::string(elem_name(to.elem)) + "(" + convert({Elem::F32, 1}, from, v) + ")";
    return to == from ? v : "((" + type(to) + ")(" + v + "))";
  }

  std::string call(Fn fn, Ty, const std::vector<std::string>& args) override {
    std::string list;
    for (const std::string& a : args) list += (list.empty() ? "" : ", ") + a;
    return std::string(fn_name(fn)) + (fn < Fn::Exp2Coarse || fn == Fn::Abs ? "_f32(" : "(") + list + ")";
  }

 private:
  CudaTarget target_;
};

}  // namespace

std::string render_cuda(const std::vector<const Kernel*>& kernels, CudaTarget target) { return CudaRenderer(target).render(kernels); }

std::string render_persistent(const std::string& name, const std::map<size_t, const Kernel*>& kernels) {
  std::string cases;
  for (const auto& [i, k] : kernels)
    cases += "        case " + std::to_string(i) + ": " + k->name + "_body(arguments<" + k->name + "_args>(args.table, offset), task, phase); break;\n";
  return "struct " + name + "_args {\n  Global table, counters;\n};\nKERNEL(" + std::to_string(kernels.begin()->second->block_threads) + ", 1) " + name + "(ARGS(" + name +
         "_args) args) {\n"
         "  const i64 launches = load<i64>(args.table, 0);\n"
         "  for (i64 i = 0; i < launches; ++i) {\n"
         "    const i64 kernel = load<i64>(args.table, 24 * i + 8), blocks = load<i64>(args.table, 24 * i + 16), offset = load<i64>(args.table, 24 * i + 24);\n"
         "    const Persistent phase = {args.counters, i};\n"
         "    for (i64 block = block_index(); block < blocks; block += grid_size()) {\n"
         "      const i32 task = (i32)block;\n"
         "      switch (kernel) {\n" + cases + "      }\n"
         "      barrier();  // its shared memory is the next one's\n"
         "    }\n"
         "    phase_end(phase);\n"
         "  }\n}\n";
}

}  // namespace prism::codegen
