/* Bilinear resizing; penstock/resize.py defines it. */
#include "kernels.h"

#include <stdlib.h>
#include <string.h>

#ifdef PS_X86
#include <immintrin.h>
#endif

enum {
  CHANNELS = 3,
  SCALE = 7,
  HALF_LEVEL = 1 << (SCALE - 1),
  /* Room behind a row of mixed values for vectors that reach over its end. */
  PAD = 64,
  LANES = 32,
};

typedef struct {
  int64_t out_width;
  int64_t row_words, out_words;
  const int32_t *first, *weight;
  int16_t *quads;   /* the weight of each column four times */
  int16_t *weights; /* of each output word, filled up to full vectors */
  int16_t *places;  /* where an output word's input is, counted from the start of its vector's */
  int32_t *starts;  /* first input word of each vector */
  int16_t *mixed;   /* one row, mixed from two rows of the image, 1/128 of a level */
  uint8_t *row;     /* one row of the result */
} plan;

PS_INLINE int32_t mix(int32_t a, int32_t b, int32_t weight) {
  return a + (((b - a) * weight + (1 << 14)) >> 15);
}

PS_INLINE void rows_from(int64_t from, const plan *p, const uint8_t *top, const uint8_t *bottom,
                         int32_t weight) {
  for (int64_t i = from; i < p->row_words; i++)
    p->mixed[i] = (int16_t)mix(top[i] << SCALE, bottom[i] << SCALE, weight);
}

static void rows_portable(const plan *p, const uint8_t *top, const uint8_t *bottom,
                          int32_t weight) {
  rows_from(0, p, top, bottom, weight);
}

static void columns_portable(const plan *p, uint8_t *out) {
  for (int64_t x = 0; x < p->out_width; x++) {
    const int16_t *left = p->mixed + CHANNELS * p->first[x];
    for (int c = 0; c < CHANNELS; c++)
      out[CHANNELS * x + c] = (uint8_t)(
          (mix(left[c], left[c + CHANNELS], p->weight[x]) + HALF_LEVEL) >> SCALE);
  }
}

#ifdef PS_X86

PS_INLINE PS_AVX2 __m256i mix_avx2(__m256i a, __m256i b, __m256i weight) {
  return _mm256_add_epi16(a, _mm256_mulhrs_epi16(_mm256_sub_epi16(b, a), weight));
}

PS_INLINE PS_AVX2 __m256i widen_avx2(const uint8_t *bytes) {
  return _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)bytes)), SCALE);
}

PS_AVX2 static void rows_avx2(const plan *p, const uint8_t *top, const uint8_t *bottom,
                              int32_t weight) {
  const __m256i weights = _mm256_set1_epi16((int16_t)weight);
  int64_t i = 0;
  for (; i + 16 <= p->row_words; i += 16)
    _mm256_storeu_si256((__m256i *)(p->mixed + i),
                        mix_avx2(widen_avx2(top + i), widen_avx2(bottom + i), weights));
  rows_from(i, p, top, bottom, weight);
}

PS_INLINE PS_AVX2 __m256i two_avx2(const int16_t *low, const int16_t *high) {
  return _mm256_inserti128_si256(
      _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low)),
      _mm_loadu_si128((const __m128i *)high), 1);
}

/* Four pixels at once: 16 bytes hold a pixel and its right neighbour. */
PS_AVX2 static void columns_avx2(const plan *p, uint8_t *out) {
  const __m256i dense = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 2, 4, 5, 6, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
  const __m256i half = _mm256_set1_epi16(HALF_LEVEL);
  const int16_t *mixed = p->mixed;
  const int32_t *first = p->first;
  int64_t x = 0;
  for (; x + 4 <= p->out_width; x += 4) {
    __m256i even = two_avx2(mixed + CHANNELS * first[x], mixed + CHANNELS * first[x + 2]);
    __m256i odd = two_avx2(mixed + CHANNELS * first[x + 1], mixed + CHANNELS * first[x + 3]);
    __m256i left = _mm256_unpacklo_epi64(even, odd);
    __m256i right = _mm256_unpacklo_epi64(_mm256_srli_si256(even, 6), _mm256_srli_si256(odd, 6));
    __m256i weights = _mm256_loadu_si256((const __m256i *)(p->quads + 4 * x));
    __m256i words = _mm256_srli_epi16(_mm256_add_epi16(mix_avx2(left, right, weights), half),
                                      SCALE);
    __m256i bytes = _mm256_shuffle_epi8(_mm256_packus_epi16(words, words), dense);
    _mm_storel_epi64((__m128i *)(p->row + CHANNELS * x), _mm256_castsi256_si128(bytes));
    _mm_storel_epi64((__m128i *)(p->row + CHANNELS * x + 6), _mm256_extracti128_si256(bytes, 1));
  }
  memcpy(out, p->row, (size_t)(CHANNELS * x));
  for (; x < p->out_width; x++) {
    const int16_t *left = mixed + CHANNELS * first[x];
    for (int c = 0; c < CHANNELS; c++)
      out[CHANNELS * x + c] = (uint8_t)(
          (mix(left[c], left[c + CHANNELS], p->weight[x]) + HALF_LEVEL) >> SCALE);
  }
}

PS_INLINE PS_AVX512 __m512i mix_avx512(__m512i a, __m512i b, __m512i weight) {
  return _mm512_add_epi16(a, _mm512_mulhrs_epi16(_mm512_sub_epi16(b, a), weight));
}

