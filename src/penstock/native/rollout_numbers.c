/* Differences that are not 0, and not those of another element of the same row, are kept: here they
 * are found and put together, and back. Where those of the other element are near, what is kept is
 * the difference to it. */
#include <string.h>

#include "rollouts.h"

#ifdef PS_X86
#include <immintrin.h>
#endif

/* The columns that distances are chosen by: up to eight runs of 16, evenly spread. */
enum { RUNS = 8, RUN = 16 };

/* What is saved by a number that is found again, and by one that is nearer by so many bits. */
enum { SAME_SAVES = 4, NEAR_SAVES = 1, NEAR_BITS = 3, LEAST_SAVED = 8 };

/* In what a line chose: the number of a distance, from 1 on, and whether it is near. */
enum { NEAR = 8, DISTANCE = 7 };

/* Of a line and an earlier one: numbers that are found again, others, and how many more of these
 * are near than far. */
typedef struct {
  int64_t same, others, nearer;
} likeness;

PS_INLINE int64_t runs_of(int64_t pitch) { return pitch < RUNS * RUN ? pitch / RUN : RUNS; }

PS_INLINE int64_t run_begin(int64_t pitch, int64_t run) {
  return pitch / RUN * run / runs_of(pitch) * RUN;
}

#define PS_NUMBERS(bits)                                                                         \
  PS_INLINE uint##bits##_t unzigzag_##bits(uint##bits##_t x) {                                   \
    return (uint##bits##_t)((x >> 1) ^ (uint##bits##_t)(0 - (x & 1)));                           \
  }                                                                                              \
  PS_INLINE uint##bits##_t zigzag_##bits(uint##bits##_t x) {                                     \
    return (uint##bits##_t)((uint##bits##_t)(x << 1) ^ (uint##bits##_t)(0 - (x >> (bits - 1)))); \
  }                                                                                              \
  PS_INLINE likeness compare_##bits(const uint8_t *line, const uint8_t *earlier,                 \
                                    int64_t pitch) {                                             \
    likeness found = {0, 0, 0};                                                                  \
    for (int64_t run = 0, runs = runs_of(pitch); run < runs; run++) {                            \
      int64_t begin = run_begin(pitch, run);                                                     \
      for (int64_t r = begin; r < begin + RUN; r++) {                                            \
        uint##bits##_t a, b;                                                                     \
        memcpy(&a, line + r * (bits / 8), bits / 8);                                             \
        memcpy(&b, earlier + r * (bits / 8), bits / 8);                                          \
        uint##bits##_t whole = zigzag_##bits(a), rest = zigzag_##bits((uint##bits##_t)(a - b));  \
        int is_other = (a != b) & (a != 0);                                                      \
        found.same += (a == b) & (a != 0);                                                       \
        found.others += is_other;                                                                \
        found.nearer += is_other & (rest <= whole >> NEAR_BITS);                                 \
        found.nearer -= is_other & (whole <= rest >> NEAR_BITS);                                 \
      }                                                                                          \
    }                                                                                            \
    return found;                                                                                \
  }                                                                                              \
  /* Up to 8 columns from `line` on; returns the bits of those that are kept. */                 \
  PS_INLINE uint8_t keep_##bits(const uint8_t *line, const uint8_t *earlier, int near,           \
                                int64_t columns, uint8_t *same, uint8_t **numbers) {             \
    uint8_t kept = 0, again = 0, *to = *numbers;                                                 \
    for (int64_t r = 0; r < columns; r++) {                                                      \
      uint##bits##_t a, b = 0;                                                                   \
      memcpy(&a, line + r * (bits / 8), bits / 8);                                               \
      if (earlier) memcpy(&b, earlier + r * (bits / 8), bits / 8);                               \
      int is_same = (a == b) & (a != 0), is_kept = (a != b) & (a != 0);                          \
      again = (uint8_t)(again | is_same << r);                                                   \
      kept = (uint8_t)(kept | is_kept << r);                                                     \
      a = zigzag_##bits((uint##bits##_t)(near ? a - b : a));                                     \
      memcpy(to, &a, bits / 8);                                                                  \
      to += is_kept * (bits / 8);                                                                \
    }                                                                                            \
    if (earlier) *same = again;                                                                  \
    *numbers = to;                                                                               \
    return kept;                                                                                 \
  }                                                                                              \
  PS_INLINE const uint8_t *fill_##bits(const uint8_t *numbers, uint8_t kept, uint8_t same,       \
                                       const uint8_t *earlier, int near, int64_t columns,        \
                                       uint8_t *line) {                                          \
    for (int64_t r = 0; r < columns; r++) {                                                      \
      uint##bits##_t a, b = 0;                                                                   \
      memcpy(&a, numbers, bits / 8);                                                             \
      if (earlier) memcpy(&b, earlier + r * (bits / 8), bits / 8);                               \
      int is_kept = kept >> r & 1, is_same = same >> r & 1;                                      \
      numbers += is_kept * (bits / 8);                                                           \
      a = (uint##bits##_t)(unzigzag_##bits(a) + (near ? b : 0));                                 \
      a = (uint##bits##_t)(is_kept ? a : 0);                                                     \
      a = is_same ? b : a;                                                                       \
      memcpy(line + r * (bits / 8), &a, bits / 8);                                               \
    }                                                                                            \
    return numbers;                                                                              \
  }

PS_NUMBERS(8)
PS_NUMBERS(16)
PS_NUMBERS(32)
PS_NUMBERS(64)

PS_INLINE likeness compare_plain(int64_t item, const uint8_t *line, const uint8_t *earlier,
                                 int64_t pitch) {
  if (item == 1) return compare_8(line, earlier, pitch);
  if (item == 2) return compare_16(line, earlier, pitch);
  return item == 4 ? compare_32(line, earlier, pitch) : compare_64(line, earlier, pitch);
}

/* The columns from `from` on of one line; `same` is not looked at without an earlier one. */
PS_INLINE uint8_t *keep_plain(int64_t item, const uint8_t *line, const uint8_t *earlier, int near,
                              int64_t from, int64_t columns, uint8_t *kept, uint8_t *same,
                              uint8_t *numbers) {
  for (int64_t r = from; r < columns; r += 8) {
    int64_t run = columns - r < 8 ? columns - r : 8;
    const uint8_t *at = line + r * item, *old = earlier ? earlier + r * item : 0;
    uint8_t *again = earlier ? same + r / 8 : 0;
    if (item == 1) kept[r / 8] = keep_8(at, old, near, run, again, &numbers);
    if (item == 2) kept[r / 8] = keep_16(at, old, near, run, again, &numbers);
    if (item == 4) kept[r / 8] = keep_32(at, old, near, run, again, &numbers);
    if (item == 8) kept[r / 8] = keep_64(at, old, near, run, again, &numbers);
  }
  return numbers;
}

PS_INLINE const uint8_t *fill_plain(int64_t item, const uint8_t *numbers, const uint8_t *earlier,
                                    int near, int64_t from, int64_t columns, const uint8_t *kept,
                                    const uint8_t *same, uint8_t *line) {
  for (int64_t r = from; r < columns; r += 8) {
    int64_t run = columns - r < 8 ? columns - r : 8;
    const uint8_t *old = earlier ? earlier + r * item : 0;
    uint8_t again = earlier ? same[r / 8] : 0, *to = line + r * item;
    if (item == 1) numbers = fill_8(numbers, kept[r / 8], again, old, near, run, to);
    if (item == 2) numbers = fill_16(numbers, kept[r / 8], again, old, near, run, to);
    if (item == 4) numbers = fill_32(numbers, kept[r / 8], again, old, near, run, to);
    if (item == 8) numbers = fill_64(numbers, kept[r / 8], again, old, near, run, to);
  }
  return numbers;
}

#ifdef PS_X86
PS_INLINE PS_AVX2 __m256i load_8(const uint8_t *from) {
  return _mm256_loadu_si256((const __m256i *)from);
}

PS_INLINE PS_AVX2 unsigned bits_8(__m256i lanes) {
  return (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(lanes));
}

PS_INLINE PS_AVX2 __m256i unzigzag_avx2(__m256i x) {
  __m256i sign = _mm256_sub_epi32(_mm256_setzero_si256(),
                                  _mm256_and_si256(x, _mm256_set1_epi32(1)));
  return _mm256_xor_si256(_mm256_srli_epi32(x, 1), sign);
}

PS_INLINE PS_AVX2 __m256i zigzag_avx2(__m256i x) {
  return _mm256_xor_si256(_mm256_add_epi32(x, x), _mm256_srai_epi32(x, 31));
}

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
      __m256i a = load_8(line + 4 * r), b = load_8(earlier + 4 * r);
      __m256i whole = zigzag_avx2(a), rest = zigzag_avx2(_mm256_sub_epi32(a, b));
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

/* A byte for each lane: which one goes where. */
PS_INLINE PS_AVX2 uint64_t lanes_of(unsigned bits) {
  return _pdep_u64(bits, 0x0101010101010101ull) * 0xFF;
}

PS_INLINE PS_AVX2 uint8_t *keep_avx2(const uint8_t *line, const uint8_t *earlier, int near,
                                     int64_t columns, uint8_t *kept, uint8_t *same,
                                     uint8_t *numbers) {
  for (int64_t r = 0; r + 8 <= columns; r += 8) {
    __m256i a = load_8(line + 4 * r);
    unsigned bits = ~bits_8(_mm256_cmpeq_epi32(a, _mm256_setzero_si256())) & 255;
    if (earlier) {
      __m256i b = load_8(earlier + 4 * r);
      unsigned again = bits & bits_8(_mm256_cmpeq_epi32(a, b));
      same[r / 8] = (uint8_t)again;
      bits &= ~again;
      if (near) a = _mm256_sub_epi32(a, b);
    }
    a = zigzag_avx2(a);
    kept[r / 8] = (uint8_t)bits;
    uint64_t order = _pext_u64(0x0706050403020100ull, lanes_of(bits));
    __m256i index = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)order));
    _mm256_storeu_si256((__m256i *)numbers, _mm256_permutevar8x32_epi32(a, index));
    numbers += 4 * __builtin_popcount(bits);
  }
  return numbers;
}

