/* Decoding segments of rollouts; rollout_encode.c has the format. Nothing in a segment is trusted:
 * its sizes are checked against those of its field, which the caller has checked. */
#include <string.h>

#include "rollouts.h"

typedef const uint8_t *bytes;

PS_INLINE int64_t take_32(bytes *from) {
  uint32_t number;
  memcpy(&number, *from, 4);
  *from += 4;
  return number;
}

PS_INLINE int has_bit(const uint8_t *bitmap, int64_t row) { return bitmap[row / 8] >> row % 8 & 1; }

/* How many rows differ: the last of each environment must, and there may be none beyond. */
static int64_t rows_in_bitmap(const ps_rows *of, const uint8_t *bitmap) {
  int64_t rows = of->envs * of->steps;
  for (int64_t env = 1; env <= of->envs; env++)
    if (!has_bit(bitmap, env * of->steps - 1)) return PS_CORRUPT;
  if (rows % 8 && bitmap[rows / 8] >> rows % 8) return PS_CORRUPT;
  return ps_count_bits(bitmap, ps_bitmap_bytes(of));
}

/* Where each row goes, and what it is the difference to; rows that do not differ are copied. */
static void place_rows(const ps_rows *of, const ps_memory *memory, const uint8_t *bitmap,
                       bytes const *base) {
  const int64_t row_bytes = of->elements * of->item;
  int64_t row = 0, found = 0;
  for (int64_t env = 0; env < of->envs; env++) {
    for (int64_t step = 0; step < of->steps; step++, row++) {
      uint8_t *to = memory->envs[env] + step * row_bytes;
      bytes from = base[env] + step * row_bytes;
      if (has_bit(bitmap, row)) {
        memory->rows_out[found] = to;
        memory->before[found++] = from;
      } else {
        memcpy(to, from + row_bytes, (size_t)row_bytes);
      }
    }
  }
}

static int decode_raw(const ps_rows_out *in, const ps_memory *memory, bytes const *base) {
  const ps_rows *of = &in->of;
  bytes at = (bytes)(uintptr_t)in->data + 1;
  int64_t left = in->data_bytes - 1, rows = of->envs * of->steps;
  const int64_t row_bytes = of->elements * of->item;
  if (!of->follows) {
    if (left != rows * row_bytes) return 0;
    for (int64_t env = 0; env < of->envs; env++, at += of->steps * row_bytes)
      memcpy(memory->envs[env], at, (size_t)(of->steps * row_bytes));
    return 1;
  }
  if (left < ps_bitmap_bytes(of)) return 0;
  int64_t found = rows_in_bitmap(of, at);
  if (found < 0 || left - ps_bitmap_bytes(of) != found * row_bytes) return 0;
  place_rows(of, memory, at, base);
  at += ps_bitmap_bytes(of);
  for (int64_t row = 0; row < found; row++, at += row_bytes)
    memcpy(memory->rows_out[row], at, (size_t)row_bytes);
  return 1;
}

/* The bits of lines must count the numbers, none beyond an end; distances must be there. */
static int check_head(const ps_rows *of, int64_t columns, int64_t count, const uint8_t *chosen,
                      int64_t having, const uint8_t *kept) {
  const int64_t line_bytes = ps_line_bytes(columns);
  if (ps_count_bits(kept, of->elements * line_bytes) != count) return 0;
  if (columns % 8)
    for (int64_t f = 0; f < of->elements; f++)
      if (kept[f * line_bytes + line_bytes - 1] >> columns % 8) return 0;
  return !chosen || ps_distances_are_there(of->elements, of->distances, chosen, having);
}

