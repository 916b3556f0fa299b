// One virtual vector of 16 lanes: here two ymm registers. Every ISA folder has this file with the same interface and
// the same results bit by bit, so that what is written on it (kernels/vector) exists once and agrees everywhere.
//
//     v16  16 floats     m16  16 lane masks     w16  16 words of 32 bits, for integer arithmetic
//
// Each operation is one IEEE operation a lane. v16_max(a, b) is a > b ? a : b, so b where either is NaN or both are
// zeros. Sums and maxima over lanes run l with l+8, l+4, l+2, l+1.
#ifndef LOD_VEC_H
#define LOD_VEC_H

#include <immintrin.h>
#include <sleef.h>
#include <stddef.h>
#include <stdint.h>

#define LOD_VARIANT(op) lod_##op##__avx2
#define LOD_INLINE static inline __attribute__((always_inline))

// Register tiles of kernels/vector/rank.c: 12 and 8 accumulators of 16 registers; of few.c: 12.
enum { LOD_DOT_TOKENS = 3, LOD_GRAD_RANKS = 4, LOD_GRAD_VECTORS = 1, LOD_FEW_ROWS = 6 };

typedef struct v16 {
    __m256 lo, hi;
} v16;

typedef struct m16 {
    __m256 lo, hi; // all ones or all zeros a lane
} m16;

// Words in the low halves of 64-bit slots, where the multiplier wants them; high halves are junk. The lanes stand so
// that two levels of packs put comparison results into order: a 0 2 8 10, b 1 3 9 11, c 4 6 12 14, d 5 7 13 15.
typedef struct w16 {
    __m256i a, b, c, d;
} w16;

// One register, the share of a v16 that register tiles work on.
typedef __m256 part;
enum { LOD_PART_LANES = 8 };

LOD_INLINE part part_load(const float *p) {
    return _mm256_loadu_ps(p);
}

LOD_INLINE void part_store(float *p, part a) {
    _mm256_storeu_ps(p, a);
}

LOD_INLINE part part_fma(part a, part b, part c) {
    return _mm256_fmadd_ps(a, b, c);
}

LOD_INLINE part part_zero(void) {
    return _mm256_setzero_ps();
}

LOD_INLINE part part_set1(float x) {
    return _mm256_set1_ps(x);
}

// Four words of a row and of the one 4 strides on, side by side.
LOD_INLINE part part_rows_apart_4(const uint8_t *row, size_t stride) {
    __m128 lo = _mm_loadu_ps((const float *)(const void *)row);
    __m128 hi = _mm_loadu_ps((const float *)(const void *)(row + 4 * stride));
    return _mm256_insertf128_ps(_mm256_castps128_ps256(lo), hi, 1);
}

// Lane i of out[c] = word c of row i, rows `stride` bytes apart, c < 4.
LOD_INLINE void part_transpose(const void *in, size_t stride, part out[4]) {
    const uint8_t *row = in;
    part r0 = part_rows_apart_4(row, stride), r1 = part_rows_apart_4(row + stride, stride);
    part r2 = part_rows_apart_4(row + 2 * stride, stride), r3 = part_rows_apart_4(row + 3 * stride, stride);
    part lo01 = _mm256_unpacklo_ps(r0, r1), hi01 = _mm256_unpackhi_ps(r0, r1);
    part lo23 = _mm256_unpacklo_ps(r2, r3), hi23 = _mm256_unpackhi_ps(r2, r3);
    out[0] = _mm256_shuffle_ps(lo01, lo23, 0x44);
    out[1] = _mm256_shuffle_ps(lo01, lo23, 0xEE);
    out[2] = _mm256_shuffle_ps(hi01, hi23, 0x44);
    out[3] = _mm256_shuffle_ps(hi01, hi23, 0xEE);
}

// The first and the second bf16 of each lane, widened.
LOD_INLINE part part_widen_even(part pairs) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pairs), 16));
}

LOD_INLINE part part_widen_odd(part pairs) {
    return _mm256_and_ps(pairs, _mm256_castsi256_ps(_mm256_set1_epi32((int)0xffff0000)));
}

