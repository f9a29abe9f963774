/* The kernels of Penstock: resizing, bit planes, LZ4 and LZF decoding, reading of cached frames,
 * gathering memory, byte planes of numbers, segments of rollouts.
 *
 * Plain C11, called by ctypes, which lets other Python threads run meanwhile. No call keeps state.
 * Every decoder checks all lengths before it reads or writes: its input may be hostile.
 *
 * `level` says which instructions to use; ps_best_level() is the highest this CPU has. All levels
 * give equal bytes.
 */
#ifndef PENSTOCK_KERNELS_H
#define PENSTOCK_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#define PS_API __attribute__((visibility("default")))
#define PS_INLINE static inline __attribute__((always_inline))
#else
#error "the kernels need GCC or Clang"
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the kernels need a little-endian machine"
#endif

#if defined(__x86_64__)
#define PS_X86 1
#define PS_AVX2 __attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt")))
/* Ice Lake, Zen 4 and later. */
#define PS_AVX512 \
  __attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512vl,avx512dq," \
                        "avx512vbmi,gfni")))
#endif

enum { PS_PORTABLE = 0, PS_LEVEL_AVX2 = 1, PS_LEVEL_AVX512 = 2 };

/* The order of penstock.codecs.IMAGE_CODECS. */
enum { PS_RAW = 0, PS_LZ4 = 1, PS_BITPLANES = 2, PS_BITPLANES_LZ4 = 3 };

enum { PS_BLOCK = 64, PS_NO_MEMORY = -1, PS_CORRUPT = -2 };

/* Changes whenever a signature below or a meaning of its arguments does. */
PS_API int ps_abi(void);
PS_API int ps_best_level(void);

/* Copies `count` pieces of memory into `to`, each of `sizes[i]` bytes from the address `from[i]` to
 * `to + offsets[i]`. */
PS_API void ps_gather(const uint64_t *from, const uint64_t *sizes, const uint64_t *offsets,
                      int64_t count, uint8_t *to);

/* Byte p of each of `count` numbers of `item` bytes to planes[p * count ...]; and back, from planes
 * at `item` addresses. */
PS_API void ps_split_planes(int level, const uint8_t *raw, int64_t count, int64_t item,
                            uint8_t *planes);
PS_API void ps_join_planes(int level, const uint64_t *planes, int64_t count, int64_t item,
                           uint8_t *out);

/* Bit b of each of `size` bytes to out[b * (size / 8) ...], eight to a byte and the first lowest;
 * the last `size` % 8 bytes as they are, at the end. And back. */
PS_API void ps_split_bits(int level, const uint8_t *plane, int64_t size, uint8_t *out);
PS_API void ps_join_bits(int level, const uint8_t *bits, int64_t size, uint8_t *out);

/* Packs `size` bytes into `out`, which has room for size + size / 64 * 2 + 8 bytes; returns how
 * many that gave. And back: 0, or PS_CORRUPT where the data is not just that of `size` bytes. */
PS_API int64_t ps_pack(int level, const uint8_t *plane, int64_t size, uint8_t *out);
PS_API int64_t ps_unpack(int level, const uint8_t *data, int64_t data_bytes, int64_t size,
                         uint8_t *out);

/* The differences of `count` numbers of 2, 4 or 8 bytes to those of a base, in zigzag order; back,
 * in place; and float32 rounded to bfloat16. */
PS_API void ps_subtract(const uint8_t *raw, const uint8_t *base, int64_t count, int64_t item,
                        uint8_t *out);
PS_API void ps_add(const uint8_t *base, int64_t count, int64_t item, uint8_t *out);
PS_API void ps_round_bfloat16(const uint8_t *floats, int64_t count, uint8_t *out);

/* Encodes `count` images of `rows` times `row_bytes` bytes into `out`, which has room for
 * count * ceil(rows * row_bytes / 64) * 65 bytes. Writes the size of each; returns their sum. */
PS_API int64_t ps_encode_bitplanes(int level, const uint8_t *images, int64_t count, int64_t rows,
                                   int64_t row_bytes, uint8_t *out, uint32_t *sizes);

