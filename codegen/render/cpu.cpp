// C for the in-process clang: 16-lane vectors, which the compiler splits where the machine's are narrower. Only builtins,
// no intrinsics headers: they would cost more compile time than the kernels.
#include "codegen/render/c.h"

namespace prism::codegen {

using namespace kir;

namespace {

// F1/F16: f32 functions, written once for one lane and for 16.
constexpr const char* kMath = R"(
static inline F EXP(F x) {
  const F c = MAXF(MINF(x, (F)88.3762626f), (F)-87.3365479f);
  const F n = ROUND(c * (F)1.44269504f);
  const F r = FMA(n, (F)2.12194440e-4f, FMA(n, (F)-0.693359375f, c));
  F p = (F)1.9875691500e-4f;
  p = FMA(p, r, (F)1.3981999507e-3f);
  p = FMA(p, r, (F)8.3334519073e-3f);
  p = FMA(p, r, (F)4.1665795894e-2f);
  p = FMA(p, r, (F)1.6666665459e-1f);
  p = FMA(p, r, (F)5.0000001201e-1f);
  p = FMA(p, r * r, r + (F)1.0f);
  const F s = __builtin_bit_cast(F, (TOI(n) + (I)127) << (I)23);
  return SELECT(x < (F)-87.3365479f, (F)0.0f, p * s);
}
static inline F TANH(F x) { return (F)1.0f - (F)2.0f / (EXP(x + x) + (F)1.0f); }
// Abramowitz and Stegun 7.1.26, |error| < 1.5e-7
static inline F ERF(F x) {
  const F a = ABS(x);
  const F t = (F)1.0f / FMA(a, (F)0.3275911f, (F)1.0f);
  F p = FMA(t, (F)1.061405429f, (F)-1.453152027f);
  p = FMA(t, p, (F)1.421413741f);
  p = FMA(t, p, (F)-0.284496736f);
  p = FMA(t, p, (F)0.254829592f) * t;
  const F y = (F)1.0f - p * EXP(-a * a);
  return SELECT(x < (F)0.0f, -y, y);
}
// Taylor series of sin(2 pi y) for |y| <= 1/4
static inline F SIN4(F y) {
  const F z = y * (F)6.28318530718f, q = z * z;
  F p = (F)1.6059044e-10f;
  p = FMA(p, q, (F)-2.5052108e-8f);
  p = FMA(p, q, (F)2.7557319e-6f);
  p = FMA(p, q, (F)-1.9841270e-4f);
  p = FMA(p, q, (F)8.3333333e-3f);
  p = FMA(p, q, (F)-1.6666667e-1f);
  return FMA(z * q, p, z);
}
static inline F SINT(F x) {
  const F a = ABS(x);
  const F y = SELECT(a > (F)0.25f, (F)0.5f - a, a);
  const F s = SIN4(y);
  return SELECT(x < (F)0.0f, -s, s);
}
static inline F COST(F x) { return SIN4((F)0.25f - ABS(x)); }
)";

std::string instantiate(const std::string& lane) {
  const bool vec = lane == "16";
  auto def = [](const char* name, const std::string& to) { return "#undef " + std::string(name) + "\n#define " + name + " " + to + "\n"; };
  std::string s;
  s += def("F", vec ? "f32x16" : "f32") + def("I", vec ? "i32x16" : "i32");
  for (const char* fn : {"EXP", "TANH", "ERF", "SIN4", "SINT", "COST", "FMA", "ROUND", "ABS"}) s += def(fn, std::string(fn) + lane + "_");
  s += def("TOI(v)", vec ? "__builtin_convertvector(v, i32x16)" : "((i32)(v))");
  s += def("SELECT(c,a,b)", "((c) ? (a) : (b))") + def("MINF(a,b)", "((a) < (b) ? (a) : (b))") + def("MAXF(a,b)", "((a) > (b) ? (a) : (b))");
  // Adding 1.5*2^23 rounds to nearest even for |x| < 2^22.
  s += "static inline F ROUND(F x) { return (x + (F)12582912.0f) - (F)12582912.0f; }\n";
  s += "static inline F ABS(F x) { return __builtin_bit_cast(F, __builtin_bit_cast(I, x) & (I)0x7fffffff); }\n";
  s += vec ? "#ifdef __FMA__\nstatic inline F FMA(F a, F b, F c) { return __builtin_elementwise_fma(a, b, c); }\n"
             "#else\nstatic inline F FMA(F a, F b, F c) { return a * b + c; }\n#endif\n"
           : "#ifdef __FMA__\nstatic inline F FMA(F a, F b, F c) { return __builtin_fmaf(a, b, c); }\n"
             "#else\nstatic inline F FMA(F a, F b, F c) { return a * b + c; }\n#endif\n";
  return s + kMath;
}

constexpr const char* kTypes = R"(
typedef signed char i8; typedef unsigned char u8; typedef short i16; typedef unsigned short u16;
typedef int i32; typedef unsigned int u32; typedef long i64; typedef float f32; typedef double f64;
#define VEC(e, n) typedef e e##x##n __attribute__((ext_vector_type(n)));
VEC(i8, 16) VEC(u8, 16) VEC(i16, 16) VEC(u16, 16) VEC(i32, 16) VEC(u32, 16) VEC(f32, 16) VEC(f64, 16) VEC(i64, 16)
VEC(i8, 32) VEC(u8, 64) VEC(i32, 8) VEC(u32, 8) VEC(i32, 4) VEC(u32, 4)
typedef _Float16 f16x16 __attribute__((ext_vector_type(16)));
typedef char v64qi __attribute__((vector_size(64))); typedef char v32qi __attribute__((vector_size(32)));
typedef short v16hi __attribute__((vector_size(32))); typedef short v8hi __attribute__((vector_size(16)));
typedef int v16si __attribute__((vector_size(64))); typedef int v8si __attribute__((vector_size(32)));
typedef int v4si __attribute__((vector_size(16))); typedef float v16sf __attribute__((vector_size(64)));
#define LD(T) static inline T ld_##T(const u8* p) { T v; __builtin_memcpy(&v, p, sizeof v); return v; } \
              static inline void st_##T(u8* p, T v) { __builtin_memcpy(p, &v, sizeof v); }
#define LDV(e) LD(e) LD(e##x16)
LDV(i8) LDV(u8) LDV(i16) LDV(u16) LDV(i32) LDV(u32) LDV(i64) LDV(f32) LDV(f64)

#ifdef __F16C__
static inline f32x16 f16_f32_16(u16x16 h) { return __builtin_convertvector(__builtin_bit_cast(f16x16, h), f32x16); }
static inline u16x16 f32_f16_16(f32x16 f) { return __builtin_bit_cast(u16x16, __builtin_convertvector(f, f16x16)); }
#else
static inline f32x16 f16_f32_16(u16x16 h) {
  const u32x16 w = __builtin_convertvector(h, u32x16), s = (w & 0x8000u) << 16u, m = w & 0x7fffu;
  const f32x16 sub = __builtin_convertvector(m, f32x16) * 0x1p-24f;
  const u32x16 nor = (m + 0x1c000u) << 13u, inf = 0x7f800000u | ((m & 0x3ffu) << 13u);
  const u32x16 r = (m < 0x400u) ? __builtin_bit_cast(u32x16, sub) : (m >= 0x7c00u) ? inf : nor;
  return __builtin_bit_cast(f32x16, r | s);
}
static inline u16x16 f32_f16_16(f32x16 f) {
  const u32x16 u = __builtin_bit_cast(u32x16, f), s = (u >> 16u) & 0x8000u, a = u & 0x7fffffffu;
  const u32x16 sub = __builtin_bit_cast(u32x16, __builtin_bit_cast(f32x16, a) + 0.5f) - 0x3f000000u;
  const u32x16 nor = (a + 0xfffu + ((a >> 13u) & 1u) - 0x38000000u) >> 13u;
  const u32x16 r = (a > 0x7f800000u) ? (u32x16)0x7e00u : (a >= 0x477ff000u) ? (u32x16)0x7c00u : (a < 0x38800000u) ? sub : nor;
  return __builtin_convertvector(r | s, u16x16);
}
#endif
static inline f32 f16_f32_1(u16 h) { return f16_f32_16((u16x16)h).x; }
static inline u16 f32_f16_1(f32 f) { return f32_f16_16((f32x16)f).x; }
static inline f32x16 bf16_f32_16(u16x16 h) { return __builtin_bit_cast(f32x16, __builtin_convertvector(h, u32x16) << 16u); }
static inline f32 bf16_f32_1(u16 h) { return __builtin_bit_cast(f32, (u32)h << 16); }
#ifdef __AVX512BF16__
typedef __bf16 v16bf __attribute__((vector_size(32)));
static inline u16x16 f32_bf16_16(f32x16 f) {
  return __builtin_bit_cast(u16x16, __builtin_ia32_cvtneps2bf16_512_mask((v16sf)f, (v16bf){}, (u16)-1));
}
#else
static inline u16x16 f32_bf16_16(f32x16 f) {
  const u32x16 u = __builtin_bit_cast(u32x16, f);
  return __builtin_convertvector((u + 0x7fffu + ((u >> 16u) & 1u)) >> 16u, u16x16);
}
#endif
static inline u16 f32_bf16_1(f32 f) { return f32_bf16_16((f32x16)f).x; }

#define HALVES(name, T, e, op) static inline e name(T##16 v) { \
  const T##8 a = op(v.lo, v.hi); const T##4 b = op(a.lo, a.hi); const T##2 c = op(b.lo, b.hi); return op(c.x, c.y); }
typedef f32 f32x8 __attribute__((ext_vector_type(8))); typedef f32 f32x4 __attribute__((ext_vector_type(4)));
typedef f32 f32x2 __attribute__((ext_vector_type(2))); typedef i32 i32x2 __attribute__((ext_vector_type(2)));
#define PLUS(a, b) ((a) + (b))
#define GREATER(a, b) ((a) > (b) ? (a) : (b))
HALVES(reduce_add_f32, f32x, f32, PLUS) HALVES(reduce_max_f32, f32x, f32, GREATER) HALVES(reduce_add_i32, i32x, i32, PLUS)

static inline u32 atomic_add(u8* p, u32 v) { return __atomic_fetch_add((u32*)p, v, __ATOMIC_ACQ_REL); }

#define JOIN4(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7)
#define JOIN8(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#if defined(__AVX512VNNI__)
static inline i32x16 dot4(i32x16 c, u32x16 a, i32x16 b) {
  return (i32x16)__builtin_ia32_vpdpbusd512((v16si)c, (v16si)a, (v16si)b);
}
#elif defined(__AVX2__)
static inline i32x8 dot4_8(i32x8 c, u32x8 a, i32x8 b) {
  const v16hi ae = (v16hi)(a & 0x00ff00ffu), ao = (v16hi)((a >> 8u) & 0x00ff00ffu);
  const v16hi be = ((v16hi)b << 8) >> 8, bo = (v16hi)b >> 8;
  return c + (i32x8)__builtin_ia32_pmaddwd256(ae, be) + (i32x8)__builtin_ia32_pmaddwd256(ao, bo);
}
static inline i32x16 dot4(i32x16 c, u32x16 a, i32x16 b) { return JOIN8(dot4_8(c.lo, a.lo, b.lo), dot4_8(c.hi, a.hi, b.hi)); }
#else
static inline i32x4 dot4_4(i32x4 c, u32x4 a, i32x4 b) {
  const v8hi ae = (v8hi)(a & 0x00ff00ffu), ao = (v8hi)((a >> 8u) & 0x00ff00ffu);
  const v8hi be = ((v8hi)b << 8) >> 8, bo = (v8hi)b >> 8;
  return c + (i32x4)__builtin_ia32_pmaddwd128(ae, be) + (i32x4)__builtin_ia32_pmaddwd128(ao, bo);
}
static inline i32x16 dot4(i32x16 c, u32x16 a, i32x16 b) {
  return JOIN8(JOIN4(dot4_4(c.lo.lo, a.lo.lo, b.lo.lo), dot4_4(c.lo.hi, a.lo.hi, b.lo.hi)),
               JOIN4(dot4_4(c.hi.lo, a.hi.lo, b.hi.lo), dot4_4(c.hi.hi, a.hi.hi, b.hi.hi)));
}
#endif
#ifdef __AVX2__
// Kept in the kernel's order, which the registers suffice for; the compiler would make trees of the sums, token by token.
static inline u32x8 dot_pairs_8(u32x8 c, u32x8 a, i32x8 b) {
  v16hi sum = (v16hi)c + (v16hi)__builtin_ia32_pmaddubsw256((v32qi)a, (v32qi)b);
  __asm__ volatile("" : "+x"(sum));
  return (u32x8)sum;
}
static inline u32x16 dot_pairs(u32x16 c, u32x16 a, i32x16 b) { return JOIN8(dot_pairs_8(c.lo, a.lo, b.lo), dot_pairs_8(c.hi, a.hi, b.hi)); }
static inline i32x8 sum_pairs_8(i32x8 c, u32x8 a) {
  const v16hi one = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  return c + (i32x8)__builtin_ia32_pmaddwd256((v16hi)a, one);
}
static inline i32x16 sum_pairs(i32x16 c, u32x16 a) { return JOIN8(sum_pairs_8(c.lo, a.lo), sum_pairs_8(c.hi, a.hi)); }
#endif

#define JOIN_TABLE(a, b, c, d) {a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d}
static inline u32x16 lookup_16(u32x16 i, u32 a, u32 b, u32 c, u32 d) {
  const u32x16 t = JOIN_TABLE(a, b, c, d);
#if defined(__AVX512BW__)
  return (u32x16)__builtin_ia32_pshufb512((v64qi)t, (v64qi)i);
#elif defined(__AVX2__)
  return JOIN8((u32x8)__builtin_ia32_pshufb256((v32qi)t.lo, (v32qi)i.lo), (u32x8)__builtin_ia32_pshufb256((v32qi)t.hi, (v32qi)i.hi));
#else
  const u8x64 bytes = (u8x64)t, at = (u8x64)i;
  u8x64 found = (u8x64)(u8)0;
  for (int k = 0; k < 16; ++k) found |= (u8x64)(at == (u8)k) & bytes[k];
  return (u32x16)found;
#endif
}
static inline u32 lookup_1(u32 i, u32 a, u32 b, u32 c, u32 d) {
  const u8x64 t = (u8x64)(u32x16)JOIN_TABLE(a, b, c, d);
  return (u32)t[i & 15] | (u32)t[i >> 8 & 15] << 8 | (u32)t[i >> 16 & 15] << 16 | (u32)t[i >> 24 & 15] << 24;
}
#define LOOKUPS(n, T) \
  static inline T lookup_low_##n(T i, T a, T b, T c, T d) { return lookup_##n(i & (T)0x0f0f0f0fu, FIRST_##n(a), FIRST_##n(b), FIRST_##n(c), FIRST_##n(d)); } \
  static inline T lookup_high_##n(T i, T a, T b, T c, T d) { return lookup_low_##n(i >> (T)4u, a, b, c, d); }
#define FIRST_1(v) (v)
#define FIRST_16(v) ((v).x)
LOOKUPS(1, u32) LOOKUPS(16, u32x16)
)";

