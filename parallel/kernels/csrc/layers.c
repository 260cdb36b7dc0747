// Half a decoder layer in one call: attention with its norm, or the feed-forward block with its norm.
#define _GNU_SOURCE
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

enum { ALIGNMENT = 64, ROW_BLOCK = 64, FLOAT_ROWS = 4, FLOAT_PANELS = 4 };

static const Instructions *chosen;

// Choose the instructions of this name, or the best of this processor; NULL if it has none such.
const char *kernels_choose(const char *name) {
  const Instructions *found = &instructions_plain;
#if defined(__x86_64__)
  __builtin_cpu_init();
  int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                 __builtin_cpu_supports("f16c");
  int has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                   __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  if (has_avx512 && (!name || !strcmp(name, instructions_avx512.name)))
    found = &instructions_avx512;
  else if (has_avx2 && (!name || !strcmp(name, instructions_avx2.name)))
    found = &instructions_avx2;
#endif
  if (name && strcmp(name, found->name)) return NULL;
  chosen = found;
  return found->name;
}

const char *kernels_version(void) { return KERNELS_VERSION; }

// Memory that a calling thread keeps between calls; each part is aligned to a cache line.
typedef struct {
  char *start;
  size_t size, used;
} Scratch;
static __thread Scratch scratch, item_scratch;

