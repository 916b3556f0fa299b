// Attention of one query over its keys, forward and backward, as kernels.h spells it: no blocks, every key a row sum.
// Lanes run over a head's dimension in products with K and V, and over keys in the softmax, which works on the
// caller's scratch. The backward pass computes the weights again from the saved log-sum-exp.
#include <math.h>

#include "kernels.h"
#include "lanes.h"

// s[j] = sum16(d: a[d] rows[j][d]) * scale.
static void products(const float *a, const float *rows, size_t ld, size_t head_dim, size_t keys, float scale,
                     float *s) {
    for (size_t j = 0; j < keys; j++) {
        s[j] = v16_dot(a, rows + j * ld, head_dim) * scale;
    }
}

// The 16 dimensions at `rows`, `left` of them present: +0, then fma(w[j], rows[j][d], acc) for j ascending.
static v16 weighted_rows(const float *w, const float *rows, size_t ld, size_t keys, size_t left) {
    v16 sum = v16_zero();
    for (size_t j = 0; j < keys; j++) {
        sum = v16_fma(v16_set1(w[j]), v16_load_row(rows + j * ld, left), sum);
    }
    return sum;
}

// out[d] = fma(w, in[d], out[d]).
static void add_scaled(float w, const float *in, size_t n, float *out) {
    for (size_t d = 0; d < n; d += 16) {
        size_t left = n - d;
        v16 sum = v16_fma(v16_set1(w), v16_load_row(in + d, left), v16_load_row(out + d, left));
        v16_store_row(out + d, sum, left);
    }
}

void LOD_VARIANT(attention_fwd_f32)(const lod_attention_fwd_kernel_args *args) {
    float *w = args->scratch, max = 0.0f, sum = 1.0f;
    if (args->keys > 0) {
        products(args->q, args->k, args->ldk, args->head_dim, args->keys, args->scale, w);
        max = v16_row_max(w, args->keys);
        sum = v16_row_exp(w, args->keys, max, true);
    }
    for (size_t d = 0; d < args->head_dim; d += 16) {
        size_t left = args->head_dim - d;
        v16 o = weighted_rows(w, args->v + d, args->ldv, args->keys, left);
        v16_store_row(args->o + d, v16_div(o, v16_set1(sum)), left);
    }
    v16 lse = v16_add(v16_set1(max), v16_log(v16_set1(sum)));
    *args->lse = args->keys > 0 ? v16_first(lse) : INFINITY;
}

void LOD_VARIANT(attention_bwd_f32)(const lod_attention_bwd_kernel_args *args) {
    size_t n = args->head_dim, keys = args->keys;
    float *p = args->scratch, *ds = p + (keys + 15) / 16 * 16;
    float delta = v16_dot(args->d_o, args->o, n);
    products(args->q, args->k, args->ldk, n, keys, args->scale, p);
    v16_row_exp(p, keys, args->lse, true);
    products(args->d_o, args->v, args->ldv, n, keys, 1.0f, ds);
    for (size_t j = 0; j < keys; j++) {
        ds[j] = p[j] * (ds[j] - delta) * args->scale;
        add_scaled(ds[j], args->q, n, args->dk + j * args->ldk);
        add_scaled(p[j], args->d_o, n, args->dv + j * args->ldv);
    }
    for (size_t d = 0; d < n; d += 16) {
        size_t left = n - d;
        v16_store_row(args->dq + d, weighted_rows(ds, args->k + d, args->ldk, keys, left), left);
    }
}
