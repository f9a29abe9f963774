/* Observations of files of cached frames (penstock/frame_file): read, checked, decoded and put
 * where they belong, many in one call. What is wrong with a file is left to Python to say. */
#define _GNU_SOURCE /* preadv2 */
#define _FILE_OFFSET_BITS 64

#include "kernels.h"

#include <errno.h>
#include <fcntl.h>
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

static uint64_t seed_of(const ps_reader *reader, const ps_run *run, int64_t number) {
  const uint8_t *entry = reader->entries + number * reader->entry_bytes;
  return reader->hash(entry + ENTRY_SIZES, (size_t)(reader->entry_bytes - ENTRY_SIZES),
                      (uint64_t)(run->first + number));
}

static int matches(const ps_reader *reader, const ps_run *run, int64_t number,
                   const uint8_t *record) {
  const uint8_t *entry = reader->entries + number * reader->entry_bytes;
  return reader->hash(record, (size_t)run->sizes[number], seed_of(reader, run, number)) ==
         load_64(entry + ENTRY_HASH);
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

static ps_reader reader_of(int level, ps_hash hash, int64_t cameras, int64_t rows,
                           int64_t row_bytes) {
  int64_t image = rows * row_bytes, entry = ENTRY_SIZES + 4 * cameras;
  ps_reader reader = {.level = level,
                      .hash = hash,
                      .cameras = cameras,
                      .rows = rows,
                      .row_bytes = row_bytes,
                      .image_bytes = image,
                      .most_image_bytes = image + image / 32 + 256,
                      .record_bytes = cameras * image,
                      .entry_bytes = (entry + ENTRY_ALIGN - 1) / ENTRY_ALIGN * ENTRY_ALIGN};
  return reader;
}

int64_t ps_read_frames(int level, ps_hash hash, const ps_frame_file *files,
                       const ps_observation *wanted, int64_t count, const int64_t *places,
                       int64_t cameras, int64_t rows, int64_t row_bytes, uint8_t *out) {
  ps_reader reader = reader_of(level, hash, cameras, rows, row_bytes);
  reader.stream = count * reader.record_bytes >= STREAM_BYTES;
  int64_t most_record = cameras * reader.most_image_bytes;
  reader.room = most_record > MOST_RUN_BYTES ? most_record : MOST_RUN_BYTES;
  int64_t index_room = MOST_NEIGHBOURS * reader.entry_bytes;
  uint8_t *memory =
      malloc((size_t)(index_room + reader.room + ps_most_planes(reader.image_bytes) + 1));
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

/* Whether all of it is in memory, and has been read: the disk is not asked. */
static int read_now(const ps_frame_file *file, uint8_t *to, int64_t size, int64_t at) {
#ifdef RWF_NOWAIT
  struct iovec piece = {.iov_base = to, .iov_len = (size_t)size};
  ssize_t got = preadv2((int)file->descriptor, &piece, 1, (off_t)at, RWF_NOWAIT);
  return got == (ssize_t)size || (got < 0 && errno != EAGAIN && read_at(file, to, size, at));
#else
  return read_at(file, to, size, at);
#endif
}

static void will_need(const ps_frame_file *file, int64_t at, int64_t size) {
#ifdef POSIX_FADV_WILLNEED
  (void)posix_fadvise((int)file->descriptor, (off_t)at, (off_t)size, POSIX_FADV_WILLNEED);
#else
  (void)file, (void)at, (void)size;
#endif
}

int64_t ps_record_sizes(ps_hash hash, const ps_frame_file *files, const ps_observation *wanted,
                        int64_t count, int64_t cameras, int64_t rows, int64_t row_bytes,
                        uint32_t *sizes, uint64_t *spots) {
  ps_reader reader = reader_of(0, hash, cameras, rows, row_bytes);
  reader.room = MOST_NEIGHBOURS * cameras * reader.most_image_bytes;
  reader.entries = malloc((size_t)(MOST_NEIGHBOURS * reader.entry_bytes));
  if (!reader.entries) return PS_NO_MEMORY;
  int64_t done = 0, warm = 1;
  while (done < count) {
    const ps_observation *next = wanted + done;
    const ps_frame_file *file = files + next->file;
    ps_run run = {.count = neighbours(next, count - done), .first = next->row};
    if (warm && run.first >= 0 && run.first <= file->observations - run.count &&
        !read_now(file, reader.entries, run.count * reader.entry_bytes,
                  file->index_at + run.first * reader.entry_bytes)) {
      /* From a disk, all of them at once take little longer than one. */
      for (int64_t i = done; i < count; i++)
        will_need(files + wanted[i].file,
                  files[wanted[i].file].index_at + wanted[i].row * reader.entry_bytes,
                  reader.entry_bytes);
      warm = 0;
    }
    if (!locate(&reader, file, &run)) break;
    uint64_t at = (uint64_t)file->data_at + run.at;
    for (int64_t i = 0; i < run.count; i++) {
      for (int64_t camera = 0; camera < cameras; camera++)
        *sizes++ = image_size(&reader, i, camera);
      *spots++ = at;
      *spots++ = load_64(reader.entries + i * reader.entry_bytes + ENTRY_HASH);
      *spots++ = hash ? seed_of(&reader, &run, i) : 0;
      at += (uint64_t)run.sizes[i];
    }
    done += run.count;
  }
  free(reader.entries);
  return done;
}

/* Has the system read records `from` to `to` of `wanted`, without waiting for it. */
static void advise(ps_reader *reader, const ps_frame_file *files, const ps_observation *wanted,
                   int64_t from, int64_t to) {
  reader->room = INT64_MAX;
  while (from < to) {
    const ps_frame_file *file = files + wanted[from].file;
    ps_run run = {.count = neighbours(wanted + from, to - from), .first = wanted[from].row};
    if (locate(reader, file, &run))
      will_need(file, file->data_at + (int64_t)run.at, run.total);
    from += run.count;
  }
}

int64_t ps_read_records(ps_hash hash, const ps_frame_file *files, const ps_observation *wanted,
                        int64_t count, int64_t ahead, int64_t *advised, int64_t cameras,
                        int64_t rows, int64_t row_bytes, uint8_t *out, int64_t size) {
  ps_reader reader = reader_of(0, hash, cameras, rows, row_bytes);
  reader.entries = malloc((size_t)(MOST_NEIGHBOURS * reader.entry_bytes));
  if (!reader.entries) return PS_NO_MEMORY;
  if (*advised > 0 && *advised < count + ahead) {
    advise(&reader, files, wanted, *advised, count + ahead);
    *advised = count + ahead;
  }
  int64_t done = 0, at = 0;
  while (done < count) {
    const ps_observation *next = wanted + done;
    const ps_frame_file *file = files + next->file;
    ps_run run = {.count = neighbours(next, count - done), .first = next->row};
    reader.room = size - at;
    if (!locate(&reader, file, &run) || run.count == 0) break;
    int64_t place = file->data_at + (int64_t)run.at;
    if (!read_now(file, out + at, run.total, place)) {
      if (*advised == 0) {
        advise(&reader, files, wanted, done, count + ahead);
        *advised = count + ahead;
        reader.room = size - at;
        if (!locate(&reader, file, &run)) break;
      }
      if (!read_at(file, out + at, run.total, place)) break;
    }
    int64_t checked = 0;
    for (; checked < run.count && matches(&reader, &run, checked, out + at); checked++)
      at += run.sizes[checked];
    done += checked;
    if (checked < run.count) break;
  }
  free(reader.entries);
  return done;
}

int64_t ps_decode_observations(int level, int codec, const uint8_t *data, const uint32_t *sizes,
                               int64_t count, const int64_t *firsts, const int64_t *places,
                               int64_t cameras, int64_t rows, int64_t row_bytes, uint8_t *out,
                               int64_t room) {
  ps_reader reader = reader_of(level, NULL, cameras, rows, row_bytes);
  int streams = room * reader.record_bytes >= STREAM_BYTES;
  if (codec == PS_BITPLANES_LZ4) {
    reader.planes = malloc((size_t)ps_most_planes(reader.image_bytes) + 1);
    if (!reader.planes) return PS_NO_MEMORY;
  }
  int64_t done = 0;
  for (; done < count; done++) {
    const int64_t *place = places + firsts[done];
    int64_t copies = firsts[done + 1] - firsts[done];
    uint8_t *to = copies > 0 ? out + *place * reader.record_bytes : NULL;
    for (int64_t camera = 0; camera < cameras; camera++) {
      int64_t encoded = *sizes++;
      if (to && ps_decode_image(level, codec, data, encoded, rows, row_bytes, reader.planes,
                                streams && copies == 1, to + camera * reader.image_bytes) != 0)
        goto damaged;
      data += encoded;
    }
    for (int64_t copy = 1; copy < copies; copy++)
      memcpy(out + place[copy] * reader.record_bytes, to, (size_t)reader.record_bytes);
  }
damaged:
  free(reader.planes);
  return done;
}
