// Two branches of the same targets. Rows of logits turn into exponentials where they stand, their differences are kept
// beside them, and two more passes over the three make the divergence and then the gradients. JS computes its
// logarithms in both of these: keeping them would take two more rows.
#include "kernels.h"
#include "lanes.h"

// What a row's sums have in common; p, q and r of kernels.h at 16 places.
typedef struct branches {
    v16 inverse, inverse2, shift;
} branches;

typedef struct terms {
    v16 p, q, r, r2;
} terms;

static void subtract(const float *z, const float *z2, size_t n, float *difference) {
    for (size_t j = 0; j < n; j += 16) {
        v16_store_row(difference + j, v16_sub(v16_load_row(z + j, n - j), v16_load_row(z2 + j, n - j)), n - j);
    }
}

LOD_INLINE terms terms_of(const branches *b, const float *e, const float *e2, const float *difference, size_t left,
                          bool js) {
    const v16 a = v16_sub(v16_load_row(difference, left), b->shift);
    terms t = {.r = a, .r2 = v16_neg(a)};
    if (js) {
        const v16 one = v16_set1(1.0f), zero = v16_zero();
        v16 s = v16_exp(v16_neg(v16_max(a, t.r2)));
        v16 u = v16_log(v16_div(v16_set1(2.0f), v16_add(one, s)));
        t.r = v16_sub(u, v16_max(v16_neg(a), zero));
        t.r2 = v16_sub(u, v16_max(a, zero));
    }
    t.p = v16_mul(v16_load_row(e, left), b->inverse);
    t.q = v16_mul(v16_load_row(e2, left), b->inverse2);
    return t;
}

LOD_INLINE v16 gradient_of(v16 p, v16 q, v16 r, v16 k, v16 half, v16 share, bool js) {
    v16 from_mean = v16_sub(r, k), g = js ? v16_mul(p, from_mean) : v16_fma(p, from_mean, v16_sub(p, q));
    return v16_fma(half, g, v16_mul(p, share));
}

// From exponentials to the divergence and, in their places, the gradients but for the targets' own share.
LOD_INLINE float compare(const lod_consistency_kernel_args *a, const branches *b, float *z, float *z2, bool js) {
    v16 sum = v16_zero(), sum2 = v16_zero();
    for (size_t j = 0; j < a->n; j += 16) {
        terms t = terms_of(b, z + j, z2 + j, a->scratch + j, a->n - j, js);
        sum = v16_fma(t.p, t.r, sum);
        sum2 = v16_fma(t.q, t.r2, sum2);
    }
    const float k = v16_sum(sum), k2 = v16_sum(sum2);
    const v16 half = v16_set1(a->weight * 0.5f), share = v16_set1(a->both ? 0.5f : 1.0f);
    for (size_t j = 0; a->gradient && j < a->n; j += 16) {
        terms t = terms_of(b, z + j, z2 + j, a->scratch + j, a->n - j, js);
        v16_store_row(z + j, gradient_of(t.p, t.q, t.r, v16_set1(k), half, share, js), a->n - j);
        if (a->both) {
            v16_store_row(z2 + j, gradient_of(t.q, t.p, t.r2, v16_set1(k2), half, share, js), a->n - j);
        }
    }
    return (k + k2) * 0.5f;
}

void LOD_VARIANT(consistency_f32)(const lod_consistency_kernel_args *args) {
    const v16 one = v16_set1(1.0f);
    for (size_t i = 0; i < args->rows; i++) {
        float *z = args->z + i * args->ldz, *z2 = args->z2 + i * args->ldz;
        const uint32_t target = args->target[i];
        const float z_target = z[target], z2_target = z2[target];
        const float max = v16_row_max(z, args->n), max2 = v16_row_max(z2, args->n);
        subtract(z, z2, args->n, args->scratch);
        const v16 l = v16_set1(v16_row_exp(z, args->n, max, true)), l2 = v16_set1(v16_row_exp(z2, args->n, max2, true));
        const v16 log = v16_log(l), log2 = v16_log(l2), m = v16_set1(max), m2 = v16_set1(max2);
        const branches b = {.inverse = v16_div(one, l),
                            .inverse2 = v16_div(one, l2),
                            .shift = v16_add(v16_sub(m, m2), v16_sub(log, log2))};
        args->loss[i] = v16_first(v16_add(m, log)) - z_target;
        if (args->loss2) {
            args->loss2[i] = v16_first(v16_add(m2, log2)) - z2_target;
        }
        args->divergence[i] =
            args->consistency == LOD_CONSISTENCY_JS ? compare(args, &b, z, z2, true) : compare(args, &b, z, z2, false);
        if (args->gradient) {
            z[target] -= args->both ? 0.5f : 1.0f;
        }
        if (args->gradient && args->both) {
            z2[target] -= 0.5f;
        }
    }
}