/* Decodes `count` images from `data`, whose `sizes` the caller has summed up. Returns `count`, or
 * the index of the first image that does not decode to its size, or PS_NO_MEMORY. */
PS_API int64_t ps_decode_images(int level, int codec, const uint8_t *data, const uint32_t *sizes,
                                int64_t count, int64_t rows, int64_t row_bytes, uint8_t *out);

/* Resizes `count` images of height x width pixels, 3 bytes each, by the taps of penstock/resize.py:
 * for each output row and column the first of two input ones, and the weights of both. Returns 0
 * or PS_NO_MEMORY. */
PS_API int64_t ps_resize(int level, const uint8_t *images, int64_t count, int64_t height,
                         int64_t width, uint8_t *out, int64_t out_height, int64_t out_width,
                         const int32_t *row_first, const int16_t *row_weights,
                         const int32_t *column_first, const int16_t *column_weights);

/* Both return the number of bytes written, or PS_CORRUPT. */
PS_API int64_t ps_lzf_decompress(const uint8_t *data, int64_t data_bytes, uint8_t *out,
                                 int64_t out_bytes);
PS_API int64_t ps_lz4_decompress(const uint8_t *data, int64_t data_bytes, uint8_t *out,
                                 int64_t out_bytes);

/* XXH3-64 with a seed; the library that brings it is Python's. */
typedef uint64_t (*ps_hash)(const void *data, size_t size, uint64_t seed);

/* A file of cached frames that is open: what its header says, checked against its size. */
typedef struct {
  int64_t descriptor, codec, observations, index_at, data_at, data_bytes;
} ps_frame_file;

/* One observation, and where it goes: `place_count` (at least 1) numbers from places[first_place]
 * on, which count observations of `out`. */
typedef struct {
  int64_t file, row, first_place, place_count;
} ps_observation;

/* Reads `count` observations of `cameras` images each and decodes them into `out`. Those of
 * neighbouring rows that follow one another are read at once. Returns `count`, or the index of the
 * first one that cannot be read, does not match its hash or does not decode, or PS_NO_MEMORY. */
PS_API int64_t ps_read_frames(int level, ps_hash hash, const ps_frame_file *files,
                              const ps_observation *wanted, int64_t count, const int64_t *places,
                              int64_t cameras, int64_t rows, int64_t row_bytes, uint8_t *out);

/* Sizes of the encoded images of `count` observations, [observation][camera]; and where each of
 * them begins in its file, its hash, and the seed of that, [observation][3]. Only indexes are read,
 * and places are not looked at; without `hash` seeds are 0. Returns as ps_read_frames does. */
PS_API int64_t ps_record_sizes(ps_hash hash, const ps_frame_file *files,
                               const ps_observation *wanted, int64_t count, int64_t cameras,
                               int64_t rows, int64_t row_bytes, uint32_t *sizes,
                               uint64_t *spots);

/* Reads `count` observations as they lie in their files, back to back, into `out` of just their
 * size, and checks them. `ahead` more follow in `wanted`: once something was not in memory, the
 * system is told to read all of them at once. `*advised` is up to which of `wanted` it has been
 * told, 0 for never. Returns as ps_read_frames does. */
PS_API int64_t ps_read_records(ps_hash hash, const ps_frame_file *files,
                               const ps_observation *wanted, int64_t count, int64_t ahead,
                               int64_t *advised, int64_t cameras, int64_t rows, int64_t row_bytes,
                               uint8_t *out, int64_t size);

/* Decodes `count` observations of `cameras` images each from `data`, whose `sizes` the caller has
 * summed up, into their places: of observation i those from places[firsts[i]] to before
 * places[firsts[i + 1]], which count the `room` observations of `out`. Returns `count`, or the
 * index of the first observation that does not decode, or PS_NO_MEMORY. */
PS_API int64_t ps_decode_observations(int level, int codec, const uint8_t *data,
                                      const uint32_t *sizes, int64_t count,
                                      const int64_t *firsts, const int64_t *places,
                                      int64_t cameras, int64_t rows, int64_t row_bytes,
                                      uint8_t *out, int64_t room);

