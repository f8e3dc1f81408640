// Included into every C++ file of llama.cpp: GCC 12 tells its optimizer that _tile_loadconfig reads 8 of the 64 bytes
// of the tile configuration, drops the stores to the others, and the first AMX instruction then raises SIGILL.
#if defined(__AMX_TILE__) && !defined(__clang__)
#include <immintrin.h>
#define _tile_loadconfig(config)                        \
  do {                                                  \
    __asm__ volatile("" : : "r"(config) : "memory");    \
    (_tile_loadconfig)(config);                         \
  } while (0)
#endif
