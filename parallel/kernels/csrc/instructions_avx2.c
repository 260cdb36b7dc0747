// AVX2: a vector of 16 lanes is two registers.
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,bmi2")
#endif
#include <immintrin.h>

#include "kernels.h"

#define NAME instructions_avx2
#define LABEL "avx2"
#define MAX_ROWS 4
#define USES_WORDS 1
#define VECTOR static inline __attribute__((always_inline))

typedef struct {
  __m256 low, high;
} Floats;
typedef struct {
  __m256i low, high;
} Ints;
typedef struct {
  __m256d parts[4];
} Doubles;

#define BOTH(type, expression_low, expression_high) \
  (type) { expression_low, expression_high }

VECTOR Floats floats_all(float x) { return BOTH(Floats, _mm256_set1_ps(x), _mm256_set1_ps(x)); }
VECTOR Floats floats_load(const float *p) {
  return BOTH(Floats, _mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}
VECTOR void floats_store(float *p, Floats v) {
  _mm256_storeu_ps(p, v.low);
  _mm256_storeu_ps(p + 8, v.high);
}
VECTOR Floats floats_of_half(const uint16_t *p) {
  return BOTH(Floats, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
              _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8))));
}
VECTOR __m256 eight_of_bf16(const uint16_t *p) {
  __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
VECTOR Floats floats_of_bf16(const uint16_t *p) {
  return BOTH(Floats, eight_of_bf16(p), eight_of_bf16(p + 8));
}
VECTOR Floats floats_of_ints(Ints v) {
  return BOTH(Floats, _mm256_cvtepi32_ps(v.low), _mm256_cvtepi32_ps(v.high));
}
#define PAIRWISE(name, instruction)                                                             \
  VECTOR Floats name(Floats a, Floats b) {                                                      \
    return BOTH(Floats, instruction(a.low, b.low), instruction(a.high, b.high));                \
  }
PAIRWISE(add, _mm256_add_ps)
PAIRWISE(subtract, _mm256_sub_ps)
PAIRWISE(times, _mm256_mul_ps)
PAIRWISE(divide, _mm256_div_ps)
PAIRWISE(larger, _mm256_max_ps)
PAIRWISE(smaller, _mm256_min_ps)
VECTOR Floats fused(Floats a, Floats b, Floats c) {
  return BOTH(Floats, _mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high));
}
VECTOR float sum_of(Floats v) {
  __m256 eight = _mm256_add_ps(v.low, v.high);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
VECTOR float largest_of(Floats v) {
  __m256 eight = _mm256_max_ps(v.low, v.high);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
VECTOR __m256 eight_power2(__m256 v, __m256i n) {
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), _mm256_slli_epi32(n, 23)));
}
VECTOR Floats power2(Floats v, Ints n) {
  return BOTH(Floats, eight_power2(v.low, n.low), eight_power2(v.high, n.high));
}
VECTOR Floats zero_below(Floats v, Floats x, float least) {
  __m256 bound = _mm256_set1_ps(least);
  return BOTH(Floats, _mm256_and_ps(v.low, _mm256_cmp_ps(x.low, bound, _CMP_NLT_UQ)),
              _mm256_and_ps(v.high, _mm256_cmp_ps(x.high, bound, _CMP_NLT_UQ)));
}
VECTOR Ints ints_of(Floats v) {
  return BOTH(Ints, _mm256_cvtps_epi32(v.low), _mm256_cvtps_epi32(v.high));
}
VECTOR Ints ints_minus(Ints v, int32_t x) {
  __m256i all = _mm256_set1_epi32(x);
  return BOTH(Ints, _mm256_sub_epi32(v.low, all), _mm256_sub_epi32(v.high, all));
}
VECTOR Ints ints_add(Ints a, Ints b) {
  return BOTH(Ints, _mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high));
}
VECTOR int32_t sum_of_ints(Ints v) {
  __m256i eight = _mm256_add_epi32(v.low, v.high);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}
VECTOR void doubles_add(Doubles *d, Floats v) {
  d->parts[0] = _mm256_add_pd(d->parts[0], _mm256_cvtps_pd(_mm256_castps256_ps128(v.low)));
  d->parts[1] = _mm256_add_pd(d->parts[1], _mm256_cvtps_pd(_mm256_extractf128_ps(v.low, 1)));
  d->parts[2] = _mm256_add_pd(d->parts[2], _mm256_cvtps_pd(_mm256_castps256_ps128(v.high)));
  d->parts[3] = _mm256_add_pd(d->parts[3], _mm256_cvtps_pd(_mm256_extractf128_ps(v.high, 1)));
}
VECTOR void doubles_store(double *p, const Doubles *d) {
  for (int i = 0; i < 4; i++) _mm256_storeu_pd(p + 4 * i, d->parts[i]);
}

