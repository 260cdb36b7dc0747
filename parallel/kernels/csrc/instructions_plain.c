// Any processor, in plain C.
#include <math.h>
#include <string.h>

#include "kernels.h"

#define NAME instructions_plain
#define LABEL "plain"
#define MAX_ROWS 1
#define USES_WORDS 1
#define VECTOR static inline
#define EACH for (int i = 0; i < LANES; i++)

typedef struct {
  float lane[LANES];
} Floats;
typedef struct {
  int32_t lane[LANES];
} Ints;
typedef struct {
  double lane[LANES];
} Doubles;

static inline float float_of_half(uint16_t half) {
  uint32_t sign = (uint32_t)(half >> 15) << 31, exponent = half >> 10 & 31, rest = half & 1023;
  uint32_t bits = sign | 0x7f800000u | rest << 13;  // infinity or not a number
  float value;
  if (exponent == 0) {
    value = (float)rest * 5.9604644775390625e-8f;
    return sign ? -value : value;
  }
  if (exponent < 31) bits = sign | (exponent + 112) << 23 | rest << 13;
  memcpy(&value, &bits, 4);
  return value;
}

VECTOR Floats floats_all(float x) {
  Floats v;
  EACH v.lane[i] = x;
  return v;
}
VECTOR Floats floats_load(const float *p) {
  Floats v;
  memcpy(&v, p, sizeof v);
  return v;
}
VECTOR void floats_store(float *p, Floats v) { memcpy(p, &v, sizeof v); }
VECTOR Floats floats_of_half(const uint16_t *p) {
  Floats v;
  EACH v.lane[i] = float_of_half(p[i]);
  return v;
}
VECTOR Floats floats_of_bf16(const uint16_t *p) {
  Floats v;
  EACH {
    uint32_t bits = (uint32_t)p[i] << 16;
    memcpy(&v.lane[i], &bits, 4);
  }
  return v;
}
VECTOR Floats floats_of_ints(Ints n) {
  Floats v;
  EACH v.lane[i] = (float)n.lane[i];
  return v;
}
#define LANEWISE(name, expression)      \
  VECTOR Floats name(Floats a, Floats b) { \
    EACH a.lane[i] = expression;           \
    return a;                              \
  }
LANEWISE(add, a.lane[i] + b.lane[i])
LANEWISE(subtract, a.lane[i] - b.lane[i])
LANEWISE(times, a.lane[i] * b.lane[i])
LANEWISE(divide, a.lane[i] / b.lane[i])
LANEWISE(larger, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i])
LANEWISE(smaller, a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i])
VECTOR Floats fused(Floats a, Floats b, Floats c) {
  EACH c.lane[i] += a.lane[i] * b.lane[i];
  return c;
}
// In the order of the vector instructions: halves, quarters, pairs.
VECTOR float sum_of(Floats v) {
  for (int width = 8; width; width /= 2)
    for (int i = 0; i < width; i++) v.lane[i] += v.lane[i + width];
  return v.lane[0];
}
VECTOR float largest_of(Floats v) {
  float most = v.lane[0];
  EACH most = v.lane[i] > most ? v.lane[i] : most;
  return most;
}
VECTOR Floats power2(Floats v, Ints n) {
  EACH {
    uint32_t bits;
    memcpy(&bits, &v.lane[i], 4);
    bits += (uint32_t)n.lane[i] << 23;
    memcpy(&v.lane[i], &bits, 4);
  }
  return v;
}
VECTOR Floats zero_below(Floats v, Floats x, float least) {
  EACH v.lane[i] = x.lane[i] < least ? 0.0f : v.lane[i];
  return v;
}
VECTOR Ints ints_of(Floats v) {
  Ints n;
  EACH n.lane[i] = (int32_t)lrintf(v.lane[i]);
  return n;
}
VECTOR Ints ints_minus(Ints v, int32_t x) {
  EACH v.lane[i] -= x;
  return v;
}
VECTOR Ints ints_add(Ints a, Ints b) {
  EACH a.lane[i] += b.lane[i];
  return a;
}
VECTOR int32_t sum_of_ints(Ints v) {
  int32_t sum = 0;
  EACH sum += v.lane[i];
  return sum;
}
VECTOR void doubles_add(Doubles *d, Floats v) { EACH d->lane[i] += (double)v.lane[i]; }
VECTOR void doubles_store(double *p, const Doubles *d) { memcpy(p, d, sizeof *d); }
VECTOR void split(Ints codes, int8_t *bytes, int16_t *words, int stride) {
  (void)bytes;
  EACH words[(i / 4) * stride * 4 + i % 4] = (int16_t)codes.lane[i];
}

VECTOR void int_tile(const int num, const int is_int4, const int steps, const uint8_t *codes,
                     const int8_t *bytes, const int16_t *words, int tile_rows, Ints *dots) {
  (void)bytes;
  for (int r = 0; r < num; r++) {
    int32_t sums[LANES] = {0};
    for (int j = 0; j < steps; j++) {
      const int16_t *four = words + ((int64_t)j * tile_rows + r) * 4;
      const uint8_t *part = codes + (is_int4 ? j % 4 : j) * 64;
      for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 4; i++) {
          int32_t code = part[lane * 4 + i];
          if (is_int4) code = j < 4 ? code & 15 : code >> 4;
          sums[lane] += code * four[i];
        }
    }
    memcpy(&dots[r], sums, 64);
  }
}

#include "instructions.inc.h"
