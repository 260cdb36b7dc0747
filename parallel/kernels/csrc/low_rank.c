// What the adapters of some rows add to products, for rows of several adapters and of none.
#include <string.h>

#include "products.h"

typedef struct {
  const Added *added;
  const float *x;
  float *out;
  double *sums;
  int64_t stride;
} AddedWork;

static const LowRank *parts_of(const Added *added, int64_t row) {
  int32_t adapter = added->adapters->of_row[row];
  if (adapter < 0) return NULL;
  return added->adapters->parts[adapter] + added->layer * NUM_PARTS + added->part;
}

static void add_row(void *argument, int64_t row) {
  AddedWork *w = argument;
  const Added *added = w->added;
  const LowRank *part = parts_of(added, row);
  if (!part) return;
  const float *x = w->x + row * added->inputs;
  int64_t column = 0;
  for (int i = 0; i < added->num; i++, part++) {
    int64_t outputs = added->outputs[i];
    if (part->rank) {
      double *middle = reserve(&item_scratch, (size_t)(part->rank + outputs) * 8);
      double *sums = middle + part->rank;
      chosen->low_rank(part, x, added->inputs, outputs, middle, sums);
      float *out = w->out + row * w->stride + column;
      for (int64_t o = 0; o < outputs; o++) out[o] += (float)sums[o];
    }
    column += outputs;
  }
}

void add_low_rank(const Added *added, const float *x, float *out, int64_t rows, int64_t stride,
                  int threads) {
  if (!added->adapters) return;
  AddedWork work = {.added = added, .x = x, .out = out, .stride = stride};
  each_row(add_row, &work, rows, threads);
}

static void sum_row(void *argument, int64_t row) {
  AddedWork *w = argument;
  const Added *added = w->added;
  const LowRank *part = parts_of(added, row);
  if (!part) return;
  int64_t outputs = added->outputs[0];
  double *sums = w->sums + row * outputs;
  if (!part->rank) {
    memset(sums, 0, (size_t)outputs * 8);
    return;
  }
  double *middle = reserve(&item_scratch, (size_t)part->rank * 8);
  chosen->low_rank(part, w->x + row * added->inputs, added->inputs, outputs, middle, sums);
}

void low_rank_sums(const Added *added, const float *x, double *sums, int64_t rows, int threads) {
  if (!added->adapters) return;
  AddedWork work = {.added = added, .x = x, .sums = sums};
  each_row(sum_row, &work, rows, threads);
}