LOD_INLINE v16 v16_zero(void) {
    return (v16){_mm256_setzero_ps(), _mm256_setzero_ps()};
}

LOD_INLINE v16 v16_set1(float x) {
    return (v16){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

LOD_INLINE float v16_first(v16 a) {
    return _mm256_cvtss_f32(a.lo);
}

LOD_INLINE v16 v16_load(const float *p) {
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

LOD_INLINE void v16_store(float *p, v16 a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}

// The first n <= 16 lanes; a load sets the others to +0, neither touches memory beyond them.
LOD_INLINE m16 m16_first(size_t n) {
    __m256i count = _mm256_set1_epi32((int)n);
    __m256i lo = _mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    __m256i hi = _mm256_cmpgt_epi32(count, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15));
    return (m16){_mm256_castsi256_ps(lo), _mm256_castsi256_ps(hi)};
}

LOD_INLINE v16 v16_load_n(const float *p, size_t n) {
    m16 m = m16_first(n);
    return (v16){_mm256_maskload_ps(p, _mm256_castps_si256(m.lo)),
                 _mm256_maskload_ps(p + 8, _mm256_castps_si256(m.hi))};
}

LOD_INLINE void v16_store_n(float *p, v16 a, size_t n) {
    m16 m = m16_first(n);
    _mm256_maskstore_ps(p, _mm256_castps_si256(m.lo), a.lo);
    _mm256_maskstore_ps(p + 8, _mm256_castps_si256(m.hi), a.hi);
}

// Exact widening of 16 elements.
LOD_INLINE __m256 v16_widen_bf16(const uint16_t *p) {
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}

LOD_INLINE v16 v16_load_bf16(const uint16_t *p) {
    return (v16){v16_widen_bf16(p), v16_widen_bf16(p + 8)};
}

LOD_INLINE v16 v16_load_f16(const uint16_t *p) {
    return (v16){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)),
                 _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p + 8)))};
}

