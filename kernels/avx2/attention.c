// One product of attention, AVX2: C[6][16] a tile, tiles of a strip of rows one after another.
//
// Registers: 12 accumulators (6 rows x 2 vectors), 2 vectors of B, 1 broadcast of A: 15 of 16. A k-step costs 2 loads,
// 6 broadcasts and 12 FMAs: 6 cycles on two FMA units, of which the 8 loads need 4.
// The rows of A are 64 or so floats deep (a head's dimension, a block of queries or keys), so a call runs over many
// tiles: columns inside, because a strip of A stays in L1 while B streams.
#include <immintrin.h>

#include "kernels.h"

#define ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5)

#define DECLARE(i) __m256 lo##i = _mm256_setzero_ps(), hi##i = _mm256_setzero_ps();
#define LOAD(i)                                                                                                        \
    if (i < m) {                                                                                                       \
        lo##i = _mm256_loadu_ps(c + i * ldc);                                                                          \
        hi##i = _mm256_loadu_ps(c + i * ldc + 8);                                                                      \
    }
#define STORE(i)                                                                                                       \
    if (i < m) {                                                                                                       \
        _mm256_storeu_ps(c + i * ldc, lo##i);                                                                          \
        _mm256_storeu_ps(c + i * ldc + 8, hi##i);                                                                      \
    }
#define STEP(i)                                                                                                        \
    if (i < m) {                                                                                                       \
        const __m256 row = _mm256_broadcast_ss(a + i * a_row);                                                         \
        lo##i = _mm256_fmadd_ps(row, right_lo, lo##i);                                                                 \
        hi##i = _mm256_fmadd_ps(row, right_hi, hi##i);                                                                 \
    }

// m rows, a and c pointing at the first. The argument struct is a copy: stores to C cannot change it.
static inline __attribute__((always_inline)) void strip(const lod_attention_tile_args t, const float *a_strip,
                                                        float *to_c, const size_t m) {
    const size_t a_row = t.a_row, a_depth = t.a_depth, b_depth = t.b_depth, ldc = t.ldc;
    for (size_t j = 0; j * 16 < t.n; j++) {
        const float *a = a_strip, *b = t.b + j * t.b_panel;
        float *c = to_c + j * 16;
        ROWS(DECLARE)
        if (!t.first) {
            ROWS(LOAD)
        }
        for (size_t k = t.k; k; k--, a += a_depth, b += b_depth) {
            const __m256 right_lo = _mm256_load_ps(b), right_hi = _mm256_load_ps(b + 8);
            ROWS(STEP)
        }
        ROWS(STORE)
    }
}

void lod_attention_tile_f32__avx2_6x16(const lod_attention_tile_args *args) {
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
