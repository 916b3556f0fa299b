// RMSNorm, forward and backward (Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv 1910.07467): one
// pass for the sum over a row, one for its elements, while the row is still in the first cache. A row's scalars are
// worked out in all lanes of a vector, so that they round as everything else does.
#include "kernels.h"
#include "lanes.h"

void LOD_VARIANT(rmsnorm_fwd_f32)(const lod_rmsnorm_fwd_kernel_args *args) {
    const v16 count = v16_set1((float)args->n), eps = v16_set1(args->eps);
    for (size_t i = 0; i < args->rows; i++) {
        const float *x = args->x + i * args->ldx;
        float *y = args->y + i * args->ldy;
        v16 mean = v16_div(v16_set1(v16_dot(x, x, args->n)), count);
        v16 rstd = v16_div(v16_set1(1.0f), v16_sqrt(v16_add(mean, eps)));
        args->rstd[i] = v16_first(rstd);
        for (size_t j = 0; j < args->n; j += 16) {
            size_t left = args->n - j;
            v16 normal = v16_mul(v16_load_row(x + j, left), rstd);
            v16_store_row(y + j, v16_mul(normal, v16_load_row(args->g + j, left)), left);
        }
    }
}

// sum16(j: (dy * g) x).
static v16 projection(const float *dy, const float *g, const float *x, size_t n) {
    v16 sum = v16_zero();
    for (size_t j = 0; j < n; j += 16) {
        size_t left = n - j;
        v16 dyg = v16_mul(v16_load_row(dy + j, left), v16_load_row(g + j, left));
        sum = v16_fma(dyg, v16_load_row(x + j, left), sum);
    }
    return v16_set1(v16_sum(sum));
}

void LOD_VARIANT(rmsnorm_bwd_f32)(const lod_rmsnorm_bwd_kernel_args *args) {
    const v16 count = v16_set1((float)args->n);
    for (size_t i = 0; i < args->rows; i++) {
        const float *x = args->x + i * args->ldx, *dy = args->dy + i * args->lddy;
        const float *add = args->add ? args->add + i * args->lddx : NULL;
        float *dx = args->dx + i * args->lddx;
        v16 rstd = v16_set1(args->rstd[i]), c = projection(dy, args->g, x, args->n);
        v16 t = v16_mul(v16_mul(v16_mul(v16_div(c, count), rstd), rstd), rstd);
        for (size_t j = 0; j < args->n; j += 16) {
            size_t left = args->n - j;
            v16 dyg = v16_mul(v16_load_row(dy + j, left), v16_load_row(args->g + j, left));
            v16 d = v16_fnma(v16_load_row(x + j, left), t, v16_mul(dyg, rstd));
            v16_store_row(dx + j, add ? v16_add(v16_load_row(add + j, left), d) : d, left);
        }
    }
}