LOD_INLINE v16 v16_add(v16 a, v16 b) {
    return (v16){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}

LOD_INLINE v16 v16_sub(v16 a, v16 b) {
    return (v16){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}

LOD_INLINE v16 v16_mul(v16 a, v16 b) {
    return (v16){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}

LOD_INLINE v16 v16_div(v16 a, v16 b) {
    return (v16){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}

LOD_INLINE v16 v16_sqrt(v16 a) {
    return (v16){_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)};
}

LOD_INLINE v16 v16_neg(v16 a) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (v16){_mm256_xor_ps(a.lo, sign), _mm256_xor_ps(a.hi, sign)};
}

// a b + c and -a b + c, rounded once.
LOD_INLINE v16 v16_fma(v16 a, v16 b, v16 c) {
    return (v16){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

LOD_INLINE v16 v16_fnma(v16 a, v16 b, v16 c) {
    return (v16){_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}

LOD_INLINE v16 v16_max(v16 a, v16 b) {
    return (v16){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}

// a with the low 9 bits of t's representation added to its exponent.
LOD_INLINE v16 v16_add_exponent(v16 a, v16 t) {
    __m256i lo = _mm256_add_epi32(_mm256_castps_si256(a.lo), _mm256_slli_epi32(_mm256_castps_si256(t.lo), 23));
    __m256i hi = _mm256_add_epi32(_mm256_castps_si256(a.hi), _mm256_slli_epi32(_mm256_castps_si256(t.hi), 23));
    return (v16){_mm256_castsi256_ps(lo), _mm256_castsi256_ps(hi)};
}

LOD_INLINE v16 v16_exp(v16 a) {
    return (v16){Sleef_finz_expf8_u10avx2(a.lo), Sleef_finz_expf8_u10avx2(a.hi)};
}

LOD_INLINE v16 v16_log(v16 a) {
    return (v16){Sleef_finz_logf8_u10avx2(a.lo), Sleef_finz_logf8_u10avx2(a.hi)};
}

LOD_INLINE m16 m16_from_bits(uint32_t bits) {
    const __m256i lo = _mm256_setr_epi32(0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x40, 0x80);
    const __m256i hi = _mm256_setr_epi32(0x100, 0x200, 0x400, 0x800, 0x1000, 0x2000, 0x4000, 0x8000);
    __m256i all = _mm256_set1_epi32((int)bits);
    return (m16){_mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(all, lo), lo)),
                 _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(all, hi), hi))};
}

LOD_INLINE v16 v16_select(m16 m, v16 a, v16 b) {
    return (v16){_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)};
}

// a where m, else +0.
LOD_INLINE v16 v16_keep(m16 m, v16 a) {
    return (v16){_mm256_and_ps(m.lo, a.lo), _mm256_and_ps(m.hi, a.hi)};
}

// Byte i of LOD_LANES(bits): the place of the i-th bit that is set, of 8.
#define LOD_LANE(bits, i, rest)                                                                                        \
    ((rest) << 8 * ((bits) >> (i) & 1) | (uint64_t)((bits) >> (i) & 1) * (i))
#define LOD_LANES(bits)                                                                                                \
    LOD_LANE(bits, 0, LOD_LANE(bits, 1, LOD_LANE(bits, 2, LOD_LANE(bits, 3, LOD_LANE(bits, 4, LOD_LANE(bits, 5,        \
    LOD_LANE(bits, 6, LOD_LANE(bits, 7, (uint64_t)0))))))))
#define LOD_LANES_4(bits) LOD_LANES(bits), LOD_LANES((bits) + 1), LOD_LANES((bits) + 2), LOD_LANES((bits) + 3)
#define LOD_LANES_16(bits)                                                                                             \
    LOD_LANES_4(bits), LOD_LANES_4((bits) + 4), LOD_LANES_4((bits) + 8), LOD_LANES_4((bits) + 12)
#define LOD_LANES_64(bits)                                                                                             \
    LOD_LANES_16(bits), LOD_LANES_16((bits) + 16), LOD_LANES_16((bits) + 32), LOD_LANES_16((bits) + 48)

LOD_INLINE __m256 v16_pack_8(__m256 a, uint32_t bits) {
    static const uint64_t lanes[256] = {LOD_LANES_64(0), LOD_LANES_64(64), LOD_LANES_64(128), LOD_LANES_64(192)};
    __m128i order = _mm_loadl_epi64((const __m128i *)(const void *)&lanes[bits]);
    return _mm256_permutevar8x32_ps(a, _mm256_cvtepu8_epi32(order));
}

// Stores the lanes whose bit is set, side by side; whatever else is in the 16 floats at p is lost.
LOD_INLINE void v16_pack(float *p, v16 a, uint32_t bits) {
    _mm256_storeu_ps(p, v16_pack_8(a.lo, bits & 255));
    _mm256_storeu_ps(p + __builtin_popcount(bits & 255), v16_pack_8(a.hi, bits >> 8));
}

LOD_INLINE float v16_sum(v16 a) {
    __m256 s8 = _mm256_add_ps(a.lo, a.hi);
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}

LOD_INLINE float v16_max_lane(v16 a) {
    __m256 s8 = _mm256_max_ps(a.lo, a.hi);
    __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_max_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}

// out[i] = the sum of rows[i], [4][16]: four trees at once.
LOD_INLINE void v16_sum4(const float *rows, float out[4]) {
    __m256 a0 = _mm256_add_ps(_mm256_loadu_ps(rows), _mm256_loadu_ps(rows + 8));
    __m256 a1 = _mm256_add_ps(_mm256_loadu_ps(rows + 16), _mm256_loadu_ps(rows + 24));
    __m256 a2 = _mm256_add_ps(_mm256_loadu_ps(rows + 32), _mm256_loadu_ps(rows + 40));
    __m256 a3 = _mm256_add_ps(_mm256_loadu_ps(rows + 48), _mm256_loadu_ps(rows + 56));
    __m256 s02 = _mm256_add_ps(_mm256_permute2f128_ps(a0, a2, 0x20), _mm256_permute2f128_ps(a0, a2, 0x31));
    __m256 s13 = _mm256_add_ps(_mm256_permute2f128_ps(a1, a3, 0x20), _mm256_permute2f128_ps(a1, a3, 0x31));
    __m256 s2 = _mm256_add_ps(_mm256_shuffle_ps(s02, s13, 0x44), _mm256_shuffle_ps(s02, s13, 0xEE));
    __m256 s1 = _mm256_add_ps(s2, _mm256_permute_ps(s2, 0xB1)); // 0 . 1 . | 2 . 3 .
    _mm_storeu_ps(out, _mm_shuffle_ps(_mm256_castps256_ps128(s1), _mm256_extractf128_ps(s1, 1), 0x88));
}

// out[j][i] = in[i][j], i, j < 16.
LOD_INLINE void v16_transpose(const float *in, size_t ldin, float *out, size_t ldout) {
    for (size_t j = 0; j < 16; j += 4) {
        for (size_t i = 0; i < 16; i += 8) {
            part columns[4];
            part_transpose(in + i * ldin + j, ldin * sizeof *in, columns);
            for (size_t c = 0; c < 4; c++) {
                part_store(out + (j + c) * ldout + i, columns[c]);
            }
        }
    }
}

// first, first + 1, .. first + 15.
LOD_INLINE w16 w16_count(uint32_t first) {
    __m256i a = _mm256_add_epi64(_mm256_set1_epi64x(first), _mm256_setr_epi64x(0, 2, 8, 10));
    return (w16){a, _mm256_add_epi64(a, _mm256_set1_epi64x(1)), _mm256_add_epi64(a, _mm256_set1_epi64x(4)),
                 _mm256_add_epi64(a, _mm256_set1_epi64x(5))};
}

LOD_INLINE w16 w16_xor(w16 a, uint32_t key) {
    __m256i k = _mm256_set1_epi32((int)key);
    return (w16){_mm256_xor_si256(a.a, k), _mm256_xor_si256(a.b, k), _mm256_xor_si256(a.c, k),
                 _mm256_xor_si256(a.d, k)};
}

LOD_INLINE w16 w16_xor3(w16 a, w16 b, uint32_t key) {
    w16 keyed = w16_xor(a, key);
    return (w16){_mm256_xor_si256(keyed.a, b.a), _mm256_xor_si256(keyed.b, b.b), _mm256_xor_si256(keyed.c, b.c),
                 _mm256_xor_si256(keyed.d, b.d)};
}

// The low and the high word of a times m.
LOD_INLINE void w16_mul(w16 a, uint32_t m, w16 *low, w16 *high) {
    __m256i factor = _mm256_set1_epi64x(m);
    *low = (w16){_mm256_mul_epu32(a.a, factor), _mm256_mul_epu32(a.b, factor), _mm256_mul_epu32(a.c, factor),
                 _mm256_mul_epu32(a.d, factor)};
    *high = (w16){_mm256_srli_epi64(low->a, 32), _mm256_srli_epi64(low->b, 32), _mm256_srli_epi64(low->c, 32),
                  _mm256_srli_epi64(low->d, 32)};
}

// Each 16-bit half of the words in even and odd slots: all ones if it is at least bound.
LOD_INLINE __m256i w16_compare_halves(__m256i even, __m256i odd, __m256i bound) {
    __m256i words = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
    return _mm256_cmpeq_epi16(_mm256_max_epu16(words, bound), words);
}

// Bit i: the low 16 bits of lane i are at least threshold (< 65536); bit 16 + i: its high 16 bits are.
LOD_INLINE uint32_t w16_halves_at_least(w16 a, uint32_t threshold) {
    __m256i bound = _mm256_set1_epi16((short)threshold);
    __m256i ab = w16_compare_halves(a.a, a.b, bound), cd = w16_compare_halves(a.c, a.d, bound);
    __m256i low = _mm256_packs_epi32(_mm256_slli_epi32(ab, 16), _mm256_slli_epi32(cd, 16));
    __m256i high = _mm256_packs_epi32(ab, cd); // saturation keeps the sign, all that movemask reads
    return (uint32_t)_mm256_movemask_epi8(_mm256_permute4x64_epi64(_mm256_packs_epi16(low, high), 0xD8));
}

#endif
