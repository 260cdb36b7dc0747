#include "clocks.h"

#include <stddef.h>
#include <time.h>

static __thread int64_t *times;
static __thread int64_t since;

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

void kernels_clocks(int64_t *nanoseconds) { times = nanoseconds; }

void begin_call(void) {
  if (times) since = now();
}

void end_part(int part) {
  if (!times) return;
  int64_t end = now();
  times[part] += end - since;
  since = end;
}

int64_t products_time(void) { return times ? times[TIME_PRODUCTS] : 0; }

void move_to_head(int64_t before) {
  if (!times) return;
  times[TIME_HEAD] += times[TIME_PRODUCTS] - before;
  times[TIME_PRODUCTS] = before;
}
