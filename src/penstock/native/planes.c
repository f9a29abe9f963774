/* Byte planes of numbers and bit planes of bytes; penstock/container/planes.py has the format.
 *
 * Byte plane p holds byte p of every number. Bit plane b of 8 n bytes holds bit b of each, eight to
 * a byte, the first in the lowest bit. */
#include "kernels.h"

#include <string.h>

#ifdef PS_X86
#include <immintrin.h>
#endif

PS_INLINE void split_plain(const uint8_t *raw, int64_t from, int64_t count, int64_t item,
                           uint8_t *planes) {
  for (int64_t plane = 0; plane < item; plane++) {
    uint8_t *out = planes + plane * count;
    for (int64_t i = from; i < count; i++) out[i] = raw[i * item + plane];
  }
}

PS_INLINE void join_plain(const uint64_t *planes, int64_t from, int64_t count, int64_t item,
                          uint8_t *out) {
  for (int64_t plane = 0; plane < item; plane++) {
    const uint8_t *in = (const uint8_t *)(uintptr_t)planes[plane];
    for (int64_t i = from; i < count; i++) out[i * item + plane] = in[i];
  }
}

PS_INLINE void split_bits_plain(const uint8_t *plane, int64_t from, int64_t count, uint8_t *out) {
  for (int64_t i = from; i < count; i++) {
    uint64_t x;
    memcpy(&x, plane + 8 * i, 8);
    x = ps_transpose_bits(x);
    for (int bit = 0; bit < 8; bit++) out[bit * count + i] = (uint8_t)(x >> (8 * bit));
  }
}

PS_INLINE void join_bits_plain(const uint8_t *bits, int64_t from, int64_t count, uint8_t *out) {
  for (int64_t i = from; i < count; i++) {
    uint64_t x = 0;
    for (int bit = 0; bit < 8; bit++) x |= (uint64_t)bits[bit * count + i] << (8 * bit);
    x = ps_transpose_bits(x);
    memcpy(out + 8 * i, &x, 8);
  }
}

/* Sizes that are known when this is compiled make loops that the compiler can unroll. */
PS_INLINE void split_portable(const uint8_t *raw, int64_t from, int64_t count, int64_t item,
                              uint8_t *planes) {
  if (item == 2)
    split_plain(raw, from, count, 2, planes);
  else if (item == 4)
    split_plain(raw, from, count, 4, planes);
  else if (item == 8)
    split_plain(raw, from, count, 8, planes);
  else
    split_plain(raw, from, count, item, planes);
}

PS_INLINE void join_portable(const uint64_t *planes, int64_t from, int64_t count, int64_t item,
                             uint8_t *out) {
  if (item == 2)
    join_plain(planes, from, count, 2, out);
  else if (item == 4)
    join_plain(planes, from, count, 4, out);
  else if (item == 8)
    join_plain(planes, from, count, 8, out);
  else
    join_plain(planes, from, count, item, out);
}

#ifdef PS_X86

PS_INLINE PS_AVX2 __m128i load_16(const uint8_t *from) {
  return _mm_loadu_si128((const __m128i *)from);
}

PS_INLINE PS_AVX2 void store_16(__m128i x, uint8_t *to) { _mm_storeu_si128((__m128i *)to, x); }

PS_INLINE PS_AVX2 __m128i load_half(uint64_t plane, int64_t at) {
  return _mm_loadl_epi64((const __m128i *)((const uint8_t *)(uintptr_t)plane + at));
}

/* The functions for the instructions below return how many numbers they did: all but a few. */
PS_INLINE PS_AVX2 int64_t split_avx2_of(const uint8_t *raw, int64_t count, int64_t item,
                                        uint8_t *planes) {
  const __m128i two = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
  const __m128i four = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m128i eight = _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
  const __m128i order = item == 2 ? two : item == 4 ? four : eight;
  const int64_t run = 32 / item;
  int64_t done = 0;
  for (; done + run <= count; done += run) {
    __m128i a = _mm_shuffle_epi8(load_16(raw + done * item), order);
    __m128i b = _mm_shuffle_epi8(load_16(raw + done * item + 16), order);
    uint8_t grouped[32];
    if (item == 2) {
      store_16(_mm_unpacklo_epi64(a, b), grouped);
      store_16(_mm_unpackhi_epi64(a, b), grouped + 16);
    } else if (item == 4) {
      store_16(_mm_unpacklo_epi32(a, b), grouped);
      store_16(_mm_unpackhi_epi32(a, b), grouped + 16);
    } else {
      store_16(_mm_unpacklo_epi16(a, b), grouped);
      store_16(_mm_unpackhi_epi16(a, b), grouped + 16);
    }
    for (int64_t plane = 0; plane < item; plane++)
      memcpy(planes + plane * count + done, grouped + plane * run, (size_t)run);
  }
  return done;
}

