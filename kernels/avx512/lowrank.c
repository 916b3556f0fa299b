// Low-rank linear tile, AVX-512: C[14][32] = (U B' | C) + X W'.
//
// Registers: 28 accumulators (14 rows x 2 vectors), 2 vectors of W, 1 broadcast of X: 31 of 32. A k-step costs 2 loads,
// 14 broadcasts and 28 FMAs, so it is bound by the FMA units with one of them and with two. 14 x 32 is the tallest tile
// of two vectors, which keeps W's panels (64 KiB at k = 512) the operand that is read least often per flop.
// The low-rank product runs first in the same accumulators: LoRA costs r more k-steps, no pass over memory.
// Accumulators have names because compilers spill arrays of them.
#include <immintrin.h>
#include <string.h>

#include "kernels.h"

#define ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13)

#define DECLARE(i) __m512 lo##i = _mm512_setzero_ps(), hi##i = _mm512_setzero_ps();
#define PREFETCH(i)                                                                                                    \
    if (i < m) {                                                                                                       \
        _mm_prefetch((const char *)(t->c + i * t->ldc), _MM_HINT_T0);                                                  \
        _mm_prefetch((const char *)(t->c + i * t->ldc + 16), _MM_HINT_T0);                                             \
    }
#define LOAD(i)                                                                                                        \
    if (i < m) {                                                                                                       \
        lo##i = _mm512_maskz_loadu_ps(mask_lo, t->c + i * t->ldc);                                                     \
        hi##i = _mm512_maskz_loadu_ps(mask_hi, t->c + i * t->ldc + 16);                                                \
    }
#define STORE(i)                                                                                                       \
    if (i < m) {                                                                                                       \
        _mm512_mask_storeu_ps(t->c + i * t->ldc, mask_lo, lo##i);                                                      \
        _mm512_mask_storeu_ps(t->c + i * t->ldc + 16, mask_hi, hi##i);                                                 \
    }
#define STEP(i)                                                                                                        \
    if (i < m) {                                                                                                       \
        const __m512 row = _mm512_set1_ps(left[i * ld]);                                                               \
        lo##i = _mm512_fmadd_ps(row, right_lo, lo##i);                                                                 \
        hi##i = _mm512_fmadd_ps(row, right_hi, hi##i);                                                                 \
    }
#define SELECT(i)                                                                                                      \
    if (i < m) {                                                                                                       \
        uint32_t bits;                                                                                                 \
        memcpy(&bits, t->keep + i * t->ldkeep + t->keep_col / 8, sizeof bits);                                         \
        lo##i = _mm512_maskz_mul_ps((__mmask16)bits, lo##i, inv);                                                      \
        hi##i = _mm512_maskz_mul_ps((__mmask16)(bits >> 16), hi##i, inv);                                              \
    }

static inline __attribute__((always_inline)) void tile(const lod_lowrank_tile_args *t, const size_t m) {
    const __mmask16 mask_lo = (__mmask16)(t->n >= 16 ? 0xffff : (1u << t->n) - 1);
    const __mmask16 mask_hi = (__mmask16)(t->n <= 16 ? 0 : (1u << (t->n - 16)) - 1);
    ROWS(DECLARE)
    if (t->first) {
        ROWS(PREFETCH)
        for (size_t q = 0; q < t->r; q++) {
            const float *left = t->u + q, *right = t->b + q * t->ldb;
            const size_t ld = t->ldu;
            const __m512 right_lo = _mm512_maskz_loadu_ps(mask_lo, right);
            const __m512 right_hi = _mm512_maskz_loadu_ps(mask_hi, right + 16);
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
    const size_t second = t->n > LOD_PANEL ? t->ldpanel : 0; // a panel without columns is not read
    for (size_t k = t->k; k; k--, left++, right += LOD_PANEL) {
        const size_t ld = LOD_X_LD;
        const __m512 right_lo = _mm512_load_ps(right), right_hi = _mm512_load_ps(right + second);
        ROWS(STEP)
    }
    ROWS(STORE)
}

void lod_lowrank_tile_f32__avx512_14x32(const lod_lowrank_tile_args *t) {
#define CASE(i)                                                                                                        \
    case i + 1:                                                                                                        \
        tile(t, i + 1);                                                                                                \
        break;
    switch (t->m) { ROWS(CASE) }
}
