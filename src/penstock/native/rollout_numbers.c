/* Differences that are not 0, and not those of another element of the same row, are kept: here they
 * are found and put together, and back. Where those of the other element are near, what is kept is
 * the difference to it. */
#include <string.h>

#include "rollouts.h"

#define PS_NUMBERS(bits)                                                                         \
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
      a = ps_zigzag_##bits((uint##bits##_t)(near ? a - b : a));                                  \
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
      a = (uint##bits##_t)(ps_unzigzag_##bits(a) + (near ? b : 0));                              \
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
PS_INLINE PS_AVX2 unsigned bits_8(__m256i lanes) {
  return (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(lanes));
}

/* A byte for each lane: which one goes where. */
PS_INLINE PS_AVX2 uint64_t lanes_of(unsigned bits) {
  return _pdep_u64(bits, 0x0101010101010101ull) * 0xFF;
}

PS_INLINE PS_AVX2 uint8_t *keep_avx2(const uint8_t *line, const uint8_t *earlier, int near,
                                     int64_t columns, uint8_t *kept, uint8_t *same,
                                     uint8_t *numbers) {
  for (int64_t r = 0; r + 8 <= columns; r += 8) {
    __m256i a = ps_load_avx2(line + 4 * r);
    unsigned bits = ~bits_8(_mm256_cmpeq_epi32(a, _mm256_setzero_si256())) & 255;
    if (earlier) {
      __m256i b = ps_load_avx2(earlier + 4 * r);
      unsigned again = bits & bits_8(_mm256_cmpeq_epi32(a, b));
      same[r / 8] = (uint8_t)again;
      bits &= ~again;
      if (near) a = _mm256_sub_epi32(a, b);
    }
    a = ps_zigzag_avx2(a);
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
    __m256i x = _mm256_permutevar8x32_epi32(ps_load_avx2(numbers), index);
    x = ps_unzigzag_avx2(x);
    if (near) x = _mm256_add_epi32(x, ps_load_avx2(earlier + 4 * r));
    x = _mm256_and_si256(x, _mm256_cvtepi8_epi32(_mm_cvtsi64_si128((long long)lanes)));
    if (earlier) {
      __m256i again = _mm256_cvtepi8_epi32(_mm_cvtsi64_si128((long long)lanes_of(same[r / 8])));
      x = _mm256_blendv_epi8(x, ps_load_avx2(earlier + 4 * r), again);
    }
    _mm256_storeu_si256((__m256i *)(line + 4 * r), x);
    numbers += 4 * __builtin_popcount(bits);
  }
  return numbers;
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
    a = ps_zigzag_avx512(a);
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
    __m512i x = ps_unzigzag_avx512(_mm512_maskz_expand_epi32(bits, _mm512_loadu_si512(numbers)));
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
                                     int64_t columns, uint8_t *kept, uint8_t *same,
                                     uint8_t *numbers) {
  if (near) return keep_avx2(line, earlier, 1, columns, kept, same, numbers);
  return earlier ? keep_avx2(line, earlier, 0, columns, kept, same, numbers)
                 : keep_avx2(line, 0, 0, columns, kept, 0, numbers);
}

PS_AVX2 static const uint8_t *fill_avx2_of(const uint8_t *numbers, const uint8_t *earlier,
                                           int near, int64_t columns, const uint8_t *kept,
                                           const uint8_t *same, uint8_t *line) {
  if (near) return fill_avx2(numbers, earlier, 1, columns, kept, same, line);
  return earlier ? fill_avx2(numbers, earlier, 0, columns, kept, same, line)
                 : fill_avx2(numbers, 0, 0, columns, kept, 0, line);
}

PS_AVX512 static uint8_t *keep_avx512_of(const uint8_t *line, const uint8_t *earlier, int near,
                                         int64_t columns, uint8_t *kept, uint8_t *same,
                                         uint8_t *numbers) {
  if (near) return keep_avx512(line, earlier, 1, columns, kept, same, numbers);
  return earlier ? keep_avx512(line, earlier, 0, columns, kept, same, numbers)
                 : keep_avx512(line, 0, 0, columns, kept, 0, numbers);
}

PS_AVX512 static const uint8_t *fill_avx512_of(const uint8_t *numbers, const uint8_t *earlier,
                                               int near, int64_t columns, const uint8_t *kept,
                                               const uint8_t *same, uint8_t *line) {
  if (near) return fill_avx512(numbers, earlier, 1, columns, kept, same, line);
  return earlier ? fill_avx512(numbers, earlier, 0, columns, kept, same, line)
                 : fill_avx512(numbers, 0, 0, columns, kept, 0, line);
}
#endif

/* The line that this one is told by, if it chose one. */
PS_INLINE int64_t distance_of(const int64_t *distances, const uint8_t *chosen, int64_t f) {
  return chosen && chosen[f] ? distances[(chosen[f] & PS_DISTANCE) - 1] : 0;
}

int64_t ps_lines_to_numbers(int level, int64_t item, const uint8_t *lines, int64_t columns,
                            int64_t elements, const int64_t *distances, const uint8_t *chosen,
                            uint8_t *kept, uint8_t *same, uint8_t *numbers) {
  const int64_t pitch = ps_pitch(columns), line_bytes = ps_line_bytes(columns);
  uint8_t *at = numbers;
  for (int64_t f = 0; f < elements; f++) {
    const uint8_t *line = lines + f * pitch * item, *earlier = 0;
    int64_t distance = distance_of(distances, chosen, f), done = 0;
    int near = distance && (chosen[f] & PS_NEAR);
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
    int near = distance && (chosen[f] & PS_NEAR);
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