constexpr const char* kDotBf16 = R"(
#ifdef __AVX512BF16__
typedef __bf16 v32bf __attribute__((vector_size(64)));
static inline f32x16 dot_bf16(f32x16 c, u32x16 a, u32x16 b) { return (f32x16)__builtin_ia32_dpbf16ps_512((v16sf)c, (v32bf)a, (v32bf)b); }
#else
static inline f32x16 dot_bf16(f32x16 c, u32x16 a, u32x16 b) {
  const u32x16 high = (u32x16)0xffff0000u;
  c = FMA16_(__builtin_bit_cast(f32x16, a & high), __builtin_bit_cast(f32x16, b & high), c);
  return FMA16_(__builtin_bit_cast(f32x16, a << 16u), __builtin_bit_cast(f32x16, b << 16u), c);
}
#endif
)";

constexpr const char* kExp2Coarse = R"(
#ifdef __AVX512F__
static inline f32x16 EXP2COARSE16_(f32x16 x) {
  const f32x16 f = x - (f32x16)__builtin_ia32_rndscaleps_mask((v16sf)x, 1, (v16sf)x, (u16)-1, 4);  // from the floor, which scalef takes of x
  const f32x16 p = FMA16_(FMA16_(FMA16_((f32x16)7.70669892e-2f, f, (f32x16)2.27645054e-1f), f, (f32x16)6.95116774e-1f), f, (f32x16)1.0f);
  return (f32x16)__builtin_ia32_scalefps512_mask((v16sf)p, (v16sf)x, (v16sf)p, (u16)-1, 4);
}
#else
static inline f32x16 EXP2COARSE16_(f32x16 x) { return EXP16_(x * 0.693147181f); }
#endif
static inline f32 EXP2COARSE1_(f32 x) { return EXP2COARSE16_((f32x16)x).x; }
)";

