// The instruction-set variants kernels are compiled for, and what this machine has.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace prism::rt {

enum class Isa { Generic, Avx2, Avx512, Amx };  // in order: each includes the ones before

std::string_view isa_name(Isa isa);                       ///< "generic", "avx2", "avx512", "amx"
std::optional<Isa> isa_from_name(std::string_view name);
Isa best_isa();                                           ///< by CPUID and XGETBV. avx2 = AVX2,FMA,F16C; avx512 = F,BW,DQ,VL,VNNI,BF16; amx = avx512 and
                                                          ///< AMX-TILE,AMX-INT8, whose state the process asks the kernel for
inline bool runs_here(Isa isa) { return isa <= best_isa(); }

}  // namespace prism::rt
