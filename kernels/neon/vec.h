// One virtual vector of 16 lanes: here four q registers. Every ISA folder has this file with the same interface and
// the same results bit by bit, so that what is written on it (kernels/vector) exists once and agrees everywhere.
//
//     v16  16 floats     m16  16 lane masks     w16  16 words of 32 bits, for integer arithmetic
//
// Each operation is one IEEE operation a lane. v16_max(a, b) is a > b ? a : b, so b where either is NaN or both are
// zeros. Sums and maxima over lanes run l with l+8, l+4, l+2, l+1.
#ifndef LOD_VEC_H
#define LOD_VEC_H

#include <arm_neon.h>
#include <sleef.h>
#include <stddef.h>
#include <stdint.h>

#define LOD_VARIANT(op) lod_##op##__neon
#define LOD_INLINE static inline __attribute__((always_inline))

// Register tiles of kernels/vector/rank.c: 16 accumulators of 32 registers; of few.c: 24.
enum { LOD_DOT_TOKENS = 4, LOD_GRAD_RANKS = 4, LOD_GRAD_VECTORS = 1, LOD_FEW_ROWS = 6 };

typedef struct v16 {
    float32x4_t a, b, c, d;
} v16;

// 16 words, or 16 masks of all ones or all zeros.
typedef struct w16 {
    uint32x4_t a, b, c, d;
} w16;

typedef w16 m16;

// The operation on each quarter.
#define LOD_EACH1(f, x)                                                                                                \
    { f((x).a), f((x).b), f((x).c), f((x).d) }
#define LOD_EACH2(f, x, y)                                                                                             \
    { f((x).a, (y).a), f((x).b, (y).b), f((x).c, (y).c), f((x).d, (y).d) }
#define LOD_EACH3(f, x, y, z)                                                                                          \
    { f((x).a, (y).a, (z).a), f((x).b, (y).b, (z).b), f((x).c, (y).c, (z).c), f((x).d, (y).d, (z).d) }

// One register, the share of a v16 that register tiles work on.
typedef float32x4_t part;
enum { LOD_PART_LANES = 4 };

LOD_INLINE part part_load(const float *p) {
    return vld1q_f32(p);
}

LOD_INLINE void part_store(float *p, part a) {
    vst1q_f32(p, a);
}

LOD_INLINE part part_fma(part a, part b, part c) {
    return vfmaq_f32(c, a, b);
}

LOD_INLINE part part_zero(void) {
    return vdupq_n_f32(0);
}

LOD_INLINE part part_set1(float x) {
    return vdupq_n_f32(x);
}

// Lane i of out[c] = word c of row i, rows `stride` bytes apart, c < 4.
LOD_INLINE void part_transpose(const void *in, size_t stride, part out[4]) {
    const uint8_t *row = in;
    part r0 = vreinterpretq_f32_u8(vld1q_u8(row)), r1 = vreinterpretq_f32_u8(vld1q_u8(row + stride));
    part r2 = vreinterpretq_f32_u8(vld1q_u8(row + 2 * stride)), r3 = vreinterpretq_f32_u8(vld1q_u8(row + 3 * stride));
    float32x4x2_t r01 = vtrnq_f32(r0, r1), r23 = vtrnq_f32(r2, r3);
    out[0] = vcombine_f32(vget_low_f32(r01.val[0]), vget_low_f32(r23.val[0]));
    out[1] = vcombine_f32(vget_low_f32(r01.val[1]), vget_low_f32(r23.val[1]));
    out[2] = vcombine_f32(vget_high_f32(r01.val[0]), vget_high_f32(r23.val[0]));
    out[3] = vcombine_f32(vget_high_f32(r01.val[1]), vget_high_f32(r23.val[1]));
}

// The first and the second bf16 of each lane, widened.
LOD_INLINE part part_widen_even(part pairs) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(pairs), 16));
}

