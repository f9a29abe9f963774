/* Segments of rollouts.
 *
 *   u8             kind: 0, or the codec of the streams below
 *   kind 0:
 *     bitmap       where it follows another one: a bit for each row that differs, lowest first
 *     rows         as they are; only those that differ
 *   else:
 *     u32          how many numbers are kept
 *     u32          how many rows differ, where it follows another one
 *     u32          how many lines have chosen a distance
 *     u32          size of the head
 *     u32 each     size of each byte plane
 *     head         bitmap; chosen distances, a byte a line, where there are any; the first row of
 *                  each environment, where it follows none; line by line the bits of what is kept,
 *                  and then, of lines that chose a distance, of what is the same
 *     byte planes  of the numbers that are kept
 *
 * Head and planes are a stream each: coded, or as they are where that is not larger. */
#include <string.h>

#include "rollouts.h"

enum { PROBE_BYTES = 1024, LEAST_PROBED = 4096 };

typedef const uint8_t *bytes;

/* What the arrays of one segment need, in the order in which they lie in memory. */
typedef struct {
  int64_t rows, lines, numbers, planes, head, pointers, envs, all;
} sizes_of;

PS_INLINE int64_t aligned(int64_t size) { return (size + 2 * PS_PAD - 1) / PS_PAD * PS_PAD; }

PS_INLINE int64_t bitmap_bytes(const ps_rows *of) {
  return of->follows ? (of->envs * of->steps + 7) / 8 : 0;
}

PS_INLINE int64_t most_head(const ps_rows *of) {
  int64_t columns = of->envs * of->steps;
  return bitmap_bytes(of) + of->elements + of->envs * of->elements * of->item +
         2 * of->elements * ((columns + 7) / 8);
}

static sizes_of memory_of(const ps_rows *of) {
  int64_t columns = of->envs * of->steps, item = of->item, elements = of->elements;
  sizes_of size;
  size.rows = aligned(columns * elements * item);
  size.lines = aligned(ps_pitch(columns) * elements * item);
  size.numbers = size.planes = size.rows;
  size.head = aligned(most_head(of));
  size.pointers = aligned(3 * columns * (int64_t)sizeof(bytes));
  size.envs = aligned(of->envs * (int64_t)sizeof(bytes));
  size.all = size.rows + size.lines + size.numbers + size.planes + size.head + size.pointers +
             size.envs;
  return size;
}

typedef struct {
  uint8_t *rows, *lines, *numbers, *planes, *head;
  bytes *old;
  uint8_t **now;
  bytes *kept;
} arrays;

static arrays lay_out(const ps_rows *of, uint8_t *memory) {
  sizes_of size = memory_of(of);
  int64_t columns = of->envs * of->steps;
  arrays found;
  found.rows = memory;
  found.lines = found.rows + size.rows;
  found.numbers = found.lines + size.lines;
  found.planes = found.numbers + size.numbers;
  found.head = found.planes + size.planes;
  found.old = (bytes *)(void *)(found.head + size.head);
  found.now = (uint8_t **)(void *)(found.old + columns);
  found.kept = (bytes *)(void *)(found.now + columns);
  return found;
}

int64_t ps_rollout_memory(const ps_rows *rows, int64_t count) {
  int64_t most = 0;
  for (int64_t i = 0; i < count; i++) {
    int64_t needed = memory_of(&rows[i]).all;
    most = needed > most ? needed : most;
  }
  /* A base is kept while those that follow it are decoded. */
  return 2 * most + 2 * PS_PAD;
}

static int64_t raw_bytes(const ps_rows *of) {
  return of->envs * of->steps * of->elements * of->item;
}

PS_INLINE int64_t bound(int64_t size) { return size + size / 128 + 1024; }

int64_t ps_rollout_room(const ps_rows *rows, int64_t count) {
  int64_t all = 0, most = 0;
  for (int64_t i = 0; i < count; i++) {
    all += 1 + bitmap_bytes(&rows[i]) + raw_bytes(&rows[i]);
    int64_t working = PS_PAD + bound(most_head(&rows[i])) + bound(raw_bytes(&rows[i]));
    most = working > most ? working : most;
  }
  return all + most;
}

PS_INLINE void put_32(uint8_t *to, int64_t value) {
  uint32_t number = (uint32_t)value;
  memcpy(to, &number, 4);
}

