// Low-rank linear tile, NEON: C[6][16] = (U B' | C) + X W'.
//
// Registers: 24 accumulators (6 rows x 4 vectors), 4 vectors of W, 1 broadcast of X: 29 of 32. A k-step costs 4 loads,
// 6 broadcasting loads and 24 FMAs: 12 cycles on two FMA pipes, of which the 10 loads need 5.
// The low-rank product runs first in the same accumulators: LoRA costs r more k-steps, no pass over memory.
#include <arm_neon.h>
#include <string.h>

#include "kernels.h"

#define ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5)

#define DECLARE(i)                                                                                                     \
    float32x4_t a##i = vdupq_n_f32(0), b##i = vdupq_n_f32(0), c##i = vdupq_n_f32(0), d##i = vdupq_n_f32(0);
// The row is in the first cache by the time that it is written.
#define ASK(i)                                                                                                         \
    if (i < m) __builtin_prefetch(t->c + i * t->ldc, 1);
#define LOAD(i)                                                                                                        \
    if (i < m) {                                                                                                       \
        const float *from = load(t->from + i * t->ldfrom, t->n, buffer);                                               \
        a##i = vld1q_f32(from);                                                                                        \
        b##i = vld1q_f32(from + 4);                                                                                    \
        c##i = vld1q_f32(from + 8);                                                                                    \
        d##i = vld1q_f32(from + 12);                                                                                   \
    }
#define STORE(i)                                                                                                       \
    if (i < m) {                                                                                                       \
        float *to = t->n == 16 ? t->c + i * t->ldc : buffer;                                                           \
        vst1q_f32(to, a##i);                                                                                           \
        vst1q_f32(to + 4, b##i);                                                                                       \
        vst1q_f32(to + 8, c##i);                                                                                       \
        vst1q_f32(to + 12, d##i);                                                                                      \
        if (t->n < 16) memcpy(t->c + i * t->ldc, buffer, t->n * sizeof(float));                                        \
    }
#define STEP(i)                                                                                                        \
    if (i < m) {                                                                                                       \
        const float32x4_t row = vld1q_dup_f32(left + i * ld);                                                          \
        a##i = vfmaq_f32(a##i, row, ra);                                                                               \
        b##i = vfmaq_f32(b##i, row, rb);                                                                               \
        c##i = vfmaq_f32(c##i, row, rc);                                                                               \
        d##i = vfmaq_f32(d##i, row, rd);                                                                               \
    }
#define SELECT(i)                                                                                                      \
    if (i < m) {                                                                                                       \
        uint16_t bits;                                                                                                 \
        memcpy(&bits, t->keep + i * t->ldkeep + t->keep_col / 8, sizeof bits);                                         \
        a##i = keep_lanes(bits, vmulq_n_f32(a##i, t->inv));                                                            \
        b##i = keep_lanes(bits >> 4, vmulq_n_f32(b##i, t->inv));                                                       \
        c##i = keep_lanes(bits >> 8, vmulq_n_f32(c##i, t->inv));                                                       \
        d##i = keep_lanes(bits >> 12, vmulq_n_f32(d##i, t->inv));                                                      \
    }

// The lanes whose bit is set, +0 elsewhere.
static inline float32x4_t keep_lanes(uint32_t bits, float32x4_t value) {
    static const uint32_t lane_bit[4] = {1, 2, 4, 8};
    uint32x4_t mask = vtstq_u32(vdupq_n_u32(bits), vld1q_u32(lane_bit));
    return vreinterpretq_f32_u32(vandq_u32(mask, vreinterpretq_u32_f32(value)));
}

// Where 16 floats can be read: the row itself, or a copy of its n floats.
static inline const float *load(const float *from, size_t n, float buffer[16]) {
    if (n == 16) return from;
    memcpy(buffer, from, n * sizeof(float));
    return buffer;
}

static inline __attribute__((always_inline)) void tile(const lod_lowrank_tile_args *t, const size_t m) {
    float buffer[16] = {0};
    ROWS(DECLARE)
    ROWS(ASK)
    if (t->first) {
        for (size_t q = 0; q < t->r; q++) {
            const float *left = t->u + q, *right = load(t->b + q * t->ldb, t->n, buffer);
            const size_t ld = t->ldu;
            const float32x4_t ra = vld1q_f32(right), rb = vld1q_f32(right + 4);
            const float32x4_t rc = vld1q_f32(right + 8), rd = vld1q_f32(right + 12);
            ROWS(STEP)
        }
        if (t->keep) {
            ROWS(SELECT)
        }
    } else {
        ROWS(LOAD)
    }
    const float *left = t->x, *right = t->w;
    for (size_t k = t->k; k; k--, left++, right += LOD_PANEL) {
        const size_t ld = t->ldx;
        const float32x4_t ra = vld1q_f32(right), rb = vld1q_f32(right + 4);
        const float32x4_t rc = vld1q_f32(right + 8), rd = vld1q_f32(right + 12);
        ROWS(STEP)
    }
    ROWS(STORE)
}

void lod_lowrank_tile_f32__neon_6x16(const lod_lowrank_tile_args *t) {
#define CASE(i)                                                                                                        \
    case i + 1:                                                                                                        \
        tile(t, i + 1);                                                                                                \
        break;
    switch (t->m) { ROWS(CASE) }
}
