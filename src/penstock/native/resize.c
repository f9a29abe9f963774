/* Bilinear resizing as OpenCV does it; penstock/resize.py defines it.
 *
 * A row of the image is first stretched or shrunk to the width of the result, in 1/128 of a level;
 * two such rows then make a row of the result. Neighbouring results share rows, so the last two
 * are kept: those of even and of odd number.
 *
 * The vector kernels do with 16 bits what the definition does with 32: where the two weights of a
 * column add up to 2048,
 *
 *     a (2048 - w) + b w >> 4  =  64 (a + b) + (128 (b - a) * 32 (w - 1024) >> 16)
 */
#include "kernels.h"

#include <stdlib.h>

#ifdef PS_X86
#include <immintrin.h>
#endif

enum {
  CHANNELS = 3,
  ONE = 2048,
  LANES = 32,
  /* The AVX2 kernel makes four pixels at once, from loads of 8 bytes each. */
  QUAD = 4,
  QUAD_LANES = 16,
  QUAD_LOAD = 8,
  /* Room behind a row for vectors that reach over its end. */
  PAD = 32,
};

typedef struct {
  int64_t out_width;
  int64_t row_bytes, out_words;
  const int32_t *first;
  const int16_t *weights;
  int16_t *rows[2]; /* in 1/128 of a level */
  int32_t *starts;  /* where the vector kernels load, in bytes of a row */
  uint8_t *places;  /* for each lane the two input bytes, counted from what was loaded */
  int16_t *slopes;  /* for each lane 32 (w - 1024) */
} plan;

static void stretch_portable(const plan *p, const uint8_t *image, int16_t *row) {
  for (int64_t x = 0; x < p->out_width; x++) {
    const uint8_t *left = image + CHANNELS * p->first[x];
    int32_t near = p->weights[2 * x], far = p->weights[2 * x + 1];
    const uint8_t *right = far ? left + CHANNELS : left;
    for (int c = 0; c < CHANNELS; c++)
      row[CHANNELS * x + c] = (int16_t)((left[c] * near + right[c] * far) >> 4);
  }
}

PS_INLINE void blend_from(int64_t from, const plan *p, const int16_t *top, const int16_t *bottom,
                          const int16_t *weights, uint8_t *restrict out) {
  const int64_t count = p->out_words;
  const int16_t near = weights[0], far = weights[1];
  for (int64_t i = from; i < count; i++)
    out[i] = (uint8_t)(((top[i] * near >> 16) + (bottom[i] * far >> 16) + 2) >> 2);
}

static void blend_portable(const plan *p, const int16_t *top, const int16_t *bottom,
                           const int16_t *weights, uint8_t *out) {
  blend_from(0, p, top, bottom, weights, out);
}

#ifdef PS_X86

/* A lane is told which two bytes of `base` onwards it mixes. */
PS_INLINE void plan_lane(const plan *p, int64_t lane, int64_t x, int c, int64_t base) {
  int32_t far = p->weights[2 * x + 1];
  int64_t left = CHANNELS * p->first[x] + c - base, right = left + CHANNELS;
  /* 32 * 1024 would be too large: all the weight then lies on the nearer of two equal bytes. What
   * weighs 0 may be any byte, so also one beyond what was loaded. */
  if (far == ONE) left = right;
  p->places[2 * lane] = (uint8_t)left;
  p->places[2 * lane + 1] = (uint8_t)right;
  p->slopes[lane] = (int16_t)((far % ONE - ONE / 2) * 32);
}

/* Whether the columns are fit for 16 bits: all but a few of results wider than 8192. */
static int weights_add_up(const plan *p) {
  for (int64_t x = 0; x < p->out_width; x++)
    if (p->weights[2 * x] + p->weights[2 * x + 1] != ONE) return 0;
  return 1;
}

static void plan_quads(plan *p) {
  for (int64_t x = 0; x < (p->out_width + QUAD - 1) / QUAD * QUAD; x++) {
    int64_t pixel = x < p->out_width ? x : p->out_width - 1, odd = x % 2;
    int64_t start = CHANNELS * p->first[pixel], last = p->row_bytes - QUAD_LOAD;
    if (start > last) start = last;
    p->starts[x] = (int32_t)start;
    /* Two pixels side by side in each half of a register, in two loads. */
    for (int c = 0; c < CHANNELS; c++)
      plan_lane(p, QUAD_LANES / 2 * (x / 2) + CHANNELS * odd + c, pixel, c,
                start - QUAD_LOAD * odd);
  }
}

