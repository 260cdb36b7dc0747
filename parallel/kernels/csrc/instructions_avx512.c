// AVX-512 with VNNI: 16 lanes a register, and four 8-bit products a lane and instruction.
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(                                                                    \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c,bmi2"))),      \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c,bmi2")
#endif
#include <immintrin.h>

#include "kernels.h"

#define NAME instructions_avx512
#define LABEL "avx512_vnni"
#define MAX_ROWS 8
#define USES_WORDS 0
#define VECTOR static inline __attribute__((always_inline))

typedef __m512 Floats;
typedef __m512i Ints;
typedef struct {
  __m512d low, high;
} Doubles;

VECTOR Floats floats_all(float x) { return _mm512_set1_ps(x); }
VECTOR Floats floats_load(const float *p) { return _mm512_loadu_ps(p); }
VECTOR void floats_store(float *p, Floats v) { _mm512_storeu_ps(p, v); }
VECTOR Floats floats_of_half(const uint16_t *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
VECTOR Floats floats_of_bf16(const uint16_t *p) {
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
VECTOR Floats floats_of_ints(Ints v) { return _mm512_cvtepi32_ps(v); }
VECTOR Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
VECTOR Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
VECTOR Floats times(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
VECTOR Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
VECTOR Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
VECTOR Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
VECTOR Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
VECTOR float sum_of(Floats v) { return _mm512_reduce_add_ps(v); }
VECTOR float largest_of(Floats v) { return _mm512_reduce_max_ps(v); }
VECTOR Floats power2(Floats v, Ints n) {
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v), _mm512_slli_epi32(n, 23)));
}
VECTOR Floats zero_below(Floats v, Floats x, float least) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, floats_all(least), _CMP_NLT_UQ), v);
}
VECTOR Ints ints_of(Floats v) { return _mm512_cvtps_epi32(v); }
VECTOR Ints ints_minus(Ints v, int32_t x) { return _mm512_sub_epi32(v, _mm512_set1_epi32(x)); }
VECTOR Ints ints_add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
VECTOR int32_t sum_of_ints(Ints v) { return _mm512_reduce_add_epi32(v); }
VECTOR void doubles_add(Doubles *d, Floats v) {
  d->low = _mm512_add_pd(d->low, _mm512_cvtps_pd(_mm512_castps512_ps256(v)));
  d->high = _mm512_add_pd(d->high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)));
}
VECTOR void doubles_store(double *p, const Doubles *d) {
  _mm512_storeu_pd(p, d->low);
  _mm512_storeu_pd(p + 8, d->high);
}

// Each code as a high and a low byte; a step's 4 high bytes, then its 4 low ones.
VECTOR void split(Ints codes, int8_t *bytes, int16_t *words, int stride) {
  (void)words;
  __m512i rounded = _mm512_add_epi32(codes, _mm512_set1_epi32(128));
  __m128i high = _mm512_cvtepi32_epi8(_mm512_srai_epi32(rounded, 8));
  __m128i low = _mm512_cvtepi32_epi8(codes);
  __m128i first = _mm_unpacklo_epi32(high, low), second = _mm_unpackhi_epi32(high, low);
  _mm_storel_epi64((__m128i *)bytes, first);
  _mm_storel_epi64((__m128i *)(bytes + stride * 8), _mm_unpackhi_epi64(first, first));
  _mm_storel_epi64((__m128i *)(bytes + stride * 16), second);
  _mm_storel_epi64((__m128i *)(bytes + stride * 24), _mm_unpackhi_epi64(second, second));
}

VECTOR __m512i byte4(const int8_t *p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}

// The sums over `steps` steps of code times activation, for each of 16 outputs and `num` rows; 4-bit
// codes have all 8 steps of a group.
VECTOR void int_tile(const int num, const int is_int4, const int steps, const uint8_t *codes,
                     const int8_t *bytes, const int16_t *words, int tile_rows, Ints *dots) {
  (void)words;
  __m512i high[8], low[8];
#pragma GCC unroll 8
  for (int r = 0; r < num; r++) high[r] = low[r] = _mm512_setzero_si512();
  const int64_t step_bytes = (int64_t)tile_rows * 8;
  if (is_int4) {
    const __m512i mask = _mm512_set1_epi8(15);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      __m512i both = _mm512_loadu_si512(codes + j * 64);
      __m512i near = _mm512_and_si512(both, mask);
      __m512i far = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
      const int8_t *a = bytes + j * step_bytes, *b = bytes + (j + 4) * step_bytes;
#pragma GCC unroll 8
      for (int r = 0; r < num; r++) {
        high[r] = _mm512_dpbusd_epi32(high[r], near, byte4(a + r * 8));
        low[r] = _mm512_dpbusd_epi32(low[r], near, byte4(a + r * 8 + 4));
        high[r] = _mm512_dpbusd_epi32(high[r], far, byte4(b + r * 8));
        low[r] = _mm512_dpbusd_epi32(low[r], far, byte4(b + r * 8 + 4));
      }
    }
  } else {
#pragma GCC unroll 8
    for (int j = 0; j < steps; j++) {
      __m512i all = _mm512_loadu_si512(codes + j * 64);
      const int8_t *a = bytes + j * step_bytes;
#pragma GCC unroll 8
      for (int r = 0; r < num; r++) {
        high[r] = _mm512_dpbusd_epi32(high[r], all, byte4(a + r * 8));
        low[r] = _mm512_dpbusd_epi32(low[r], all, byte4(a + r * 8 + 4));
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < num; r++)
    dots[r] = _mm512_add_epi32(_mm512_slli_epi32(high[r], 8), low[r]);
}

#include "instructions.inc.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
