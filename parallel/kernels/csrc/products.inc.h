// Activations in integers, and panels of the products with stored weights, in terms of the vectors
// that instructions.inc.h describes; included by it.

static void quantize(const float *x, int64_t size, Quantized *to, int64_t tile, int row,
                     int num_rows) {
  const int64_t groups = size / GROUP;
  const Floats zero = floats_all(0);
  int8_t *bytes = to->bytes + tile * TILE * size * 2 + row * 8;
  int16_t *words = USES_WORDS ? to->words + tile * TILE * size + row * 4 : NULL;
  float *scales = to->scales + tile * groups * TILE + row;
  int32_t *sums = to->sums + tile * groups * 2 * TILE + row;
  for (int64_t g = 0; g < groups; g++) {
    Floats a = floats_load(x + g * GROUP), b = floats_load(x + g * GROUP + LANES);
    float most = largest_of(larger(larger(a, subtract(zero, a)), larger(b, subtract(zero, b))));
    float factor = most > 1e-30f ? 32512.0f / most : 0.0f;
    Ints code_a = ints_of(times(a, floats_all(factor)));
    Ints code_b = ints_of(times(b, floats_all(factor)));
    split(code_a, bytes, words, num_rows);
    split(code_b, bytes + 4 * num_rows * 8, USES_WORDS ? words + 4 * num_rows * 4 : NULL, num_rows);
    bytes += 8 * num_rows * 8;
    if (USES_WORDS) words += 8 * num_rows * 4;
    scales[g * TILE] = factor > 0 ? most * (1.0f / 32512.0f) : 0.0f;
    sums[g * 2 * TILE] = sum_of_ints(code_a);
    sums[(g * 2 + 1) * TILE] = sum_of_ints(code_b);
  }
}

// Scales or minima of a group: 16 of them, in 16 or 32 bits.
INLINE Floats load_scales(const uint8_t *at, int wide) {
  return wide ? floats_load((const float *)at) : floats_of_half((const uint16_t *)at);
}

INLINE void finish_rows(int num, const Floats *totals, const Doubles *wide, float *out,
                        double *sums) {
#pragma GCC unroll 8
  for (int r = 0; r < num; r++) {
    if (sums)
      doubles_store(sums + r * LANES, &wide[r]);
    else
      floats_store(out + r * LANES, totals[r]);
  }
}

// A group of a panel, and of the rows that it is multiplied by.
typedef struct {
  const uint8_t *codes, *factors;
  const int8_t *bytes;
  const int16_t *words;
  const float *scales;
  const int32_t *sums;  // [2][TILE]
  int tile_rows;
} Group;

// The products of one group whose weights share a scale, and perhaps a minimum.
INLINE void whole_group(const int num, const int is_int4, const Matrix *m, const Group *g,
                        Floats *values) {
  const int wide_scales = m->flags & WIDE_SCALES, has_mins = m->flags & HAS_MINS;
  Ints dots[MAX_ROWS];
  int_tile(num, is_int4, 8, g->codes, g->bytes, g->words, g->tile_rows, dots);
  const Floats scale = load_scales(g->factors, wide_scales);
  Floats least = floats_all(0);
  if (has_mins) least = load_scales(g->factors + (wide_scales ? 64 : 32), wide_scales);
#pragma GCC unroll 8
  for (int r = 0; r < num; r++) {
    const int32_t sum = g->sums[r] + g->sums[TILE + r];
    Ints dot = dots[r];
    if (!has_mins) dot = ints_minus(dot, sum * (is_int4 ? 8 : 128));
    values[r] = times(floats_of_ints(dot), times(scale, floats_all(g->scales[r])));
    if (has_mins) values[r] = fused(least, floats_all(g->scales[r] * (float)sum), values[r]);
  }
}

