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

int64_t ps_most_planes(int64_t image_bytes) {
  return (image_bytes + PS_BLOCK - 1) / PS_BLOCK * (PS_BLOCK + 1);
}

int64_t ps_decode_image(int level, int codec, const uint8_t *data, int64_t encoded, int64_t rows,
                        int64_t row_bytes, uint8_t *planes, int stream, uint8_t *out) {
  int64_t size = rows * row_bytes;
  switch (codec) {
    case PS_RAW:
      if (encoded != size) return PS_CORRUPT;
      memcpy(out, data, (size_t)size);
      return 0;
    case PS_LZ4:
      return ps_lz4_decompress(data, encoded, out, size) == size ? 0 : PS_CORRUPT;
    case PS_BITPLANES_LZ4:
      encoded = ps_lz4_decompress(data, encoded, planes, ps_most_planes(size));
      return encoded < 0 ? PS_CORRUPT
                         : ps_bitplanes_decode(level, planes, encoded, size, row_bytes, stream,
                                               out);
    case PS_BITPLANES:
      return ps_bitplanes_decode(level, data, encoded, size, row_bytes, stream, out);
    default:
      return PS_CORRUPT;
  }
}

int64_t ps_decode_images(int level, int codec, const uint8_t *data, const uint32_t *sizes,
                         int64_t count, int64_t rows, int64_t row_bytes, uint8_t *out) {
  int64_t size = rows * row_bytes;
  uint8_t *planes = NULL;
  if (codec == PS_BITPLANES_LZ4 && count > 0) {
    planes = malloc((size_t)ps_most_planes(size) + 1);
    if (!planes) return PS_NO_MEMORY;
  }
  int64_t done = 0;
  for (; done < count; done++) {
    uint8_t *image = out + done * size;
    if (ps_decode_image(level, codec, data, sizes[done], rows, row_bytes, planes, 0, image) !=
        0)
      break;
    data += sizes[done];
  }
  free(planes);
  return done;
}