/* Functions of libraries that Python brings, and what they work with; 0 where they are absent. The
 * types are those of LZ4_compress_fast, ZSTD_compressCCtx and ZSTD_decompressDCtx. */
typedef struct {
  ps_hash hash;
  int (*lz4_compress)(const char *from, char *to, int size, int room, int acceleration);
  size_t (*zstd_compress)(void *context, void *to, size_t room, const void *from, size_t size,
                          int level);
  size_t (*zstd_decompress)(void *context, void *to, size_t room, const void *from, size_t size);
  void *compressor, *decompressor;
} ps_libraries;

enum { PS_ROLLOUT_RAW = 0, PS_ROLLOUT_LZ4 = 1, PS_ROLLOUT_ZSTD = 2, PS_ROLLOUT_DISTANCES = 6 };

/* What every segment of a rollout has: rows (a step of an environment each) of `elements` numbers
 * of `item` bytes, 1, 2, 4 or 8. `codec` is one of the above. `follows` is 1 where most rows are
 * those of another field one step later. Distances say in which earlier elements numbers may be
 * found again; 0 for none. */
typedef struct {
  int64_t item, elements, envs, steps, codec, follows, distances[PS_ROLLOUT_DISTANCES];
} ps_rows;

/* Rows to encode, and those of the other field: addresses and bytes from one environment and from
 * one step to the next. The effort is the acceleration of LZ4 or the level of zstd. */
typedef struct {
  ps_rows of;
  int64_t effort, rows, env_stride, step_stride, base, base_env_stride, base_step_stride;
} ps_rows_in;

/* A segment to decode: its bytes and their hash. `places` has for each environment its place in
 * `out`, -1 for those that are not wanted; environments are `env_stride` bytes apart there. Of the
 * steps only those from `first_step` to before `end_step` are wanted; the first of them goes to
 * the beginning of the place. A segment that follows another one comes just after that one, or
 * after others that follow it. Without `out` it is decoded for those. */
typedef struct {
  ps_rows of;
  int64_t data, data_bytes;
  uint64_t hash;
  int64_t out, env_stride, places, first_step, end_step;
} ps_rows_out;

/* Bytes of memory that encoding or decoding these needs to work with; and those that `out` of
 * encoding needs. */
PS_API int64_t ps_rollout_memory(const ps_rows *rows, int64_t count);
PS_API int64_t ps_rollout_room(const ps_rows *rows, int64_t count);

/* Encodes segments back to back into `out`; writes size and hash of each and returns the sum, or
 * PS_CORRUPT where a library fails. */
PS_API int64_t ps_encode_rollout(int level, const ps_libraries *libraries, const ps_rows_in *rows,
                                 int64_t count, uint8_t *memory, uint8_t *out, int64_t *sizes,
                                 uint64_t *hashes);

/* Decodes segments; returns `count`, or the index of the first one that is damaged. */
PS_API int64_t ps_decode_rollout(int level, const ps_libraries *libraries,
                                 const ps_rows_out *rows, int64_t count, uint8_t *memory);

/* Bit j of byte k becomes bit k of byte j. */
PS_INLINE uint64_t ps_transpose_bits(uint64_t x) {
  uint64_t t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAull;
  x ^= t ^ (t << 7);
  t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCull;
  x ^= t ^ (t << 14);
  t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ull;
  return x ^ t ^ (t << 28);
}

/* The most bytes that the bit planes of one image take. */
int64_t ps_most_planes(int64_t image_bytes);

/* Inside the library: one image. Decoding returns 0 or PS_CORRUPT; `planes` is memory for
 * ps_most_planes, used by PS_BITPLANES_LZ4 alone. `stream` writes past the caches, where it can. */
int64_t ps_decode_image(int level, int codec, const uint8_t *data, int64_t encoded, int64_t rows,
                        int64_t row_bytes, uint8_t *planes, int stream, uint8_t *out);
int64_t ps_bitplanes_encode(int level, const uint8_t *image, int64_t size, int64_t row_bytes,
                            uint8_t *out);
int64_t ps_bitplanes_decode(int level, const uint8_t *data, int64_t data_bytes, int64_t size,
                            int64_t row_bytes, int stream, uint8_t *out);

#endif
