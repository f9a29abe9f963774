/* Encoding segments of rollouts.
 *
 *   u8             kind: 0, or the codec of the streams below
 *   kind 0:
 *     bitmap       where it follows another one: a bit for each row that differs, lowest first
 *     rows         as they are; only those that differ
 *   else:
 *     u32          how many numbers are kept
 *     u32          how many rows differ, where it follows another one
 *     u32          how many lines have chosen a distance
 *     u8, u32      of each stream, how it is stored and its size: see rollout_streams.c
 *     head         bitmap; chosen distances, a byte a line, where there are any; the first row of
 *                  each environment, where it follows none
 *     masks        line by line the bits of what is kept; then, of lines that chose a distance, of
 *                  what is the same
 *     byte planes  of the numbers that are kept, a stream each
 */
#include <string.h>

#include "rollouts.h"

typedef const uint8_t *bytes;

PS_INLINE int64_t aligned(int64_t size) { return (size + 2 * PS_PAD - 1) / PS_PAD * PS_PAD; }

PS_INLINE int64_t raw_bytes(const ps_rows *of) {
  return of->envs * of->steps * of->elements * of->item;
}

PS_INLINE int64_t most_head(const ps_rows *of) {
  return ps_bitmap_bytes(of) + of->elements + of->envs * of->elements * of->item;
}

PS_INLINE int64_t most_masks(const ps_rows *of) {
  return 2 * of->elements * ps_line_bytes(of->envs * of->steps);
}

PS_INLINE uint8_t *piece(uint8_t **memory, int64_t size) {
  uint8_t *begin = *memory;
  *memory += aligned(size);
  return begin;
}

int64_t ps_lay_out(const ps_rows *of, uint8_t *memory, ps_memory *found) {
  int64_t columns = of->envs * of->steps, raw = raw_bytes(of), pointer = (int64_t)sizeof(bytes);
  int64_t head = most_head(of), masks = most_masks(of), most = head > masks ? head : masks;
  uint8_t *at = memory;
  found->rows = piece(&at, raw);
  found->lines = piece(&at, ps_pitch(columns) * of->elements * of->item);
  found->numbers = piece(&at, raw);
  found->planes = piece(&at, raw);
  found->head = piece(&at, head);
  found->masks = piece(&at, masks);
  found->scratch = piece(&at, most > raw ? most : raw);
  found->before = (bytes *)(void *)piece(&at, columns * pointer);
  found->rows_in = (bytes *)(void *)piece(&at, columns * pointer);
  found->rows_out = (uint8_t **)(void *)piece(&at, columns * pointer);
  found->envs = (uint8_t **)(void *)piece(&at, of->envs * pointer);
  return at - memory;
}

int64_t ps_rollout_memory(const ps_rows *rows, int64_t count) {
  int64_t most = 0;
  ps_memory laid_out;
  for (int64_t i = 0; i < count; i++) {
    int64_t needed = ps_lay_out(&rows[i], 0, &laid_out);
    most = needed > most ? needed : most;
  }
  /* A base is kept while those that follow it are decoded. */
  return 2 * most;
}

int64_t ps_rollout_room(const ps_rows *rows, int64_t count) {
  int64_t all = 0, most = 0;
  for (int64_t i = 0; i < count; i++) {
    const ps_rows *of = &rows[i];
    int64_t raw = raw_bytes(of), streams = most_head(of) + most_masks(of) + raw;
    all += 1 + ps_bitmap_bytes(of) + raw;
    /* What a stream may take while it is coded, and what sparse ones take at most. */
    int64_t working = 128 + streams + streams / 8 + (2 + of->item) * ps_stream_bound(0) +
                      streams / 128;
    most = working > most ? working : most;
  }
  return all + most;
}

PS_INLINE uint8_t *put_32(uint8_t *to, int64_t value) {
  uint32_t number = (uint32_t)value;
  memcpy(to, &number, 4);
  return to + 4;
}