static void *reserve(Scratch *s, size_t size) {
  if (s->size < size) {
    free(s->start);
    s->start = aligned_alloc(ALIGNMENT, (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    if (!s->start) abort();
    s->size = size;
  }
  s->used = 0;
  return s->start;
}

static size_t padded(size_t size) { return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static void *take(Scratch *s, size_t size) {
  void *part = s->start + s->used;
  s->used += padded(size);
  return part;
}

static int is_integer(const Matrix *m) { return m->kind == INT4 || m->kind == INT8; }

static int64_t num_tiles(int64_t rows) { return (rows + TILE - 1) / TILE; }

static size_t quantized_size(int64_t rows, int64_t inputs) {
  size_t values = (size_t)(num_tiles(rows) * TILE * inputs), groups = values / GROUP;
  return padded(values * 2) * 2 + padded(groups * 4) + padded(groups * 8);
}

static Quantized take_quantized(Scratch *s, int64_t rows, int64_t inputs) {
  size_t values = (size_t)(num_tiles(rows) * TILE * inputs), groups = values / GROUP;
  Quantized q;
  q.bytes = take(s, values * 2);
  q.words = take(s, values * 2);
  q.scales = take(s, groups * 4);
  q.sums = take(s, groups * 8);
  return q;
}

static void quantize_row(const float *x, int64_t inputs, Quantized *to, int64_t row, int64_t rows) {
  int64_t tile = row / TILE, left = rows - tile * TILE;
  chosen->quantize(x, inputs, to, tile, (int)(row % TILE), (int)(left < TILE ? left : TILE));
}

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
  int64_t stride;
  int64_t chunk;  // panels of an item
} Product;

static int64_t panel_bytes(const Matrix *m) {
  int64_t groups = m->inputs / GROUP, scale = m->flags & WIDE_SCALES ? 64 : 32;
  if (m->flags & (HAS_MINS | HALF_GROUPS)) scale *= 2;
  switch (m->kind) {
    case FLOAT32:
      return m->inputs * LANES * 4;
    case BFLOAT16:
    case FLOAT16:
      return m->inputs * LANES * 2;
    case INT4:
      return groups * (256 + scale);
    default:
      return groups * (512 + scale);
  }
}

static void write_panel(const Product *p, int64_t panel, int64_t row, int num, const float *out,
                        const double *sums) {
  const Matrix *m = p->matrix;
  int64_t first = panel * LANES, left = m->outputs - first;
  int64_t num_lanes = left < LANES ? left : LANES;
  for (int r = 0; r < num; r++) {
    int64_t at = (row + r) * p->stride + first;
    if (sums) {
      for (int64_t lane = 0; lane < num_lanes; lane++) {
        double value = sums[r * LANES + lane];
        if (m->bias) value += (double)m->bias[first + lane];
        if (p->sums)
          p->sums[at + lane] = value;
        else
          p->out[at + lane] = (float)value + (p->addend ? p->addend[at + lane] : 0.0f);
      }
    } else {
      for (int64_t lane = 0; lane < num_lanes; lane++)
        p->out[at + lane] = out[r * LANES + lane] + (m->bias ? m->bias[first + lane] : 0.0f);
    }
  }
}

static void integer_item(const Product *p, int64_t first_panel, int64_t stop_panel, int is_wide) {
  float out[TILE * LANES];
  double sums[TILE * LANES];
  int64_t bytes = panel_bytes(p->matrix);
  for (int64_t block = 0; block < p->rows; block += ROW_BLOCK) {
    int64_t stop = block + ROW_BLOCK < p->rows ? block + ROW_BLOCK : p->rows;
    for (int64_t panel = first_panel; panel < stop_panel; panel++) {
      const uint8_t *data = p->matrix->data + panel * bytes;
      for (int64_t row = block; row < stop; row += TILE) {
        int tile_rows = (int)(p->rows - row < TILE ? p->rows - row : TILE);
        for (int first = 0; first < tile_rows; first += chosen->max_rows) {
          int num = tile_rows - first < chosen->max_rows ? tile_rows - first : chosen->max_rows;
          chosen->int_panel(p->matrix, data, p->quantized, row / TILE, first, num, tile_rows, out,
                            is_wide ? sums : NULL);
          write_panel(p, panel, row + first, num, out, is_wide ? sums : NULL);
        }
      }
    }
  }
}

static void float_item(const Product *p, int64_t first_panel, int64_t stop_panel, int is_wide) {
  float out[FLOAT_ROWS * FLOAT_PANELS * LANES];
  double sums[FLOAT_ROWS * FLOAT_PANELS * LANES];
  const Matrix *m = p->matrix;
  int64_t bytes = panel_bytes(m);
  for (int64_t panel = first_panel; panel < stop_panel;) {
    int together = stop_panel - panel >= FLOAT_PANELS ? FLOAT_PANELS : 1;
    for (int64_t row = 0, num; row < p->rows; row += num) {
      num = p->rows - row >= 4 ? 4 : p->rows - row >= 2 ? 2 : 1;
      chosen->float_panels(m, m->data + panel * bytes, together, p->x + row * m->inputs, m->inputs,
                           (int)num, out, is_wide ? sums : NULL);
      for (int i = 0; i < together; i++)
        write_panel(p, panel + i, row, (int)num, out + i * num * LANES,
                    is_wide ? sums + i * num * LANES : NULL);
    }
    panel += together;
  }
}

typedef struct {
  const Product *products;
  int num_products;
  int is_wide;
  int64_t items[4];  // of each product, cumulative
} Products;

static void product_item(void *argument, int64_t item) {
  const Products *all = argument;
  int which = 0;
  while (item >= all->items[which + 1]) which++;
  const Product *p = &all->products[which];
  int64_t panels = (p->matrix->outputs + LANES - 1) / LANES;
  int64_t first = (item - all->items[which]) * p->chunk;
  int64_t stop = first + p->chunk < panels ? first + p->chunk : panels;
  if (is_integer(p->matrix))
    integer_item(p, first, stop, all->is_wide);
  else
    float_item(p, first, stop, all->is_wide);
}

// Run up to 3 products of the same rows at once; `is_wide` adds up in float64.
static void multiply(Product *products, int num, int is_wide, int threads) {
  Products all = {.products = products, .num_products = num, .is_wide = is_wide};
  int64_t panels = 0;
  for (int i = 0; i < num; i++) panels += (products[i].matrix->outputs + LANES - 1) / LANES;
  int64_t chunk = panels / (threads * 4);
  chunk = chunk < 1 ? 1 : chunk > 32 ? 32 : chunk;
  if (chunk > FLOAT_PANELS) chunk = chunk / FLOAT_PANELS * FLOAT_PANELS;
  for (int i = 0; i < num; i++) {
    products[i].chunk = chunk;
    int64_t mine = (products[i].matrix->outputs + LANES - 1) / LANES;
    all.items[i + 1] = all.items[i] + (mine + chunk - 1) / chunk;
  }
  run_parallel(product_item, &all, all.items[num], threads);
}

// Work on each row by itself, by several threads where there are many rows.
typedef struct {
  void (*body)(void *, int64_t);
  void *argument;
  int64_t rows;
} RowLoop;

static void row_item(void *argument, int64_t item) {
  const RowLoop *loop = argument;
  int64_t stop = (item + 1) * 4 < loop->rows ? (item + 1) * 4 : loop->rows;
  for (int64_t row = item * 4; row < stop; row++) loop->body(loop->argument, row);
}

static void each_row(void (*body)(void *, int64_t), void *argument, int64_t rows, int threads) {
  RowLoop loop = {body, argument, rows};
  run_parallel(row_item, &loop, (rows + 3) / 4, rows > 8 ? threads : 1);
}

// What one product reads: a row's norm, and its integer form if any matrix needs it.
typedef struct {
  const float *x;
  const Norm *norm;
  int64_t size, rows;
  float *normed;
  Quantized *quantized;  // or NULL
} Input;

static void prepare_row(void *argument, int64_t row) {
  Input *in = argument;
  const float *x = in->x + row * in->size;
  if (in->norm && in->norm->weight) {
    chosen->norm(x, in->norm, NULL, in->size, in->normed + row * in->size);
    x = in->normed + row * in->size;
  }
  if (in->quantized) quantize_row(x, in->size, in->quantized, row, in->rows);
}

static int any_integer(const Matrix *m, int num) {
  for (int i = 0; i < num; i++)
    if (is_integer(&m[i])) return 1;
  return 0;
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

typedef struct {
  const float *x;
  const Norm *norm;
  const float *addend;
  int64_t size;
  float *out;
} NormWork;

static void norm_row(void *argument, int64_t row) {
  NormWork *w = argument;
  int64_t at = row * w->size;
  chosen->norm(w->x + at, w->norm, w->addend ? w->addend + at : NULL, w->size, w->out + at);
}

// out = norm(x) + addend, [rows, size] each; addend may be NULL or out.
void kernels_norm(const float *x, const Norm *norm, const float *addend, float *out, int64_t rows,
                  int64_t size, int threads) {
  NormWork work = {x, norm, addend, size, out};
  each_row(norm_row, &work, rows, threads);
}

// The last product of a block, then its norm if it has one. Where `sums` is given, these are the
// rank's part of the output in float64, and norm and addend are left to the caller.
static void finish(const Matrix *m, const Norm *after, const float *x, const Quantized *quantized,
                   int64_t rows, const float *addend, float *out, double *sums, float *buffer,
                   int threads) {
  int has_norm = after->weight && !sums;
  Product product = {.matrix = m, .x = x, .quantized = quantized, .rows = rows,
                     .out = has_norm ? buffer : out, .addend = has_norm ? NULL : addend,
                     .sums = sums, .stride = m->outputs};
  multiply(&product, 1, 1, threads);
  if (has_norm) kernels_norm(buffer, after, addend, out, rows, m->outputs, threads);
}

// Attention of a layer over this rank's heads; stores the rows' keys and values.
//   x, addend, out: [rows, hidden]; sums: [rows, hidden] or NULL.
void kernels_attention(const Attention *a, const Rows *rows, const Cache *cache, const float *x,
                       const float *addend, float *out, double *sums, int threads) {
  int64_t n = rows->num_rows, hidden = a->qkv[0].inputs, dim = a->head_dim;
  int64_t width = (a->num_query + 2 * a->num_kv) * dim, inner = a->num_query * dim;
  int64_t widest = hidden > inner ? hidden : inner;
  reserve(&scratch, padded((size_t)(n * hidden) * 4) * 2 + padded((size_t)(n * width) * 4) +
                        padded((size_t)(n * inner) * 4) + quantized_size(n, widest + GROUP));
  float *normed = take(&scratch, (size_t)(n * hidden) * 4);
  float *buffer = take(&scratch, (size_t)(n * hidden) * 4);
  float *heads = take(&scratch, (size_t)(n * width) * 4);
  float *attended = take(&scratch, (size_t)(n * inner) * 4);
  size_t mark = scratch.used;
  Quantized quantized = take_quantized(&scratch, n, hidden);
  Input input = {x, &a->before, hidden, n, normed,
                 any_integer(a->qkv, a->num_qkv) ? &quantized : NULL};
  each_row(prepare_row, &input, n, threads);
  Product products[3];
  int64_t column = 0;
  for (int i = 0; i < a->num_qkv; i++) {
    products[i] = (Product){.matrix = &a->qkv[i], .x = a->before.weight ? normed : x,
                            .quantized = &quantized, .rows = n, .out = heads + column,
                            .stride = width};
    column += a->qkv[i].outputs;
  }
  multiply(products, a->num_qkv, 0, threads);
  AttentionWork work = {a, rows, cache, heads, attended, longest_row(rows)};
  each_row(store_row, &work, n, threads);
  run_parallel(attend_item, &work, n * a->num_query, work.longest * n > 32 ? threads : 1);
  scratch.used = mark;
  quantized = take_quantized(&scratch, n, inner);
  if (is_integer(&a->output)) {
    Input last = {attended, NULL, inner, n, NULL, &quantized};
    each_row(prepare_row, &last, n, threads);
  }
  finish(&a->output, &a->after, attended, &quantized, n, addend, out, sums, buffer, threads);
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
void kernels_mlp(const Mlp *m, int64_t n, const float *x, const float *addend, float *out,
                 double *sums, int threads) {
  int64_t hidden = m->gate_up[0].inputs, inner = m->inner;
  int64_t widest = hidden > inner ? hidden : inner;
  reserve(&scratch, padded((size_t)(n * hidden) * 4) * 2 + padded((size_t)(n * inner) * 8) +
                        padded((size_t)(n * inner) * 4) + quantized_size(n, widest + GROUP));
  float *normed = take(&scratch, (size_t)(n * hidden) * 4);
  float *buffer = take(&scratch, (size_t)(n * hidden) * 4);
  float *both = take(&scratch, (size_t)(n * inner) * 8);
  float *activated = take(&scratch, (size_t)(n * inner) * 4);
  size_t mark = scratch.used;
  Quantized quantized = take_quantized(&scratch, n, hidden);
  Input input = {x, &m->before, hidden, n, normed,
                 any_integer(m->gate_up, m->num_gate_up) ? &quantized : NULL};
  each_row(prepare_row, &input, n, threads);
  Product products[2];
  int64_t column = 0;
  for (int i = 0; i < m->num_gate_up; i++) {
    products[i] = (Product){.matrix = &m->gate_up[i], .x = m->before.weight ? normed : x,
                            .quantized = &quantized, .rows = n, .out = both + column,
                            .stride = 2 * inner};
    column += m->gate_up[i].outputs;
  }
  multiply(products, m->num_gate_up, 0, threads);
  scratch.used = mark;
  quantized = take_quantized(&scratch, n, inner);
  MlpWork work = {m, both, activated, is_integer(&m->down) ? &quantized : NULL, n};
  each_row(activate_row, &work, n, threads);
  finish(&m->down, &m->after, activated, &quantized, n, addend, out, sums, buffer, threads);
}

// out = norm(x) W^T + bias: [rows, outputs] of [rows, inputs]; norm may be NULL.
void kernels_linear(const Matrix *m, const Norm *norm, const float *x, int64_t rows, float *out,
                    int threads) {
  int64_t inputs = m->inputs;
  reserve(&scratch, padded((size_t)(rows * inputs) * 4) + quantized_size(rows, inputs + GROUP));
  float *normed = take(&scratch, (size_t)(rows * inputs) * 4);
  Quantized quantized = take_quantized(&scratch, rows, inputs);
  Input input = {x, norm, inputs, rows, normed, is_integer(m) ? &quantized : NULL};
  each_row(prepare_row, &input, rows, threads);
  Product product = {.matrix = m, .x = norm && norm->weight ? normed : x, .quantized = &quantized,
                     .rows = rows, .out = out, .stride = m->outputs};
  multiply(&product, 1, 0, threads);
}

// All layers of a model that one rank holds whole; x is overwritten.
//   layers: of each layer its Attention and its Mlp; cache: of the first layer, the others follow
//   after `layer_stride` floats each; rows: for each kind of attention.
void kernels_layers(const Attention *const *attentions, const Mlp *const *mlps, int64_t num_layers,
                    const Rows *rows, const Cache *cache, int64_t layer_stride, float *x,
                    int threads) {
  for (int64_t layer = 0; layer < num_layers; layer++) {
    Cache mine = {cache->data + layer * layer_stride, cache->tokens};
    const Attention *a = attentions[layer];
    kernels_attention(a, &rows[a->kind], &mine, x, x, x, NULL, threads);
    kernels_mlp(mlps[layer], rows->num_rows, x, x, x, NULL, threads);
  }
}