class CpuRenderer final : public CRenderer {
 protected:
  std::string prelude() override {
    return kTypes + instantiate("1") + instantiate("16") +
           "static inline f32 SQRT1_(f32 x) { return __builtin_sqrtf(x); }\n"
           "static inline f32x16 SQRT16_(f32x16 x) { return __builtin_elementwise_sqrt(x); }\n" + kDotBf16 + kExp2Coarse;
  }

  std::string open(const Kernel& k) override {
    std::string s = "void " + k.name + "(void* const* args, const i64* dims, i64 begin, i64 end, u8* scratch) {\n";
    int arg = 0;
    for (const Buffer& b : k.buffers) {
      const std::string name = "b" + std::to_string(b.id);
      if (b.space == Buffer::Space::Arg) {
        s += "  u8* const " + name + " = args[" + std::to_string(arg++) + "];  // " + b.name + "\n";
      } else if (b.space == Buffer::Space::Scratch) {
        s += "  u8* const " + name + " = scratch + " + std::to_string(b.offset) + ";  // " + b.name + "\n";
      } else {
        s += "  static const f32 t" + std::to_string(b.id) + "[] __attribute__((aligned(64))) = {";
        char text[32];
        for (float v : b.values) {
          snprintf(text, sizeof text, "%a,", double(v));
          s += text;
        }
        s += "};\n  const u8* const " + name + " = (const u8*)t" + std::to_string(b.id) + ";\n";
      }
    }
    for (size_t i = 0; i < k.dims.size(); ++i)
      s += "  const i64 d" + std::to_string(i) + " = dims[" + std::to_string(i) + "];  // " + k.dims[i] + "\n";
    for (size_t i = 0; i < k.dims.size(); ++i) s += "  (void)d" + std::to_string(i) + ";";
    if (!k.tiles.empty()) {  // palette 1, then 16 widths in bytes and 16 row counts
      s += "\n  static const struct { u8 palette, start, zero[14]; u16 bytes[16]; u8 rows[16]; } tiles = {1, 0, {0}, {";
      for (const TileShape& t : k.tiles) s += std::to_string(t.row_bytes) + ",";
      s += "}, {";
      for (const TileShape& t : k.tiles) s += std::to_string(t.rows) + ",";
      s += "}};\n  __builtin_ia32_tile_loadconfig(&tiles);";
    }
    return s + "\n  for (i64 task = begin; task < end; ++task) {\n";
  }

