// Softmax attention of one query; a query without keys gives zeros.
#include "ref.h"

#include <math.h>
#include <stdlib.h>

static double dot(size_t n, const double *a, const double *b) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

void lod_attention_fwd_f64(const lod_attention_fwd_f64_args *a) {
    double *w = a->scratch, max = -INFINITY, sum = 0;
    for (size_t j = 0; j < a->keys; j++) {
        w[j] = dot(a->head_dim, a->q, a->k + j * a->ldk) * a->scale;
        max = w[j] > max ? w[j] : max;
    }
    for (size_t j = 0; j < a->keys; j++) {
        w[j] = exp(w[j] - max);
        sum += w[j];
    }
    for (size_t d = 0; d < a->head_dim; d++) {
        double acc = 0;
        for (size_t j = 0; j < a->keys; j++) {
            acc += w[j] * a->v[j * a->ldv + d];
        }
        a->o[d] = a->keys ? acc / sum : 0;
    }
    *a->lse = a->keys ? max + log(sum) : INFINITY;
}

void lod_attention_fwd_f32__ref(const lod_attention_fwd_kernel_args *a) {
    double *q = lod_ref_widen(1, a->head_dim, a->q, a->head_dim);
    double *k = lod_ref_widen(a->keys, a->head_dim, a->k, a->ldk);
    double *v = lod_ref_widen(a->keys, a->head_dim, a->v, a->ldv);
    double *scratch = lod_ref_alloc(a->keys);
    double *o = lod_ref_alloc(a->head_dim), lse;
    lod_attention_fwd_f64(&(lod_attention_fwd_f64_args){
        .head_dim = a->head_dim,
        .keys = a->keys,
        .q = q,
        .k = k,
        .v = v,
        .ldk = a->head_dim,
        .ldv = a->head_dim,
        .scale = a->scale,
        .o = o,
        .lse = &lse,
        .scratch = scratch,
    });
    lod_ref_round(1, a->head_dim, o, a->o, a->head_dim);
    *a->lse = (float)lse;
    free(scratch);
    free(v);
    free(k);
    free(q);
}

void lod_attention_bwd_f64(const lod_attention_bwd_f64_args *a) {
    double delta = dot(a->head_dim, a->d_o, a->o);
    for (size_t d = 0; d < a->head_dim; d++) {
        a->dq[d] = 0;
    }
    for (size_t j = 0; j < a->keys; j++) {
        const double *k = a->k + j * a->ldk, *v = a->v + j * a->ldv;
        double p = exp(dot(a->head_dim, a->q, k) * a->scale - a->lse);
        double ds = p * (dot(a->head_dim, a->d_o, v) - delta) * a->scale;
        for (size_t d = 0; d < a->head_dim; d++) {
            a->dq[d] += ds * k[d];
            a->dk[j * a->ldk + d] += ds * a->q[d];
            a->dv[j * a->ldv + d] += p * a->d_o[d];
        }
    }
}

void lod_attention_bwd_f32__ref(const lod_attention_bwd_kernel_args *a) {
    double *q = lod_ref_widen(1, a->head_dim, a->q, a->head_dim);
    double *k = lod_ref_widen(a->keys, a->head_dim, a->k, a->ldk);
    double *v = lod_ref_widen(a->keys, a->head_dim, a->v, a->ldv);
    double *o = lod_ref_widen(1, a->head_dim, a->o, a->head_dim);
    double *d_o = lod_ref_widen(1, a->head_dim, a->d_o, a->head_dim);
    double *dq = lod_ref_alloc(a->head_dim);
    double *dk = lod_ref_widen(a->keys, a->head_dim, a->dk, a->ldk);
    double *dv = lod_ref_widen(a->keys, a->head_dim, a->dv, a->ldv);
    lod_attention_bwd_f64(&(lod_attention_bwd_f64_args){
        .head_dim = a->head_dim,
        .keys = a->keys,
        .q = q,
        .k = k,
        .v = v,
        .ldk = a->head_dim,
        .ldv = a->head_dim,
        .scale = a->scale,
        .o = o,
        .d_o = d_o,
        .lse = a->lse,
        .dq = dq,
        .dk = dk,
        .dv = dv,
    });
    lod_ref_round(1, a->head_dim, dq, a->dq, a->head_dim);
    lod_ref_round(a->keys, a->head_dim, dk, a->dk, a->ldk);
    lod_ref_round(a->keys, a->head_dim, dv, a->dv, a->ldv);
    free(d_o);
    free(o);
    free(v);
    free(k);
    free(q);
}
