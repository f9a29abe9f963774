/* Differences of rows, turned so that the same number of all rows lies together; and back. */
#include <string.h>

#include "rollouts.h"

#ifdef PS_X86
#include <immintrin.h>
#endif

/* Columns and elements from the given ones on. Blocks of 8 x 8 stay in the cache. */
#define PS_ROWS(bits)                                                                            \
  PS_INLINE void to_lines_##bits(const uint8_t *const *rows, const uint8_t *const *before,       \
                                 int64_t from, int64_t columns, int64_t first, int64_t elements, \
                                 int64_t pitch, uint8_t *lines) {                                \
    const int64_t item = bits / 8;                                                               \
    for (int64_t at = first; at < elements; at += 8) {                                           \
      int64_t end = at + 8 < elements ? at + 8 : elements;                                       \
      for (int64_t r = from; r < columns; r++) {                                                 \
        const uint8_t *row = rows[r], *old = before[r];                                          \
        for (int64_t f = at; f < end; f++) {                                                     \
          uint##bits##_t a, b;                                                                   \
          memcpy(&a, row + f * item, bits / 8);                                                  \
          memcpy(&b, old + f * item, bits / 8);                                                  \
          a = (uint##bits##_t)(a - b);                                                           \
          memcpy(lines + (f * pitch + r) * item, &a, bits / 8);                                  \
        }                                                                                        \
      }                                                                                          \
    }                                                                                            \
  }                                                                                              \
  PS_INLINE void to_rows_##bits(const uint8_t *lines, int64_t from, int64_t columns,             \
                                int64_t first, int64_t elements, int64_t pitch,                  \
                                const uint8_t *const *before, uint8_t *const *rows) {            \
    const int64_t item = bits / 8;                                                               \
    for (int64_t at = first; at < elements; at += 8) {                                           \
      int64_t end = at + 8 < elements ? at + 8 : elements;                                       \
      for (int64_t r = from; r < columns; r++) {                                                 \
        const uint8_t *old = before[r];                                                          \
        uint8_t *row = rows[r];                                                                  \
        for (int64_t f = at; f < end; f++) {                                                     \
          uint##bits##_t a, b;                                                                   \
          memcpy(&a, lines + (f * pitch + r) * item, bits / 8);                                  \
          memcpy(&b, old + f * item, bits / 8);                                                  \
          a = (uint##bits##_t)(a + b);                                                           \
          memcpy(row + f * item, &a, bits / 8);                                                  \
        }                                                                                        \
      }                                                                                          \
    }                                                                                            \
  }

PS_ROWS(8)
PS_ROWS(16)
PS_ROWS(32)
PS_ROWS(64)

#ifdef PS_X86
PS_INLINE PS_AVX2 void transpose_8x8(__m256i *x) {
  __m256i a[8], b[8];
  for (int i = 0; i < 4; i++) {
    a[2 * i] = _mm256_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
    a[2 * i + 1] = _mm256_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
  }
  for (int i = 0; i < 2; i++) {
    b[4 * i] = _mm256_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 1] = _mm256_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 2] = _mm256_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
    b[4 * i + 3] = _mm256_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    x[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
    x[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
  }
}

PS_INLINE PS_AVX2 __m256i load_8(const uint8_t *from) {
  return _mm256_loadu_si256((const __m256i *)from);
}

/* All but what is left of columns and elements that no eight fill. */
PS_AVX2 static void to_lines_avx2(const uint8_t *const *rows, const uint8_t *const *before,
                                  int64_t columns, int64_t elements, int64_t pitch,
                                  uint8_t *lines) {
  for (int64_t f = 0; f + 8 <= elements; f += 8) {
    for (int64_t r = 0; r + 8 <= columns; r += 8) {
      __m256i x[8];
      for (int i = 0; i < 8; i++)
        x[i] = _mm256_sub_epi32(load_8(rows[r + i] + 4 * f), load_8(before[r + i] + 4 * f));
      transpose_8x8(x);
      for (int i = 0; i < 8; i++)
        _mm256_storeu_si256((__m256i *)(lines + ((f + i) * pitch + r) * 4), x[i]);
    }
  }
}

PS_AVX2 static void to_rows_avx2(const uint8_t *lines, int64_t columns, int64_t elements,
                                 int64_t pitch, const uint8_t *const *before,
                                 uint8_t *const *rows) {
  for (int64_t f = 0; f + 8 <= elements; f += 8) {
    __m256i last = _mm256_setzero_si256();
    const uint8_t *last_row = 0;
    for (int64_t r = 0; r + 8 <= columns; r += 8) {
      __m256i x[8];
      for (int i = 0; i < 8; i++) x[i] = load_8(lines + ((f + i) * pitch + r) * 4);
      transpose_8x8(x);
      for (int i = 0; i < 8; i++) {
        if (before[r + i] != last_row) last = load_8(before[r + i] + 4 * f);
        last = _mm256_add_epi32(last, x[i]);
        last_row = rows[r + i];
        _mm256_storeu_si256((__m256i *)(rows[r + i] + 4 * f), last);
      }
    }
  }
}
#endif

void ps_rows_to_lines(int level, int64_t item, const uint8_t *const *rows,
                      const uint8_t *const *before, int64_t columns, int64_t elements,
                      uint8_t *lines) {
  const int64_t pitch = ps_pitch(columns);
  if (pitch != columns)
    for (int64_t f = 0; f < elements; f++)
      memset(lines + (f * pitch + columns) * item, 0, (size_t)((pitch - columns) * item));
  if (item == 1) to_lines_8(rows, before, 0, columns, 0, elements, pitch, lines);
  if (item == 2) to_lines_16(rows, before, 0, columns, 0, elements, pitch, lines);
  if (item == 8) to_lines_64(rows, before, 0, columns, 0, elements, pitch, lines);
  if (item != 4) return;
#ifdef PS_X86
  if (level >= PS_LEVEL_AVX2) {
    int64_t done = elements / 8 * 8;
    to_lines_avx2(rows, before, columns, elements, pitch, lines);
    to_lines_32(rows, before, columns / 8 * 8, columns, 0, done, pitch, lines);
    to_lines_32(rows, before, 0, columns, done, elements, pitch, lines);
    return;
  }
#endif
  (void)level;
  to_lines_32(rows, before, 0, columns, 0, elements, pitch, lines);
}

void ps_lines_to_rows(int level, int64_t item, const uint8_t *lines, int64_t columns,
                      int64_t elements, const uint8_t *const *before, uint8_t *const *rows) {
  const int64_t pitch = ps_pitch(columns);
  if (item == 1) to_rows_8(lines, 0, columns, 0, elements, pitch, before, rows);
  if (item == 2) to_rows_16(lines, 0, columns, 0, elements, pitch, before, rows);
  if (item == 8) to_rows_64(lines, 0, columns, 0, elements, pitch, before, rows);
  if (item != 4) return;
#ifdef PS_X86
  if (level >= PS_LEVEL_AVX2) {
    int64_t done = elements / 8 * 8;
    to_rows_avx2(lines, columns, elements, pitch, before, rows);
    to_rows_32(lines, columns / 8 * 8, columns, 0, done, pitch, before, rows);
    to_rows_32(lines, 0, columns, done, elements, pitch, before, rows);
    return;
  }
#endif
  (void)level;
  to_rows_32(lines, 0, columns, 0, elements, pitch, before, rows);
}
