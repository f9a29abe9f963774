/* Streams of bytes, each stored in the way that suits it.
 *
 *   0  as they are
 *   1  one LZ4 block, or one zstd frame, as the segment says
 *   2  sparse: a bit for each byte that is not 0, lowest first; then those bytes
 *   3  sparse, those bytes as by 1
 *
 * LZ4 finds nothing in noise but takes its time, and is slow where zeros are strewn: so it is only
 * tried where counting bytes, or a piece from the middle, shows that it is of use. */
#include <string.h>

#include "rollouts.h"

#ifdef PS_X86
#include <immintrin.h>
#endif

/* Of noise 2046 pairs among the sample are equal, give or take 45. */
enum { PROBE_BYTES = 512, SAMPLE_BYTES = 1024, MOST_PAIRS = 2250 };

typedef struct {
  int64_t zeros, repeats;
} counts_of;

/* Of `size` bytes from the one numbered `at` on, which has one before it. */
PS_INLINE counts_of count_plain(const uint8_t *from, int64_t at, int64_t size) {
  counts_of found = {0, 0};
  for (; at < size; at++) {
    found.zeros += from[at] == 0;
    found.repeats += from[at] == from[at - 1];
  }
  return found;
}

#ifdef PS_X86
PS_AVX2 static counts_of count_avx2(const uint8_t *from, int64_t size) {
  counts_of found = {0, 0};
  const __m256i none = _mm256_setzero_si256();
  for (int64_t at = 1; at + 32 <= size; at += 32) {
    __m256i x = _mm256_loadu_si256((const __m256i *)(from + at));
    __m256i before = _mm256_loadu_si256((const __m256i *)(from + at - 1));
    found.zeros += __builtin_popcount((unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(x, none)));
    found.repeats +=
        __builtin_popcount((unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(x, before)));
  }
  return found;
}
#endif

/* Bytes that are 0, and bytes that equal the one before. */
static counts_of count_bytes(int level, const uint8_t *from, int64_t size) {
  counts_of found = {0, 0};
  int64_t done = 1;
#ifdef PS_X86
  if (level >= PS_LEVEL_AVX2 && size) {
    found = count_avx2(from, size);
    done = 1 + (size - 1) / 32 * 32;
  }
#endif
  (void)level;
  counts_of rest = count_plain(from, done, size);
  found.zeros += rest.zeros + (size && from[0] == 0);
  found.repeats += rest.repeats;
  return found;
}

/* Whether bytes from the middle are as evenly spread as noise: how often two of them are equal. */
static int is_noise(const uint8_t *from, int64_t size) {
  uint16_t count[256] = {0};
  if (size < SAMPLE_BYTES) return 0;
  from += (size - SAMPLE_BYTES) / 2;
  int64_t pairs = 0;
  for (int i = 0; i < SAMPLE_BYTES; i++) pairs += count[from[i]]++;
  return pairs < MOST_PAIRS;
}

/* From the byte `at` on, of which 8 divides all: the bytes that are not 0 to `bytes`. */
PS_INLINE uint8_t *gather_plain(const uint8_t *from, int64_t at, int64_t size, uint8_t *bits,
                                uint8_t *bytes) {
  for (; at < size; at += 8) {
    int64_t run = size - at < 8 ? size - at : 8;
    unsigned found = 0;
    for (int64_t i = 0; i < run; i++) {
      *bytes = from[at + i];
      bytes += from[at + i] != 0;
      found |= (unsigned)(from[at + i] != 0) << i;
    }
    bits[at / 8] = (uint8_t)found;
  }
  return bytes;
}

PS_INLINE void scatter_plain(const uint8_t *bits, const uint8_t *bytes, int64_t at, int64_t size,
                             uint8_t *to) {
  for (; at < size; at++) {
    int is_there = bits[at / 8] >> at % 8 & 1;
    to[at] = (uint8_t)(is_there ? *bytes : 0);
    bytes += is_there;
  }
}

#ifdef PS_X86
PS_INLINE PS_AVX2 uint64_t lanes_of(unsigned bits) {
  return _pdep_u64(bits, 0x0101010101010101ull) * 0xFF;
}

PS_AVX2 static uint8_t *gather_avx2(const uint8_t *from, int64_t size, uint8_t *bits,
                                    uint8_t *bytes) {
  for (int64_t at = 0; at + 32 <= size; at += 32) {
    __m256i x = _mm256_loadu_si256((const __m256i *)(from + at));
    uint32_t found = ~(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(x, _mm256_setzero_si256()));
    memcpy(bits + at / 8, &found, 4);
    if (!found) continue;
    for (int64_t i = 0; i < 32; i += 8, found >>= 8) {
      uint64_t eight;
      memcpy(&eight, from + at + i, 8);
      eight = _pext_u64(eight, lanes_of(found & 255));
      memcpy(bytes, &eight, 8);
      bytes += __builtin_popcount(found & 255);
    }
  }
  return bytes;
}

PS_AVX2 static const uint8_t *scatter_avx2(const uint8_t *bits, const uint8_t *bytes, int64_t size,
                                           uint8_t *to) {
  for (int64_t at = 0; at + 8 <= size; at += 8) {
    unsigned found = bits[at / 8];
    uint64_t eight;
    memcpy(&eight, bytes, 8);
    eight = _pdep_u64(eight, lanes_of(found));
    memcpy(to + at, &eight, 8);
    bytes += __builtin_popcount(found);
  }
  return bytes;
}
#endif

