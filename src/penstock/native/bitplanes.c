/* Bit planes of the difference to the row above; penstock/bitplanes.py defines the format. */
#include "kernels.h"

#include <string.h>

#ifdef PS_X86
#include "transpose.h"
#endif

/* One block: 64 bytes and the 64 above them to 64 bytes of planes and their number; and back. The
 * planes to unpack may end with the last one of `width`. */
typedef int (*pack_block)(const uint8_t *current, const uint8_t *above, uint8_t *planes);
typedef void (*unpack_block)(const uint8_t *planes, int width, const uint8_t *above, uint8_t *out);

/* Writes 64 bytes past the caches; both addresses are multiples of 64. */
typedef void (*stream_block)(const uint8_t *from, uint8_t *to);

static const uint8_t ZEROS[PS_BLOCK];

/* The last rows of an image that is streamed, which the next rows need. */
enum { RING_BYTES = 16 << 10 };

/* Eight bytes at once in 64 bits: no carry crosses from one byte to the next. */
#define EACH(byte) (0x0101010101010101ull * (byte))

PS_INLINE uint64_t load_8(const uint8_t *bytes) {
  uint64_t x;
  memcpy(&x, bytes, 8);
  return x;
}

PS_INLINE uint64_t add_8(uint64_t a, uint64_t b) {
  return ((a & EACH(0x7F)) + (b & EACH(0x7F))) ^ ((a ^ b) & EACH(0x80));
}

PS_INLINE uint64_t subtract_8(uint64_t a, uint64_t b) {
  return ((a | EACH(0x80)) - (b & EACH(0x7F))) ^ ((a ^ ~b) & EACH(0x80));
}

PS_INLINE int pack_portable(const uint8_t *current, const uint8_t *above, uint8_t *planes) {
  uint64_t seen = 0;
  for (int group = 0; group < 8; group++) {
    uint64_t x = subtract_8(load_8(current + 8 * group), load_8(above + 8 * group));
    x = ((x & EACH(0x7F)) << 1) ^ ((x >> 7 & EACH(1)) * 0xFF);
    x = ps_transpose_bits(x);
    seen |= x;
    for (int bit = 0; bit < 8; bit++) planes[8 * bit + group] = (uint8_t)(x >> (8 * bit));
  }
  return seen ? 8 - __builtin_clzll(seen) / 8 : 0;
}

PS_INLINE void unpack_portable(const uint8_t *planes, int width, const uint8_t *above,
                               uint8_t *out) {
  uint8_t all[PS_BLOCK] = {0};
  memcpy(all, planes, 8 * (size_t)width);
  for (int group = 0; group < 8; group++) {
    uint64_t x = 0;
    for (int bit = 0; bit < 8; bit++) x |= (uint64_t)all[8 * bit + group] << (8 * bit);
    x = ps_transpose_bits(x);
    x = (x >> 1 & EACH(0x7F)) ^ ((x & EACH(1)) * 0xFF);
    x = add_8(x, load_8(above + 8 * group));
    memcpy(out + 8 * group, &x, 8);
  }
}

#ifdef PS_X86

PS_INLINE PS_AVX2 __m256i zigzag_avx2(const uint8_t *current, const uint8_t *above) {
  __m256i difference = _mm256_sub_epi8(_mm256_loadu_si256((const __m256i *)current),
                                       _mm256_loadu_si256((const __m256i *)above));
  return _mm256_xor_si256(_mm256_add_epi8(difference, difference),
                          _mm256_cmpgt_epi8(_mm256_setzero_si256(), difference));
}

PS_INLINE PS_AVX2 int pack_avx2(const uint8_t *current, const uint8_t *above, uint8_t *planes) {
  __m256i low = zigzag_avx2(current, above), high = zigzag_avx2(current + 32, above + 32);
  uint32_t seen = 0;
  for (int bit = 7; bit >= 0; bit--) {
    uint64_t plane = (uint32_t)_mm256_movemask_epi8(low);
    plane |= (uint64_t)(uint32_t)_mm256_movemask_epi8(high) << 32;
    memcpy(planes + 8 * bit, &plane, 8);
    seen |= (uint32_t)(plane != 0) << bit;
    low = _mm256_add_epi8(low, low);
    high = _mm256_add_epi8(high, high);
  }
  return 32 - (int)_lzcnt_u32(seen);
}

