// What every ISA's vec.h gives rise to in the same way: rows that do not end on a vector, and the sums over them.
#ifndef LOD_LANES_H
#define LOD_LANES_H

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "vec.h"

// The next up to 16 floats of a row that has `left` > 0 of them; lanes beyond its end are +0.
LOD_INLINE v16 v16_load_row(const float *p, size_t left) {
    return left >= 16 ? v16_load(p) : v16_load_n(p, left);
}

LOD_INLINE void v16_store_row(float *p, v16 a, size_t left) {
    if (left >= 16) {
        v16_store(p, a);
    } else {
        v16_store_n(p, a, left);
    }
}

// The mask of the next up to 16 columns from a row of bits.
LOD_INLINE m16 m16_load_row(const uint8_t *bits, size_t left) {
    uint16_t both = *bits;
    if (left > 8) {
        memcpy(&both, bits, sizeof both);
    }
    return m16_from_bits(both);
}

// The maximum of n > 0 floats; NaN is passed over.
LOD_INLINE float v16_row_max(const float *x, size_t n) {
    v16 lowest = v16_set1(-INFINITY), max = lowest;
    for (size_t i = 0; i < n; i += 16) {
        size_t left = n - i;
        v16 row = v16_load_row(x + i, left);
        max = v16_max(left < 16 ? v16_select(m16_first(left), row, lowest) : row, max);
    }
    return v16_max_lane(max);
}

// x[i] = exp(x[i] - shift), stored if wanted; returns sum16(i: x[i]).
LOD_INLINE float v16_row_exp(float *x, size_t n, float shift, bool store) {
    v16 sum = v16_zero();
    for (size_t i = 0; i < n; i += 16) {
        size_t left = n - i;
        v16 e = v16_exp(v16_sub(v16_load_row(x + i, left), v16_set1(shift)));
        if (store) {
            v16_store_row(x + i, e, left);
        }
        sum = v16_add(sum, left < 16 ? v16_keep(m16_first(left), e) : e);
    }
    return v16_sum(sum);
}

// exp of the softmax, for x <= 64: within 1 ulp (also where the result is subnormal), inlined so that no register is
// spilled around a call. x = n ln 2 + r; e^r by a polynomial of degree 6 (minimax in relative error on |r| <=
// ln 2 / 2, 0.06 of 2^-24); 2^n in two steps, as an exponent and a product, so that the last rounding is that of a
// subnormal result.
//     t = fma(x, 1 / ln 2, 1.5 * 2^23 + 25);  n = t - (1.5 * 2^23 + 25), an integer
//     r = fnma(n, ln 2 rounded, x);  r = fnma(n, ln 2 - that, r);  p = Horner's fmas
//     exp = (p with n + 25 added to its exponent) * fma(x, 0, 2^-25); a NaN's exponent may come out as anything
// Below -104 everything is +0. NaN stays NaN; beyond 64 the result is unspecified, but the same everywhere.
LOD_INLINE v16 v16_exp_softmax(v16 x) {
    const v16 magic = v16_set1(0x1.8p23f + 25);
    x = v16_max(v16_set1(-104.0f), x);
    v16 t = v16_fma(x, v16_set1(0x1.715476p0f), magic), n = v16_sub(t, magic);
    v16 r = v16_fnma(n, v16_set1(-0x1.05c610p-29f), v16_fnma(n, v16_set1(0x1.62e430p-1f), x));
    v16 p = v16_fma(v16_set1(0x1.6a23d0p-10f), r, v16_set1(0x1.123a20p-7f));
    p = v16_fma(p, r, v16_set1(0x1.5558f2p-5f));
    p = v16_fma(p, r, v16_set1(0x1.555492p-3f));
    p = v16_fma(p, r, v16_set1(0x1.fffffcp-2f));
    p = v16_fma(p, r, v16_set1(1.0f));
    p = v16_fma(p, r, v16_set1(1.0f));
    return v16_mul(v16_add_exponent(p, t), v16_fma(x, v16_zero(), v16_set1(0x1p-25f)));
}

// sum16(i: a b) of kernels.h.
LOD_INLINE float v16_dot(const float *a, const float *b, size_t n) {
    v16 sum = v16_zero();
    for (size_t i = 0; i < n; i += 16) {
        sum = v16_fma(v16_load_row(a + i, n - i), v16_load_row(b + i, n - i), sum);
    }
    return v16_sum(sum);
}

#endif
