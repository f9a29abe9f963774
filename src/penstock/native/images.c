/* Runs of images, one call for all of them. */
#include "kernels.h"

#include <stdlib.h>
#include <string.h>

int64_t ps_encode_bitplanes(int level, const uint8_t *images, int64_t count, int64_t rows,
                            int64_t row_bytes, uint8_t *out, uint32_t *sizes) {
  int64_t size = rows * row_bytes;
  uint8_t *at = out;
  for (int64_t i = 0; i < count; i++) {
    int64_t encoded = ps_bitplanes_encode(level, images + i * size, size, row_bytes, at);
    sizes[i] = (uint32_t)encoded;
    at += encoded;
  }
  return at - out;
}

int64_t ps_decode_images(int level, int codec, const uint8_t *data, const uint32_t *sizes,
                         int64_t count, int64_t rows, int64_t row_bytes, uint8_t *out) {
  int64_t size = rows * row_bytes;
  int64_t most_planes = (size + PS_BLOCK - 1) / PS_BLOCK * (PS_BLOCK + 1);
  uint8_t *planes = NULL;
  if (codec == PS_BITPLANES_LZ4 && count > 0) {
    planes = malloc((size_t)most_planes + 1);
    if (!planes) return PS_NO_MEMORY;
  }
  int64_t done = 0;
  for (; done < count; done++) {
    int64_t encoded = sizes[done], result = PS_CORRUPT;
    uint8_t *image = out + done * size;
    if (codec == PS_RAW) {
      if (encoded == size) {
        memcpy(image, data, (size_t)size);
        result = 0;
      }
    } else if (codec == PS_LZ4) {
      if (ps_lz4_decompress(data, encoded, image, size) == size) result = 0;
    } else if (codec == PS_BITPLANES) {
      result = ps_bitplanes_decode(level, data, encoded, size, row_bytes, image);
    } else if (codec == PS_BITPLANES_LZ4) {
      int64_t decoded = ps_lz4_decompress(data, encoded, planes, most_planes);
      if (decoded >= 0)
        result = ps_bitplanes_decode(level, planes, decoded, size, row_bytes, image);
    }
    if (result != 0) break;
    data += encoded;
  }
  free(planes);
  return done;
}