PS_INLINE PS_AVX2 __m256i transpose_bits_avx2(__m256i x) {
  __m256i t = _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi64(x, 7)),
                               _mm256_set1_epi64x(0x00AA00AA00AA00AAll));
  x = _mm256_xor_si256(x, _mm256_xor_si256(t, _mm256_slli_epi64(t, 7)));
  t = _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi64(x, 14)),
                       _mm256_set1_epi64x(0x0000CCCC0000CCCCll));
  x = _mm256_xor_si256(x, _mm256_xor_si256(t, _mm256_slli_epi64(t, 14)));
  t = _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi64(x, 28)),
                       _mm256_set1_epi64x(0x00000000F0F0F0F0ll));
  return _mm256_xor_si256(x, _mm256_xor_si256(t, _mm256_slli_epi64(t, 28)));
}

PS_INLINE PS_AVX2 void add_difference_avx2(__m256i value, const uint8_t *above, uint8_t *out) {
  __m256i half = _mm256_and_si256(_mm256_srli_epi16(value, 1), _mm256_set1_epi8(0x7F));
  __m256i sign = _mm256_sub_epi8(_mm256_setzero_si256(),
                                 _mm256_and_si256(value, _mm256_set1_epi8(1)));
  _mm256_storeu_si256((__m256i *)out,
                      _mm256_add_epi8(_mm256_xor_si256(half, sign),
                                      _mm256_loadu_si256((const __m256i *)above)));
}

PS_INLINE PS_AVX2 void unpack_avx2(const uint8_t *planes, int width, const uint8_t *above,
                                   uint8_t *out) {
  /* A masked load reads nothing where the mask is 0, so the planes may end anywhere. */
  const __m256i order = _mm256_setr_epi64x(0, 1, 2, 3), bound = _mm256_set1_epi64x(width);
  const __m256i later = _mm256_add_epi64(order, _mm256_set1_epi64x(4));
  __m256i low = _mm256_maskload_epi64((const long long *)planes,
                                      _mm256_cmpgt_epi64(bound, order));
  __m256i high = _mm256_maskload_epi64((const long long *)planes + 4,
                                       _mm256_cmpgt_epi64(bound, later));
  /* 8 planes of 8 bytes to 8 groups of 8: bytes of two planes, then words of four, then dwords. */
  const __m256i pairs = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
  low = _mm256_shuffle_epi8(low, pairs);
  high = _mm256_shuffle_epi8(high, pairs);
  __m256i even = _mm256_permute2x128_si256(low, high, 0x20);
  __m256i odd = _mm256_permute2x128_si256(low, high, 0x31);
  const __m256i halves = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  low = _mm256_permutevar8x32_epi32(_mm256_unpacklo_epi16(even, odd), halves);
  high = _mm256_permutevar8x32_epi32(_mm256_unpackhi_epi16(even, odd), halves);
  add_difference_avx2(transpose_bits_avx2(low), above, out);
  add_difference_avx2(transpose_bits_avx2(high), above + 32, out + 32);
}

/* Over GF(2), zigzag and its inverse are matrix products: one instruction each. The row for result
 * bit b is byte 7 - b of the matrix. */
#define ZIGZAG 0x808182848890A0C0ull
#define UNZIGZAG 0x0305091121418101ull

PS_INLINE PS_AVX512 int pack_avx512(const uint8_t *current, const uint8_t *above,
                                    uint8_t *planes) {
  __m512i x = _mm512_sub_epi8(_mm512_loadu_si512(current), _mm512_loadu_si512(above));
  x = _mm512_gf2p8affine_epi64_epi8(x, _mm512_set1_epi64((long long)ZIGZAG), 0);
  x = ps_planes_avx512(x);
  _mm512_storeu_si512(planes, x);
  return 32 - (int)_lzcnt_u32(_mm512_test_epi64_mask(x, x));
}