/* How many bytes from its start on any vector needs. */
static int64_t plan_vectors(plan *p) {
  int64_t lane = 0, start = 0, farthest = 0;
  for (int64_t x = 0; x < p->out_width; x++) {
    for (int c = 0; c < CHANNELS; c++, lane++) {
      if (lane % LANES == 0) {
        start = CHANNELS * p->first[x];
        p->starts[lane / LANES] = (int32_t)start;
      }
      plan_lane(p, lane, x, c, start);
      int64_t end = CHANNELS * (p->first[x] + (p->weights[2 * x + 1] != 0)) + c + 1 - start;
      if (end > farthest) farthest = end;
    }
  }
  return farthest;
}

PS_AVX2 static void stretch_avx2(const plan *p, const uint8_t *image, int16_t *row) {
  const __m256i both = _mm256_set1_epi16(0x4040), apart = _mm256_set1_epi16(0x40C0);
  const uint8_t *places = p->places;
  const int16_t *slopes = p->slopes;
  for (int64_t x = 0; x < p->out_width; x += QUAD) {
    const int32_t *starts = p->starts + x;
    __m128i low = _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)(image + starts[0])),
                                     _mm_loadl_epi64((const __m128i *)(image + starts[1])));
    __m128i high = _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)(image + starts[2])),
                                      _mm_loadl_epi64((const __m128i *)(image + starts[3])));
    __m256i pairs = _mm256_shuffle_epi8(_mm256_set_m128i(high, low),
                                        _mm256_loadu_si256((const __m256i *)places));
    __m256i difference = _mm256_maddubs_epi16(pairs, apart);
    __m256i words = _mm256_add_epi16(
        _mm256_maddubs_epi16(pairs, both),
        _mm256_mulhi_epi16(_mm256_add_epi16(difference, difference),
                           _mm256_loadu_si256((const __m256i *)slopes)));
    /* The two lanes without a pixel are overwritten. */
    _mm_storeu_si128((__m128i *)(row + CHANNELS * x), _mm256_castsi256_si128(words));
    _mm_storeu_si128((__m128i *)(row + CHANNELS * (x + 2)), _mm256_extracti128_si256(words, 1));
    places += 2 * QUAD_LANES;
    slopes += QUAD_LANES;
  }
}

PS_INLINE PS_AVX2 __m256i blend16_avx2(const int16_t *top, const int16_t *bottom, __m256i near,
                                       __m256i far) {
  __m256i sum = _mm256_add_epi16(
      _mm256_mulhi_epi16(_mm256_loadu_si256((const __m256i *)top), near),
      _mm256_mulhi_epi16(_mm256_loadu_si256((const __m256i *)bottom), far));
  return _mm256_srli_epi16(_mm256_add_epi16(sum, _mm256_set1_epi16(2)), 2);
}

PS_AVX2 static void blend_avx2(const plan *p, const int16_t *top, const int16_t *bottom,
                               const int16_t *weights, uint8_t *out) {
  const __m256i near = _mm256_set1_epi16(weights[0]), far = _mm256_set1_epi16(weights[1]);
  int64_t i = 0;
  for (; i + 32 <= p->out_words; i += 32) {
    __m256i bytes = _mm256_packus_epi16(blend16_avx2(top + i, bottom + i, near, far),
                                        blend16_avx2(top + i + 16, bottom + i + 16, near, far));
    _mm256_storeu_si256((__m256i *)(out + i), _mm256_permute4x64_epi64(bytes, 0xD8));
  }
  blend_from(i, p, top, bottom, weights, out);
}

PS_INLINE PS_AVX512 __m512i load_avx512(const uint8_t *bytes, int64_t rest) {
  __mmask64 mask = rest >= 64 ? ~0ull : rest > 0 ? (1ull << rest) - 1 : 0;
  return _mm512_maskz_loadu_epi8(mask, bytes);
}

/* 32 lanes at once, from 64 or 128 neighbouring bytes: no gathers. */
PS_INLINE PS_AVX512 void stretch_from(int wide, const plan *p, const uint8_t *image,
                                      int16_t *row) {
  const __m512i both = _mm512_set1_epi16(0x4040), apart = _mm512_set1_epi16(0x40C0);
  for (int64_t i = 0; i < p->out_words; i += LANES) {
    int64_t start = p->starts[i / LANES], rest = p->row_bytes - start;
    __m512i places = _mm512_loadu_si512(p->places + 2 * i), pairs;
    if (wide)
      pairs = _mm512_permutex2var_epi8(load_avx512(image + start, rest), places,
                                       load_avx512(image + start + 64, rest - 64));
    else
      pairs = _mm512_permutexvar_epi8(places, load_avx512(image + start, rest));
    __m512i difference = _mm512_maddubs_epi16(pairs, apart);
    __m512i words = _mm512_add_epi16(
        _mm512_maddubs_epi16(pairs, both),
        _mm512_mulhi_epi16(_mm512_add_epi16(difference, difference),
                           _mm512_loadu_si512(p->slopes + i)));
    _mm512_storeu_si512(row + i, words);
  }
}

