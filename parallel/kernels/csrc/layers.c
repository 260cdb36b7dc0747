// Decoder layers, and halves of one: attention with its norms, the feed-forward block with its norms.
#include <stddef.h>
#include <string.h>

#include "clocks.h"
#include "products.h"

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static size_t added_size(const Adapters *adapters, int64_t rows, int64_t outputs) {
  return adapters ? padded((size_t)(rows * outputs) * 8) : 0;
}

typedef struct {
  const Attention *a;
  const Rows *rows;
  const Cache *cache;
  float *heads;  // [rows, query + 2 * kv, dim]
  float *attended;
  int64_t longest;
} AttentionWork;

static void store_row(void *argument, int64_t row) {
  AttentionWork *w = argument;
  const Attention *a = w->a;
  int64_t dim = a->head_dim;
  int num_heads = a->num_query + 2 * a->num_kv;
  float *heads = w->heads + row * num_heads * dim;
  for (int head = 0; head < a->num_query + a->num_kv; head++) {
    const Norm *norm = head < a->num_query ? &a->query_norm : &a->key_norm;
    if (norm->weight) chosen->norm(heads + head * dim, norm, NULL, dim, heads + head * dim);
    chosen->turn(heads + head * dim, w->rows->turns + row * dim, dim);
  }
  int64_t address = w->rows->address[row];
  for (int head = 0; head < 2 * a->num_kv; head++)
    memcpy(w->cache->data + (head * w->cache->tokens + address) * dim,
           heads + (a->num_query + head) * dim, (size_t)dim * 4);
}

static void attend_item(void *argument, int64_t item) {
  AttentionWork *w = argument;
  const Attention *a = w->a;
  int64_t row = item / a->num_query, dim = a->head_dim;
  int head = (int)(item % a->num_query);
  float *scores = reserve(&item_scratch, (size_t)(w->longest + LANES) * 4);
  const float *query = w->heads + (row * (a->num_query + 2 * a->num_kv) + head) * dim;
  chosen->attend(a, w->rows, w->cache, row, head, query, scores,
                 w->attended + (row * a->num_query + head) * dim);
}

static int64_t longest_row(const Rows *rows) {
  int64_t most = 0;
  for (int64_t r = 0; r < rows->num_rows; r++) {
    int64_t count = rows->stop[r] - rows->first[r] + rows->extra_stop[r] - rows->extra_first[r];
    most = count > most ? count : most;
  }
  return most;
}

// The last product of a block, then its norm if it has one. Where `sums` is given, these are the
// rank's part of the output in float64, and norm and addend are left to the caller. `low_rank` is
// memory for what adapters add.
static void finish(const Matrix *m, const Norm *after, const float *x, const Quantized *quantized,
                   int64_t rows, const Added *added, double *low_rank, const float *addend,
                   float *out, double *sums, float *buffer, int threads) {
  end_part(TIME_BETWEEN);
  low_rank_sums(added, x, low_rank, rows, threads);
  int has_norm = after->weight && !sums;
  Product product = {.matrix = m, .x = x, .quantized = quantized, .rows = rows,
                     .out = has_norm ? buffer : out, .addend = has_norm ? NULL : addend,
                     .sums = sums, .stride = m->outputs};
  if (added->adapters) {
    product.added = low_rank;
    product.added_rows = added->adapters->of_row;
  }
  multiply(&product, 1, 1, threads);
  end_part(TIME_PRODUCTS);
  if (has_norm) kernels_norm(buffer, after, addend, out, rows, m->outputs, threads);
}

