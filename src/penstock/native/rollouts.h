/* Inside the library: the parts of a rollout's segments; rollout_encode.c has the format.
 *
 * A field of a segment is a matrix of differences: a line for each element of a row (a step of an
 * environment), and in it a column for each row. Lines begin `pitch` numbers apart. */
#ifndef PENSTOCK_ROLLOUTS_H
#define PENSTOCK_ROLLOUTS_H

#include "kernels.h"

#ifdef PS_X86
#include <immintrin.h>
#endif

/* Bytes that vectors may reach beyond an end. */
enum { PS_PAD = 64 };

/* How streams are coded: the effort is LZ4's acceleration or zstd's level. */
typedef struct {
  int level;
  const ps_libraries *libraries;
  int64_t codec, effort;
} ps_coding;

/* Bytes that a stream may take while it is coded. */
PS_INLINE int64_t ps_stream_bound(int64_t size) { return size + size / 128 + 1024; }

/* Stores a stream in the best way and says which; `scratch` has room for it and PS_PAD bytes, and
 * `to` for ps_stream_bound() and an eighth. Returns its stored size, or PS_CORRUPT where a library
 * fails. */
int64_t ps_put_stream(const ps_coding *coding, int may_be_sparse, const uint8_t *from,
                      int64_t size, uint8_t *scratch, uint8_t *to, uint8_t *way);

/* Back; whether it is one of just that size. */
int ps_get_stream(const ps_coding *coding, int way, const uint8_t *from, int64_t stored,
                  uint8_t *scratch, uint8_t *to, int64_t size);

int64_t ps_count_bits(const uint8_t *from, int64_t size);

/* The memory that one segment is encoded or decoded in. */
typedef struct {
  uint8_t *rows, *lines, *numbers, *planes, *head, *masks, *scratch;
  const uint8_t **before, **rows_in;
  uint8_t **rows_out, **envs;
} ps_memory;

/* Lays it out from `memory` on; returns how many bytes it takes. */
int64_t ps_lay_out(const ps_rows *of, uint8_t *memory, ps_memory *found);

PS_INLINE int64_t ps_bitmap_bytes(const ps_rows *of) {
  return of->follows ? (of->envs * of->steps + 7) / 8 : 0;
}

PS_INLINE int64_t ps_line_bytes(int64_t columns) { return (columns + 7) / 8; }

/* Numbers from one line to the next: vectors may run over the end of one. */
PS_INLINE int64_t ps_pitch(int64_t columns) { return (columns + 15) / 16 * 16; }

/* Column r of the matrix becomes rows[r] minus before[r]. Numbers beyond `columns` are 0. */
void ps_rows_to_lines(int level, int64_t item, const uint8_t *const *rows,
                      const uint8_t *const *before, int64_t columns, int64_t elements,
                      uint8_t *lines);

/* Back: rows[r] becomes before[r] plus column r; before[r] may be rows[r - 1]. */
void ps_lines_to_rows(int level, int64_t item, const uint8_t *lines, int64_t columns,
                      int64_t elements, const uint8_t *const *before, uint8_t *const *rows);

/* For each line the distance to an earlier one that saves most, and whether it is near; 0 for none.
 * Returns how many lines have one. */
int64_t ps_choose_distances(int level, int64_t item, const uint8_t *lines, int64_t columns,
                            int64_t elements, const int64_t *distances, uint8_t *chosen);

/* Whether all that was chosen is there, by just so many lines. */
int ps_distances_are_there(int64_t elements, const int64_t *distances, const uint8_t *chosen,
                           int64_t having);

/* Takes the lines apart: a bit for each number that is kept, in zigzag order, in `numbers`; a bit
 * for each that equals that of the earlier line, for lines that chose one; what is neither is 0.
 * Returns how many are kept. `numbers` has room for all and PS_PAD bytes. */
int64_t ps_lines_to_numbers(int level, int64_t item, const uint8_t *lines, int64_t columns,
                            int64_t elements, const int64_t *distances, const uint8_t *chosen,
                            uint8_t *kept, uint8_t *same, uint8_t *numbers);

/* Back; the caller has checked that `kept` has as many bits as there are numbers, that PS_PAD bytes
 * follow them, and that distances lead to an earlier line. */
void ps_numbers_to_lines(int level, int64_t item, const uint8_t *numbers, int64_t columns,
                         int64_t elements, const int64_t *distances, const uint8_t *chosen,
                         const uint8_t *kept, const uint8_t *same, uint8_t *lines);

/* In what a line chose: the number of a distance, from 1 on, and whether it is near. */
enum { PS_NEAR = 8, PS_DISTANCE = 7 };

/* Zigzag: 0, -1, 1, -2 become 0, 1, 2, 3. */
#define PS_ZIGZAG(bits)                                                                          \
  PS_INLINE uint##bits##_t ps_unzigzag_##bits(uint##bits##_t x) {                                \
    return (uint##bits##_t)((x >> 1) ^ (uint##bits##_t)(0 - (x & 1)));                           \
  }                                                                                              \
  PS_INLINE uint##bits##_t ps_zigzag_##bits(uint##bits##_t x) {                                  \
    return (uint##bits##_t)((uint##bits##_t)(x << 1) ^ (uint##bits##_t)(0 - (x >> (bits - 1)))); \
  }

PS_ZIGZAG(8)
PS_ZIGZAG(16)
PS_ZIGZAG(32)
PS_ZIGZAG(64)

#ifdef PS_X86
PS_INLINE PS_AVX2 __m256i ps_load_avx2(const uint8_t *from) {
  return _mm256_loadu_si256((const __m256i *)from);
}

PS_INLINE PS_AVX2 __m256i ps_unzigzag_avx2(__m256i x) {
  __m256i sign = _mm256_sub_epi32(_mm256_setzero_si256(),
                                  _mm256_and_si256(x, _mm256_set1_epi32(1)));
  return _mm256_xor_si256(_mm256_srli_epi32(x, 1), sign);
}

PS_INLINE PS_AVX2 __m256i ps_zigzag_avx2(__m256i x) {
  return _mm256_xor_si256(_mm256_add_epi32(x, x), _mm256_srai_epi32(x, 31));
}

PS_INLINE PS_AVX512 __m512i ps_unzigzag_avx512(__m512i x) {
  __m512i sign = _mm512_sub_epi32(_mm512_setzero_si512(),
                                  _mm512_and_si512(x, _mm512_set1_epi32(1)));
  return _mm512_xor_si512(_mm512_srli_epi32(x, 1), sign);
}

PS_INLINE PS_AVX512 __m512i ps_zigzag_avx512(__m512i x) {
  return _mm512_xor_si512(_mm512_add_epi32(x, x), _mm512_srai_epi32(x, 31));
}
#endif

#endif
