#include "runtime/cpu.h"

#include <cstdint>
#include <initializer_list>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace prism::rt {
namespace {

constexpr std::string_view kNames[] = {"generic", "avx2", "avx512", "amx"};

#if defined(__x86_64__)
bool all_set(uint32_t word, std::initializer_list<int> bits) {
  for (int bit : bits)
    if (!(word >> bit & 1)) return false;
  return true;
}

/// The register state the operating system saves (XCR0).
uint32_t saved_state() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

Isa detect() {
  uint32_t a, b, c1, d;
  if (!__get_cpuid(1, &a, &b, &c1, &d)) return Isa::Generic;
  if (!all_set(c1, {12, 27, 28, 29})) return Isa::Generic;  // FMA, OSXSAVE, AVX, F16C
  const uint32_t saved = saved_state();
  if (!all_set(saved, {1, 2})) return Isa::Generic;  // XMM, YMM
  uint32_t b7, c7, d7;
  if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return Isa::Generic;
  const uint32_t subleaves = a;
  if (!all_set(b7, {5})) return Isa::Generic;  // AVX2
  if (!all_set(saved, {5, 6, 7})) return Isa::Avx2;  // opmask, ZMM
  if (!all_set(b7, {16, 17, 30, 31})) return Isa::Avx2;  // F, DQ, BW, VL
  if (!all_set(c7, {11})) return Isa::Avx2;  // VNNI
  uint32_t a71 = 0;
  if (subleaves < 1 || !__get_cpuid_count(7, 1, &a71, &b, &c1, &d)) return Isa::Avx2;
  if (!all_set(a71, {5})) return Isa::Avx2;  // BF16
  if (!all_set(d7, {22, 24}) || !all_set(saved, {17, 18})) return Isa::Avx512;  // AMX-BF16, AMX-TILE; tile state
  constexpr long kRequestState = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM: once for all threads of the process
  return syscall(SYS_arch_prctl, kRequestState, kTileData) == 0 ? Isa::Amx : Isa::Avx512;
}
#else
Isa detect() { return Isa::Generic; }
#endif

}  // namespace

std::string_view isa_name(Isa isa) { return kNames[size_t(isa)]; }

std::optional<Isa> isa_from_name(std::string_view name) {
  for (size_t i = 0; i < std::size(kNames); ++i)
    if (kNames[i] == name) return Isa(i);
  return std::nullopt;
}

Isa best_isa() {
  static const Isa isa = detect();
  return isa;
}

}  // namespace prism::rt
