// Products of many rows with stored weights, and the memory that a thread keeps for them.
#ifndef PACELINE_PRODUCTS_H
#define PACELINE_PRODUCTS_H

#include <stddef.h>

#include "kernels.h"

extern const Instructions *chosen;

// Memory that a thread keeps between calls, until it ends; each part is aligned to a cache line.
typedef struct {
  char *start;
  size_t size, used;
} Scratch;
extern __thread Scratch scratch, item_scratch;  // of a call, and of one item of a loop

// Begin to use scratch: return its start, with at least `size` bytes. Parts are then taken from it.
void *reserve(Scratch *s, size_t size);
void *take(Scratch *s, size_t size);
size_t padded(size_t size);  // what a part of `size` bytes takes

static inline int is_integer(const Matrix *m) { return m->kind == INT4 || m->kind == INT8; }

size_t quantized_size(int64_t rows, int64_t inputs);
Quantized take_quantized(Scratch *s, int64_t rows, int64_t inputs);

// Write row `row` of `rows`; `x` is that row, or all of them.
void quantize_row(const float *x, int64_t inputs, Quantized *to, int64_t row, int64_t rows);
void quantize_rows(const float *x, int64_t inputs, Quantized *to, int64_t rows, int threads);

// A product: out[row * stride + column] = x W^T + bias + addend, or the same in float64 without
// the addend where `sums` is given.
typedef struct {
  const Matrix *matrix;
  const float *x;  // [rows, inputs], for float weights
  const Quantized *quantized;
  int64_t rows;
  float *out;
  const float *addend;  // of the shape of out
  double *sums;
  const int32_t *added_rows;  // with `added`: rows with numbers from 0 on have something added
  const double *added;        // of the shape of out, added to the sums in float64; or NULL
  int64_t stride;
  int64_t chunk;  // panels of an item
} Product;

// Run up to 3 products of the same rows at once; `is_wide` adds up in float64.
void multiply(Product *products, int num, int is_wide, int threads);

// Which parts of the rows' adapters belong to a product, or to up to 3 side by side.
typedef struct {
  const Adapters *adapters;  // or NULL: no row has an adapter
  int64_t layer;
  int part, num;       // the first part, and how many
  int64_t inputs;
  int64_t outputs[3];  // of each part
} Added;

// Add what the rows' adapters add to products of x: out[row * stride + column] += ...
void add_low_rank(const Added *added, const float *x, float *out, int64_t rows, int64_t stride,
                  int threads);
// Write the same for one product in float64, [rows, outputs]; only where a row has an adapter.
void low_rank_sums(const Added *added, const float *x, double *sums, int64_t rows, int threads);

// out = norm(x) [W1; W2; ...]^T + bias: the products of up to 3 matrices side by side in a row of
// `stride` floats, and what adapters add to them. `norm` may be NULL or without a weight, `added`
// NULL. Takes scratch of `input_size` bytes.
void first_products(const Matrix *m, int num, const Norm *norm, const float *x, int64_t rows,
                    const Added *added, float *out, int64_t stride, int threads);
size_t input_size(int64_t rows, int64_t inputs);

// Work on each row by itself, by several threads where there are many rows.
void each_row(void (*body)(void *, int64_t), void *argument, int64_t rows, int threads);

// out = norm(x) + addend, [rows, size] each; addend may be NULL or out.
void kernels_norm(const float *x, const Norm *norm, const float *addend, float *out, int64_t rows,
                  int64_t size, int threads);

#endif
