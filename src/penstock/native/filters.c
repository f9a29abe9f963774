/* What is done to the numbers of a checkpoint before their bytes are encoded, and undone after.
 *
 * Plain loops over numbers that may lie at any address: compilers make vectors of them. */
#include "kernels.h"

#include <string.h>

/* Zigzag: 0, -1, 1, -2 become 0, 1, 2, 3. */
#define PS_DIFFERENCE(bits)                                                                     \
  static void subtract_##bits(const uint8_t *raw, const uint8_t *base, int64_t count,           \
                              uint8_t *out) {                                                   \
    for (int64_t i = 0; i < count; i++) {                                                       \
      uint##bits##_t a, b;                                                                      \
      memcpy(&a, raw + i * (bits / 8), bits / 8);                                               \
      memcpy(&b, base + i * (bits / 8), bits / 8);                                              \
      a = (uint##bits##_t)(a - b);                                                              \
      a = (uint##bits##_t)((uint##bits##_t)(a << 1) ^ (uint##bits##_t)(0 - (a >> (bits - 1)))); \
      memcpy(out + i * (bits / 8), &a, bits / 8);                                               \
    }                                                                                           \
  }                                                                                             \
  static void add_##bits(const uint8_t *base, int64_t count, uint8_t *out) {                    \
    for (int64_t i = 0; i < count; i++) {                                                       \
      uint##bits##_t a, b;                                                                      \
      memcpy(&a, out + i * (bits / 8), bits / 8);                                               \
      memcpy(&b, base + i * (bits / 8), bits / 8);                                              \
      a = (uint##bits##_t)((a >> 1) ^ (uint##bits##_t)(0 - (a & 1)));                           \
      a = (uint##bits##_t)(a + b);                                                              \
      memcpy(out + i * (bits / 8), &a, bits / 8);                                               \
    }                                                                                           \
  }

PS_DIFFERENCE(16)
PS_DIFFERENCE(32)
PS_DIFFERENCE(64)

void ps_subtract(const uint8_t *raw, const uint8_t *base, int64_t count, int64_t item,
                 uint8_t *out) {
  if (item == 2) subtract_16(raw, base, count, out);
  if (item == 4) subtract_32(raw, base, count, out);
  if (item == 8) subtract_64(raw, base, count, out);
}

void ps_add(const uint8_t *base, int64_t count, int64_t item, uint8_t *out) {
  if (item == 2) add_16(base, count, out);
  if (item == 4) add_32(base, count, out);
  if (item == 8) add_64(base, count, out);
}

void ps_round_bfloat16(const uint8_t *floats, int64_t count, uint8_t *out) {
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, floats + 4 * i, 4);
    uint32_t upper = bits >> 16, rounded = (bits + 0x7FFF + (upper & 1)) >> 16;
    /* A NaN must stay one: its payload may lie in the half that goes, and rounding may overflow. */
    uint16_t half = (uint16_t)((bits & 0x7FFFFFFF) > 0x7F800000 ? upper | 0x40 : rounded);
    memcpy(out + 2 * i, &half, 2);
  }
}