PS_INLINE int64_t take_32(const uint8_t *from) {
  uint32_t number;
  memcpy(&number, from, 4);
  return number;
}

/* One stream: coded where that is smaller. Returns its size, or PS_CORRUPT. */
static int64_t put_stream(const ps_libraries *libraries, int64_t codec, int64_t level,
                          const uint8_t *from, int64_t size, uint8_t *to) {
  int64_t coded = size;
  if (size == 0) return 0;
  if (codec == PS_ROLLOUT_LZ4) {
    coded = libraries->lz4_compress((const char *)from, (char *)to, (int)size, (int)bound(size),
                                    (int)level);
    if (coded <= 0) return PS_CORRUPT;
  }
  if (codec == PS_ROLLOUT_ZSTD) {
    size_t done = libraries->zstd_compress(libraries->compressor, to, (size_t)bound(size), from,
                                           (size_t)size, (int)level);
    if (done > (size_t)bound(size)) return PS_CORRUPT;
    coded = (int64_t)done;
  }
  if (coded < size) return coded;
  memcpy(to, from, (size_t)size);
  return size;
}

/* A plane; LZ4 is not tried where a piece from the middle shows that it is of no use. */
static int64_t put_plane(const ps_libraries *libraries, int64_t codec, int64_t level,
                         const uint8_t *from, int64_t size, uint8_t *to) {
  if (codec == PS_ROLLOUT_LZ4 && size >= LEAST_PROBED) {
    const uint8_t *middle = from + (size - PROBE_BYTES) / 2;
    int coded = libraries->lz4_compress((const char *)middle, (char *)to, PROBE_BYTES,
                                        (int)bound(PROBE_BYTES), (int)level);
    if (coded <= 0) return PS_CORRUPT;
    if (coded >= PROBE_BYTES) codec = PS_ROLLOUT_RAW;
  }
  return put_stream(libraries, codec, level, from, size, to);
}

static int get_stream(const ps_libraries *libraries, int64_t codec, const uint8_t *from,
                      int64_t coded, uint8_t *to, int64_t size) {
  if (coded == size) {
    if (size) memcpy(to, from, (size_t)size);
    return 1;
  }
  if (coded > size) return 0;
  if (codec == PS_ROLLOUT_LZ4) return ps_lz4_decompress(from, coded, to, size) == size;
  return libraries->zstd_decompress(libraries->decompressor, to, (size_t)size, from,
                                    (size_t)coded) == (size_t)size;
}

/* Which rows of a field are not those of its base one step later. */
static int64_t find_differing(const ps_rows_in *in, uint8_t *bitmap, bytes *rows, bytes *base) {
  const ps_rows *of = &in->of;
  size_t row_bytes = (size_t)(of->elements * of->item);
  int64_t found = 0, row = 0;
  memset(bitmap, 0, (size_t)bitmap_bytes(of));
  for (int64_t env = 0; env < of->envs; env++) {
    bytes mine = (bytes)(uintptr_t)in->rows + env * in->env_stride;
    bytes other = (bytes)(uintptr_t)in->base + env * in->base_env_stride;
    for (int64_t step = 0; step < of->steps; step++, row++) {
      bytes now = mine + step * in->step_stride, before = other + step * in->base_step_stride;
      if (step + 1 < of->steps && memcmp(now, before + in->base_step_stride, row_bytes) == 0)
        continue;
      bitmap[row / 8] = (uint8_t)(bitmap[row / 8] | 1 << row % 8);
      rows[found] = now;
      base[found++] = before;
    }
  }
  return found;
}

