// Low-rank linear tile, AVX2: C[6][16] = (U B' | C) + X W'.
//
// Registers: 12 accumulators (6 rows x 2 vectors), 2 vectors of W, 1 broadcast of X: 15 of 16. A k-step costs 2 loads,
// 6 broadcasts and 12 FMAs: 6 cycles on two FMA units, of which the 8 loads need 4. 12 independent chains cover the
// FMA's latency of 4 to 5 cycles on two units. One panel is one strip, contiguous: 32 KiB at the deepest
// k = 512, most of it in L1 while the rows of X stream by.
// The low-rank product runs first in the same accumulators: LoRA costs r more k-steps, no pass over memory.
#include <immintrin.h>
#include <string.h>

#include "kernels.h"

#define ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5)

#define DECLARE(i) __m256 lo##i = _mm256_setzero_ps(), hi##i = _mm256_setzero_ps();
// The row is in the first cache by the time that it is written.
#define ASK(i)                                                                                                         \
    if (i < m) __builtin_prefetch(t->c + i * t->ldc, 1);
#define LOAD(i)                                                                                                        \
    if (i < m) {                                                                                                       \
        lo##i = load(t->from + i * t->ldfrom, mask_lo, full);                                                          \
        hi##i = load(t->from + i * t->ldfrom + 8, mask_hi, full);                                                      \
    }
#define STORE(i)                                                                                                       \
    if (i < m) {                                                                                                       \
        store(t->c + i * t->ldc, mask_lo, lo##i, full);                                                                \
        store(t->c + i * t->ldc + 8, mask_hi, hi##i, full);                                                            \
    }
#define STEP(i)                                                                                                        \
    if (i < m) {                                                                                                       \
        const __m256 row = _mm256_broadcast_ss(left + i * ld);                                                         \
        lo##i = _mm256_fmadd_ps(row, right_lo, lo##i);                                                                 \
        hi##i = _mm256_fmadd_ps(row, right_hi, hi##i);                                                                 \
    }
#define SELECT(i)                                                                                                      \
    if (i < m) {                                                                                                       \
        uint16_t bits;                                                                                                 \
        memcpy(&bits, t->keep + i * t->ldkeep + t->keep_col / 8, sizeof bits);                                         \
        lo##i = _mm256_and_ps(lanes_of(bits), _mm256_mul_ps(lo##i, inv));                                              \
        hi##i = _mm256_and_ps(lanes_of(bits >> 8), _mm256_mul_ps(hi##i, inv));                                         \
    }

// All ones in the lanes below n.
static inline __m256i lanes_below(size_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// All ones in the lanes whose bit is set.
static inline __m256 lanes_of(uint32_t bits) {
    const __m256i lane_bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i own = _mm256_and_si256(_mm256_set1_epi32((int)bits), lane_bit);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(own, lane_bit));
}

static inline __m256 load(const float *from, __m256i mask, bool full) {
    return full ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, mask);
}

static inline void store(float *to, __m256i mask, __m256 value, bool full) {
    if (full) {
        _mm256_storeu_ps(to, value);
    } else {
        _mm256_maskstore_ps(to, mask, value);
    }
}

static inline __attribute__((always_inline)) void tile(const lod_lowrank_tile_args *t, const size_t m) {
    const bool full = t->n == 16;
    const __m256i mask_lo = lanes_below(t->n), mask_hi = lanes_below(t->n > 8 ? t->n - 8 : 0);
    ROWS(DECLARE)
    ROWS(ASK)
    if (t->first) {
        for (size_t q = 0; q < t->r; q++) {
            const float *left = t->u + q;
            const size_t ld = t->ldu;
            const __m256 right_lo = load(t->b + q * t->ldb, mask_lo, full);
            const __m256 right_hi = load(t->b + q * t->ldb + 8, mask_hi, full);
            ROWS(STEP)
        }
        if (t->keep) {
            const __m256 inv = _mm256_set1_ps(t->inv);
            ROWS(SELECT)
        }
    } else {
        ROWS(LOAD)
    }
    const float *left = t->x, *right = t->w;
    for (size_t k = t->k; k; k--, left++, right += LOD_PANEL) {
        const size_t ld = t->ldx;
        const __m256 right_lo = _mm256_load_ps(right), right_hi = _mm256_load_ps(right + 8);
        ROWS(STEP)
    }
    ROWS(STORE)
}

void lod_lowrank_tile_f32__avx2_6x16(const lod_lowrank_tile_args *t) {
#define CASE(i)                                                                                                        \
    case i + 1:                                                                                                        \
        tile(t, i + 1);                                                                                                \
        break;
    switch (t->m) { ROWS(CASE) }
}
