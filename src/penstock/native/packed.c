/* One byte plane in the bits that its values need; penstock/native/planes.py defines the format. */
#include "kernels.h"

#include <string.h>

#ifdef PS_X86
#include "transpose.h"
#endif

/* One block of 64 bytes: its lowest value and bit planes that are not all zero, to `planes`, which
 * has room for 64 bytes and may change all of it; returns which planes they are. And back, from as many planes. */
typedef int (*pack_block)(const uint8_t *bytes, uint8_t *low, uint8_t *planes);
typedef void (*unpack_block)(const uint8_t *planes, int which, int low, uint8_t *bytes);

/* The sign moves below the other bits, so that numbers of either sign are near one another. */
PS_INLINE uint8_t sign_last(uint8_t byte) { return (uint8_t)(byte << 1 | byte >> 7); }

PS_INLINE uint8_t sign_first(uint8_t byte) { return (uint8_t)(byte >> 1 | byte << 7); }

PS_INLINE int pack_portable(const uint8_t *bytes, uint8_t *low, uint8_t *planes) {
  uint8_t value[PS_BLOCK], lowest = 255, seen = 0;
  for (int i = 0; i < PS_BLOCK; i++) value[i] = sign_last(bytes[i]);
  for (int i = 0; i < PS_BLOCK; i++) lowest = value[i] < lowest ? value[i] : lowest;
  for (int i = 0; i < PS_BLOCK; i++) {
    value[i] = (uint8_t)(value[i] - lowest);
    seen |= value[i];
  }
  uint8_t all[PS_BLOCK];
  for (int group = 0; group < 8; group++) {
    uint64_t x;
    memcpy(&x, value + 8 * group, 8);
    x = ps_transpose_bits(x);
    for (int bit = 0; bit < 8; bit++) all[8 * bit + group] = (uint8_t)(x >> (8 * bit));
  }
  for (int bit = 0; bit < 8; bit++) {
    memcpy(planes, all + 8 * bit, 8);
    planes += 8 * (seen >> bit & 1);
  }
  *low = lowest;
  return seen;
}

/* Each plane at its place among eight; those that are missing are zero. */
PS_INLINE void spread(const uint8_t *planes, int which, uint8_t *all) {
  for (int bit = 0; bit < 8; bit++) {
    if (which >> bit & 1) {
      memcpy(all + 8 * bit, planes, 8);
      planes += 8;
    } else {
      memset(all + 8 * bit, 0, 8);
    }
  }
}

PS_INLINE void unpack_portable(const uint8_t *planes, int which, int low, uint8_t *bytes) {
  uint8_t all[PS_BLOCK];
  spread(planes, which, all);
  for (int group = 0; group < 8; group++) {
    uint64_t x = 0;
    for (int bit = 0; bit < 8; bit++) x |= (uint64_t)all[8 * bit + group] << (8 * bit);
    x = ps_transpose_bits(x);
    memcpy(bytes + 8 * group, &x, 8);
  }
  for (int i = 0; i < PS_BLOCK; i++) bytes[i] = sign_first((uint8_t)(bytes[i] + low));
}

#ifdef PS_X86

PS_INLINE PS_AVX2 __m256i sign_last_avx2(__m256i x) {
  return _mm256_or_si256(_mm256_add_epi8(x, x),
                         _mm256_and_si256(_mm256_srli_epi16(x, 7), _mm256_set1_epi8(1)));
}

PS_INLINE PS_AVX2 __m256i sign_first_avx2(__m256i x) {
  return _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(x, 1), _mm256_set1_epi8(0x7F)),
                         _mm256_and_si256(_mm256_slli_epi16(x, 7), _mm256_set1_epi8((char)0x80)));
}

PS_INLINE PS_AVX2 uint8_t lowest_avx2(__m256i x) {
  __m128i low = _mm_min_epu8(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  low = _mm_min_epu8(low, _mm_srli_epi16(low, 8));
  return (uint8_t)_mm_cvtsi128_si32(_mm_minpos_epu16(low));
}

PS_INLINE PS_AVX2 int pack_avx2(const uint8_t *bytes, uint8_t *low, uint8_t *planes) {
  __m256i a = sign_last_avx2(_mm256_loadu_si256((const __m256i *)bytes));
  __m256i b = sign_last_avx2(_mm256_loadu_si256((const __m256i *)bytes + 1));
  *low = lowest_avx2(_mm256_min_epu8(a, b));
  a = _mm256_sub_epi8(a, _mm256_set1_epi8((char)*low));
  b = _mm256_sub_epi8(b, _mm256_set1_epi8((char)*low));
  uint64_t all[8];
  for (int bit = 7; bit >= 0; bit--) {
    all[bit] = (uint64_t)(uint32_t)_mm256_movemask_epi8(b) << 32 |
               (uint32_t)_mm256_movemask_epi8(a);
    a = _mm256_add_epi8(a, a);
    b = _mm256_add_epi8(b, b);
  }
  int seen = 0;
  for (int bit = 0; bit < 8; bit++) {
    memcpy(planes, &all[bit], 8);
    planes += all[bit] ? 8 : 0;
    seen |= (all[bit] != 0) << bit;
  }
  return seen;
}

PS_INLINE PS_AVX2 void unpack_avx2(const uint8_t *planes, int which, int low, uint8_t *bytes) {
  const __m256i each = _mm256_setr_epi64x(0x0000000000000000ll, 0x0101010101010101ll,
                                          0x0202020202020202ll, 0x0303030303030303ll);
  const __m256i mine = _mm256_set1_epi64x((long long)0x8040201008040201ull);
  __m256i a = _mm256_setzero_si256(), b = a;
  for (int bit = 0; bit < 8; bit++) {
    if (!(which >> bit & 1)) continue;
    int32_t half[2];
    memcpy(half, planes, 8);
    planes += 8;
    const __m256i value = _mm256_set1_epi8((char)(1 << bit));
    __m256i in_a = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(half[0]), each), mine);
    __m256i in_b = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(half[1]), each), mine);
    a = _mm256_or_si256(a, _mm256_and_si256(_mm256_cmpeq_epi8(in_a, mine), value));
    b = _mm256_or_si256(b, _mm256_and_si256(_mm256_cmpeq_epi8(in_b, mine), value));
  }
  a = sign_first_avx2(_mm256_add_epi8(a, _mm256_set1_epi8((char)low)));
  b = sign_first_avx2(_mm256_add_epi8(b, _mm256_set1_epi8((char)low)));
  _mm256_storeu_si256((__m256i *)bytes, a);
  _mm256_storeu_si256((__m256i *)bytes + 1, b);
}

