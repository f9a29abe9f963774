/* 64 bytes to their 8 bit planes of 8 bytes, and back, in one register. */
#ifndef PENSTOCK_TRANSPOSE_H
#define PENSTOCK_TRANSPOSE_H

#include <immintrin.h>

#include "kernels.h"

/* Over GF(2), transposing 8 x 8 bits is the product of a matrix and the one that has row b for
 * result bit b. */
#define PS_IDENTITY_ROWS 0x8040201008040201ull

PS_INLINE PS_AVX512 __m512i ps_planes_avx512(__m512i x) {
  const __m512i byte = _mm512_set_epi64(
      0x38393A3B3C3D3E3Fll, 0x3031323334353637ll, 0x28292A2B2C2D2E2Fll, 0x2021222324252627ll,
      0x18191A1B1C1D1E1Fll, 0x1011121314151617ll, 0x08090A0B0C0D0E0Fll, 0x0001020304050607ll);
  const __m512i group = _mm512_set_epi64(
      0x3F372F271F170F07ll, 0x3E362E261E160E06ll, 0x3D352D251D150D05ll, 0x3C342C241C140C04ll,
      0x3B332B231B130B03ll, 0x3A322A221A120A02ll, 0x3931292119110901ll, 0x3830282018100800ll);
  x = _mm512_permutexvar_epi8(byte, x);
  x = _mm512_gf2p8affine_epi64_epi8(_mm512_set1_epi64((long long)PS_IDENTITY_ROWS), x, 0);
  return _mm512_permutexvar_epi8(group, x);
}

PS_INLINE PS_AVX512 __m512i ps_bytes_avx512(__m512i x) {
  const __m512i group = _mm512_set_epi64(
      0x070F171F272F373Fll, 0x060E161E262E363Ell, 0x050D151D252D353Dll, 0x040C141C242C343Cll,
      0x030B131B232B333Bll, 0x020A121A222A323All, 0x0109111921293139ll, 0x0008101820283038ll);
  x = _mm512_permutexvar_epi8(group, x);
  return _mm512_gf2p8affine_epi64_epi8(_mm512_set1_epi64((long long)PS_IDENTITY_ROWS), x, 0);
}

#endif
