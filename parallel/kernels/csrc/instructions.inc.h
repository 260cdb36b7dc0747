// The kernels in terms of vectors of 16 lanes; included once for each instruction set, which defines
// them first: NAME, LABEL, MAX_ROWS, USES_WORDS, the types Floats, Ints and Doubles, int_tile and
//
//   floats_all(x), floats_load(p), floats_store(p, v), floats_of_half(p), floats_of_bf16(p),
//   floats_of_ints(v), add, subtract, times, divide, larger, smaller, fused(a, b, c),
//   sum_of(v), largest_of(v), power2(v, n) = v * 2^n, zero_below(v, x, least) = x < least ? 0 : v,
//   ints_of(v) to the nearest, ints_minus(v, x), ints_add(a, b), sum_of_ints(v),
//   split(codes, bytes, words, stride): store 16 codes as 4 steps, doubles_add(d, v), doubles_store.
//
// It is compiled without contraction of products and sums, so that every expansion of a function
// gives the same bits.
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

INLINE Floats load_part(const float *p, int64_t num, float rest) {
  float values[LANES];
  for (int i = 0; i < LANES; i++) values[i] = i < num ? p[i] : rest;
  return floats_load(values);
}

INLINE void store_part(float *p, Floats v, int64_t num) {
  float values[LANES];
  floats_store(values, v);
  memcpy(p, values, (size_t)num * 4);
}

// e^x within 2 units in the last place; 0 below -87, and finite above 88.
INLINE Floats exp_of(Floats x) {
  Floats bounded = smaller(larger(x, floats_all(-87.0f)), floats_all(88.0f));
  Ints exponent = ints_of(times(bounded, floats_all(1.44269504f)));
  Floats n = floats_of_ints(exponent);
  Floats r = fused(n, floats_all(-0.693145752f), bounded);
  r = fused(n, floats_all(-1.42860677e-6f), r);
  Floats p = floats_all(1.9875691500e-4f);
  p = fused(p, r, floats_all(1.3981999507e-3f));
  p = fused(p, r, floats_all(8.3334519073e-3f));
  p = fused(p, r, floats_all(4.1665795894e-2f));
  p = fused(p, r, floats_all(1.6666665459e-1f));
  p = fused(p, r, floats_all(5.0000001201e-1f));
  p = add(fused(p, times(r, r), r), floats_all(1.0f));
  return zero_below(power2(p, exponent), x, -87.0f);
}

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

// out = norm(x) + addend; any of the three may be the same memory, and addend may be NULL.
static void norm(const float *x, const Norm *n, const float *addend, int64_t size, float *out) {
  Floats squares = floats_all(0);
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) {
    Floats part = floats_load(x + i);
    squares = fused(part, part, squares);
  }
  if (i < size) {
    Floats part = load_part(x + i, size - i, 0);
    squares = fused(part, part, squares);
  }
  const float factor = 1.0f / sqrtf(sum_of(squares) / (float)size + n->eps);
  const Floats factors = floats_all(factor);
  for (i = 0; i + LANES <= size; i += LANES) {
    Floats normed = times(times(floats_load(x + i), factors), floats_load(n->weight + i));
    floats_store(out + i, addend ? add(normed, floats_load(addend + i)) : normed);
  }
  for (; i < size; i++) out[i] = x[i] * factor * n->weight[i] + (addend ? addend[i] : 0.0f);
}

static void turn(float *head, const float *turns, int64_t dim) {
  for (int64_t i = 0; i < dim; i += 2) {
    float real = head[i], other = head[i + 1];
    head[i] = real * turns[i] - other * turns[i + 1];
    head[i + 1] = real * turns[i + 1] + other * turns[i];
  }
}

INLINE float dot(const float *a, const float *b, int64_t dim) {
  Floats sum = floats_all(0);
  int64_t i = 0;
  for (; i + LANES <= dim; i += LANES) sum = fused(floats_load(a + i), floats_load(b + i), sum);
  if (i < dim) sum = fused(load_part(a + i, dim - i, 0), load_part(b + i, dim - i, 0), sum);
  return sum_of(sum);
}

