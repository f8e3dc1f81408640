// The interface of libprism_cpu_jit.so: clang and lld in process. Loaded with dlopen, only when something is compiled,
// so it is a C interface.
#pragma once

#include <stddef.h>
#include <stdint.h>

extern "C" {

/// Compiles C translation units and links them into one ELF shared object. `flags` are clang arguments separated by
/// '\n' (for example "-O3\n-mavx512vnni"). Returns 0 and malloc'd bytes the caller frees, or 1 and a malloc'd message
/// in `error`. May be called from several threads at once; units are compiled by up to `threads` threads.
int prism_cpu_jit_compile(const char* const* units, size_t unit_count, const char* flags, unsigned threads,
                          uint8_t** object, size_t* object_bytes, char** error);
}