PS_INLINE PS_AVX512 __m512i widen_avx512(__mmask32 mask, const uint8_t *bytes) {
  return _mm512_slli_epi16(_mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, bytes)), SCALE);
}

PS_AVX512 static void rows_avx512(const plan *p, const uint8_t *top, const uint8_t *bottom,
                                  int32_t weight) {
  const __m512i weights = _mm512_set1_epi16((int16_t)weight);
  for (int64_t i = 0; i < p->row_words; i += LANES) {
    int64_t left = p->row_words - i;
    __mmask32 mask = left >= LANES ? 0xFFFFFFFFu : (1u << left) - 1;
    _mm512_storeu_si512(
        p->mixed + i,
        mix_avx512(widen_avx512(mask, top + i), widen_avx512(mask, bottom + i), weights));
  }
}

/* 32 words at once, picked from 64 neighbouring ones: no gathers. */
PS_AVX512 static void columns_avx512(const plan *p, uint8_t *out) {
  const __m512i half = _mm512_set1_epi16(HALF_LEVEL), next = _mm512_set1_epi16(CHANNELS);
  for (int64_t i = 0; i < p->out_words; i += LANES) {
    const int16_t *from = p->mixed + p->starts[i / LANES];
    __m512i low = _mm512_loadu_si512(from), high = _mm512_loadu_si512(from + LANES);
    __m512i places = _mm512_loadu_si512(p->places + i);
    __m512i left = _mm512_permutex2var_epi16(low, places, high);
    __m512i right = _mm512_permutex2var_epi16(low, _mm512_add_epi16(places, next), high);
    __m512i words = mix_avx512(left, right, _mm512_loadu_si512(p->weights + i));
    words = _mm512_srli_epi16(_mm512_add_epi16(words, half), SCALE);
    int64_t rest = p->out_words - i;
    if (rest >= LANES)
      _mm256_storeu_si256((__m256i *)(out + i), _mm512_cvtepi16_epi8(words));
    else
      _mm512_mask_cvtepi16_storeu_epi8(out + i, (1u << rest) - 1, words);
  }
}

/* Whether the inputs of any 32 neighbouring output words lie within 64. */
static int plan_vectors(plan *p) {
  int32_t farthest = 0;
  for (int64_t i = 0; i < p->out_words; i++) {
    int64_t x = i / CHANNELS;
    if (i % LANES == 0) p->starts[i / LANES] = CHANNELS * p->first[x];
    int32_t place = CHANNELS * p->first[x] + (int32_t)(i % CHANNELS) - p->starts[i / LANES];
    if (place > farthest) farthest = place;
    p->places[i] = (int16_t)place;
    p->weights[i] = (int16_t)p->weight[x];
  }
  return farthest + CHANNELS < 2 * LANES;
}

#endif

typedef void (*rows_kernel)(const plan *, const uint8_t *, const uint8_t *, int32_t);
typedef void (*columns_kernel)(const plan *, uint8_t *);

int64_t ps_resize(int level, const uint8_t *images, int64_t count, int64_t height, int64_t width,
                  uint8_t *out, int64_t out_height, int64_t out_width, const int32_t *row_first,
                  const int32_t *row_weight, const int32_t *column_first,
                  const int32_t *column_weight) {
  plan p = {.out_width = out_width,
            .row_words = CHANNELS * width,
            .out_words = CHANNELS * out_width,
            .first = column_first,
            .weight = column_weight};
  rows_kernel mix_rows = rows_portable;
  columns_kernel mix_columns = columns_portable;
  int64_t vectors = p.out_words / LANES + 1;

  /* One block of memory, the widest type first; zeros, so that padding is defined. */
  size_t words = (size_t)(p.row_words + PAD + 4 * out_width + 2 * LANES * vectors);
  int32_t *memory = calloc(1, 4 * (size_t)vectors + 2 * words + (size_t)(p.out_words + PAD));
  if (!memory) return PS_NO_MEMORY;
  p.starts = memory;
  p.mixed = (int16_t *)(memory + vectors);
  p.quads = p.mixed + p.row_words + PAD;
  p.weights = p.quads + 4 * out_width;
  p.places = p.weights + LANES * vectors;
  p.row = (uint8_t *)(p.places + LANES * vectors);

#ifdef PS_X86
  if (level >= PS_LEVEL_AVX2) {
    for (int64_t i = 0; i < 4 * out_width; i++) p.quads[i] = (int16_t)column_weight[i / 4];
    mix_rows = rows_avx2;
    mix_columns = columns_avx2;
  }
  if (level == PS_LEVEL_AVX512) {
    mix_rows = rows_avx512;
    if (plan_vectors(&p)) mix_columns = columns_avx512;
  }
#endif
  (void)level;

  for (int64_t i = 0; i < count; i++) {
    const uint8_t *image = images + i * height * p.row_words;
    uint8_t *result = out + i * out_height * p.out_words;
    for (int64_t y = 0; y < out_height; y++) {
      const uint8_t *top = image + row_first[y] * p.row_words;
      const uint8_t *bottom = row_first[y] + 1 < height ? top + p.row_words : top;
      mix_rows(&p, top, bottom, row_weight[y]);
      mix_columns(&p, result + y * p.out_words);
    }
  }
  free(memory);
  return 0;
}
