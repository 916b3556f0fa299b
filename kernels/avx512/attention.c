// One product of attention, AVX-512: C[8][32] a tile, C[8][16] at the end of a row of tiles, strips of rows one after
// another.
//
// Registers: 16 accumulators (8 rows x 2 vectors), 2 vectors of B, 1 broadcast of A: 19 of 32. A k-step costs 2 loads,
// 8 broadcasts and 16 FMAs, bound by the FMA units with one of them and with two; 16 chains (8 in the narrow tile)
// cover the latency of 4 cycles on two units. A taller tile would leave more work beyond the causal edge, whose grain
// is a tile's rows; 8 are enough to keep the loads (10 for 16 FMAs) off the limit.
// Accumulators have names because compilers spill arrays of them.
#include <immintrin.h>

#include "kernels.h"

#define ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

#define DECLARE(i) __m512 lo##i = _mm512_setzero_ps(), hi##i = _mm512_setzero_ps();
#define LOAD(i)                                                                                                        \
    if (i < m) {                                                                                                       \
        lo##i = _mm512_loadu_ps(c + i * ldc);                                                                          \
        if (wide) hi##i = _mm512_loadu_ps(c + i * ldc + 16);                                                           \
    }
#define STORE(i)                                                                                                       \
    if (i < m) {                                                                                                       \
        _mm512_storeu_ps(c + i * ldc, lo##i);                                                                          \
        if (wide) _mm512_storeu_ps(c + i * ldc + 16, hi##i);                                                           \
    }
#define STEP(i)                                                                                                        \
    if (i < m) {                                                                                                       \
        const __m512 row = _mm512_set1_ps(a[i * a_row]);                                                               \
        lo##i = _mm512_fmadd_ps(row, right_lo, lo##i);                                                                 \
        if (wide) hi##i = _mm512_fmadd_ps(row, right_hi, hi##i);                                                       \
    }

// One tile. The argument struct is a copy: stores to C cannot change it.
static inline __attribute__((always_inline)) void tile(const lod_attention_tile_args t, const float *a, const float *b,
                                                       float *c, const size_t m, const bool wide) {
    const size_t a_row = t.a_row, a_depth = t.a_depth, b_depth = t.b_depth, ldc = t.ldc, second = wide ? t.b_panel : 0;
    ROWS(DECLARE)
    if (!t.first) {
        ROWS(LOAD)
    }
    for (size_t k = t.k; k; k--, a += a_depth, b += b_depth) {
        const __m512 right_lo = _mm512_load_ps(b), right_hi = _mm512_load_ps(b + second);
        ROWS(STEP)
    }
    ROWS(STORE)
}

// m rows, a and c pointing at the first.
static inline __attribute__((always_inline)) void strip(const lod_attention_tile_args t, const float *a, float *c,
                                                        const size_t m) {
    size_t j = 0;
    for (; j + 32 <= t.n; j += 32) tile(t, a, t.b + j / 16 * t.b_panel, c + j, m, true);
    if (j < t.n) tile(t, a, t.b + j / 16 * t.b_panel, c + j, m, false);
}

void lod_attention_tile_f32__avx512_8x32(const lod_attention_tile_args *args) {
    const lod_attention_tile_args t = *args;
    const float *a = t.a;
    float *c = t.c;
    size_t m = t.m;
    for (; m >= 8; m -= 8, a += 8 * t.a_row, c += 8 * t.ldc) strip(t, a, c, 8);
#define CASE(i)                                                                                                        \
    case i + 1:                                                                                                        \
        strip(t, a, c, i + 1);                                                                                         \
        break;
    switch (m) { ROWS(CASE) }
}
