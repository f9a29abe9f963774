/* Which earlier line tells most of a line's numbers, judged by some of its columns. */
#include <string.h>

#include "rollouts.h"

/* The columns that distances are chosen by: up to eight runs of 16, evenly spread. */
enum { RUNS = 8, RUN = 16 };

/* A line that finds four of five numbers looks no further. */
enum { ENOUGH = 5 };

/* What is saved by a number that is found again, and by one that is nearer by so many bits. */
enum { SAME_SAVES = 4, NEAR_SAVES = 1, NEAR_BITS = 3, LEAST_SAVED = 8 };

/* Of a line and an earlier one: numbers that are the same, others, and how many more of these are
 * near than far. */
typedef struct {
  int64_t same, others, nearer;
} likeness;

PS_INLINE int64_t runs_of(int64_t pitch) { return pitch < RUNS * RUN ? pitch / RUN : RUNS; }

PS_INLINE int64_t run_begin(int64_t pitch, int64_t run) {
  return pitch / RUN * run / runs_of(pitch) * RUN;
}

#define PS_LIKENESS(bits)                                                                        \
  PS_INLINE likeness compare_##bits(const uint8_t *line, const uint8_t *earlier,                 \
                                    int64_t pitch) {                                             \
    likeness found = {0, 0, 0};                                                                  \
    for (int64_t run = 0, runs = runs_of(pitch); run < runs; run++) {                            \
      int64_t begin = run_begin(pitch, run);                                                     \
      for (int64_t r = begin; r < begin + RUN; r++) {                                            \
        uint##bits##_t a, b;                                                                     \
        memcpy(&a, line + r * (bits / 8), bits / 8);                                             \
        memcpy(&b, earlier + r * (bits / 8), bits / 8);                                          \
        uint##bits##_t whole = ps_zigzag_##bits(a);                                              \
        uint##bits##_t rest = ps_zigzag_##bits((uint##bits##_t)(a - b));                         \
        int is_other = (a != b) & (a != 0);                                                      \
        found.same += (a == b) & (a != 0);                                                       \
        found.others += is_other;                                                                \
        found.nearer += is_other & (rest <= whole >> NEAR_BITS);                                 \
        found.nearer -= is_other & (whole <= rest >> NEAR_BITS);                                 \
      }                                                                                          \
    }                                                                                            \
    return found;                                                                                \
  }                                                                                              \
  PS_INLINE int64_t again_##bits(const uint8_t *line, const uint8_t *earlier, int64_t pitch) {   \
    int64_t found = 0;                                                                           \
    for (int64_t run = 0, runs = runs_of(pitch); run < runs; run++) {                            \
      int64_t begin = run_begin(pitch, run);                                                     \
      for (int64_t r = begin; r < begin + RUN; r++) {                                            \
        uint##bits##_t a, b;                                                                     \
        memcpy(&a, line + r * (bits / 8), bits / 8);                                             \
        memcpy(&b, earlier + r * (bits / 8), bits / 8);                                          \
        found += (a == b) & (a != 0);                                                            \
      }                                                                                          \
    }                                                                                            \
    return found;                                                                                \
  }

PS_LIKENESS(8)
PS_LIKENESS(16)
PS_LIKENESS(32)
PS_LIKENESS(64)

PS_INLINE likeness compare_plain(int64_t item, const uint8_t *line, const uint8_t *earlier,
                                 int64_t pitch) {
  if (item == 1) return compare_8(line, earlier, pitch);
  if (item == 2) return compare_16(line, earlier, pitch);
  return item == 4 ? compare_32(line, earlier, pitch) : compare_64(line, earlier, pitch);
}

PS_INLINE int64_t again_plain(int64_t item, const uint8_t *line, const uint8_t *earlier,
                              int64_t pitch) {
  if (item == 1) return again_8(line, earlier, pitch);
  if (item == 2) return again_16(line, earlier, pitch);
  return item == 4 ? again_32(line, earlier, pitch) : again_64(line, earlier, pitch);
}

#ifdef PS_X86
/* All ones where a is not above b. */
PS_INLINE PS_AVX2 __m256i not_above_avx2(__m256i a, __m256i b) {
  return _mm256_cmpeq_epi32(_mm256_min_epu32(a, b), a);
}

