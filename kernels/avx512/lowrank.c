// Low-rank linear tile, AVX-512: C[6][64] = (U B' | C) + X W'.
//
// Registers: 24 accumulators (6 rows x 4 vectors), 4 vectors of W, 1 broadcast of X: 29 of 32. A k-step costs 10 loads
// for 24 FMAs, the least of all tiles that fit. 14 x 32 (16 for 28) reads W less often, but less of its strip of W
// stays in the first cache beside its rows of X.
// The low-rank product runs first in the same accumulators: LoRA costs r more k-steps, no pass over memory.
// Accumulators have names because compilers spill arrays of them.
#include <immintrin.h>
#include <string.h>

#include "kernels.h"

#define ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define VECTORS(X, i) X(i, 0) X(i, 1) X(i, 2) X(i, 3)

#define DECLARE_VECTOR(i, v) __m512 sum##i##_##v = _mm512_setzero_ps();
#define LOAD_VECTOR(i, v)                                                                                              \
    if (v < vectors) sum##i##_##v = _mm512_maskz_loadu_ps(MASK(v), t->from + i * t->ldfrom + 16 * v);
#define STORE_VECTOR(i, v)                                                                                             \
    if (v < vectors) _mm512_mask_storeu_ps(t->c + i * t->ldc + 16 * v, MASK(v), sum##i##_##v);
#define STEP_VECTOR(i, v)                                                                                              \
    if (v < vectors) sum##i##_##v = _mm512_fmadd_ps(row, right##v, sum##i##_##v);
#define SELECT_VECTOR(i, v)                                                                                            \
    if (v < vectors) sum##i##_##v = _mm512_maskz_mul_ps((__mmask16)(bits >> 16 * v), sum##i##_##v, inv);

#define MASK(v) (v + 1 < vectors ? (__mmask16)0xffff : last)
#define RIGHT(v) (v < vectors ? _mm512_maskz_loadu_ps(MASK(v), right + 16 * v) : _mm512_setzero_ps())

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
        const __m512 row = _mm512_set1_ps(left[i * ld]);                                                               \
        VECTORS(STEP_VECTOR, i)                                                                                        \
    }
#define SELECT(i)                                                                                                      \
    if (i < m) {                                                                                                       \
        uint64_t bits = 0;                                                                                             \
        memcpy(&bits, t->keep + i * t->ldkeep + t->keep_col / 8, 2 * vectors);                                         \
        VECTORS(SELECT_VECTOR, i)                                                                                      \
    }

#define K_STEP                                                                                                         \
    {                                                                                                                  \
        const __m512 right0 = _mm512_load_ps(right), right1 = _mm512_load_ps(right + second);                          \
        const __m512 right2 = _mm512_load_ps(right + third), right3 = _mm512_load_ps(right + fourth);                  \
        ROWS(STEP)                                                                                                     \
        left++, right += LOD_PANEL;                                                                                    \
    }

#define INLINE static inline __attribute__((always_inline))

// A row of C a few k-steps after another: all at once, they would wait for the fill buffers of the first cache.
enum { ASK_STEPS = 8 };

INLINE void ask_row(const float *c, const size_t vectors) {
    for (size_t v = 0; v < vectors; v++) __builtin_prefetch(c + 16 * v, 1, 3);
}

INLINE void tile(const lod_lowrank_tile_args *t, const size_t m, const size_t vectors) {
    const __mmask16 last = (__mmask16)(0xffff >> (16 * vectors - t->n));
    ROWS(DECLARE)
    if (t->first) {
        for (size_t q = 0; q < t->r; q++) {
            const float *left = t->u + q, *right = t->b + q * t->ldb;
            const size_t ld = t->ldu;
            const __m512 right0 = RIGHT(0), right1 = RIGHT(1), right2 = RIGHT(2), right3 = RIGHT(3);
            ROWS(STEP)
        }
        if (t->keep) {
            const __m512 inv = _mm512_set1_ps(t->inv);
            ROWS(SELECT)
        }
    } else {
        ROWS(LOAD)
    }
    const float *left = t->x, *right = t->w;
    const size_t second = vectors > 1 ? t->ldpanel : 0, third = vectors > 2 ? 2 * t->ldpanel : 0;
    const size_t fourth = vectors > 3 ? 3 * t->ldpanel : 0;
    const size_t ld = t->ldx;
    size_t k = t->k;
    for (size_t i = 0; i < m && k >= ASK_STEPS; i++, k -= ASK_STEPS) {
        ask_row(t->c + i * t->ldc, vectors);
        for (size_t j = 0; j < ASK_STEPS; j++) K_STEP
    }
    for (; k; k--) K_STEP
    ROWS(STORE)
}

// Whole vectors of columns, but for the last.
INLINE void rows(const lod_lowrank_tile_args *t, const size_t m) {
    switch ((t->n + 15) / 16) {
    case 1: tile(t, m, 1); break;
    case 2: tile(t, m, 2); break;
    case 3: tile(t, m, 3); break;
    default: tile(t, m, 4);
    }
}

void lod_lowrank_tile_f32__avx512_6x64(const lod_lowrank_tile_args *t) {
#define CASE(i)                                                                                                        \
    case i + 1: rows(t, i + 1); break;
    switch (t->m) { ROWS(CASE) }
}
