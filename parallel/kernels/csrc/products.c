// Products of many rows with stored weights, norms, and the memory that a thread keeps for them.
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "clocks.h"
#include "products.h"

enum { ALIGNMENT = 64, ROW_BLOCK = 64, FLOAT_ROWS = 4, FLOAT_PANELS = 4 };

const Instructions *chosen;

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

__thread Scratch scratch, item_scratch;

static pthread_key_t thread_end;
static pthread_once_t thread_end_once = PTHREAD_ONCE_INIT;

static void free_scratch(void *of_thread) {
  (void)of_thread;
  free(scratch.start);
  free(item_scratch.start);
  scratch = item_scratch = (Scratch){0};
}

static void make_thread_end(void) {
  if (pthread_key_create(&thread_end, free_scratch)) abort();
}

void *reserve(Scratch *s, size_t size) {
  if (s->size < size) {
    pthread_once(&thread_end_once, make_thread_end);
    pthread_setspecific(thread_end, &scratch);
    free(s->start);
    s->start = aligned_alloc(ALIGNMENT, (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    if (!s->start) abort();
    s->size = size;
  }
  s->used = 0;
  return s->start;
}

size_t padded(size_t size) { return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

void *take(Scratch *s, size_t size) {
  void *part = s->start + s->used;
  s->used += padded(size);
  return part;
}

static int64_t num_tiles(int64_t rows) { return (rows + TILE - 1) / TILE; }

size_t quantized_size(int64_t rows, int64_t inputs) {
  size_t values = (size_t)(num_tiles(rows) * TILE * inputs), groups = values / GROUP;
  return padded(values * 2) * 2 + padded(groups * 4) + padded(groups * 8);
}

Quantized take_quantized(Scratch *s, int64_t rows, int64_t inputs) {
  size_t values = (size_t)(num_tiles(rows) * TILE * inputs), groups = values / GROUP;
  Quantized q;
  q.bytes = take(s, values * 2);
  q.words = take(s, values * 2);
  q.scales = take(s, groups * 4);
  q.sums = take(s, groups * 8);
  return q;
}

void quantize_row(const float *x, int64_t inputs, Quantized *to, int64_t row, int64_t rows) {
  int64_t tile = row / TILE, left = rows - tile * TILE;
  chosen->quantize(x, inputs, to, tile, (int)(row % TILE), (int)(left < TILE ? left : TILE));
}

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
        if (p->added && p->added_rows[row + r] >= 0) value += p->added[at + lane];
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

void multiply(Product *products, int num, int is_wide, int threads) {
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

void each_row(void (*body)(void *, int64_t), void *argument, int64_t rows, int threads) {
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

void quantize_rows(const float *x, int64_t inputs, Quantized *to, int64_t rows, int threads) {
  Input input = {x, NULL, inputs, rows, NULL, to};
  each_row(prepare_row, &input, rows, threads);
}

void first_products(const Matrix *m, int num, const Norm *norm, const float *x, int64_t rows,
                    const Added *added, float *out, int64_t stride, int threads) {
  int64_t size = m->inputs;
  int has_integers = 0;
  for (int i = 0; i < num; i++) has_integers |= is_integer(&m[i]);
  float *normed = take(&scratch, (size_t)(rows * size) * 4);
  Quantized quantized = take_quantized(&scratch, rows, size);
  Input input = {x, norm, size, rows, normed, has_integers ? &quantized : NULL};
  each_row(prepare_row, &input, rows, threads);
  end_part(TIME_BETWEEN);
  Product products[3];
  int64_t column = 0;
  for (int i = 0; i < num; i++) {
    products[i] = (Product){.matrix = &m[i], .x = norm && norm->weight ? normed : x,
                            .quantized = &quantized, .rows = rows, .out = out + column,
                            .stride = stride};
    column += m[i].outputs;
  }
  multiply(products, num, 0, threads);
  if (added) add_low_rank(added, products[0].x, out, rows, stride, threads);
  end_part(TIME_PRODUCTS);
}

size_t input_size(int64_t rows, int64_t inputs) {
  return padded((size_t)(rows * inputs) * 4) + quantized_size(rows, inputs);
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

void kernels_norm(const float *x, const Norm *norm, const float *addend, float *out, int64_t rows,
                  int64_t size, int threads) {
  begin_call();
  NormWork work = {x, norm, addend, size, out};
  each_row(norm_row, &work, rows, threads);
  end_part(TIME_BETWEEN);
}

// out = norm(x) W^T + bias: [rows, outputs] of [rows, inputs]; norm may be NULL.
void kernels_linear(const Matrix *m, const Norm *norm, const float *x, int64_t rows, float *out,
                    int threads) {
  int64_t before = products_time();
  begin_call();
  reserve(&scratch, input_size(rows, m->inputs));
  first_products(m, 1, norm, x, rows, NULL, out, m->outputs, threads);
  move_to_head(before);
}