PS_AVX512 static void stretch_avx512(const plan *p, const uint8_t *image, int16_t *row) {
  stretch_from(0, p, image, row);
}

PS_AVX512 static void stretch_wide_avx512(const plan *p, const uint8_t *image, int16_t *row) {
  stretch_from(1, p, image, row);
}

PS_AVX512 static void blend_avx512(const plan *p, const int16_t *top, const int16_t *bottom,
                                   const int16_t *weights, uint8_t *out) {
  const __m512i near = _mm512_set1_epi16(weights[0]), far = _mm512_set1_epi16(weights[1]);
  const __m512i half = _mm512_set1_epi16(2);
  for (int64_t i = 0; i < p->out_words; i += LANES) {
    __m512i sum = _mm512_add_epi16(_mm512_mulhi_epi16(_mm512_loadu_si512(top + i), near),
                                   _mm512_mulhi_epi16(_mm512_loadu_si512(bottom + i), far));
    __m512i words = _mm512_srli_epi16(_mm512_add_epi16(sum, half), 2);
    int64_t rest = p->out_words - i;
    if (rest >= LANES)
      _mm256_storeu_si256((__m256i *)(out + i), _mm512_cvtepi16_epi8(words));
    else
      _mm512_mask_cvtepi16_storeu_epi8(out + i, (1u << rest) - 1, words);
  }
}

#endif

typedef void (*stretch_kernel)(const plan *, const uint8_t *, int16_t *);
typedef void (*blend_kernel)(const plan *, const int16_t *, const int16_t *, const int16_t *,
                             uint8_t *);

int64_t ps_resize(int level, const uint8_t *images, int64_t count, int64_t height, int64_t width,
                  uint8_t *out, int64_t out_height, int64_t out_width, const int32_t *row_first,
                  const int16_t *row_weights, const int32_t *column_first,
                  const int16_t *column_weights) {
  plan p = {.out_width = out_width,
            .row_bytes = CHANNELS * width,
            .out_words = CHANNELS * out_width,
            .first = column_first,
            .weights = column_weights};
  stretch_kernel stretch = stretch_portable;
  blend_kernel blend = blend_portable;

  /* One block of memory, the widest type first; zeros, so that padding is defined. */
  int64_t row_words = p.out_words + PAD, quads = out_width / QUAD + 1;
  int64_t lanes = p.out_words + LANES;
  if (lanes < QUAD_LANES * quads) lanes = QUAD_LANES * quads;
  int32_t *memory = calloc((size_t)(4 * QUAD * quads + 2 * (2 * row_words + lanes) + 2 * lanes), 1);
  if (!memory) return PS_NO_MEMORY;
  p.starts = memory;
  p.rows[0] = (int16_t *)(memory + QUAD * quads);
  p.rows[1] = p.rows[0] + row_words;
  p.slopes = p.rows[1] + row_words;
  p.places = (uint8_t *)(p.slopes + lanes);

#ifdef PS_X86
  if (level >= PS_LEVEL_AVX2) blend = blend_avx2;
  if (level == PS_LEVEL_AVX512) blend = blend_avx512;
  if (level >= PS_LEVEL_AVX2 && weights_add_up(&p)) {
    int64_t span = level == PS_LEVEL_AVX512 ? plan_vectors(&p) : INT64_MAX;
    if (span <= 64) {
      stretch = stretch_avx512;
    } else if (span <= 128) {
      stretch = stretch_wide_avx512;
    } else if (p.row_bytes >= QUAD_LOAD) {
      plan_quads(&p);
      stretch = stretch_avx2;
    }
  }
#endif
  (void)level;

  for (int64_t i = 0; i < count; i++) {
    const uint8_t *image = images + i * height * p.row_bytes;
    uint8_t *result = out + i * out_height * p.out_words;
    int64_t kept[2] = {-1, -1};
    for (int64_t y = 0; y < out_height; y++) {
      const int64_t rows[2] = {row_first[y] < 0 ? 0 : row_first[y],
                               row_first[y] + 1 < height ? row_first[y] + 1 : height - 1};
      for (int side = 0; side < 2; side++) {
        int64_t row = rows[side], slot = row % 2;
        /* A row without weight may hold anything. */
        if (kept[slot] == row || row_weights[2 * y + side] == 0) continue;
        stretch(&p, image + row * p.row_bytes, p.rows[slot]);
        kept[slot] = row;
      }
      blend(&p, p.rows[rows[0] % 2], p.rows[rows[1] % 2], row_weights + 2 * y,
            result + y * p.out_words);
    }
  }
  free(memory);
  return 0;
}