/* The bytes that are not 0 to `bytes`, which has room for all and PS_PAD more. */
static int64_t gather(int level, const uint8_t *from, int64_t size, uint8_t *bits,
                      uint8_t *bytes) {
  uint8_t *end = bytes;
  int64_t done = 0;
#ifdef PS_X86
  if (level >= PS_LEVEL_AVX2) {
    end = gather_avx2(from, size, bits, bytes);
    done = size / 32 * 32;
  }
#endif
  (void)level;
  return gather_plain(from, done, size, bits, end) - bytes;
}

static void scatter(int level, const uint8_t *bits, const uint8_t *bytes, int64_t size,
                    uint8_t *to) {
  int64_t done = 0;
#ifdef PS_X86
  if (level >= PS_LEVEL_AVX2) {
    bytes = scatter_avx2(bits, bytes, size, to);
    done = size / 8 * 8;
  }
#endif
  (void)level;
  scatter_plain(bits, bytes, done, size, to);
}

int64_t ps_count_bits(const uint8_t *from, int64_t size) {
  int64_t found = 0, at = 0;
  for (; at + 8 <= size; at += 8) {
    uint64_t x;
    memcpy(&x, from + at, 8);
    x -= x >> 1 & 0x5555555555555555ull;
    x = (x & 0x3333333333333333ull) + (x >> 2 & 0x3333333333333333ull);
    found += (int64_t)(((x + (x >> 4)) & 0x0F0F0F0F0F0F0F0Full) * 0x0101010101010101ull >> 56);
  }
  for (; at < size; at++) found += __builtin_popcount(from[at]);
  return found;
}

/* Compressed, if that is smaller: its size; else 0, or PS_CORRUPT. */
static int64_t compress(const ps_coding *coding, const uint8_t *from, int64_t size, uint8_t *to) {
  const ps_libraries *libraries = coding->libraries;
  int64_t done = 0;
  if (coding->codec == PS_ROLLOUT_LZ4) {
    done = libraries->lz4_compress((const char *)from, (char *)to, (int)size,
                                   (int)ps_stream_bound(size), (int)coding->effort);
    if (done <= 0) return PS_CORRUPT;
  } else {
    size_t coded = libraries->zstd_compress(libraries->compressor, to,
                                            (size_t)ps_stream_bound(size), from, (size_t)size,
                                            (int)coding->effort);
    if (coded > (size_t)ps_stream_bound(size)) return PS_CORRUPT;
    done = (int64_t)coded;
  }
  return done < size ? done : 0;
}

/* Whether to try compressing bytes of which so many equal the one before. */
static int is_worth_it(const ps_coding *coding, const uint8_t *from, int64_t size, int64_t repeats,
                       uint8_t *to) {
  if (size == 0) return 0;
  if (size < 2 * PROBE_BYTES || repeats >= size / 8) return 1;
  if (coding->codec == PS_ROLLOUT_ZSTD) return !is_noise(from, size);
  int64_t done = compress(coding, from + (size - PROBE_BYTES) / 2, PROBE_BYTES, to);
  return done != 0 && done < PROBE_BYTES * 3 / 4;
}

int64_t ps_put_stream(const ps_coding *coding, int may_be_sparse, const uint8_t *from,
                      int64_t size, uint8_t *scratch, uint8_t *to, uint8_t *way) {
  counts_of found = count_bytes(coding->level, from, size);
  int64_t bits = (size + 7) / 8, done;
  if (may_be_sparse && coding->codec == PS_ROLLOUT_LZ4 && found.zeros >= size * 3 / 16 &&
      found.repeats < size - size / 16 && size >= PS_PAD) {
    int64_t count = gather(coding->level, from, size, to, scratch);
    found = count_bytes(coding->level, scratch, count);
    *way = 3;
    done = is_worth_it(coding, scratch, count, found.repeats, to + bits)
               ? compress(coding, scratch, count, to + bits)
               : 0;
    if (done) return done < 0 ? done : bits + done;
    *way = 2;
    memcpy(to + bits, scratch, (size_t)count);
    return bits + count;
  }
  *way = 1;
  done = is_worth_it(coding, from, size, found.repeats, to) ? compress(coding, from, size, to) : 0;
  if (done) return done;
  *way = 0;
  if (size) memcpy(to, from, (size_t)size);
  return size;
}

static int decompress(const ps_coding *coding, const uint8_t *from, int64_t stored, uint8_t *to,
                      int64_t size) {
  const ps_libraries *libraries = coding->libraries;
  if (coding->codec == PS_ROLLOUT_LZ4) return ps_lz4_decompress(from, stored, to, size) == size;
  return libraries->zstd_decompress(libraries->decompressor, to, (size_t)size, from,
                                    (size_t)stored) == (size_t)size;
}

int ps_get_stream(const ps_coding *coding, int way, const uint8_t *from, int64_t stored,
                  uint8_t *scratch, uint8_t *to, int64_t size) {
  if (way == 0) {
    if (stored == size && size) memcpy(to, from, (size_t)size);
    return stored == size;
  }
  if (way == 1) return decompress(coding, from, stored, to, size);
  int64_t bits = (size + 7) / 8;
  if (way > 3 || stored < bits) return 0;
  if (size % 8 && from[bits - 1] >> size % 8) return 0;
  int64_t count = ps_count_bits(from, bits);
  const uint8_t *coded = from + bits;
  if (way == 2) {
    if (stored - bits != count) return 0;
    if (count) memcpy(scratch, coded, (size_t)count);
  } else if (!decompress(coding, coded, stored - bits, scratch, count)) {
    return 0;
  }
  scatter(coding->level, from, scratch, size, to);
  return 1;
}