LOD_INLINE part part_widen_odd(part pairs) {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(pairs), vdupq_n_u32(0xffff0000)));
}

LOD_INLINE v16 v16_set1(float x) {
    float32x4_t q = vdupq_n_f32(x);
    return (v16){q, q, q, q};
}

LOD_INLINE v16 v16_zero(void) {
    return v16_set1(0.0f);
}

LOD_INLINE float v16_first(v16 a) {
    return vgetq_lane_f32(a.a, 0);
}

LOD_INLINE v16 v16_load(const float *p) {
    return (v16){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}

LOD_INLINE void v16_store(float *p, v16 a) {
    vst1q_f32(p, a.a);
    vst1q_f32(p + 4, a.b);
    vst1q_f32(p + 8, a.c);
    vst1q_f32(p + 12, a.d);
}

// The first n <= 16 lanes; a load sets the others to +0, neither touches memory beyond them.
LOD_INLINE v16 v16_load_n(const float *p, size_t n) {
    float lane[16] = {0};
    for (size_t i = 0; i < n; i++) {
        lane[i] = p[i];
    }
    return v16_load(lane);
}

LOD_INLINE void v16_store_n(float *p, v16 a, size_t n) {
    float lane[16];
    v16_store(lane, a);
    for (size_t i = 0; i < n; i++) {
        p[i] = lane[i];
    }
}

LOD_INLINE w16 w16_set1(uint32_t x) {
    uint32x4_t q = vdupq_n_u32(x);
    return (w16){q, q, q, q};
}

// first, first + 1, .. first + 15.
LOD_INLINE w16 w16_count(uint32_t first) {
    static const uint32_t lane[4] = {0, 1, 2, 3};
    uint32x4_t q = vaddq_u32(vdupq_n_u32(first), vld1q_u32(lane));
    return (w16){q, vaddq_u32(q, vdupq_n_u32(4)), vaddq_u32(q, vdupq_n_u32(8)), vaddq_u32(q, vdupq_n_u32(12))};
}

// 1 << lane.
LOD_INLINE w16 w16_lane_bit(void) {
    static const uint32_t bit[4] = {1, 2, 4, 8};
    uint32x4_t q = vld1q_u32(bit);
    return (w16){q, vshlq_n_u32(q, 4), vshlq_n_u32(q, 8), vshlq_n_u32(q, 12)};
}

LOD_INLINE m16 m16_first(size_t n) {
    w16 count = w16_set1((uint32_t)n), lane = w16_count(0);
    return (m16)LOD_EACH2(vcgtq_u32, count, lane);
}

// Exact widening of 16 elements.
LOD_INLINE float32x4_t v16_widen_bf16(const uint16_t *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}

LOD_INLINE v16 v16_load_bf16(const uint16_t *p) {
    return (v16){v16_widen_bf16(p), v16_widen_bf16(p + 4), v16_widen_bf16(p + 8), v16_widen_bf16(p + 12)};
}

LOD_INLINE float32x4_t v16_widen_f16(const uint16_t *p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

LOD_INLINE v16 v16_load_f16(const uint16_t *p) {
    return (v16){v16_widen_f16(p), v16_widen_f16(p + 4), v16_widen_f16(p + 8), v16_widen_f16(p + 12)};
}

LOD_INLINE v16 v16_add(v16 a, v16 b) {
    return (v16)LOD_EACH2(vaddq_f32, a, b);
}

LOD_INLINE v16 v16_sub(v16 a, v16 b) {
    return (v16)LOD_EACH2(vsubq_f32, a, b);
}

LOD_INLINE v16 v16_mul(v16 a, v16 b) {
    return (v16)LOD_EACH2(vmulq_f32, a, b);
}

LOD_INLINE v16 v16_div(v16 a, v16 b) {
    return (v16)LOD_EACH2(vdivq_f32, a, b);
}

LOD_INLINE v16 v16_sqrt(v16 a) {
    return (v16)LOD_EACH1(vsqrtq_f32, a);
}

LOD_INLINE v16 v16_neg(v16 a) {
    return (v16)LOD_EACH1(vnegq_f32, a);
}

// a b + c and -a b + c, rounded once.
LOD_INLINE v16 v16_fma(v16 a, v16 b, v16 c) {
    return (v16)LOD_EACH3(vfmaq_f32, c, a, b);
}

LOD_INLINE v16 v16_fnma(v16 a, v16 b, v16 c) {
    return (v16)LOD_EACH3(vfmsq_f32, c, a, b);
}

LOD_INLINE float32x4_t v16_add_exponent_quarter(float32x4_t a, float32x4_t t) {
    uint32x4_t exponent = vshlq_n_u32(vreinterpretq_u32_f32(t), 23);
    return vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(a), exponent));
}