// Attention of a layer over this rank's heads; stores the rows' keys and values.
//   x, addend, out: [rows, hidden]; sums: [rows, hidden] or NULL; adapters: of the rows, or NULL;
//   layer: whose parts of an adapter these are.
void kernels_attention(const Attention *a, const Rows *rows, const Cache *cache,
                       const Adapters *adapters, int64_t layer, const float *x,
                       const float *addend, float *out, double *sums, int threads) {
  begin_call();
  int64_t n = rows->num_rows, hidden = a->qkv[0].inputs, dim = a->head_dim;
  int64_t width = (a->num_query + 2 * a->num_kv) * dim, inner = a->num_query * dim;
  reserve(&scratch, padded((size_t)(n * hidden) * 4) + padded((size_t)(n * width) * 4) +
                        padded((size_t)(n * inner) * 4) + added_size(adapters, n, hidden) +
                        larger(input_size(n, hidden), quantized_size(n, inner)));
  float *buffer = take(&scratch, (size_t)(n * hidden) * 4);
  double *low_rank = take(&scratch, added_size(adapters, n, hidden));
  float *heads = take(&scratch, (size_t)(n * width) * 4);
  float *attended = take(&scratch, (size_t)(n * inner) * 4);
  size_t mark = scratch.used;
  Added to_heads = {adapters, layer, QUERY_PART, 3, hidden,
                    {inner, a->num_kv * dim, a->num_kv * dim}};
  first_products(a->qkv, a->num_qkv, &a->before, x, n, &to_heads, heads, width, threads);
  AttentionWork work = {a, rows, cache, heads, attended, longest_row(rows)};
  each_row(store_row, &work, n, threads);
  end_part(TIME_BETWEEN);
  run_parallel(attend_item, &work, n * a->num_query, work.longest * n > 32 ? threads : 1);
  end_part(TIME_ATTENTION);
  scratch.used = mark;
  Quantized quantized = take_quantized(&scratch, n, inner);
  if (is_integer(&a->output)) quantize_rows(attended, inner, &quantized, n, threads);
  Added to_output = {adapters, layer, OUTPUT_PART, 1, inner, {hidden}};
  finish(&a->output, &a->after, attended, &quantized, n, &to_output, low_rank, addend, out, sums,
         buffer, threads);
}

typedef struct {
  const Mlp *m;
  const float *both;
  float *inner;
  Quantized *quantized;  // or NULL
  int64_t rows;
} MlpWork;

static void activate_row(void *argument, int64_t row) {
  MlpWork *w = argument;
  int64_t size = w->m->inner;
  const float *both = w->both + row * 2 * size;
  float *out = w->inner + row * size;
  chosen->activate(both, both + size, size, w->m->activation, out);
  if (w->quantized) quantize_row(out, size, w->quantized, row, w->rows);
}

// The feed-forward block of a layer over this rank's columns; arguments as kernels_attention.
void kernels_mlp(const Mlp *m, int64_t n, const Adapters *adapters, int64_t layer, const float *x,
                 const float *addend, float *out, double *sums, int threads) {
  begin_call();
  int64_t hidden = m->gate_up[0].inputs, inner = m->inner;
  reserve(&scratch, padded((size_t)(n * hidden) * 4) + padded((size_t)(n * inner) * 8) +
                        padded((size_t)(n * inner) * 4) + added_size(adapters, n, hidden) +
                        larger(input_size(n, hidden), quantized_size(n, inner)));
  float *buffer = take(&scratch, (size_t)(n * hidden) * 4);
  double *low_rank = take(&scratch, added_size(adapters, n, hidden));
  float *both = take(&scratch, (size_t)(n * inner) * 8);
  float *activated = take(&scratch, (size_t)(n * inner) * 4);
  size_t mark = scratch.used;
  Added to_both = {adapters, layer, GATE_PART, 2, hidden, {inner, inner}};
  first_products(m->gate_up, m->num_gate_up, &m->before, x, n, &to_both, both, 2 * inner, threads);
  scratch.used = mark;
  Quantized quantized = take_quantized(&scratch, n, inner);
  MlpWork work = {m, both, activated, is_integer(&m->down) ? &quantized : NULL, n};
  each_row(activate_row, &work, n, threads);
  Added to_output = {adapters, layer, DOWN_PART, 1, inner, {hidden}};
  finish(&m->down, &m->after, activated, &quantized, n, &to_output, low_rank, addend, out, sums,
         buffer, threads);
}

// All layers of a model that one rank holds whole; x is overwritten.
//   layers: of each layer its Attention and its Mlp; cache: of the first layer, the others follow
//   after `layer_stride` floats each; rows: for each kind of attention.
void kernels_layers(const Attention *const *attentions, const Mlp *const *mlps, int64_t num_layers,
                    const Rows *rows, const Cache *cache, int64_t layer_stride,
                    const Adapters *adapters, float *x, int threads) {
  for (int64_t layer = 0; layer < num_layers; layer++) {
    Cache mine = {cache->data + layer * layer_stride, cache->tokens};
    const Attention *a = attentions[layer];
    kernels_attention(a, &rows[a->kind], &mine, adapters, layer, x, x, x, NULL, threads);
    kernels_mlp(mlps[layer], rows->num_rows, adapters, layer, x, x, x, NULL, threads);
  }
}