// The same of a group in 8 bits whose halves have a scale each: the first half's, plus the other's.
INLINE void two_halves(const int num, const Matrix *m, const Group *g, Floats *values) {
  const int wide_scales = m->flags & WIDE_SCALES;
#pragma GCC unroll 2
  for (int half = 0; half < 2; half++) {
    const int64_t steps = (int64_t)half * 4 * g->tile_rows;
    Ints dots[MAX_ROWS];
    int_tile(num, 0, 4, g->codes + half * 256, g->bytes + steps * 8,
             USES_WORDS ? g->words + steps * 4 : NULL, g->tile_rows, dots);
    const Floats scale = load_scales(g->factors + half * (wide_scales ? 64 : 32), wide_scales);
#pragma GCC unroll 8
    for (int r = 0; r < num; r++) {
      Ints dot = ints_minus(dots[r], g->sums[half * TILE + r] * 128);
      Floats part = times(floats_of_ints(dot), times(scale, floats_all(g->scales[r])));
      values[r] = half ? add(values[r], part) : part;
    }
  }
}

enum { FOUR_BITS, EIGHT_BITS, EIGHT_BITS_IN_HALVES };

// One panel by `num` rows. NUM, FORM and IS_WIDE are constants where this is expanded.
INLINE void int_rows(const int num, const int form, const int is_wide, const Matrix *m,
                     const uint8_t *panel, const Quantized *x, int64_t tile, int first,
                     int tile_rows, float *out, double *sums) {
  const int64_t groups = m->inputs / GROUP;
  const int64_t code_bytes = form == FOUR_BITS ? 256 : 512;
  const int64_t scale_bytes = m->flags & WIDE_SCALES ? 64 : 32;
  const int64_t group_bytes =
      code_bytes + scale_bytes * (m->flags & (HAS_MINS | HALF_GROUPS) ? 2 : 1);
  Group group = {
      .codes = panel,
      .factors = panel + code_bytes,
      .bytes = x->bytes + tile * TILE * m->inputs * 2 + first * 8,
      .words = USES_WORDS ? x->words + tile * TILE * m->inputs + first * 4 : NULL,
      .scales = x->scales + tile * groups * TILE + first,
      .sums = x->sums + tile * groups * 2 * TILE + first,
      .tile_rows = tile_rows,
  };
  Floats totals[MAX_ROWS];
  Doubles wide[MAX_ROWS];
#pragma GCC unroll 8
  for (int r = 0; r < num; r++) {
    totals[r] = floats_all(0);
    if (is_wide) memset(&wide[r], 0, sizeof wide[r]);
  }
  for (int64_t g = 0; g < groups; g++) {
    Floats values[MAX_ROWS];
    if (form == EIGHT_BITS_IN_HALVES)
      two_halves(num, m, &group, values);
    else
      whole_group(num, form == FOUR_BITS, m, &group, values);
#pragma GCC unroll 8
    for (int r = 0; r < num; r++) {
      if (is_wide)
        doubles_add(&wide[r], values[r]);
      else
        totals[r] = add(totals[r], values[r]);
    }
    group.codes += group_bytes;
    group.factors += group_bytes;
    group.bytes += 8 * tile_rows * 8;
    if (USES_WORDS) group.words += 8 * tile_rows * 4;
    group.scales += TILE;
    group.sums += 2 * TILE;
  }
  finish_rows(num, totals, wide, out, sums);
}

#define FORM_CASE(N, FORM)                                                                       \
  if (sums)                                                                                      \
    int_rows(N, FORM, 1, m, panel, x, tile, first, tile_rows, out, sums);                        \
  else                                                                                           \
    int_rows(N, FORM, 0, m, panel, x, tile, first, tile_rows, out, NULL);

#define INT_CASE(N)                                                                              \
  case N:                                                                                        \
    if (m->kind == INT4) {                                                                       \
      FORM_CASE(N, FOUR_BITS)                                                                    \
    } else if (m->flags & HALF_GROUPS) {                                                         \
      FORM_CASE(N, EIGHT_BITS_IN_HALVES)                                                         \
    } else {                                                                                     \
      FORM_CASE(N, EIGHT_BITS)                                                                   \
    }                                                                                            \
    break;

