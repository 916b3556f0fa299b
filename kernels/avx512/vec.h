// One virtual vector of 16 lanes: here one zmm register. Every ISA folder has this file with the same interface and
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

#define LOD_VARIANT(op) lod_##op##__avx512
#define LOD_INLINE static inline __attribute__((always_inline))

// Register tiles of kernels/vector/rank.c: 16 accumulators of 32 registers; of few.c: 12.
enum { LOD_DOT_TOKENS = 4, LOD_GRAD_RANKS = 8, LOD_GRAD_VECTORS = 2, LOD_FEW_ROWS = 12 };

typedef __m512 v16;
typedef __mmask16 m16;

// Even and odd lanes apart, in the low halves of 64-bit slots, where the multiplier wants them; high halves are junk.
typedef struct w16 {
    __m512i even, odd;
} w16;

// One register, the share of a v16 that register tiles work on.
typedef __m512 part;
enum { LOD_PART_LANES = 16 };

LOD_INLINE part part_load(const float *p) {
    return _mm512_loadu_ps(p);
}

LOD_INLINE void part_store(float *p, part a) {
    _mm512_storeu_ps(p, a);
}

LOD_INLINE part part_fma(part a, part b, part c) {
    return _mm512_fmadd_ps(a, b, c);
}

LOD_INLINE part part_zero(void) {
    return _mm512_setzero_ps();
}

LOD_INLINE part part_set1(float x) {
    return _mm512_set1_ps(x);
}

LOD_INLINE v16 v16_zero(void) {
    return _mm512_setzero_ps();
}

LOD_INLINE v16 v16_set1(float x) {
    return _mm512_set1_ps(x);
}

LOD_INLINE float v16_first(v16 a) {
    return _mm512_cvtss_f32(a);
}

LOD_INLINE v16 v16_load(const float *p) {
    return _mm512_loadu_ps(p);
}

LOD_INLINE void v16_store(float *p, v16 a) {
    _mm512_storeu_ps(p, a);
}

// The first n <= 16 lanes; a load sets the others to +0, neither touches memory beyond them.
LOD_INLINE m16 m16_first(size_t n) {
    return (m16)((1u << n) - 1);
}

LOD_INLINE v16 v16_load_n(const float *p, size_t n) {
    return _mm512_maskz_loadu_ps(m16_first(n), p);
}

LOD_INLINE void v16_store_n(float *p, v16 a, size_t n) {
    _mm512_mask_storeu_ps(p, m16_first(n), a);
}

// Exact widening of 16 elements.
LOD_INLINE v16 v16_load_bf16(const uint16_t *p) {
    __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

LOD_INLINE v16 v16_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

LOD_INLINE v16 v16_add(v16 a, v16 b) {
    return _mm512_add_ps(a, b);
}

LOD_INLINE v16 v16_sub(v16 a, v16 b) {
    return _mm512_sub_ps(a, b);
}

LOD_INLINE v16 v16_mul(v16 a, v16 b) {
    return _mm512_mul_ps(a, b);
}

LOD_INLINE v16 v16_div(v16 a, v16 b) {
    return _mm512_div_ps(a, b);
}

LOD_INLINE v16 v16_sqrt(v16 a) {
    return _mm512_sqrt_ps(a);
}

LOD_INLINE v16 v16_neg(v16 a) {
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}

// a b + c and -a b + c, rounded once.
LOD_INLINE v16 v16_fma(v16 a, v16 b, v16 c) {
    return _mm512_fmadd_ps(a, b, c);
}

LOD_INLINE v16 v16_fnma(v16 a, v16 b, v16 c) {
    return _mm512_fnmadd_ps(a, b, c);
}

LOD_INLINE v16 v16_max(v16 a, v16 b) {
    return _mm512_max_ps(a, b);
}

// a with the low 9 bits of t's representation added to its exponent.
LOD_INLINE v16 v16_add_exponent(v16 a, v16 t) {
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_slli_epi32(_mm512_castps_si512(t), 23)));
}

LOD_INLINE v16 v16_exp(v16 a) {
    return Sleef_finz_expf16_u10avx512f(a);
}

LOD_INLINE v16 v16_log(v16 a) {
    return Sleef_finz_logf16_u10avx512f(a);
}

LOD_INLINE m16 m16_from_bits(uint32_t bits) {
    return (m16)bits;
}

LOD_INLINE v16 v16_select(m16 m, v16 a, v16 b) {
    return _mm512_mask_blend_ps(m, b, a);
}

// a where m, else +0.
LOD_INLINE v16 v16_keep(m16 m, v16 a) {
    return _mm512_maskz_mov_ps(m, a);
}

// Stores the lanes whose bit is set, side by side; whatever else is in the 16 floats at p is lost.
LOD_INLINE void v16_pack(float *p, v16 a, uint32_t bits) {
    _mm512_storeu_ps(p, _mm512_maskz_compress_ps((__mmask16)bits, a));
}

LOD_INLINE float v16_sum(v16 a) {
    __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}

LOD_INLINE float v16_max_lane(v16 a) {
    __m256 s8 = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_max_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}