// a with the low 9 bits of t's representation added to its exponent.
LOD_INLINE v16 v16_add_exponent(v16 a, v16 t) {
    return (v16)LOD_EACH2(v16_add_exponent_quarter, a, t);
}

LOD_INLINE v16 v16_exp(v16 a) {
    return (v16)LOD_EACH1(Sleef_finz_expf4_u10advsimd, a);
}

LOD_INLINE v16 v16_log(v16 a) {
    return (v16)LOD_EACH1(Sleef_finz_logf4_u10advsimd, a);
}

LOD_INLINE m16 m16_from_bits(uint32_t bits) {
    w16 all = w16_set1(bits), bit = w16_lane_bit();
    return (m16)LOD_EACH2(vtstq_u32, all, bit);
}

LOD_INLINE uint32_t m16_bits(m16 m) {
    w16 bit = w16_lane_bit();
    uint32x4_t ab = vorrq_u32(vandq_u32(m.a, bit.a), vandq_u32(m.b, bit.b));
    uint32x4_t cd = vorrq_u32(vandq_u32(m.c, bit.c), vandq_u32(m.d, bit.d));
    return vaddvq_u32(vorrq_u32(ab, cd));
}

LOD_INLINE v16 v16_select(m16 m, v16 a, v16 b) {
    return (v16)LOD_EACH3(vbslq_f32, m, a, b);
}

// a where m, else +0.
LOD_INLINE v16 v16_keep(m16 m, v16 a) {
    return v16_select(m, a, v16_zero());
}

LOD_INLINE v16 v16_max(v16 a, v16 b) {
    m16 greater = LOD_EACH2(vcgtq_f32, a, b);
    return v16_select(greater, a, b);
}

LOD_INLINE float32x4_t v16_pack_4(float32x4_t a, uint32_t bits) {
#define LANE(i) 4 * i, 4 * i | 1, 4 * i | 2, 4 * i | 3
    static const uint8_t lanes[16][16] = {
        {0},                         {LANE(0)},                   {LANE(1)},
        {LANE(0), LANE(1)},          {LANE(2)},                   {LANE(0), LANE(2)},
        {LANE(1), LANE(2)},          {LANE(0), LANE(1), LANE(2)}, {LANE(3)},
        {LANE(0), LANE(3)},          {LANE(1), LANE(3)},          {LANE(0), LANE(1), LANE(3)},
        {LANE(2), LANE(3)},          {LANE(0), LANE(2), LANE(3)}, {LANE(1), LANE(2), LANE(3)},
        {LANE(0), LANE(1), LANE(2), LANE(3)}};
#undef LANE
    return vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(a), vld1q_u8(lanes[bits & 15])));
}

// Stores the lanes whose bit is set, side by side; whatever else is in the 16 floats at p is lost.
LOD_INLINE void v16_pack(float *p, v16 a, uint32_t bits) {
    vst1q_f32(p, v16_pack_4(a.a, bits));
    vst1q_f32(p + __builtin_popcount(bits & 0xf), v16_pack_4(a.b, bits >> 4));
    vst1q_f32(p + __builtin_popcount(bits & 0xff), v16_pack_4(a.c, bits >> 8));
    vst1q_f32(p + __builtin_popcount(bits & 0xfff), v16_pack_4(a.d, bits >> 12));
}