static void int_panel(const Matrix *m, const uint8_t *panel, const Quantized *x, int64_t tile,
                      int first, int num, int tile_rows, float *out, double *sums) {
  switch (num) {
    INT_CASE(1)
#if MAX_ROWS >= 4
    INT_CASE(2)
    INT_CASE(3)
    INT_CASE(4)
#endif
#if MAX_ROWS >= 8
    INT_CASE(5)
    INT_CASE(6)
    INT_CASE(7)
    INT_CASE(8)
#endif
  }
}

// Weights of 16 outputs for one input.
INLINE Floats load_weights(const uint8_t *panel, int64_t input, const int kind) {
  if (kind == FLOAT32) return floats_load((const float *)panel + input * LANES);
  const uint16_t *halves = (const uint16_t *)panel + input * LANES;
  return kind == BFLOAT16 ? floats_of_bf16(halves) : floats_of_half(halves);
}

// `num_panels` panels by `num` rows; sums within each 32 inputs, then over these.
INLINE void float_rows(const int num, const int num_panels, const int kind, const Matrix *m,
                       const uint8_t *panels, const float *x, int64_t stride, float *out,
                       double *sums) {
  const int64_t inputs = m->inputs;
  const int64_t panel_bytes = inputs * LANES * (kind == FLOAT32 ? 4 : 2);
  Floats totals[4][4];
  Doubles wide[4][4];
  memset(totals, 0, sizeof totals);
  memset(wide, 0, sizeof wide);
  for (int64_t first = 0; first < inputs; first += GROUP) {
    int64_t stop = first + GROUP < inputs ? first + GROUP : inputs;
    Floats part[4][4];
#pragma GCC unroll 4
    for (int p = 0; p < num_panels; p++)
#pragma GCC unroll 4
      for (int r = 0; r < num; r++) part[p][r] = floats_all(0);
#pragma GCC unroll 1
    for (int64_t i = first; i < stop; i++) {
      Floats weights[4];
#pragma GCC unroll 4
      for (int p = 0; p < num_panels; p++)
        weights[p] = load_weights(panels + p * panel_bytes, i, kind);
#pragma GCC unroll 4
      for (int r = 0; r < num; r++) {
        float value = x[r * stride + i];
#pragma GCC unroll 4
        for (int p = 0; p < num_panels; p++)
          part[p][r] = fused(weights[p], floats_all(value), part[p][r]);
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < num_panels; p++)
#pragma GCC unroll 4
      for (int r = 0; r < num; r++) {
        if (sums)
          doubles_add(&wide[p][r], part[p][r]);
        else
          totals[p][r] = add(totals[p][r], part[p][r]);
      }
  }
#pragma GCC unroll 1
  for (int p = 0; p < num_panels; p++)
    finish_rows(num, totals[p], wide[p], out + p * num * LANES,
                sums ? sums + p * num * LANES : NULL);
}

#define FLOAT_CASE(N, P)                                                                         \
  if (num_rows == N && num_panels == P) {                                                        \
    if (m->kind == BFLOAT16)                                                                     \
      float_rows(N, P, BFLOAT16, m, panels, x, stride, out, sums);                               \
    else if (m->kind == FLOAT16)                                                                 \
      float_rows(N, P, FLOAT16, m, panels, x, stride, out, sums);                                \
    else                                                                                         \
      float_rows(N, P, FLOAT32, m, panels, x, stride, out, sums);                                \
    return;                                                                                      \
  }

// out: [panels][rows][16]; 1, 2 or 4 rows by 1 or 4 panels.
static void float_panels(const Matrix *m, const uint8_t *panels, int num_panels, const float *x,
                         int64_t stride, int num_rows, float *out, double *sums) {
  FLOAT_CASE(1, 4)
  FLOAT_CASE(2, 4)
  FLOAT_CASE(4, 4)
  FLOAT_CASE(1, 1)
  FLOAT_CASE(2, 1)
  FLOAT_CASE(4, 1)
}