PS_INLINE PS_AVX2 const uint8_t *fill_avx2(const uint8_t *numbers, const uint8_t *earlier,
                                           int near, int64_t columns, const uint8_t *kept,
                                           const uint8_t *same, uint8_t *line) {
  for (int64_t r = 0; r + 8 <= columns; r += 8) {
    unsigned bits = kept[r / 8];
    uint64_t lanes = lanes_of(bits);
    uint64_t order = _pdep_u64(0x0706050403020100ull, lanes);
    __m256i index = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)order));
    __m256i x = _mm256_permutevar8x32_epi32(load_8(numbers), index);
    x = unzigzag_avx2(x);
    if (near) x = _mm256_add_epi32(x, load_8(earlier + 4 * r));
    x = _mm256_and_si256(x, _mm256_cvtepi8_epi32(_mm_cvtsi64_si128((long long)lanes)));
    if (earlier) {
      __m256i again = _mm256_cvtepi8_epi32(_mm_cvtsi64_si128((long long)lanes_of(same[r / 8])));
      x = _mm256_blendv_epi8(x, load_8(earlier + 4 * r), again);
    }
    _mm256_storeu_si256((__m256i *)(line + 4 * r), x);
    numbers += 4 * __builtin_popcount(bits);
  }
  return numbers;
}