// out[i] = the sum of rows[i], [4][16]: four trees at once.
LOD_INLINE void v16_sum4(const float *rows, float out[4]) {
    v16 a0 = v16_load(rows), a1 = v16_load(rows + 16), a2 = v16_load(rows + 32), a3 = v16_load(rows + 48);
    v16 a01 = v16_add(_mm512_shuffle_f32x4(a0, a1, 0x44), _mm512_shuffle_f32x4(a0, a1, 0xEE));
    v16 a23 = v16_add(_mm512_shuffle_f32x4(a2, a3, 0x44), _mm512_shuffle_f32x4(a2, a3, 0xEE));
    v16 s4 = v16_add(_mm512_shuffle_f32x4(a01, a23, 0x88), _mm512_shuffle_f32x4(a01, a23, 0xDD));
    v16 s2 = v16_add(s4, _mm512_permute_ps(s4, 0x4E));
    v16 s1 = v16_add(s2, _mm512_permute_ps(s2, 0xB1));
    __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, s1)));
}

#define LOD_UNPACK(lo, hi, a, b)                                                                                       \
    __m512d lo = _mm512_castps_pd(_mm512_unpacklo_ps(a, b)), hi = _mm512_castps_pd(_mm512_unpackhi_ps(a, b))

// Transposes 4x4 blocks: lane group g of out[i] is column i of lane group g of four rows.
LOD_INLINE void v16_transpose_groups(v16 r0, v16 r1, v16 r2, v16 r3, v16 out[4]) {
    LOD_UNPACK(lo01, hi01, r0, r1);
    LOD_UNPACK(lo23, hi23, r2, r3);
    out[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(lo01, lo23));
    out[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(lo01, lo23));
    out[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(hi01, hi23));
    out[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(hi01, hi23));
}
#undef LOD_UNPACK

// Four words of a row and of those 4, 8 and 12 strides on, side by side.
LOD_INLINE part part_rows_apart_4(const uint8_t *row, size_t stride) {
    part r = _mm512_castps128_ps512(_mm_loadu_ps((const float *)(const void *)row));
    r = _mm512_insertf32x4(r, _mm_loadu_ps((const float *)(const void *)(row + 4 * stride)), 1);
    r = _mm512_insertf32x4(r, _mm_loadu_ps((const float *)(const void *)(row + 8 * stride)), 2);
    return _mm512_insertf32x4(r, _mm_loadu_ps((const float *)(const void *)(row + 12 * stride)), 3);
}

// Lane i of out[c] = word c of row i, rows `stride` bytes apart, c < 4.
LOD_INLINE void part_transpose(const void *in, size_t stride, part out[4]) {
    const uint8_t *row = in;
    v16_transpose_groups(part_rows_apart_4(row, stride), part_rows_apart_4(row + stride, stride),
                         part_rows_apart_4(row + 2 * stride, stride), part_rows_apart_4(row + 3 * stride, stride), out);
}

// out[j][i] = in[i][j], i, j < 16. Pieces of rows are put side by side as they are loaded, which a second port helps
// with: half the shuffles of whole rows.
LOD_INLINE void v16_transpose(const float *in, size_t ldin, float *out, size_t ldout) {
    for (size_t j = 0; j < 16; j += 4) {
        v16 columns[4];
        part_transpose(in + j, ldin * sizeof *in, columns);
        for (size_t c = 0; c < 4; c++) v16_store(out + (j + c) * ldout, columns[c]);
    }
}

// The first and the second bf16 of each lane, widened.
LOD_INLINE part part_widen_even(part pairs) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs), 16));
}

LOD_INLINE part part_widen_odd(part pairs) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pairs), _mm512_set1_epi32((int)0xffff0000)));
}

// first, first + 1, .. first + 15.
LOD_INLINE w16 w16_count(uint32_t first) {
    __m512i even = _mm512_add_epi64(_mm512_set1_epi64(first), _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14));
    return (w16){even, _mm512_add_epi64(even, _mm512_set1_epi64(1))};
}

LOD_INLINE w16 w16_xor(w16 a, uint32_t key) {
    __m512i k = _mm512_set1_epi32((int)key);
    return (w16){_mm512_xor_si512(a.even, k), _mm512_xor_si512(a.odd, k)};
}

LOD_INLINE w16 w16_xor3(w16 a, w16 b, uint32_t key) {
    __m512i k = _mm512_set1_epi32((int)key);
    return (w16){_mm512_ternarylogic_epi32(a.even, b.even, k, 0x96), _mm512_ternarylogic_epi32(a.odd, b.odd, k, 0x96)};
}

// The low and the high word of a times m.
LOD_INLINE void w16_mul(w16 a, uint32_t m, w16 *low, w16 *high) {
    __m512i factor = _mm512_set1_epi64(m);
    low->even = _mm512_mul_epu32(a.even, factor);
    low->odd = _mm512_mul_epu32(a.odd, factor);
    high->even = _mm512_srli_epi64(low->even, 32);
    high->odd = _mm512_srli_epi64(low->odd, 32);
}

// Bit i: the low 16 bits of lane i are at least threshold (< 65536); bit 16 + i: its high 16 bits are.
LOD_INLINE uint32_t w16_halves_at_least(w16 a, uint32_t threshold) {
    __m512i bound = _mm512_set1_epi32((int)(threshold << 16));
    __m512i words = _mm512_mask_shuffle_epi32(a.even, 0xAAAA, a.odd, _MM_PERM_CCAA);
    __mmask16 low = _mm512_cmpge_epu32_mask(_mm512_slli_epi32(words, 16), bound);
    __mmask16 high = _mm512_cmpge_epu32_mask(words, bound);
    return _cvtmask32_u32(_mm512_kunpackw(high, low));
}

#endif
