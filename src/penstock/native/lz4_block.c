/* Decoding of LZ4 blocks (https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md). */
#include "kernels.h"

#include <string.h>

enum { MIN_MATCH = 4, LONG_LENGTH = 15, STEP = 16 };

/* Adds the bytes that continue a length of 15; 0 when they end too early. */
PS_INLINE int more_length(const uint8_t **in, const uint8_t *in_end, size_t *length) {
  uint8_t byte;
  do {
    if (*in == in_end) return 0;
    byte = *(*in)++;
    *length += byte;
  } while (byte == 255);
  return 1;
}

PS_INLINE void copy_match(uint8_t *out, size_t offset, size_t length, size_t room) {
  const uint8_t *from = out - offset;
  if (offset >= STEP && room >= length + STEP) {
    /* Up to 15 bytes too many, inside the room and overwritten by what follows. */
    for (size_t done = 0; done < length; done += STEP) memcpy(out + done, from + done, STEP);
  } else if (offset >= length) {
    memcpy(out, from, length);
  } else if (offset == 1) {
    memset(out, *from, length);
  } else {
    /* The match runs into itself: what is copied doubles until it suffices. */
    size_t done = 0, ready = offset;
    while (done < length) {
      size_t part = ready < length - done ? ready : length - done;
      memcpy(out + done, from, part);
      done += part;
      ready += part;
    }
  }
}

int64_t ps_lz4_decompress(const uint8_t *data, int64_t data_bytes, uint8_t *out,
                          int64_t out_bytes) {
  const uint8_t *in = data, *in_end = data + data_bytes;
  uint8_t *at = out, *out_end = out + out_bytes;
  for (;;) {
    if (in == in_end) return PS_CORRUPT;
    uint8_t token = *in++;

    size_t literals = token >> 4;
    if (literals == LONG_LENGTH && !more_length(&in, in_end, &literals)) return PS_CORRUPT;
    size_t in_left = (size_t)(in_end - in), room = (size_t)(out_end - at);
    if (literals > in_left || literals > room) return PS_CORRUPT;
    if (literals <= STEP && in_left >= STEP && room >= STEP)
      memcpy(at, in, STEP);
    else if (literals)
      memcpy(at, in, literals);
    in += literals;
    at += literals;
    if (in == in_end) return at - out;

    if (in_end - in < 2) return PS_CORRUPT;
    size_t offset = in[0] | (size_t)in[1] << 8;
    in += 2;
    size_t length = (token & LONG_LENGTH);
    if (length == LONG_LENGTH && !more_length(&in, in_end, &length)) return PS_CORRUPT;
    length += MIN_MATCH;
    room = (size_t)(out_end - at);
    if (offset == 0 || offset > (size_t)(at - out) || length > room) return PS_CORRUPT;
    copy_match(at, offset, length, room);
    at += length;
  }
}