  std::string close(const Kernel& k) override {
    return k.tiles.empty() ? "  }\n}\n\n" : "  }\n  __builtin_ia32_tilerelease();\n}\n\n";
  }

  std::string statement(const Stmt& s) override {
    const std::string t = std::to_string(s.tile[0]);
    switch (s.kind) {
      case Stmt::Kind::Prefetch: return "__builtin_prefetch(" + address(s.id, s.a) + (s.cache > 1 ? ", 0, 2)" : ")");
      case Stmt::Kind::TileZero: return "__builtin_ia32_tilezero(" + t + ")";
      case Stmt::Kind::TileLoad: return "__builtin_ia32_tileloadd64(" + t + ", " + address(s.id, s.a) + ", " + expr(s.b) + ")";
      case Stmt::Kind::TileStore: return "__builtin_ia32_tilestored64(" + t + ", " + address(s.id, s.a) + ", " + expr(s.b) + ")";
      default: return "__builtin_ia32_tdpbf16ps(" + t + ", " + std::to_string(s.tile[1]) + ", " + std::to_string(s.tile[2]) + ")";
    }
  }

  std::string load(Ty t, const std::string& address) override { return "ld_" + type(t) + "(" + address + ")"; }
  std::string store(Ty t, const std::string& address, const std::string& value) override {
    return "st_" + type(t) + "(" + address + ", " + value + ")";
  }
  std::string store_n(Ty t, const std::string& address, const std::string& value, const std::string& count) override {
    return "{ const " + type(t) + " v_ = " + value + "; __builtin_memcpy(" + address + ", &v_, (unsigned long)(" + count + ") * " +
           std::to_string(elem_bytes(t.elem)) + "); }";
  }