/* Which rows of a field are not those of its base one step later. */
static int64_t find_differing(const ps_rows_in *in, uint8_t *bitmap, bytes *rows,
                              bytes *base) {
  const ps_rows *of = &in->of;
  size_t row_bytes = (size_t)(of->elements * of->item);
  int64_t found = 0, row = 0;
  memset(bitmap, 0, (size_t)ps_bitmap_bytes(of));
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
                             const ps_memory *memory, int64_t columns, uint8_t *to) {
  const ps_rows *of = &in->of;
  const int64_t item = of->item, elements = of->elements, line_bytes = ps_line_bytes(columns);
  const int64_t row_bytes = elements * item;
  const ps_coding coding = {level, libraries, of->codec, in->effort};
  uint8_t *head = memory->head + ps_bitmap_bytes(of);
  ps_rows_to_lines(level, item, memory->rows_in, memory->before, columns, elements, memory->lines);
  int64_t having = ps_choose_distances(level, item, memory->lines, columns, elements,
                                       of->distances, head);
  const uint8_t *chosen = having ? head : 0;
  if (having) head += elements;
  if (!of->follows) {
    for (int64_t env = 0; env < of->envs; env++, head += row_bytes)
      memcpy(head, memory->rows_in[env * of->steps], (size_t)row_bytes);
  }
  uint8_t *kept = memory->masks, *same = kept + elements * line_bytes;
  int64_t count = ps_lines_to_numbers(level, item, memory->lines, columns, elements,
                                      of->distances, chosen, kept, same, memory->numbers);
  const uint8_t *planes = memory->numbers;
  if (item > 1) {
    ps_split_planes(level, memory->numbers, count, item, memory->planes);
    planes = memory->planes;
  }

  uint8_t *at = to;
  *at++ = (uint8_t)of->codec;
  at = put_32(at, count);
  if (of->follows) at = put_32(at, columns);
  at = put_32(at, having);
  uint8_t *streams = at;
  at += 5 * (2 + item);
  for (int64_t stream = 0; stream < 2 + item; stream++, streams += 5) {
    const uint8_t *from = stream == 0 ? memory->head : memory->masks;
    int64_t size = stream == 0 ? head - memory->head : (elements + having) * line_bytes;
    if (stream > 1) {
      from = planes + (stream - 2) * count;
      size = count;
    }
    size = ps_put_stream(&coding, stream > 0, from, size, memory->scratch, at, streams);
    if (size < 0) return size;
    put_32(streams + 1, size);
    at += size;
  }
  return at - to;
}

static int64_t encode_one(int level, const ps_libraries *libraries, const ps_rows_in *in,
                          uint8_t *workspace, uint8_t *to) {
  const ps_rows *of = &in->of;
  ps_memory memory;
  ps_lay_out(of, workspace, &memory);
  int64_t columns = of->envs * of->steps, row_bytes = of->elements * of->item;
  if (of->follows) {
    columns = find_differing(in, memory.head, memory.rows_in, memory.before);
  } else {
    bytes env_begin = (bytes)(uintptr_t)in->rows;
    for (int64_t env = 0, row = 0; env < of->envs; env++, env_begin += in->env_stride) {
      for (int64_t step = 0; step < of->steps; step++, row++) {
        memory.rows_in[row] = env_begin + step * in->step_stride;
        memory.before[row] = memory.rows_in[step ? row - 1 : row];
      }
    }
  }
  int64_t raw = 1 + ps_bitmap_bytes(of) + columns * row_bytes;
  if (of->codec != PS_ROLLOUT_RAW) {
    int64_t packed = encode_packed(level, libraries, in, &memory, columns, to);
    if (packed < raw) return packed;
  }
  *to++ = PS_ROLLOUT_RAW;
  memcpy(to, memory.head, (size_t)ps_bitmap_bytes(of));
  to += ps_bitmap_bytes(of);
  for (int64_t row = 0; row < columns; row++, to += row_bytes)
    memcpy(to, memory.rows_in[row], (size_t)row_bytes);
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