PS_INLINE PS_AVX2 int64_t join_avx2_of(const uint64_t *planes, int64_t count, int64_t item,
                                       uint8_t *out) {
  int64_t done = 0;
  for (; done + 8 <= count; done += 8) {
    uint8_t *to = out + done * item;
    __m128i pair[4];
    for (int64_t i = 0; i < item / 2; i++)
      pair[i] = _mm_unpacklo_epi8(load_half(planes[2 * i], done),
                                  load_half(planes[2 * i + 1], done));
    if (item == 2) {
      store_16(pair[0], to);
      continue;
    }
    __m128i low = _mm_unpacklo_epi16(pair[0], pair[1]);
    __m128i high = _mm_unpackhi_epi16(pair[0], pair[1]);
    if (item == 4) {
      store_16(low, to);
      store_16(high, to + 16);
      continue;
    }
    __m128i low_2 = _mm_unpacklo_epi16(pair[2], pair[3]);
    __m128i high_2 = _mm_unpackhi_epi16(pair[2], pair[3]);
    store_16(_mm_unpacklo_epi32(low, low_2), to);
    store_16(_mm_unpackhi_epi32(low, low_2), to + 16);
    store_16(_mm_unpacklo_epi32(high, high_2), to + 32);
    store_16(_mm_unpackhi_epi32(high, high_2), to + 48);
  }
  return done;
}

/* Where byte i of 64 goes when the planes of `item` bytes are put together, or comes from. */
PS_INLINE PS_AVX512 __m512i order_avx512(int64_t item, int joining) {
  uint8_t order[64];
  for (int i = 0; i < 64; i++) {
    int grouped = i % (int)item * (64 / (int)item) + i / (int)item;
    if (joining)
      order[i] = (uint8_t)grouped;
    else
      order[grouped] = (uint8_t)i;
  }
  return _mm512_loadu_si512(order);
}

/* Whole cache lines of each plane at a time, which is twice as fast where planes begin at one. */
PS_INLINE PS_AVX512 int64_t split_two_avx512(const uint8_t *raw, int64_t count, uint8_t *planes) {
  const __m512i order = order_avx512(2, 0);
  int64_t done = 0;
  for (; done + 64 <= count; done += 64) {
    const uint8_t *from = raw + 2 * done;
    __m512i a = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(from));
    __m512i b = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(from + 64));
    _mm512_storeu_si512(planes + done, _mm512_shuffle_i64x2(a, b, 0x44));
    _mm512_storeu_si512(planes + count + done, _mm512_shuffle_i64x2(a, b, 0xEE));
  }
  return done;
}

PS_INLINE PS_AVX512 int64_t split_four_avx512(const uint8_t *raw, int64_t count, uint8_t *planes) {
  const __m512i order = order_avx512(4, 0);
  int64_t done = 0;
  for (; done + 64 <= count; done += 64) {
    const uint8_t *from = raw + 4 * done;
    __m512i a = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(from));
    __m512i b = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(from + 64));
    __m512i c = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(from + 128));
    __m512i d = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(from + 192));
    __m512i ab_low = _mm512_shuffle_i32x4(a, b, 0x44), ab_high = _mm512_shuffle_i32x4(a, b, 0xEE);
    __m512i cd_low = _mm512_shuffle_i32x4(c, d, 0x44), cd_high = _mm512_shuffle_i32x4(c, d, 0xEE);
    uint8_t *to = planes + done;
    _mm512_storeu_si512(to, _mm512_shuffle_i32x4(ab_low, cd_low, 0x88));
    _mm512_storeu_si512(to + count, _mm512_shuffle_i32x4(ab_low, cd_low, 0xDD));
    _mm512_storeu_si512(to + 2 * count, _mm512_shuffle_i32x4(ab_high, cd_high, 0x88));
    _mm512_storeu_si512(to + 3 * count, _mm512_shuffle_i32x4(ab_high, cd_high, 0xDD));
  }
  return done;
}

