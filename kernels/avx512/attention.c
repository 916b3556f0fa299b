// One product of attention, AVX-512: C[6][64] a tile, fewer vectors at the end of a row of tiles, strips of rows one
// after another.
//
// Registers: 24 accumulators (6 rows x 4 vectors), 4 vectors of B, 1 broadcast of A: 29 of 32. A k-step costs 10 loads
// for 24 FMAs. That share decides: cores load less than two vectors a cycle beside two FMAs, and 8 x 32 with 10 for 16
// stays a tenth below the peak even when the products are long. Four vectors are a head of 64.
// Accumulators have names because compilers spill arrays of them.
#include <immintrin.h>

#include "kernels.h"

#define ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define VECTORS(X, i) X(i, 0) X(i, 1) X(i, 2) X(i, 3)

#define DECLARE_VECTOR(i, v) __m512 sum##i##_##v = _mm512_setzero_ps();
#define LOAD_VECTOR(i, v)                                                                                              \
    if (v < vectors) sum##i##_##v = _mm512_loadu_ps(c + i * ldc + 16 * v);
#define STORE_VECTOR(i, v)                                                                                             \
    if (v < vectors) _mm512_storeu_ps(c + i * ldc + 16 * v, sum##i##_##v);
#define STEP_VECTOR(i, v)                                                                                              \
    if (v < vectors) sum##i##_##v = _mm512_fmadd_ps(row, right##v, sum##i##_##v);

#define DECLARE(i) VECTORS(DECLARE_VECTOR, i)
#define LOAD(i)                                                                                                        \
    if (i < m) {                                                                                                       \
        VECTORS(LOAD_VECTOR, i)                                                                                        \
    }
#define STORE(i)                                                                                                       \
    if (i < m) {                                                                                                       \
        VECTORS(STORE_VECTOR, i)                                                                                       \
    }
#define STEP(i)                                                                                                        \
    if (i < m) {                                                                                                       \
        const __m512 row = _mm512_set1_ps(a[i * a_row]);                                                               \
        VECTORS(STEP_VECTOR, i)                                                                                        \
    }

#define INLINE static inline __attribute__((always_inline))

// One tile. The argument struct is a copy: stores to C cannot change it.
INLINE void tile(const lod_attention_tile_args t, const float *a, const float *b, float *c, const size_t m,
                 const size_t vectors) {
    const size_t a_row = t.a_row, a_depth = t.a_depth, b_depth = t.b_depth, ldc = t.ldc;
    const size_t second = vectors > 1 ? t.b_panel : 0, third = vectors > 2 ? 2 * t.b_panel : 0;
    const size_t fourth = vectors > 3 ? 3 * t.b_panel : 0;
    ROWS(DECLARE)
    if (!t.first) {
        ROWS(LOAD)
    }
    for (size_t k = t.k; k; k--, a += a_depth, b += b_depth) {
        const __m512 right0 = _mm512_load_ps(b), right1 = _mm512_load_ps(b + second);
        const __m512 right2 = _mm512_load_ps(b + third), right3 = _mm512_load_ps(b + fourth);
        ROWS(STEP)
    }
    ROWS(STORE)
}

// m rows, a and c pointing at the first. Five vectors are three and two: one alone has too few chains.
INLINE void strip(const lod_attention_tile_args t, const float *a, float *c, const size_t m) {
    for (size_t j = 0, left = t.n / 16; left;) {
        const float *b = t.b + j * t.b_panel;
        const size_t vectors = left == 5 ? 3 : left > 4 ? 4 : left;
        switch (vectors) {
        case 1: tile(t, a, b, c + 16 * j, m, 1); break;
        case 2: tile(t, a, b, c + 16 * j, m, 2); break;
        case 3: tile(t, a, b, c + 16 * j, m, 3); break;
        default: tile(t, a, b, c + 16 * j, m, 4);
        }
        j += vectors, left -= vectors;
    }
}

void lod_attention_tile_f32__avx512_6x64(const lod_attention_tile_args *args) {
    const lod_attention_tile_args t = *args;
    const float *a = t.a;
    float *c = t.c;
    size_t m = t.m;
    for (; m >= 6; m -= 6, a += 6 * t.a_row, c += 6 * t.ldc) strip(t, a, c, 6);
#define CASE(i)                                                                                                        \
    case i + 1:                                                                                                        \
        strip(t, a, c, i + 1);                                                                                         \
        break;
    switch (m) { ROWS(CASE) }
}