static int64_t encode_packed(int level, const ps_libraries *libraries, const ps_rows_in *in,
                             const arrays *in_memory, int64_t columns, uint8_t *to) {
  const ps_rows *of = &in->of;
  const int64_t item = of->item, elements = of->elements, line_bits = (columns + 7) / 8;
  const int64_t row_bytes = elements * item;
  uint8_t *head = in_memory->head + bitmap_bytes(of);
  ps_rows_to_lines(level, item, in_memory->kept, in_memory->old, columns, elements,
                   in_memory->lines);
  int64_t having = ps_choose_distances(level, item, in_memory->lines, columns, elements,
                                       of->distances, head);
  const uint8_t *chosen = having ? head : 0;
  if (having) head += elements;
  if (!of->follows) {
    for (int64_t env = 0; env < of->envs; env++, head += row_bytes)
      memcpy(head, in_memory->kept[env * of->steps], (size_t)row_bytes);
  }
  uint8_t *kept = head, *same = kept + elements * line_bits;
  int64_t count = ps_lines_to_numbers(level, item, in_memory->lines, columns, elements,
                                      of->distances, chosen, kept, same, in_memory->numbers);
  head = same + having * line_bits;
  const uint8_t *planes = in_memory->numbers;
  if (item > 1) {
    ps_split_planes(level, in_memory->numbers, count, item, in_memory->planes);
    planes = in_memory->planes;
  }

  uint8_t *at = to;
  *at++ = (uint8_t)of->codec;
  put_32(at, count);
  at += 4;
  if (of->follows) {
    put_32(at, columns);
    at += 4;
  }
  put_32(at, having);
  at += 4;
  uint8_t *sizes = at;
  at += 4 + 4 * item;
  int64_t size = put_stream(libraries, of->codec, in->level, in_memory->head,
                            head - in_memory->head, at);
  if (size < 0) return size;
  put_32(sizes, size);
  at += size;
  for (int64_t plane = 0; plane < item; plane++) {
    size = put_plane(libraries, of->codec, in->level, planes + plane * count, count, at);
    if (size < 0) return size;
    put_32(sizes + 4 + 4 * plane, size);
    at += size;
  }
  return at - to;
}

static int64_t encode_one(int level, const ps_libraries *libraries, const ps_rows_in *in,
                          uint8_t *memory, uint8_t *to) {
  const ps_rows *of = &in->of;
  arrays in_memory = lay_out(of, memory);
  int64_t columns = of->envs * of->steps, row_bytes = of->elements * of->item;
  if (of->follows) {
    columns = find_differing(in, in_memory.head, in_memory.kept, in_memory.old);
  } else {
    for (int64_t row = 0; row < columns; row++) {
      int64_t step = row % of->steps;
      in_memory.kept[row] = (bytes)(uintptr_t)in->rows + row / of->steps * in->env_stride +
                            step * in->step_stride;
      in_memory.old[row] = in_memory.kept[step ? row - 1 : row];
    }
  }
  int64_t raw = 1 + bitmap_bytes(of) + columns * row_bytes;
  if (of->codec != PS_ROLLOUT_RAW) {
    int64_t packed = encode_packed(level, libraries, in, &in_memory, columns, to);
    if (packed < raw) return packed;
  }
  *to++ = PS_ROLLOUT_RAW;
  memcpy(to, in_memory.head, (size_t)bitmap_bytes(of));
  to += bitmap_bytes(of);
  for (int64_t row = 0; row < columns; row++, to += row_bytes)
    memcpy(to, in_memory.kept[row], (size_t)row_bytes);
  return raw;
}

int64_t ps_encode_rollout(int level, const ps_libraries *libraries, const ps_rows_in *rows,
                          int64_t count, uint8_t *memory, uint8_t *out, int64_t *sizes,
                          uint64_t *hashes) {
  uint8_t *at = out;
  for (int64_t i = 0; i < count; i++) {
    int64_t size = encode_one(level, libraries, &rows[i], memory, at);
    if (size < 0) return size;
    sizes[i] = size;
    hashes[i] = libraries->hash(at, (size_t)size, 0);
    at += size;
  }
  return at - out;
}

PS_INLINE int has_bit(const uint8_t *bitmap, int64_t row) { return bitmap[row / 8] >> row % 8 & 1; }

static int64_t count_bits(const uint8_t *from, int64_t size) {
  int64_t found = 0, at = 0;
  for (; at + 8 <= size; at += 8) {
    uint64_t eight;
    memcpy(&eight, from + at, 8);
    found += __builtin_popcountll(eight);
  }
  for (; at < size; at++) found += __builtin_popcount(from[at]);
  return found;
}

/* The last row of each environment must be among those that differ, and there may be none beyond. */
static int64_t rows_in_bitmap(const ps_rows *of, const uint8_t *bitmap) {
  int64_t rows = of->envs * of->steps;
  for (int64_t env = 1; env <= of->envs; env++)
    if (!has_bit(bitmap, env * of->steps - 1)) return PS_CORRUPT;
  if (rows % 8 && bitmap[rows / 8] >> rows % 8) return PS_CORRUPT;
  return count_bits(bitmap, bitmap_bytes(of));
}

