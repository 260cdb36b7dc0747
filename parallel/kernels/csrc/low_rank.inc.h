// What an adapter adds to a product, in double vectors; included once for each instruction set.
//
// A product of two floats is exact in a double. Sums are added in float64 so that ranks that each
// hold a part of the inputs together give the sum of one rank.
typedef float Floats8 __attribute__((vector_size(32), aligned(4)));
typedef double Doubles8 __attribute__((vector_size(64)));

INLINE Doubles8 doubles8(const float *p) {
  Floats8 v;
  memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Doubles8);
}

INLINE double wide_dot(const float *a, const float *b, int64_t size) {
  Doubles8 sums[4] = {{0}, {0}, {0}, {0}};
  int64_t i = 0;
  for (; i + 32 <= size; i += 32)
#pragma GCC unroll 4
    for (int p = 0; p < 4; p++) sums[p] += doubles8(a + i + p * 8) * doubles8(b + i + p * 8);
  for (; i + 8 <= size; i += 8) sums[0] += doubles8(a + i) * doubles8(b + i);
  double rest = 0;
  for (; i < size; i++) rest += (double)a[i] * (double)b[i];
  Doubles8 all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return ((all[0] + all[4]) + (all[2] + all[6])) + ((all[1] + all[5]) + (all[3] + all[7])) + rest;
}

// out = (x down^T) up, [outputs]; `middle` has room for `rank` numbers.
static void low_rank(const LowRank *l, const float *x, int64_t inputs, int64_t outputs,
                     double *middle, double *out) {
  for (int64_t k = 0; k < l->rank; k++) middle[k] = wide_dot(l->down + k * inputs, x, inputs);
  int64_t o = 0;
  for (; o + 32 <= outputs; o += 32) {
    Doubles8 sums[4] = {{0}, {0}, {0}, {0}};
    for (int64_t k = 0; k < l->rank; k++)
#pragma GCC unroll 4
      for (int p = 0; p < 4; p++) sums[p] += middle[k] * doubles8(l->up + k * outputs + o + p * 8);
    memcpy(out + o, sums, sizeof sums);
  }
  for (; o < outputs; o++) {
    double sum = 0;
    for (int64_t k = 0; k < l->rank; k++) sum += middle[k] * (double)l->up[k * outputs + o];
    out[o] = sum;
  }
}
