/* Decoding of LZF, the filter of HDF5 that h5py brings.
 *
 * A control byte c < 32 is followed by c + 1 literals. Else its upper three bits are a length, 7
 * continued by one more byte, and its lower five with the next byte a distance: copy length + 2
 * bytes from distance + 1 bytes back. */
#include "kernels.h"

#include <string.h>

enum { LITERALS = 32, LONG_LENGTH = 7 };

int64_t ps_lzf_decompress(const uint8_t *data, int64_t data_bytes, uint8_t *out,
                          int64_t out_bytes) {
  const uint8_t *in = data, *in_end = data + data_bytes;
  uint8_t *at = out, *out_end = out + out_bytes;
  while (in < in_end) {
    size_t control = *in++;
    if (control < LITERALS) {
      size_t length = control + 1;
      if (length > (size_t)(in_end - in) || length > (size_t)(out_end - at)) return PS_CORRUPT;
      memcpy(at, in, length);
      in += length;
      at += length;
      continue;
    }
    size_t length = control >> 5;
    if (length == LONG_LENGTH) {
      if (in == in_end) return PS_CORRUPT;
      length += *in++;
    }
    length += 2;
    if (in == in_end) return PS_CORRUPT;
    size_t distance = ((control & 31) << 8 | *in++) + 1;
    if (distance > (size_t)(at - out) || length > (size_t)(out_end - at)) return PS_CORRUPT;
    if (distance >= length)
      memcpy(at, at - distance, length);
    else if (distance == 1)
      memset(at, at[-1], length);
    else
      for (size_t i = 0; i < length; i++) at[i] = at[i - distance];
    at += length;
  }
  return at - out;
}