/* Where each row goes, and what it is the difference to; rows that do not differ are copied. */
static void place_rows(const ps_rows *of, const arrays *in_memory, const uint8_t *bitmap,
                       uint8_t *const *envs, bytes const *base) {
  const int64_t row_bytes = of->elements * of->item;
  int64_t row = 0, found = 0;
  for (int64_t env = 0; env < of->envs; env++) {
    for (int64_t step = 0; step < of->steps; step++, row++) {
      uint8_t *to = envs[env] + step * row_bytes;
      bytes from = base[env] + step * row_bytes;
      if (has_bit(bitmap, row)) {
        in_memory->now[found] = to;
        in_memory->old[found++] = from;
      } else {
        memcpy(to, from + row_bytes, (size_t)row_bytes);
      }
    }
  }
}

static int decode_raw(const ps_rows_out *in, const arrays *in_memory, uint8_t *const *envs,
                      bytes const *base) {
  const ps_rows *of = &in->of;
  bytes at = (bytes)(uintptr_t)in->data + 1;
  int64_t left = in->data_bytes - 1, rows = of->envs * of->steps;
  const int64_t row_bytes = of->elements * of->item;
  if (!of->follows) {
    if (left != rows * row_bytes) return 0;
    for (int64_t env = 0; env < of->envs; env++, at += of->steps * row_bytes)
      memcpy(envs[env], at, (size_t)(of->steps * row_bytes));
    return 1;
  }
  if (left < bitmap_bytes(of)) return 0;
  int64_t found = rows_in_bitmap(of, at);
  if (found < 0 || left - bitmap_bytes(of) != found * row_bytes) return 0;
  place_rows(of, in_memory, at, envs, base);
  at += bitmap_bytes(of);
  for (int64_t row = 0; row < found; row++, at += row_bytes)
    memcpy(in_memory->now[row], at, (size_t)row_bytes);
  return 1;
}

/* The bits of each line must count the numbers, with none beyond its end; distances must be there. */
static int check_head(const ps_rows *of, int64_t columns, int64_t count, const uint8_t *chosen,
                      int64_t having, const uint8_t *kept) {
  const int64_t line_bits = (columns + 7) / 8;
  if (count_bits(kept, of->elements * line_bits) != count) return 0;
  if (columns % 8)
    for (int64_t f = 0; f < of->elements; f++)
      if (kept[f * line_bits + line_bits - 1] >> columns % 8) return 0;
  if (!chosen) return 1;
  for (int64_t f = 0; f < of->elements; f++) {
    if (chosen[f] > PS_ROLLOUT_DISTANCES) return 0;
    if (!chosen[f]) continue;
    int64_t distance = of->distances[chosen[f] - 1];
    if (distance < 1 || distance > f) return 0;
    having--;
  }
  return having == 0;
}

