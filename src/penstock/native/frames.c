/* Observations of files of cached frames (penstock/frame_file): read, checked, decoded and put
 * where they belong, many in one call. What is wrong with a file is left to Python to say. */
#define _DEFAULT_SOURCE /* preadv */
#define _FILE_OFFSET_BITS 64

#include "kernels.h"

#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* An entry of the index: offset and hash of the record, then the size of each camera's image. */
enum { ENTRY_OFFSET = 0, ENTRY_HASH = 8, ENTRY_SIZES = 16, ENTRY_ALIGN = 8 };

/* Neighbours that are read at once: a window's worth of entries, and of records what stays in a
 * core's own cache between reading, checking and decoding. */
enum { MOST_NEIGHBOURS = 32, MOST_RUN_BYTES = 1 << 20 };

/* Of so much in one call, little would be left in the caches for who looks at it. */
enum { STREAM_BYTES = 4 << 20 };

typedef struct {
  int level, stream;
  ps_hash hash;
  int64_t cameras, rows, row_bytes;
  int64_t image_bytes, most_image_bytes, record_bytes, entry_bytes, room;
  uint8_t *entries, *data, *planes;
} ps_reader;

/* Records of neighbouring rows; all but `count` and `first` are what their entries say. */
typedef struct {
  int64_t count, first;
  uint64_t at;
  int64_t total, sizes[MOST_NEIGHBOURS];
} ps_run;

PS_INLINE uint64_t load_64(const uint8_t *bytes) {
  uint64_t x;
  memcpy(&x, bytes, sizeof x);
  return x;
}

PS_INLINE uint32_t load_32(const uint8_t *bytes) {
  uint32_t x;
  memcpy(&x, bytes, sizeof x);
  return x;
}

PS_INLINE uint32_t image_size(const ps_reader *reader, int64_t entry, int64_t camera) {
  return load_32(reader->entries + entry * reader->entry_bytes + ENTRY_SIZES + 4 * camera);
}

static int read_at(const ps_frame_file *file, uint8_t *to, int64_t size, int64_t at) {
  return pread((int)file->descriptor, to, (size_t)size, (off_t)at) == (ssize_t)size;
}

/* Reads the entries of a run and shortens it to what there is room for; 0 when they are damaged. */
static int locate(const ps_reader *reader, const ps_frame_file *file, ps_run *run) {
  if (run->first < 0 || run->first > file->observations - run->count) return 0;
  if (!read_at(file, reader->entries, run->count * reader->entry_bytes,
               file->index_at + run->first * reader->entry_bytes))
    return 0;
  run->at = load_64(reader->entries + ENTRY_OFFSET);
  run->total = 0;
  for (int64_t i = 0; i < run->count; i++) {
    int64_t size = 0;
    for (int64_t camera = 0; camera < reader->cameras; camera++) {
      uint32_t image = image_size(reader, i, camera);
      if (image > reader->most_image_bytes) return 0;
      size += image;
    }
    if (file->codec == PS_RAW && size != reader->record_bytes) return 0;
    if (load_64(reader->entries + i * reader->entry_bytes) != run->at + (uint64_t)run->total)
      return 0;
    if (run->total + size > reader->room) {
      run->count = i; /* at least 1: one record always fits */
      break;
    }
    run->sizes[i] = size;
    run->total += size;
  }
  return run->at <= (uint64_t)file->data_bytes &&
         run->total <= file->data_bytes - (int64_t)run->at;
}

/* Raw records go straight to their places. */
static int read_raw(const ps_reader *reader, const ps_frame_file *file, const ps_run *run,
                    const ps_observation *wanted, const int64_t *places, uint8_t *out) {
  struct iovec pieces[MOST_NEIGHBOURS];
  for (int64_t i = 0; i < run->count; i++) {
    pieces[i].iov_base = out + places[wanted[i].first_place] * reader->record_bytes;
    pieces[i].iov_len = (size_t)reader->record_bytes;
  }
  return preadv((int)file->descriptor, pieces, (int)run->count,
                (off_t)(file->data_at + (int64_t)run->at)) == (ssize_t)run->total;
}