PS_INLINE PS_AVX512 void unpack_avx512(const uint8_t *planes, int width, const uint8_t *above,
                                       uint8_t *out) {
  __m512i x = _mm512_maskz_loadu_epi64((__mmask8)((1u << width) - 1), planes);
  x = ps_bytes_avx512(x);
  x = _mm512_gf2p8affine_epi64_epi8(x, _mm512_set1_epi64((long long)UNZIGZAG), 0);
  _mm512_storeu_si512(out, _mm512_add_epi8(x, _mm512_loadu_si512(above)));
}

#endif

PS_INLINE int64_t encode_with(pack_block pack, const uint8_t *image, int64_t size,
                              int64_t row_bytes, uint8_t *out) {
  int64_t blocks = (size + PS_BLOCK - 1) / PS_BLOCK;
  uint8_t *planes = out + blocks;
  for (int64_t block = 0; block < blocks; block++) {
    int64_t at = block * PS_BLOCK;
    int width;
    if (at >= row_bytes && at + PS_BLOCK <= size) {
      width = pack(image + at, image + at - row_bytes, planes);
    } else {
      uint8_t current[PS_BLOCK] = {0}, above[PS_BLOCK] = {0};
      for (int64_t i = at; i < at + PS_BLOCK && i < size; i++) {
        current[i - at] = image[i];
        if (i >= row_bytes) above[i - at] = image[i - row_bytes];
      }
      width = pack(current, above, planes);
    }
    out[block] = (uint8_t)width;
    /* Block b has 64 bytes of room from here: planes <= out + blocks + 64 b. */
    planes += 8 * width;
  }
  return planes - out;
}

PS_INLINE void decode_with(unpack_block unpack, const uint8_t *data, int64_t size,
                           int64_t row_bytes, uint8_t *out) {
  int64_t blocks = (size + PS_BLOCK - 1) / PS_BLOCK;
  const uint8_t *planes = data + blocks;
  for (int64_t block = 0; block < blocks; block++) {
    int64_t at = block * PS_BLOCK;
    int width = data[block];
    if (at >= row_bytes && row_bytes >= PS_BLOCK && at + PS_BLOCK <= size) {
      unpack(planes, width, out + at - row_bytes, out + at);
    } else {
      /* The first row, the last block, or rows so short that a block is above itself. */
      uint8_t difference[PS_BLOCK];
      unpack(planes, width, ZEROS, difference);
      for (int64_t i = at; i < at + PS_BLOCK && i < size; i++)
        out[i] = (uint8_t)(difference[i - at] + (i >= row_bytes ? out[i - row_bytes] : 0));
    }
    planes += 8 * width;
  }
}

/* The same for an image that nobody looks at soon. A cache line is not read before it is written
 * and takes no place in a cache, so what is above is kept in a few rows besides. */
PS_INLINE void stream_with(unpack_block unpack, stream_block stream, const uint8_t *data,
                           int64_t size, int64_t row_bytes, uint8_t *out) {
  uint8_t ring[RING_BYTES + 2 * PS_BLOCK];
  /* Blocks, and so their copies, start at multiples of 64. */
  uint8_t *first = ring + (row_bytes + PS_BLOCK - 1) / PS_BLOCK * PS_BLOCK;
  first += (PS_BLOCK - (uintptr_t)ring % PS_BLOCK) % PS_BLOCK;
  const uint8_t *planes = data + size / PS_BLOCK;
  uint8_t *at = first;
  memset(first - row_bytes, 0, (size_t)row_bytes);
  for (int64_t block = 0; block < size / PS_BLOCK; block++) {
    if (at + PS_BLOCK > ring + RING_BYTES) {
      memcpy(first - row_bytes, at - row_bytes, (size_t)row_bytes);
      at = first;
    }
    unpack(planes, data[block], at - row_bytes, at);
    stream(at, out + block * PS_BLOCK);
    at += PS_BLOCK;
    planes += 8 * data[block];
  }
}

static int can_stream(int64_t size, int64_t row_bytes, const uint8_t *out) {
  return (uintptr_t)out % PS_BLOCK == 0 && size % PS_BLOCK == 0 && row_bytes >= PS_BLOCK &&
         row_bytes <= RING_BYTES / 4;
}