static int decode_packed(int level, const ps_libraries *libraries, const ps_rows_out *in,
                         const arrays *in_memory, uint8_t *const *envs, bytes const *base) {
  const ps_rows *of = &in->of;
  const int64_t item = of->item, elements = of->elements, row_bytes = elements * item;
  bytes at = (bytes)(uintptr_t)in->data + 1, end = at + in->data_bytes - 1;
  if (end - at < 4 + (of->follows ? 4 : 0) + 4 + 4 + 4 * item) return 0;
  int64_t columns = of->envs * of->steps, count = take_32(at);
  at += 4;
  if (of->follows) {
    int64_t rows = take_32(at);
    at += 4;
    if (rows > columns) return 0;
    columns = rows;
  }
  int64_t having = take_32(at);
  at += 4;
  if (count > columns * elements || having > elements) return 0;
  const int64_t line_bits = (columns + 7) / 8;
  bytes sizes = at;
  at += 4 + 4 * item;
  int64_t head_bytes = bitmap_bytes(of) + (having ? elements : 0) +
                       (of->follows ? 0 : of->envs * row_bytes) + (elements + having) * line_bits;
  int64_t stored = take_32(sizes);
  if (stored > end - at || !get_stream(libraries, of->codec, at, stored, in_memory->head, head_bytes))
    return 0;
  at += stored;
  bytes chosen = in_memory->head + bitmap_bytes(of);
  bytes first = chosen + (having ? elements : 0);
  bytes kept = first + (of->follows ? 0 : of->envs * row_bytes);
  if (!having) chosen = 0;
  if (!check_head(of, columns, count, chosen, having, kept)) return 0;

  uint8_t *planes = item > 1 ? in_memory->planes : in_memory->numbers;
  uint64_t each[8];
  for (int64_t plane = 0; plane < item; plane++) {
    stored = take_32(sizes + 4 + 4 * plane);
    uint8_t *to = planes + plane * count;
    if (stored > end - at || !get_stream(libraries, of->codec, at, stored, to, count)) return 0;
    at += stored;
    each[plane] = (uint64_t)(uintptr_t)to;
  }
  if (at != end) return 0;
  if (of->follows) {
    if (rows_in_bitmap(of, in_memory->head) != columns) return 0;
    place_rows(of, in_memory, in_memory->head, envs, base);
  } else {
    for (int64_t row = 0; row < columns; row++) {
      int64_t env = row / of->steps, step = row % of->steps;
      in_memory->now[row] = envs[env] + step * row_bytes;
      in_memory->old[row] = step ? in_memory->now[row - 1] : first + env * row_bytes;
    }
  }
  if (item > 1) ps_join_planes(level, each, count, item, in_memory->numbers);
  ps_numbers_to_lines(level, item, in_memory->numbers, columns, elements, of->distances, chosen,
                      kept, kept + elements * line_bits, in_memory->lines);
  ps_lines_to_rows(level, item, in_memory->lines, columns, elements, in_memory->old,
                   in_memory->now);
  return 1;
}

/* Whole environments are decoded to where they go, others to memory, and from there in part. */
static int decode_one(int level, const ps_libraries *libraries, const ps_rows_out *in,
                      uint8_t *memory, uint8_t **envs, bytes const *base) {
  const ps_rows *of = &in->of;
  arrays in_memory = lay_out(of, memory);
  const int64_t row_bytes = of->elements * of->item, env_bytes = of->steps * row_bytes;
  const int64_t *places = (const int64_t *)(uintptr_t)in->places;
  bytes data = (bytes)(uintptr_t)in->data;
  uint8_t *out = (uint8_t *)(uintptr_t)in->out;
  int whole = in->first_step == 0 && in->end_step == of->steps;
  if (in->data_bytes < 1 || libraries->hash(data, (size_t)in->data_bytes, 0) != in->hash) return 0;
  for (int64_t env = 0; env < of->envs; env++) {
    envs[env] = in_memory.rows + env * env_bytes;
    if (out && whole && places[env] >= 0) envs[env] = out + places[env] * in->env_stride;
  }
  if (data[0] == PS_ROLLOUT_RAW) {
    if (!decode_raw(in, &in_memory, envs, base)) return 0;
  } else if (data[0] != of->codec ||
             !decode_packed(level, libraries, in, &in_memory, envs, base)) {
    return 0;
  }
  if (!out || whole) return 1;
  for (int64_t env = 0; env < of->envs; env++) {
    if (places[env] < 0) continue;
    memcpy(out + places[env] * in->env_stride, envs[env] + in->first_step * row_bytes,
           (size_t)((in->end_step - in->first_step) * row_bytes));
  }
  return 1;
}

int64_t ps_decode_rollout(int level, const ps_libraries *libraries, const ps_rows_out *rows,
                          int64_t count, uint8_t *memory) {
  int64_t half = 0;
  for (int64_t i = 0; i < count; i++) {
    int64_t needed = memory_of(&rows[i].of).all;
    half = needed > half ? needed : half;
  }
  uint8_t **base = 0, **mine = 0;
  for (int64_t i = 0; i < count; i++) {
    uint8_t *here = memory + (rows[i].of.follows ? half : 0);
    sizes_of size = memory_of(&rows[i].of);
    mine = (uint8_t **)(void *)(here + size.all - size.envs);
    if (!decode_one(level, libraries, &rows[i], here, mine, (bytes const *)base)) return i;
    if (!rows[i].of.follows) base = mine;
  }
  return count;
}