static int matches(const ps_reader *reader, const ps_run *run, int64_t number,
                   const uint8_t *record) {
  const uint8_t *entry = reader->entries + number * reader->entry_bytes;
  uint64_t seed = reader->hash(entry + ENTRY_SIZES, (size_t)(reader->entry_bytes - ENTRY_SIZES),
                               (uint64_t)(run->first + number));
  return reader->hash(record, (size_t)run->sizes[number], seed) == load_64(entry + ENTRY_HASH);
}

static int decode(const ps_reader *reader, int codec, int64_t number, const uint8_t *record,
                  int stream, uint8_t *to) {
  for (int64_t camera = 0; camera < reader->cameras; camera++) {
    int64_t encoded = image_size(reader, number, camera);
    if (ps_decode_image(reader->level, codec, record, encoded, reader->rows, reader->row_bytes,
                        reader->planes, stream, to + camera * reader->image_bytes) != 0)
      return 0;
    record += encoded;
  }
  return 1;
}

/* Returns how many observations of the run are where they belong. */
static int64_t read_run(const ps_reader *reader, const ps_frame_file *file, ps_run *run,
                        const ps_observation *wanted, const int64_t *places, uint8_t *out) {
  int raw = file->codec == PS_RAW;
  if (!locate(reader, file, run)) return 0;
  if (raw ? !read_raw(reader, file, run, wanted, places, out)
          : !read_at(file, reader->data, run->total, file->data_at + (int64_t)run->at))
    return 0;
  const uint8_t *record = reader->data;
  for (int64_t i = 0; i < run->count; i++) {
    const int64_t *place = places + wanted[i].first_place;
    uint8_t *to = out + *place * reader->record_bytes;
    if (!matches(reader, run, i, raw ? to : record)) return i;
    int stream = reader->stream && wanted[i].place_count == 1;
    if (!raw && !decode(reader, (int)file->codec, i, record, stream, to)) return i;
    for (int64_t copy = 1; copy < wanted[i].place_count; copy++)
      memcpy(out + place[copy] * reader->record_bytes, to, (size_t)reader->record_bytes);
    record += run->sizes[i];
  }
  return run->count;
}

PS_INLINE int64_t neighbours(const ps_observation *wanted, int64_t count) {
  int64_t run = 1;
  while (run < count && run < MOST_NEIGHBOURS && wanted[run].file == wanted->file &&
         wanted[run].row == wanted->row + run)
    run++;
  return run;
}

int64_t ps_read_frames(int level, ps_hash hash, const ps_frame_file *files,
                       const ps_observation *wanted, int64_t count, const int64_t *places,
                       int64_t cameras, int64_t rows, int64_t row_bytes, uint8_t *out) {
  int64_t image = rows * row_bytes;
  ps_reader reader = {.level = level,
                      .stream = count * cameras * image >= STREAM_BYTES,
                      .hash = hash,
                      .cameras = cameras,
                      .rows = rows,
                      .row_bytes = row_bytes,
                      .image_bytes = image,
                      .most_image_bytes = image + image / 32 + 256,
                      .record_bytes = cameras * image};
  int64_t entry = ENTRY_SIZES + 4 * cameras, most_record = cameras * reader.most_image_bytes;
  reader.entry_bytes = (entry + ENTRY_ALIGN - 1) / ENTRY_ALIGN * ENTRY_ALIGN;
  reader.room = most_record > MOST_RUN_BYTES ? most_record : MOST_RUN_BYTES;
  int64_t index_room = MOST_NEIGHBOURS * reader.entry_bytes;
  uint8_t *memory = malloc((size_t)(index_room + reader.room + ps_most_planes(image) + 1));
  if (!memory) return PS_NO_MEMORY;
  reader.entries = memory;
  reader.data = memory + index_room;
  reader.planes = reader.data + reader.room;
  int64_t done = 0;
  while (done < count) {
    const ps_observation *next = wanted + done;
    ps_run run = {.count = neighbours(next, count - done), .first = next->row};
    int64_t read = read_run(&reader, files + next->file, &run, next, places, out);
    done += read;
    if (read < run.count) break;
  }
  free(memory);
  return done;
}
