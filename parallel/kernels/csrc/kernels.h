// Shared declarations of the native kernels. Every structure is mirrored in native_library.py.
//
// A row's result is a function of that row alone: its sums have a fixed order, whatever rows are
// computed with it, by however many threads. Integer sums are exact, so their order is free.
#ifndef PACELINE_KERNELS_H
#define PACELINE_KERNELS_H

#include <stdint.h>

enum { LANES = 16, GROUP = 32, TILE = 8 };
enum { FLOAT32 = 0, BFLOAT16 = 1, INT4 = 2, INT8 = 3, FLOAT16 = 4 };
enum { WIDE_SCALES = 1, HAS_MINS = 2, HALF_GROUPS = 4 };
enum { SILU = 0, GELU_TANH = 1 };

// The weight of a linear layer in panels of 16 outputs; packed_matrix.py describes the layout.
typedef struct {
  const uint8_t *data;
  const float *bias;  // [outputs], or NULL
  int64_t outputs;
  int64_t inputs;
  int32_t kind;
  int32_t flags;  // of scales and minima, in INT4 and INT8; HALF_GROUPS in INT8 without minima
} Matrix;

typedef struct {
  const float *weight;  // NULL: there is no such norm
  float eps;
} Norm;

typedef struct {
  Norm before, after, query_norm, key_norm;
  Matrix qkv[3];  // one below the other: the outputs of queries, keys and values
  Matrix output;
  int32_t num_qkv;
  int32_t num_query;
  int32_t num_kv;
  int32_t head_dim;
  int32_t kind;  // which of the step's rows
  float scale;
} Attention;

typedef struct {
  Norm before, after;
  Matrix gate_up[2];  // one below the other
  Matrix down;
  int32_t num_gate_up;
  int32_t inner;
  int32_t activation;
} Mlp;

// What the rows of a forward attend to. A row sees context[first .. stop) and extra[extra_first ..
// extra_stop), which are addresses of tokens in the cache; its own is the last.
typedef struct {
  const float *turns;  // [rows, head_dim / 2, 2]: cosine and sine
  const int32_t *context;
  const int32_t *extra;
  const int32_t *first;
  const int32_t *stop;
  const int32_t *extra_first;
  const int32_t *extra_stop;
  const int32_t *address;  // where the row's own key and value go
  int64_t num_rows;
} Rows;

// The cache of one layer: [2 * num_kv, tokens, head_dim], first the keys.
typedef struct {
  float *data;
  int64_t tokens;
} Cache;

// What an adapter adds to one product: (x down^T) up; its scale is in `up`.
typedef struct {
  const float *down;  // [rank, inputs]
  const float *up;    // [rank, outputs]
  int64_t rank;       // 0: the adapter leaves this product as it is
} LowRank;

// The products of a layer that an adapter may add to, in this order.
enum { QUERY_PART, KEY_PART, VALUE_PART, OUTPUT_PART, GATE_PART, UP_PART, DOWN_PART, NUM_PARTS };

// The adapters of the rows of a forward.
typedef struct {
  const int32_t *of_row;        // [rows]: the number of the row's adapter, or -1
  const LowRank *const *parts;  // of each adapter, [layers][NUM_PARTS]
} Adapters;

// Activations as the integer products take them: 16 bits for each value, as a high and a low byte,
// with a scale for each group of 32. Tiles of 8 rows; a tile is [groups][8 steps][rows][hi 4, lo 4].
typedef struct {
  int8_t *bytes;
  int16_t *words;  // the same in 16 bits, [groups][8 steps][rows][4], where `uses_words`
  float *scales;   // [tile][groups][8]
  int32_t *sums;   // of the 16-bit values of each half of a group, [tile][groups][2][8]
} Quantized;

// What each instruction set provides.
typedef struct {
  const char *name;
  int max_rows;  // rows of a tile that one call of the product functions takes
  int uses_words;
  // Row `row` of `x`, [size], becomes row `row - tile start` of its tile of `num_rows` rows.
  void (*quantize)(const float *x, int64_t size, Quantized *to, int64_t tile, int row, int num_rows);
  // out[row][lane] of one panel, float32 and added to `sums` in float64 where that is given.
  void (*int_panel)(const Matrix *m, const uint8_t *panel, const Quantized *x, int64_t tile,
                    int first, int num, int tile_rows, float *out, double *sums);
  void (*float_panels)(const Matrix *m, const uint8_t *panels, int num_panels, const float *x,
                       int64_t stride, int num_rows, float *out, double *sums);
  void (*low_rank)(const LowRank *l, const float *x, int64_t inputs, int64_t outputs,
                   double *middle, double *out);
  void (*norm)(const float *x, const Norm *norm, const float *addend, int64_t size, float *out);
  void (*turn)(float *head, const float *turns, int64_t dim);
  void (*attend)(const Attention *a, const Rows *rows, const Cache *cache, int64_t row, int head,
                 const float *query, float *scores, float *out);
  void (*activate)(const float *gate, const float *up, int64_t size, int activation, float *out);
} Instructions;

extern const Instructions instructions_plain;
#if defined(__x86_64__)
extern const Instructions instructions_avx2;
extern const Instructions instructions_avx512;
#endif

// Run body(argument, i) for i in 0 .. count with up to `threads` threads; returns when all are done.
void run_parallel(void (*body)(void *, int64_t), void *argument, int64_t count, int threads);

#endif