  std::string convert(Ty to, Ty from, const std::string& v) override {
    const std::string lanes = std::to_string(to.lanes);
    auto half = [](Elem e) { return e == Elem::F16 || e == Elem::BF16; };
    if (half(from.elem)) return convert(to, {Elem::F32, to.lanes}, std::string(elem_name(from.elem)) + "_f32_" + lanes + "(" + v + ")");
    if (half(to.elem)) return "f32_" + std::string(elem_name(to.elem)) + "_" + lanes + "(" + convert({Elem::F32, to.lanes}, from, v) + ")";
    if (to == from) return v;
    return to.lanes == 1 ? "((" + type(to) + ")(" + v + "))" : "__builtin_convertvector(" + v + ", " + type(to) + ")";
  }

  std::string call(Fn fn, Ty t, const std::vector<std::string>& args) override {
    std::string list;
    for (const std::string& a : args) list += (list.empty() ? "" : ", ") + a;
    const std::string l = std::to_string(t.lanes) + "_(" + list + ")";
    switch (fn) {
      case Fn::Fma: return "FMA" + l;
      case Fn::Exp: return "EXP" + l;
      case Fn::Tanh: return "TANH" + l;
      case Fn::Erf: return "ERF" + l;
      case Fn::Sqrt: return "SQRT" + l;
      case Fn::Exp2Coarse: return "EXP2COARSE" + l;
      case Fn::SinTurns: return "SINT" + l;
      case Fn::CosTurns: return "COST" + l;
      case Fn::RoundEven: return "ROUND" + l;
      case Fn::Abs: return "ABS" + l;
      case Fn::ReduceAdd: return "reduce_add_" + std::string(elem_name(t.elem)) + "(" + list + ")";
      case Fn::ReduceMax: return "reduce_max_" + std::string(elem_name(t.elem)) + "(" + list + ")";
      case Fn::Dot4: return "dot4(" + list + ")";
      case Fn::DotPairs: return "dot_pairs(" + list + ")";
      case Fn::SumPairs: return "sum_pairs(" + list + ")";
      case Fn::LookupLow: case Fn::LookupHigh: return std::string(fn_name(fn)) + "_" + std::to_string(t.lanes) + "(" + list + ")";
      case Fn::DotBf16: return "dot_bf16(" + list + ")";
      default: break;  // GPU kernels'
    }
    return {};
  }
};

}  // namespace

std::string render_cpu(const std::vector<const Kernel*>& kernels) { return CpuRenderer().render(kernels); }

}  // namespace prism::codegen
