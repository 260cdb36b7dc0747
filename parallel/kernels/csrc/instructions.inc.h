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
#include "low_rank.inc.h"
#include "products.inc.h"

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
    .low_rank = low_rank,
    .norm = norm,
    .turn = turn,
    .attend = attend,
    .activate = activate,
};