LOD_INLINE float v16_sum(v16 a) {
    float32x4_t s4 = vaddq_f32(vaddq_f32(a.a, a.c), vaddq_f32(a.b, a.d));
    float32x2_t s2 = vadd_f32(vget_low_f32(s4), vget_high_f32(s4));
    return vget_lane_f32(s2, 0) + vget_lane_f32(s2, 1);
}

LOD_INLINE float v16_max_lane(v16 a) {
    float lane[16];
    v16_store(lane, a);
    for (size_t distance = 8; distance > 0; distance /= 2) {
        for (size_t i = 0; i < distance; i++) {
            lane[i] = lane[i] > lane[i + distance] ? lane[i] : lane[i + distance];
        }
    }
    return lane[0];
}

// out[i] = the sum of rows[i], [4][16].
LOD_INLINE void v16_sum4(const float *rows, float out[4]) {
    for (int i = 0; i < 4; i++) {
        out[i] = v16_sum(v16_load(rows + 16 * i));
    }
}

// out[j][i] = in[i][j], i, j < 16.
LOD_INLINE void v16_transpose(const float *in, size_t ldin, float *out, size_t ldout) {
    for (size_t i = 0; i < 16; i += 4) {
        for (size_t j = 0; j < 16; j += 4) {
            part columns[4];
            part_transpose(in + i * ldin + j, ldin * sizeof *in, columns);
            for (size_t c = 0; c < 4; c++) {
                part_store(out + (j + c) * ldout + i, columns[c]);
            }
        }
    }
}

LOD_INLINE w16 w16_xor(w16 a, uint32_t key) {
    w16 k = w16_set1(key);
    return (w16)LOD_EACH2(veorq_u32, a, k);
}

LOD_INLINE w16 w16_xor3(w16 a, w16 b, uint32_t key) {
    w16 keyed = w16_xor(a, key);
    return (w16)LOD_EACH2(veorq_u32, keyed, b);
}

// The low and the high words of four products.
LOD_INLINE void w16_mul_quarter(uint32x4_t a, uint32x2_t m, uint32x4_t *low, uint32x4_t *high) {
    uint32x4_t p01 = vreinterpretq_u32_u64(vmull_u32(vget_low_u32(a), m));
    uint32x4_t p23 = vreinterpretq_u32_u64(vmull_u32(vget_high_u32(a), m));
    *low = vuzp1q_u32(p01, p23);
    *high = vuzp2q_u32(p01, p23);
}

// The low and the high word of a times m.
LOD_INLINE void w16_mul(w16 a, uint32_t m, w16 *low, w16 *high) {
    uint32x2_t factor = vdup_n_u32(m);
    w16_mul_quarter(a.a, factor, &low->a, &high->a);
    w16_mul_quarter(a.b, factor, &low->b, &high->b);
    w16_mul_quarter(a.c, factor, &low->c, &high->c);
    w16_mul_quarter(a.d, factor, &low->d, &high->d);
}

// a with its low halves as high halves.
LOD_INLINE uint32x4_t w16_low_halves(uint32x4_t a) {
    return vshlq_n_u32(a, 16);
}

// Bit i: the low 16 bits of lane i are at least threshold (< 65536); bit 16 + i: its high 16 bits are.
LOD_INLINE uint32_t w16_halves_at_least(w16 a, uint32_t threshold) {
    w16 bound = w16_set1(threshold << 16), shifted = LOD_EACH1(w16_low_halves, a);
    m16 low = LOD_EACH2(vcgeq_u32, shifted, bound), high = LOD_EACH2(vcgeq_u32, a, bound);
    return m16_bits(low) | m16_bits(high) << 16;
}

#endif