static int64_t encode_portable(const uint8_t *image, int64_t size, int64_t row_bytes,
                               uint8_t *out) {
  return encode_with(pack_portable, image, size, row_bytes, out);
}

static void decode_portable(const uint8_t *data, int64_t size, int64_t row_bytes, uint8_t *out) {
  decode_with(unpack_portable, data, size, row_bytes, out);
}

#ifdef PS_X86
PS_AVX2 static int64_t encode_avx2(const uint8_t *image, int64_t size, int64_t row_bytes,
                                   uint8_t *out) {
  return encode_with(pack_avx2, image, size, row_bytes, out);
}

PS_INLINE PS_AVX2 void stream_avx2(const uint8_t *from, uint8_t *to) {
  _mm256_stream_si256((__m256i *)to, _mm256_load_si256((const __m256i *)from));
  _mm256_stream_si256((__m256i *)to + 1, _mm256_load_si256((const __m256i *)from + 1));
}

PS_INLINE PS_AVX512 void stream_avx512(const uint8_t *from, uint8_t *to) {
  _mm512_stream_si512((__m512i *)to, _mm512_load_si512(from));
}

PS_AVX2 static void decode_avx2(const uint8_t *data, int64_t size, int64_t row_bytes,
                                uint8_t *out) {
  decode_with(unpack_avx2, data, size, row_bytes, out);
}

PS_AVX512 static int64_t encode_avx512(const uint8_t *image, int64_t size, int64_t row_bytes,
                                       uint8_t *out) {
  return encode_with(pack_avx512, image, size, row_bytes, out);
}

PS_AVX512 static void decode_avx512(const uint8_t *data, int64_t size, int64_t row_bytes,
                                    uint8_t *out) {
  decode_with(unpack_avx512, data, size, row_bytes, out);
}

PS_AVX2 static void decode_streaming_avx2(const uint8_t *data, int64_t size, int64_t row_bytes,
                                          uint8_t *out) {
  stream_with(unpack_avx2, stream_avx2, data, size, row_bytes, out);
  _mm_sfence();
}

PS_AVX512 static void decode_streaming_avx512(const uint8_t *data, int64_t size,
                                              int64_t row_bytes, uint8_t *out) {
  stream_with(unpack_avx512, stream_avx512, data, size, row_bytes, out);
  _mm_sfence();
}
#endif

int64_t ps_bitplanes_encode(int level, const uint8_t *image, int64_t size, int64_t row_bytes,
                            uint8_t *out) {
#ifdef PS_X86
  if (level == PS_LEVEL_AVX512) return encode_avx512(image, size, row_bytes, out);
  if (level == PS_LEVEL_AVX2) return encode_avx2(image, size, row_bytes, out);
#endif
  (void)level;
  return encode_portable(image, size, row_bytes, out);
}

int64_t ps_bitplanes_decode(int level, const uint8_t *data, int64_t data_bytes, int64_t size,
                            int64_t row_bytes, int stream, uint8_t *out) {
  int64_t blocks = (size + PS_BLOCK - 1) / PS_BLOCK, planes = 0;
  int too_wide = 0;
  if (data_bytes < blocks) return PS_CORRUPT;
  for (int64_t block = 0; block < blocks; block++) {
    planes += data[block];
    too_wide |= data[block] > 8;
  }
  if (too_wide || data_bytes != blocks + 8 * planes) return PS_CORRUPT;
#ifdef PS_X86
  if (level == PS_LEVEL_AVX512) {
    if (stream && can_stream(size, row_bytes, out))
      decode_streaming_avx512(data, size, row_bytes, out);
    else
      decode_avx512(data, size, row_bytes, out);
    return 0;
  }
  if (level == PS_LEVEL_AVX2) {
    if (stream && can_stream(size, row_bytes, out))
      decode_streaming_avx2(data, size, row_bytes, out);
    else
      decode_avx2(data, size, row_bytes, out);
    return 0;
  }
#endif
  (void)level;
  (void)stream;
  decode_portable(data, size, row_bytes, out);
  return 0;
}