PS_INLINE PS_AVX2 int64_t sum_avx2(__m256i x) {
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4E));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xB1));
  return _mm_cvtsi128_si32(sum);
}

PS_AVX2 static likeness compare_avx2(const uint8_t *line, const uint8_t *earlier, int64_t pitch) {
  const __m256i none = _mm256_setzero_si256();
  __m256i same = none, others = none, nearer = none;
  for (int64_t run = 0, runs = runs_of(pitch); run < runs; run++) {
    for (int64_t r = run_begin(pitch, run), end = r + RUN; r < end; r += 8) {
      __m256i a = ps_load_avx2(line + 4 * r), b = ps_load_avx2(earlier + 4 * r);
      __m256i whole = ps_zigzag_avx2(a), rest = ps_zigzag_avx2(_mm256_sub_epi32(a, b));
      __m256i zero = _mm256_cmpeq_epi32(a, none), equal = _mm256_cmpeq_epi32(a, b);
      __m256i neither = _mm256_or_si256(zero, equal);
      /* True is -1. */
      same = _mm256_sub_epi32(same, _mm256_andnot_si256(zero, equal));
      others = _mm256_add_epi32(others, _mm256_add_epi32(neither, _mm256_set1_epi32(1)));
      __m256i near = not_above_avx2(rest, _mm256_srli_epi32(whole, NEAR_BITS));
      __m256i far = not_above_avx2(whole, _mm256_srli_epi32(rest, NEAR_BITS));
      nearer = _mm256_add_epi32(nearer, _mm256_andnot_si256(neither, _mm256_sub_epi32(far, near)));
    }
  }
  likeness found = {sum_avx2(same), sum_avx2(others), sum_avx2(nearer)};
  return found;
}

PS_AVX2 static int64_t again_avx2(const uint8_t *line, const uint8_t *earlier, int64_t pitch) {
  const __m256i none = _mm256_setzero_si256();
  __m256i same = none;
  for (int64_t run = 0, runs = runs_of(pitch); run < runs; run++) {
    for (int64_t r = run_begin(pitch, run), end = r + RUN; r < end; r += 8) {
      __m256i a = ps_load_avx2(line + 4 * r);
      __m256i equal = _mm256_cmpeq_epi32(a, ps_load_avx2(earlier + 4 * r));
      same = _mm256_sub_epi32(same, _mm256_andnot_si256(_mm256_cmpeq_epi32(a, none), equal));
    }
  }
  return sum_avx2(same);
}

PS_AVX512 static likeness compare_avx512(const uint8_t *line, const uint8_t *earlier,
                                         int64_t pitch) {
  const __m512i one = _mm512_set1_epi32(1);
  __m512i same = _mm512_setzero_si512(), others = same, nearer = same;
  for (int64_t run = 0, runs = runs_of(pitch); run < runs; run++) {
    int64_t r = run_begin(pitch, run);
    __m512i a = _mm512_loadu_si512(line + 4 * r), b = _mm512_loadu_si512(earlier + 4 * r);
    __m512i whole = ps_zigzag_avx512(a), rest = ps_zigzag_avx512(_mm512_sub_epi32(a, b));
    __mmask16 some = _mm512_test_epi32_mask(a, a);
    __mmask16 other = _mm512_mask_cmpneq_epi32_mask(some, a, b);
    __mmask16 near = _mm512_mask_cmple_epu32_mask(other, rest, _mm512_srli_epi32(whole, NEAR_BITS));
    __mmask16 far = _mm512_mask_cmple_epu32_mask(other, whole, _mm512_srli_epi32(rest, NEAR_BITS));
    same = _mm512_mask_add_epi32(same, _mm512_mask_cmpeq_epi32_mask(some, a, b), same, one);
    others = _mm512_mask_add_epi32(others, other, others, one);
    nearer = _mm512_mask_add_epi32(nearer, near, nearer, one);
    nearer = _mm512_mask_sub_epi32(nearer, far, nearer, one);
  }
  likeness found = {_mm512_reduce_add_epi32(same), _mm512_reduce_add_epi32(others),
                    _mm512_reduce_add_epi32(nearer)};
  return found;
}