PS_INLINE PS_AVX512 __m512i unzigzag_avx512(__m512i x) {
  __m512i sign = _mm512_sub_epi32(_mm512_setzero_si512(),
                                  _mm512_and_si512(x, _mm512_set1_epi32(1)));
  return _mm512_xor_si512(_mm512_srli_epi32(x, 1), sign);
}

PS_INLINE PS_AVX512 __m512i zigzag_avx512(__m512i x) {
  return _mm512_xor_si512(_mm512_add_epi32(x, x), _mm512_srai_epi32(x, 31));
}

PS_AVX512 static likeness compare_avx512(const uint8_t *line, const uint8_t *earlier,
                                         int64_t pitch) {
  const __m512i one = _mm512_set1_epi32(1);
  __m512i same = _mm512_setzero_si512(), others = same, nearer = same;
  for (int64_t run = 0, runs = runs_of(pitch); run < runs; run++) {
    int64_t r = run_begin(pitch, run);
    __m512i a = _mm512_loadu_si512(line + 4 * r), b = _mm512_loadu_si512(earlier + 4 * r);
    __m512i whole = zigzag_avx512(a), rest = zigzag_avx512(_mm512_sub_epi32(a, b));
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

PS_INLINE PS_AVX512 uint8_t *keep_avx512(const uint8_t *line, const uint8_t *earlier, int near,
                                         int64_t columns, uint8_t *kept, uint8_t *same,
                                         uint8_t *numbers) {
  for (int64_t r = 0; r + 16 <= columns; r += 16) {
    __m512i a = _mm512_loadu_si512(line + 4 * r);
    unsigned bits = (unsigned)_mm512_test_epi32_mask(a, a);
    if (earlier) {
      __m512i b = _mm512_loadu_si512(earlier + 4 * r);
      unsigned again = (unsigned)_mm512_mask_cmpeq_epi32_mask((__mmask16)bits, a, b);
      memcpy(same + r / 8, &again, 2);
      bits &= ~again;
      if (near) a = _mm512_sub_epi32(a, b);
    }
    a = zigzag_avx512(a);
    memcpy(kept + r / 8, &bits, 2);
    _mm512_storeu_si512(numbers, _mm512_maskz_compress_epi32((__mmask16)bits, a));
    numbers += 4 * __builtin_popcount(bits);
  }
  return numbers;
}

PS_INLINE PS_AVX512 const uint8_t *fill_avx512(const uint8_t *numbers, const uint8_t *earlier,
                                               int near, int64_t columns, const uint8_t *kept,
                                               const uint8_t *same, uint8_t *line) {
  for (int64_t r = 0; r + 16 <= columns; r += 16) {
    uint16_t bits, again = 0;
    memcpy(&bits, kept + r / 8, 2);
    __m512i x = unzigzag_avx512(_mm512_maskz_expand_epi32(bits, _mm512_loadu_si512(numbers)));
    if (near) x = _mm512_mask_add_epi32(x, bits, x, _mm512_loadu_si512(earlier + 4 * r));
    if (earlier) {
      memcpy(&again, same + r / 8, 2);
      x = _mm512_mask_loadu_epi32(x, again, earlier + 4 * r);
    }
    _mm512_storeu_si512(line + 4 * r, x);
    numbers += 4 * __builtin_popcount(bits);
  }
  return numbers;
}

PS_AVX2 static uint8_t *keep_avx2_of(const uint8_t *line, const uint8_t *earlier, int near,
    int64_t columns, uint8_t *kept, uint8_t *same, uint8_t *numbers) {
  if (near) return keep_avx2(line, earlier, 1, columns, kept, same, numbers);
  return earlier ? keep_avx2(line, earlier, 0, columns, kept, same, numbers)
                 : keep_avx2(line, 0, 0, columns, kept, 0, numbers);
}

PS_AVX2 static const uint8_t *fill_avx2_of(const uint8_t *numbers, const uint8_t *earlier, int near,
    int64_t columns, const uint8_t *kept, const uint8_t *same, uint8_t *line) {
  if (near) return fill_avx2(numbers, earlier, 1, columns, kept, same, line);
  return earlier ? fill_avx2(numbers, earlier, 0, columns, kept, same, line)
                 : fill_avx2(numbers, 0, 0, columns, kept, 0, line);
}

PS_AVX512 static uint8_t *keep_avx512_of(const uint8_t *line, const uint8_t *earlier, int near,
    int64_t columns, uint8_t *kept, uint8_t *same, uint8_t *numbers) {
  if (near) return keep_avx512(line, earlier, 1, columns, kept, same, numbers);
  return earlier ? keep_avx512(line, earlier, 0, columns, kept, same, numbers)
                 : keep_avx512(line, 0, 0, columns, kept, 0, numbers);
}

PS_AVX512 static const uint8_t *fill_avx512_of(const uint8_t *numbers, const uint8_t *earlier, int near,
    int64_t columns, const uint8_t *kept, const uint8_t *same, uint8_t *line) {
  if (near) return fill_avx512(numbers, earlier, 1, columns, kept, same, line);
  return earlier ? fill_avx512(numbers, earlier, 0, columns, kept, same, line)
                 : fill_avx512(numbers, 0, 0, columns, kept, 0, line);
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

int64_t ps_choose_distances(int level, int64_t item, const uint8_t *lines, int64_t columns,
                            int64_t elements, const int64_t *distances, uint8_t *chosen) {
  const int64_t pitch = ps_pitch(columns);
  int64_t having = 0;
  for (int64_t f = 0; f < elements; f++) {
    const uint8_t *line = lines + f * pitch * item;
    int64_t most = LEAST_SAVED - 1;
    chosen[f] = 0;
    for (int place = 0; place < PS_ROLLOUT_DISTANCES; place++) {
      int64_t distance = distances[place];
      if (distance < 1 || distance > f) continue;
      likeness found = compare(level, item, line, line - distance * pitch * item, pitch);
      int64_t nearer = found.nearer * 8 >= found.others ? found.nearer : 0;
      nearer = nearer > 1 ? nearer : 0;
      int64_t saved = SAME_SAVES * found.same + NEAR_SAVES * nearer;
      /* Nothing to gain, or nearly everything gained. */
      if (found.same + found.others < 2) break;
      if (saved > most) {
        most = saved;
        chosen[f] = (uint8_t)(place + 1 + (nearer ? NEAR : 0));
      }
      if (found.same >= 4 * found.others) break;
    }
    having += chosen[f] != 0;
  }
  return having;
}

int ps_distances_are_there(int64_t elements, const int64_t *distances, const uint8_t *chosen,
                           int64_t having) {
  for (int64_t f = 0; f < elements; f++) {
    if (!chosen[f]) continue;
    int64_t place = (chosen[f] & DISTANCE) - 1;
    if (chosen[f] > (NEAR | DISTANCE) || place < 0 || place >= PS_ROLLOUT_DISTANCES) return 0;
    if (distances[place] < 1 || distances[place] > f) return 0;
    having--;
  }
  return having == 0;
}

/* The line that this one is told by, if it chose one. */
PS_INLINE int64_t distance_of(const int64_t *distances, const uint8_t *chosen, int64_t f) {
  return chosen && chosen[f] ? distances[(chosen[f] & DISTANCE) - 1] : 0;
}

int64_t ps_lines_to_numbers(int level, int64_t item, const uint8_t *lines, int64_t columns,
                            int64_t elements, const int64_t *distances, const uint8_t *chosen,
                            uint8_t *kept, uint8_t *same, uint8_t *numbers) {
  const int64_t pitch = ps_pitch(columns), line_bytes = ps_line_bytes(columns);
  uint8_t *at = numbers;
  for (int64_t f = 0; f < elements; f++) {
    const uint8_t *line = lines + f * pitch * item, *earlier = 0;
    int64_t distance = distance_of(distances, chosen, f), done = 0;
    int near = distance && (chosen[f] & NEAR);
    if (distance) earlier = line - distance * pitch * item;
#ifdef PS_X86
    if (item == 4 && level == PS_LEVEL_AVX512) {
      at = keep_avx512_of(line, earlier, near, columns, kept, same, at);
      done = columns / 16 * 16;
    }
    if (item == 4 && level == PS_LEVEL_AVX2) {
      at = keep_avx2_of(line, earlier, near, columns, kept, same, at);
      done = columns / 8 * 8;
    }
#endif
    at = keep_plain(item, line, earlier, near, done, columns, kept, same, at);
    kept += line_bytes;
    if (earlier) same += line_bytes;
  }
  (void)level;
  return (at - numbers) / item;
}

void ps_numbers_to_lines(int level, int64_t item, const uint8_t *numbers, int64_t columns,
                         int64_t elements, const int64_t *distances, const uint8_t *chosen,
                         const uint8_t *kept, const uint8_t *same, uint8_t *lines) {
  const int64_t pitch = ps_pitch(columns), line_bytes = ps_line_bytes(columns);
  for (int64_t f = 0; f < elements; f++) {
    uint8_t *line = lines + f * pitch * item;
    const uint8_t *earlier = 0;
    int64_t distance = distance_of(distances, chosen, f), done = 0;
    int near = distance && (chosen[f] & NEAR);
    if (distance) earlier = line - distance * pitch * item;
#ifdef PS_X86
    if (item == 4 && level == PS_LEVEL_AVX512) {
      numbers = fill_avx512_of(numbers, earlier, near, columns, kept, same, line);
      done = columns / 16 * 16;
    }
    if (item == 4 && level == PS_LEVEL_AVX2) {
      numbers = fill_avx2_of(numbers, earlier, near, columns, kept, same, line);
      done = columns / 8 * 8;
    }
#endif
    numbers = fill_plain(item, numbers, earlier, near, done, columns, kept, same, line);
    kept += line_bytes;
    if (earlier) same += line_bytes;
  }
  (void)level;
}