PS_INLINE PS_AVX512 int64_t split_eight_avx512(const uint8_t *raw, int64_t count,
                                               uint8_t *planes) {
  const __m512i order = order_avx512(8, 0);
  int64_t done = 0;
  for (; done + 8 <= count; done += 8) {
    uint8_t grouped[64];
    _mm512_storeu_si512(grouped, _mm512_permutexvar_epi8(
                                     order, _mm512_loadu_si512(raw + 8 * done)));
    for (int64_t plane = 0; plane < 8; plane++)
      memcpy(planes + plane * count + done, grouped + 8 * plane, 8);
  }
  return done;
}

PS_INLINE PS_AVX512 int64_t join_avx512_of(const uint64_t *planes, int64_t count, int64_t item,
                                           uint8_t *out) {
  const __m512i order = order_avx512(item, 1);
  const int64_t run = 64 / item;
  const uint8_t *in[8];
  for (int64_t plane = 0; plane < item; plane++)
    in[plane] = (const uint8_t *)(uintptr_t)planes[plane];
  int64_t done = 0;
  for (; done + run <= count; done += run) {
    __m512i x;
    if (item == 2) {
      x = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(in[0] + done)));
      x = _mm512_inserti64x4(x, _mm256_loadu_si256((const __m256i *)(in[1] + done)), 1);
    } else if (item == 4) {
      x = _mm512_castsi128_si512(load_16(in[0] + done));
      x = _mm512_inserti32x4(x, load_16(in[1] + done), 1);
      x = _mm512_inserti32x4(x, load_16(in[2] + done), 2);
      x = _mm512_inserti32x4(x, load_16(in[3] + done), 3);
    } else {
      int64_t eight[8];
      for (int plane = 0; plane < 8; plane++) memcpy(&eight[plane], in[plane] + done, 8);
      x = _mm512_set_epi64(eight[7], eight[6], eight[5], eight[4], eight[3], eight[2], eight[1],
                           eight[0]);
    }
    _mm512_storeu_si512(out + done * item, _mm512_permutexvar_epi8(order, x));
  }
  return done;
}

PS_AVX2 static int64_t split_avx2(const uint8_t *raw, int64_t count, int64_t item,
                                  uint8_t *planes) {
  if (item == 2) return split_avx2_of(raw, count, 2, planes);
  if (item == 4) return split_avx2_of(raw, count, 4, planes);
  return item == 8 ? split_avx2_of(raw, count, 8, planes) : 0;
}

PS_AVX2 static int64_t join_avx2(const uint64_t *planes, int64_t count, int64_t item,
                                 uint8_t *out) {
  if (item == 2) return join_avx2_of(planes, count, 2, out);
  if (item == 4) return join_avx2_of(planes, count, 4, out);
  return item == 8 ? join_avx2_of(planes, count, 8, out) : 0;
}

PS_AVX512 static int64_t split_avx512(const uint8_t *raw, int64_t count, int64_t item,
                                      uint8_t *planes) {
  if (item == 2) return split_two_avx512(raw, count, planes);
  if (item == 4) return split_four_avx512(raw, count, planes);
  return item == 8 ? split_eight_avx512(raw, count, planes) : 0;
}

PS_AVX512 static int64_t join_avx512(const uint64_t *planes, int64_t count, int64_t item,
                                     uint8_t *out) {
  if (item == 2) return join_avx512_of(planes, count, 2, out);
  if (item == 4) return join_avx512_of(planes, count, 4, out);
  return item == 8 ? join_avx512_of(planes, count, 8, out) : 0;
}

PS_AVX2 static int64_t split_bits_avx2(const uint8_t *plane, int64_t count, uint8_t *out) {
  int64_t done = 0;
  for (; done + 4 <= count; done += 4) {
    __m256i x = _mm256_loadu_si256((const __m256i *)(plane + 8 * done));
    for (int bit = 7; bit >= 0; bit--) {
      uint32_t bits = (uint32_t)_mm256_movemask_epi8(x);
      memcpy(out + bit * count + done, &bits, 4);
      x = _mm256_add_epi8(x, x);
    }
  }
  return done;
}