static int decode_packed(int level, const ps_libraries *libraries, const ps_rows_out *in,
                         const ps_memory *memory, bytes const *base) {
  const ps_rows *of = &in->of;
  const int64_t item = of->item, elements = of->elements, row_bytes = elements * item;
  const ps_coding coding = {level, libraries, of->codec, 0};
  bytes at = (bytes)(uintptr_t)in->data + 1, end = at + in->data_bytes - 1;
  if (end - at < 4 + (of->follows ? 4 : 0) + 4 + 5 * (2 + item)) return 0;
  int64_t columns = of->envs * of->steps, count = take_32(&at);
  if (of->follows) {
    int64_t rows = take_32(&at);
    if (rows > columns) return 0;
    columns = rows;
  }
  int64_t having = take_32(&at);
  if (count > columns * elements || having > elements) return 0;
  const int64_t line_bytes = ps_line_bytes(columns);
  bytes streams = at;
  at += 5 * (2 + item);
  uint8_t *planes = item > 1 ? memory->planes : memory->numbers;
  uint64_t each[8];
  for (int64_t stream = 0; stream < 2 + item; stream++) {
    int way = *streams++;
    int64_t stored = take_32(&streams), size = count;
    uint8_t *to = 0;
    if (stream == 0) {
      to = memory->head;
      size = ps_bitmap_bytes(of) + (having ? elements : 0);
      if (!of->follows) size += of->envs * row_bytes;
    } else if (stream == 1) {
      to = memory->masks;
      size = (elements + having) * line_bytes;
    } else {
      to = planes + (stream - 2) * count;
      each[stream - 2] = (uint64_t)(uintptr_t)to;
    }
    if (stored > end - at || !ps_get_stream(&coding, way, at, stored, memory->scratch, to, size))
      return 0;
    at += stored;
  }
  if (at != end) return 0;
  bytes chosen = memory->head + ps_bitmap_bytes(of), first = chosen + (having ? elements : 0);
  if (!having) chosen = 0;
  if (!check_head(of, columns, count, chosen, having, memory->masks)) return 0;

  if (of->follows) {
    if (rows_in_bitmap(of, memory->head) != columns) return 0;
    place_rows(of, memory, memory->head, base);
  } else {
    for (int64_t env = 0, row = 0; env < of->envs; env++) {
      for (int64_t step = 0; step < of->steps; step++, row++) {
        memory->rows_out[row] = memory->envs[env] + step * row_bytes;
        memory->before[row] = step ? memory->rows_out[row - 1] : first + env * row_bytes;
      }
    }
  }
  if (item > 1) ps_join_planes(level, each, count, item, memory->numbers);
  ps_numbers_to_lines(level, item, memory->numbers, columns, elements, of->distances, chosen,
                      memory->masks, memory->masks + elements * line_bytes, memory->lines);
  ps_lines_to_rows(level, item, memory->lines, columns, elements, memory->before,
                   memory->rows_out);
  return 1;
}

/* Whole environments are decoded to where they go, others to memory, and from there in part. */
static int decode_one(int level, const ps_libraries *libraries, const ps_rows_out *in,
                      const ps_memory *memory, bytes const *base) {
  const ps_rows *of = &in->of;
  const int64_t row_bytes = of->elements * of->item, env_bytes = of->steps * row_bytes;
  const int64_t *places = (const int64_t *)(uintptr_t)in->places;
  bytes data = (bytes)(uintptr_t)in->data;
  uint8_t *out = (uint8_t *)(uintptr_t)in->out;
  int whole = in->first_step == 0 && in->end_step == of->steps;
  if (in->data_bytes < 1 || libraries->hash(data, (size_t)in->data_bytes, 0) != in->hash) return 0;
  for (int64_t env = 0; env < of->envs; env++) {
    memory->envs[env] = memory->rows + env * env_bytes;
    if (out && whole && places[env] >= 0) memory->envs[env] = out + places[env] * in->env_stride;
  }
  if (data[0] == PS_ROLLOUT_RAW) {
    if (!decode_raw(in, memory, base)) return 0;
  } else if (data[0] != of->codec || !decode_packed(level, libraries, in, memory, base)) {
    return 0;
  }
  if (!out || whole) return 1;
  for (int64_t env = 0; env < of->envs; env++) {
    if (places[env] < 0) continue;
    memcpy(out + places[env] * in->env_stride, memory->envs[env] + in->first_step * row_bytes,
           (size_t)((in->end_step - in->first_step) * row_bytes));
  }
  return 1;
}

int64_t ps_decode_rollout(int level, const ps_libraries *libraries, const ps_rows_out *rows,
                          int64_t count, uint8_t *memory) {
  ps_memory base, mine;
  int64_t half = 0;
  for (int64_t i = 0; i < count; i++) {
    int64_t needed = ps_lay_out(&rows[i].of, memory, &base);
    half = needed > half ? needed : half;
  }
  for (int64_t i = 0; i < count; i++) {
    int64_t follows = rows[i].of.follows;
    ps_lay_out(&rows[i].of, memory + (follows ? half : 0), &mine);
    bytes const *base_envs = follows ? (bytes const *)base.envs : 0;
    if (!decode_one(level, libraries, &rows[i], &mine, base_envs)) return i;
    if (!follows) base = mine;
  }
  return count;
}