/* Matrices over GF(2) that move the sign; byte 7 - b has the row for bit b. */
#define SIGN_LAST 0x8001020408102040ull
#define SIGN_FIRST 0x0204081020408001ull

PS_INLINE PS_AVX512 int pack_avx512(const uint8_t *bytes, uint8_t *low, uint8_t *planes) {
  __m512i x = _mm512_gf2p8affine_epi64_epi8(
      _mm512_loadu_si512(bytes), _mm512_set1_epi64((long long)SIGN_LAST), 0);
  *low = lowest_avx2(
      _mm256_min_epu8(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1)));
  x = ps_planes_avx512(_mm512_sub_epi8(x, _mm512_set1_epi8((char)*low)));
  __mmask8 seen = _mm512_test_epi64_mask(x, x);
  _mm512_storeu_si512(planes, _mm512_maskz_compress_epi64(seen, x));
  return seen;
}

PS_INLINE PS_AVX512 void unpack_avx512(const uint8_t *planes, int which, int low,
                                       uint8_t *bytes) {
  const __mmask8 first = (__mmask8)((1u << __builtin_popcount((unsigned)which)) - 1);
  __m512i x = _mm512_maskz_expand_epi64((__mmask8)which, _mm512_maskz_loadu_epi64(first, planes));
  x = _mm512_add_epi8(ps_bytes_avx512(x), _mm512_set1_epi8((char)low));
  _mm512_storeu_si512(bytes, _mm512_gf2p8affine_epi64_epi8(
                                 x, _mm512_set1_epi64((long long)SIGN_FIRST), 0));
}
#endif

PS_INLINE int64_t pack_with(pack_block pack, const uint8_t *plane, int64_t size, uint8_t *out) {
  int64_t blocks = size / PS_BLOCK;
  uint8_t *lows = out, *which = out + blocks, *at = out + 2 * blocks;
  for (int64_t block = 0; block < blocks; block++) {
    int seen = pack(plane + block * PS_BLOCK, lows + block, at);
    which[block] = (uint8_t)seen;
    at += 8 * __builtin_popcount((unsigned)seen);
  }
  for (int64_t i = blocks * PS_BLOCK; i < size; i++) *at++ = plane[i];
  return at - out;
}

PS_INLINE void unpack_with(unpack_block unpack, const uint8_t *data, int64_t size, uint8_t *out) {
  int64_t blocks = size / PS_BLOCK;
  const uint8_t *lows = data, *which = data + blocks, *at = data + 2 * blocks;
  for (int64_t block = 0; block < blocks; block++) {
    unpack(at, which[block], lows[block], out + block * PS_BLOCK);
    at += 8 * __builtin_popcount(which[block]);
  }
  for (int64_t i = blocks * PS_BLOCK; i < size; i++) out[i] = *at++;
}

#ifdef PS_X86
PS_AVX2 static int64_t pack_all_avx2(const uint8_t *plane, int64_t size, uint8_t *out) {
  return pack_with(pack_avx2, plane, size, out);
}

PS_AVX2 static void unpack_all_avx2(const uint8_t *data, int64_t size, uint8_t *out) {
  unpack_with(unpack_avx2, data, size, out);
}

PS_AVX512 static int64_t pack_all_avx512(const uint8_t *plane, int64_t size, uint8_t *out) {
  return pack_with(pack_avx512, plane, size, out);
}

PS_AVX512 static void unpack_all_avx512(const uint8_t *data, int64_t size, uint8_t *out) {
  unpack_with(unpack_avx512, data, size, out);
}
#endif

int64_t ps_pack(int level, const uint8_t *plane, int64_t size, uint8_t *out) {
#ifdef PS_X86
  if (level == PS_LEVEL_AVX512) return pack_all_avx512(plane, size, out);
  if (level == PS_LEVEL_AVX2) return pack_all_avx2(plane, size, out);
#endif
  (void)level;
  return pack_with(pack_portable, plane, size, out);
}

int64_t ps_unpack(int level, const uint8_t *data, int64_t data_bytes, int64_t size, uint8_t *out) {
  int64_t blocks = size / PS_BLOCK, planes = 0;
  if (data_bytes < 2 * blocks) return PS_CORRUPT;
  for (int64_t block = blocks; block < 2 * blocks; block++)
    planes += __builtin_popcount(data[block]);
  if (data_bytes != 2 * blocks + 8 * planes + size % PS_BLOCK) return PS_CORRUPT;
#ifdef PS_X86
  if (level == PS_LEVEL_AVX512) {
    unpack_all_avx512(data, size, out);
    return 0;
  }
  if (level == PS_LEVEL_AVX2) {
    unpack_all_avx2(data, size, out);
    return 0;
  }
#endif
  (void)level;
  unpack_with(unpack_portable, data, size, out);
  return 0;
}