// Store the four steps whose 8 bytes are in `v`: the low half has steps 0 and 2, the high 1 and 3.
VECTOR void store_steps(char *to, int64_t stride, __m256i v) {
  __m128i even = _mm256_castsi256_si128(v), odd = _mm256_extracti128_si256(v, 1);
  _mm_storel_epi64((__m128i *)to, even);
  _mm_storel_epi64((__m128i *)(to + stride), odd);
  _mm_storel_epi64((__m128i *)(to + 2 * stride), _mm_unpackhi_epi64(even, even));
  _mm_storel_epi64((__m128i *)(to + 3 * stride), _mm_unpackhi_epi64(odd, odd));
}

// Each code as a high and a low byte: a step's 4 high bytes, then its 4 low ones; and as a word.
VECTOR void split(Ints codes, int8_t *bytes, int16_t *words, int stride) {
  const __m256i half = _mm256_set1_epi32(128);
  __m256i high = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(codes.low, half), 8),
                                    _mm256_srai_epi32(_mm256_add_epi32(codes.high, half), 8));
  __m256i low = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_slli_epi32(codes.low, 24), 24),
                                   _mm256_srai_epi32(_mm256_slli_epi32(codes.high, 24), 24));
  __m256i mixed = _mm256_packs_epi16(high, low);
  store_steps((char *)bytes, stride * 8, _mm256_shuffle_epi32(mixed, _MM_SHUFFLE(3, 1, 2, 0)));
  store_steps((char *)words, stride * 8, _mm256_packs_epi32(codes.low, codes.high));
}

VECTOR __m256i byte4(const int8_t *p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return _mm256_set1_epi32(word);
}

// Products of 4-bit codes and bytes: a pair is below 2 * 15 * 128, and the sum of a group's eight
// pairs below 2^15, so that 16 bits suffice.
VECTOR void int4_tile(const int num, const uint8_t *codes, const int8_t *bytes, int tile_rows,
                       Ints *dots) {
  const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  const int64_t step_bytes = (int64_t)tile_rows * 8;
#pragma GCC unroll 2
  for (int half = 0; half < 2; half++) {
    __m256i high[4], low[4];
#pragma GCC unroll 4
    for (int r = 0; r < num; r++) high[r] = low[r] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      __m256i both = _mm256_loadu_si256((const __m256i *)(codes + j * 64 + half * 32));
      __m256i near = _mm256_and_si256(both, mask);
      __m256i far = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
      const int8_t *a = bytes + j * step_bytes, *b = bytes + (j + 4) * step_bytes;
#pragma GCC unroll 4
      for (int r = 0; r < num; r++) {
        high[r] = _mm256_add_epi16(high[r], _mm256_maddubs_epi16(near, byte4(a + r * 8)));
        low[r] = _mm256_add_epi16(low[r], _mm256_maddubs_epi16(near, byte4(a + r * 8 + 4)));
        high[r] = _mm256_add_epi16(high[r], _mm256_maddubs_epi16(far, byte4(b + r * 8)));
        low[r] = _mm256_add_epi16(low[r], _mm256_maddubs_epi16(far, byte4(b + r * 8 + 4)));
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < num; r++) {
      __m256i dot = _mm256_add_epi32(_mm256_slli_epi32(_mm256_madd_epi16(high[r], ones), 8),
                                     _mm256_madd_epi16(low[r], ones));
      __builtin_memcpy((char *)&dots[r] + half * 32, &dot, 32);
    }
  }
}

VECTOR void int8_tile(const int num, const int steps, const uint8_t *codes, const int16_t *words,
                      int tile_rows, Ints *dots) {
  const int64_t step_words = (int64_t)tile_rows * 4;
#pragma GCC unroll 4
  for (int quarter = 0; quarter < 4; quarter++) {
    __m256i sums[4];
#pragma GCC unroll 4
    for (int r = 0; r < num; r++) sums[r] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int j = 0; j < steps; j++) {
      __m256i wide = _mm256_cvtepu8_epi16(
          _mm_loadu_si128((const __m128i *)(codes + j * 64 + quarter * 16)));
#pragma GCC unroll 4
      for (int r = 0; r < num; r++) {
        int64_t four;
        __builtin_memcpy(&four, words + j * step_words + r * 4, 8);
        sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(wide, _mm256_set1_epi64x(four)));
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < num; r++) {
      __m128i pairs = _mm_hadd_epi32(_mm256_castsi256_si128(sums[r]),
                                     _mm256_extracti128_si256(sums[r], 1));
      __builtin_memcpy((char *)&dots[r] + quarter * 16, &pairs, 16);
    }
  }
}

VECTOR void int_tile(const int num, const int is_int4, const int steps, const uint8_t *codes,
                     const int8_t *bytes, const int16_t *words, int tile_rows, Ints *dots) {
  if (is_int4)
    int4_tile(num, codes, bytes, tile_rows, dots);
  else
    int8_tile(num, steps, codes, words, tile_rows, dots);
}

#include "instructions.inc.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