PS_AVX2 static int64_t join_bits_avx2(const uint8_t *bits, int64_t count, uint8_t *out) {
  const __m256i spread = _mm256_setr_epi64x(0x0000000000000000ll, 0x0101010101010101ll,
                                            0x0202020202020202ll, 0x0303030303030303ll);
  const __m256i mine = _mm256_set1_epi64x((long long)0x8040201008040201ull);
  int64_t done = 0;
  for (; done + 4 <= count; done += 4) {
    __m256i x = _mm256_setzero_si256();
    for (int bit = 0; bit < 8; bit++) {
      int32_t four;
      memcpy(&four, bits + bit * count + done, 4);
      __m256i each = _mm256_shuffle_epi8(_mm256_set1_epi32(four), spread);
      __m256i is_set = _mm256_cmpeq_epi8(_mm256_and_si256(each, mine), mine);
      x = _mm256_or_si256(x, _mm256_and_si256(is_set, _mm256_set1_epi8((char)(1 << bit))));
    }
    _mm256_storeu_si256((__m256i *)(out + 8 * done), x);
  }
  return done;
}

PS_AVX512 static int64_t split_bits_avx512(const uint8_t *plane, int64_t count, uint8_t *out) {
  int64_t done = 0;
  for (; done + 8 <= count; done += 8) {
    __m512i x = _mm512_loadu_si512(plane + 8 * done);
    for (int bit = 7; bit >= 0; bit--) {
      uint64_t bits = _mm512_movepi8_mask(x);
      memcpy(out + bit * count + done, &bits, 8);
      x = _mm512_add_epi8(x, x);
    }
  }
  return done;
}

PS_AVX512 static int64_t join_bits_avx512(const uint8_t *bits, int64_t count, uint8_t *out) {
  int64_t done = 0;
  for (; done + 8 <= count; done += 8) {
    __m512i x = _mm512_setzero_si512();
    for (int bit = 0; bit < 8; bit++) {
      uint64_t eight;
      memcpy(&eight, bits + bit * count + done, 8);
      x = _mm512_or_si512(x, _mm512_maskz_set1_epi8(eight, (char)(1 << bit)));
    }
    _mm512_storeu_si512(out + 8 * done, x);
  }
  return done;
}
#endif

void ps_split_planes(int level, const uint8_t *raw, int64_t count, int64_t item,
                     uint8_t *planes) {
  int64_t done = 0;
#ifdef PS_X86
  if (level == PS_LEVEL_AVX512) done = split_avx512(raw, count, item, planes);
  if (level == PS_LEVEL_AVX2) done = split_avx2(raw, count, item, planes);
#endif
  (void)level;
  split_portable(raw, done, count, item, planes);
}

void ps_join_planes(int level, const uint64_t *planes, int64_t count, int64_t item, uint8_t *out) {
  int64_t done = 0;
#ifdef PS_X86
  if (level == PS_LEVEL_AVX512) done = join_avx512(planes, count, item, out);
  if (level == PS_LEVEL_AVX2) done = join_avx2(planes, count, item, out);
#endif
  (void)level;
  join_portable(planes, done, count, item, out);
}

void ps_split_bits(int level, const uint8_t *plane, int64_t size, uint8_t *out) {
  int64_t count = size / 8, done = 0;
#ifdef PS_X86
  if (level == PS_LEVEL_AVX512) done = split_bits_avx512(plane, count, out);
  if (level == PS_LEVEL_AVX2) done = split_bits_avx2(plane, count, out);
#endif
  (void)level;
  split_bits_plain(plane, done, count, out);
  for (int64_t i = 8 * count; i < size; i++) out[i] = plane[i];
}

void ps_join_bits(int level, const uint8_t *bits, int64_t size, uint8_t *out) {
  int64_t count = size / 8, done = 0;
#ifdef PS_X86
  if (level == PS_LEVEL_AVX512) done = join_bits_avx512(bits, count, out);
  if (level == PS_LEVEL_AVX2) done = join_bits_avx2(bits, count, out);
#endif
  (void)level;
  join_bits_plain(bits, done, count, out);
  for (int64_t i = 8 * count; i < size; i++) out[i] = bits[i];
}