PS_AVX512 static int64_t again_avx512(const uint8_t *line, const uint8_t *earlier, int64_t pitch) {
  __m512i same = _mm512_setzero_si512();
  for (int64_t run = 0, runs = runs_of(pitch); run < runs; run++) {
    int64_t r = run_begin(pitch, run);
    __m512i a = _mm512_loadu_si512(line + 4 * r);
    __mmask16 equal = _mm512_cmpeq_epi32_mask(a, _mm512_loadu_si512(earlier + 4 * r));
    equal = _mm512_mask_test_epi32_mask(equal, a, a);
    same = _mm512_mask_add_epi32(same, equal, same, _mm512_set1_epi32(1));
  }
  return _mm512_reduce_add_epi32(same);
}
#endif

PS_INLINE likeness compare(int level, int64_t item, const uint8_t *line, const uint8_t *earlier,
                           int64_t pitch) {
#ifdef PS_X86
  if (item == 4 && level == PS_LEVEL_AVX512) return compare_avx512(line, earlier, pitch);
  if (item == 4 && level == PS_LEVEL_AVX2) return compare_avx2(line, earlier, pitch);
#endif
  (void)level;
  return compare_plain(item, line, earlier, pitch);
}

PS_INLINE int64_t again(int level, int64_t item, const uint8_t *line, const uint8_t *earlier,
                        int64_t pitch) {
#ifdef PS_X86
  if (item == 4 && level == PS_LEVEL_AVX512) return again_avx512(line, earlier, pitch);
  if (item == 4 && level == PS_LEVEL_AVX2) return again_avx2(line, earlier, pitch);
#endif
  (void)level;
  return again_plain(item, line, earlier, pitch);
}

/* What the line numbered `f` chooses; it may be near the nearest only. */
static uint8_t choose(int level, int64_t item, const uint8_t *lines, int64_t pitch, int64_t f,
                      const int64_t *distances) {
  const uint8_t *line = lines + f * pitch * item;
  if (distances[0] < 1 || distances[0] > f) return 0;
  likeness found = compare(level, item, line, line - distances[0] * pitch * item, pitch);
  int64_t some = found.same + found.others, most = LEAST_SAVED - 1;
  if (some < 2) return 0;
  int is_near = found.nearer > 1 && found.nearer * 8 >= found.others;
  int64_t saved = SAME_SAVES * found.same + (is_near ? NEAR_SAVES * found.nearer : 0);
  uint8_t chosen = 0;
  if (saved > most) {
    most = saved;
    chosen = (uint8_t)(1 + (is_near ? PS_NEAR : 0));
  }
  int64_t same = found.same;
  for (int place = 1; place < PS_ROLLOUT_DISTANCES; place++) {
    int64_t distance = distances[place];
    if (ENOUGH * same >= (ENOUGH - 1) * some) break;
    if (distance < 1 || distance > f) continue;
    same = again(level, item, line, line - distance * pitch * item, pitch);
    if (SAME_SAVES * same <= most) continue;
    most = SAME_SAVES * same;
    chosen = (uint8_t)(place + 1);
  }
  return chosen;
}

int64_t ps_choose_distances(int level, int64_t item, const uint8_t *lines, int64_t columns,
                            int64_t elements, const int64_t *distances, uint8_t *chosen) {
  int64_t having = 0;
  for (int64_t f = 0; f < elements; f++) {
    chosen[f] = choose(level, item, lines, ps_pitch(columns), f, distances);
    having += chosen[f] != 0;
  }
  return having;
}

int ps_distances_are_there(int64_t elements, const int64_t *distances, const uint8_t *chosen,
                           int64_t having) {
  for (int64_t f = 0; f < elements; f++) {
    if (!chosen[f]) continue;
    int64_t place = (chosen[f] & PS_DISTANCE) - 1;
    if (chosen[f] > (PS_NEAR | PS_DISTANCE) || place < 0 || place >= PS_ROLLOUT_DISTANCES) return 0;
    if (distances[place] < 1 || distances[place] > f) return 0;
    having--;
  }
  return having == 0;
}