// Add the values of some tokens to `sums`, [16 * num]; `num` is a constant where this is expanded.
INLINE void add_values(const int num, const float *values, int64_t dim, const int32_t *address,
                       const float *weights, int64_t count, float *sums) {
  Floats total[4];
#pragma GCC unroll 4
  for (int p = 0; p < num; p++) total[p] = floats_load(sums + p * LANES);
  for (int64_t i = 0; i < count; i++) {
    const float *value = values + (int64_t)address[i] * dim;
    const Floats weight = floats_all(weights[i]);
#pragma GCC unroll 4
    for (int p = 0; p < num; p++) total[p] = fused(floats_load(value + p * LANES), weight, total[p]);
  }
#pragma GCC unroll 4
  for (int p = 0; p < num; p++) floats_store(sums + p * LANES, total[p]);
}

static void add_all_values(const float *values, int64_t dim, const int32_t *address,
                           const float *weights, int64_t count, float *out) {
  int64_t i = 0;
  for (; i + 4 * LANES <= dim; i += 4 * LANES)
    add_values(4, values + i, dim, address, weights, count, out + i);
  for (; i + LANES <= dim; i += LANES)
    add_values(1, values + i, dim, address, weights, count, out + i);
  for (; i < dim; i++)
    for (int64_t t = 0; t < count; t++) out[i] += values[(int64_t)address[t] * dim + i] * weights[t];
}

// One head of one row: softmax over its visible tokens, in their order.
static void attend(const Attention *a, const Rows *rows, const Cache *cache, int64_t row, int head,
                   const float *query, float *scores, float *out) {
  const int64_t dim = a->head_dim;
  const int kv = head / (a->num_query / a->num_kv);
  const float *keys = cache->data + (int64_t)kv * cache->tokens * dim;
  const float *values = cache->data + (int64_t)(a->num_kv + kv) * cache->tokens * dim;
  const int32_t *near = rows->context + rows->first[row];
  const int32_t *extra = rows->extra + rows->extra_first[row];
  const int64_t num_near = rows->stop[row] - rows->first[row];
  const int64_t num_extra = rows->extra_stop[row] - rows->extra_first[row];
  const int64_t count = num_near + num_extra;
  float most = -INFINITY;
  for (int64_t i = 0; i < num_near; i++) {
    scores[i] = dot(query, keys + (int64_t)near[i] * dim, dim) * a->scale;
    most = scores[i] > most ? scores[i] : most;
  }
  for (int64_t i = 0; i < num_extra; i++) {
    float score = dot(query, keys + (int64_t)extra[i] * dim, dim) * a->scale;
    scores[num_near + i] = score;
    most = score > most ? score : most;
  }
  Floats sum = floats_all(0);
  const Floats shift = floats_all(most);
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) {
    Floats weight = exp_of(subtract(floats_load(scores + i), shift));
    floats_store(scores + i, weight);
    sum = add(sum, weight);
  }
  if (i < count) {
    Floats weight = exp_of(subtract(load_part(scores + i, count - i, -INFINITY), shift));
    store_part(scores + i, weight, count - i);
    sum = add(sum, weight);
  }
  const float factor = 1.0f / sum_of(sum);
  memset(out, 0, (size_t)dim * 4);
  add_all_values(values, dim, near, scores, num_near, out);
  add_all_values(values, dim, extra, scores + num_near, num_extra, out);
  for (int64_t d = 0; d < dim; d++) out[d] *= factor;
}

INLINE Floats activated(Floats gate, int activation) {
  const Floats one = floats_all(1.0f), zero = floats_all(0.0f);
  if (activation == SILU) return divide(gate, add(one, exp_of(subtract(zero, gate))));
  // 0.5 g (1 + tanh u) is g / (1 + e^(-2u)).
  Floats cube = times(times(gate, gate), gate);
  Floats u = times(floats_all(-2 * 0.7978845608f), fused(floats_all(0.044715f), cube, gate));
  return divide(gate, add(one, exp_of(u)));
}

static void activate(const float *gate, const float *up, int64_t size, int activation, float *out) {
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES)
    floats_store(out + i, times(activated(floats_load(gate + i), activation), floats_load(up + i)));
  if (i < size) {
    Floats rest = activated(load_part(gate + i, size - i, 0), activation);
    store_part(out + i, times(rest, load_part(up + i, size - i, 0)), size - i);
  }
}

const Instructions NAME = {
    .name = LABEL,
    .max_rows = MAX_ROWS,
    .uses_words = USES_WORDS,
    .quantize = quantize,
    .int_panel = int_panel,
    .float_panels = float_panels,
    .norm = norm,
    .turn = turn,
    .attend = attend,
    .activate = activate,
};
