/* Which instructions this CPU has. */
#include "kernels.h"

int ps_abi(void) { return 8; }

int ps_best_level(void) {
#ifdef PS_X86
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi2")) return PS_PORTABLE;
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi") &&
      __builtin_cpu_supports("gfni"))
    return PS_LEVEL_AVX512;
  return PS_LEVEL_AVX2;
#else
  return PS_PORTABLE;
#endif
}
