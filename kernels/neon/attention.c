// One product of attention, NEON: C[6][16] a tile, tiles of a strip of rows one after another.
//
// Registers: 24 accumulators (6 rows x 4 vectors), 4 vectors of B, 1 broadcast of A: 29 of 32. A k-step costs 4 loads,
// 6 broadcasting loads and 24 FMAs: 12 cycles on two FMA pipes, of which the 10 loads need 5.
#include <arm_neon.h>

#include "kernels.h"

#define ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5)

#define DECLARE(i)                                                                                                     \
    float32x4_t a##i = vdupq_n_f32(0), b##i = vdupq_n_f32(0), c##i = vdupq_n_f32(0), d##i = vdupq_n_f32(0);
#define LOAD(i)                                                                                                        \
    if (i < m) {                                                                                                       \
        const float *from = c + i * ldc;                                                                               \
        a##i = vld1q_f32(from);                                                                                        \
        b##i = vld1q_f32(from + 4);                                                                                    \
        c##i = vld1q_f32(from + 8);                                                                                    \
        d##i = vld1q_f32(from + 12);                                                                                   \
    }
#define STORE(i)                                                                                                       \
    if (i < m) {                                                                                                       \
        float *to = c + i * ldc;                                                                                       \
        vst1q_f32(to, a##i);                                                                                           \
        vst1q_f32(to + 4, b##i);                                                                                       \
        vst1q_f32(to + 8, c##i);                                                                                       \
        vst1q_f32(to + 12, d##i);                                                                                      \
    }
#define STEP(i)                                                                                                        \
    if (i < m) {                                                                                                       \
        const float32x4_t row = vld1q_dup_f32(left + i * a_row);                                                       \
        a##i = vfmaq_f32(a##i, row, ra);                                                                               \
        b##i = vfmaq_f32(b##i, row, rb);                                                                               \
        c##i = vfmaq_f32(c##i, row, rc);                                                                               \
        d##i = vfmaq_f32(d##i, row, rd);                                                                               \
    }

// m rows, a and c pointing at the first. The argument struct is a copy: stores to C cannot change it.
static inline __attribute__((always_inline)) void strip(const lod_attention_tile_args t, const float *a_strip,
                                                        float *to_c, const size_t m) {
    const size_t a_row = t.a_row, a_depth = t.a_depth, b_depth = t.b_depth, ldc = t.ldc;
    for (size_t j = 0; j * 16 < t.n; j++) {
        const float *left = a_strip, *right = t.b + j * t.b_panel;
        float *c = to_c + j * 16;
        ROWS(DECLARE)
        if (!t.first) {
            ROWS(LOAD)
        }
        for (size_t k = t.k; k; k--, left += a_depth, right += b_depth) {
            const float32x4_t ra = vld1q_f32(right), rb = vld1q_f32(right + 4);
            const float32x4_t rc = vld1q_f32(right + 8), rd = vld1q_f32(right + 12);
            ROWS(STEP)
        }
        ROWS(STORE)
    }
}

void lod_attention_tile_f32__neon_6x16(const lod_attention_tile_args *args) {
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
