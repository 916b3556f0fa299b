// Softmax attention of one query with every dropout that lodrop.h lists; a query that keeps no key gives zeros.
#include "ref.h"

#include <math.h>

static double dot(size_t n, const double *a, const double *b) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

static bool kept(const uint8_t *keep, size_t j) {
    return !keep || keep[j];
}

// log(sum of exp(g[j])) over the keys that count; infinity if there is none.
static double log_sum_exp(const double *g, size_t keys, const uint8_t *counted) {
    double max = -INFINITY, sum = 0;
    for (size_t j = 0; j < keys; j++) {
        max = kept(counted, j) && g[j] > max ? g[j] : max;
    }
    for (size_t j = 0; j < keys; j++) {
        sum += kept(counted, j) ? exp(g[j] - max) : 0;
    }
    return sum > 0 ? max + log(sum) : INFINITY;
}

void lod_attention_fwd_f64(const lod_attention_fwd_f64_args *a) {
    const bool weights = a->compensation == LOD_COMPENSATION_INVERTED;
    double *g = a->scratch;
    for (size_t j = 0; j < a->keys; j++) {
        g[j] = dot(a->head_dim, a->q, a->k + j * a->ldk) * a->scale;
    }
    *a->lse = log_sum_exp(g, a->keys, weights ? NULL : a->keep);
    if (a->compensation == LOD_COMPENSATION_RENORMALISE_NOGRAD && a->lse_visible) {
        *a->lse_visible = log_sum_exp(g, a->keys, NULL);
    }
    for (size_t d = 0; d < a->head_dim; d++) {
        a->o[d] = 0;
    }
    for (size_t j = 0; j < a->keys; j++) {
        if (!kept(a->keep, j)) {
            continue;
        }
        double w = exp(g[j] - *a->lse) * (weights && a->keep ? a->inv : 1);
        for (size_t d = 0; d < a->head_dim; d++) {
            a->o[d] += w * a->v[j * a->ldv + d];
        }
    }
}

// The gradient of one logit, from that of the weight that it makes.
static double logit_gradient(const lod_attention_bwd_f64_args *a, bool keep, double logit, double dw, double delta) {
    switch (a->compensation) {
    case LOD_COMPENSATION_INVERTED:
        return exp(logit - a->lse) * ((keep ? dw * (a->keep ? a->inv : 1) : 0) - delta);
    case LOD_COMPENSATION_RENORMALISE_NOGRAD:
        if (a->keep) {
            return (keep ? exp(logit - a->lse) * dw : 0) - exp(logit - a->lse_visible) * delta;
        } // without a mask the normaliser is 1
        // fall through
    default:
        return keep ? exp(logit - a->lse) * (dw - delta) : 0;
    }
}

void lod_attention_bwd_f64(const lod_attention_bwd_f64_args *a) {
    const double delta = dot(a->head_dim, a->d_o, a->o);
    const double inv = a->compensation == LOD_COMPENSATION_INVERTED && a->keep ? a->inv : 1;
    for (size_t d = 0; d < a->head_dim; d++) {
        a->dq[d] = 0;
    }
    for (size_t j = 0; j < a->keys; j++) {
        const double *k = a->k + j * a->ldk;
        const bool keep = kept(a->keep, j);
        double logit = dot(a->head_dim, a->q, k) * a->scale;
        double dw = keep ? dot(a->head_dim, a->d_o, a->v + j * a->ldv) : 0;
        double dg = logit_gradient(a, keep, logit, dw, delta) * a->scale;
        double w = keep ? exp(logit - a->lse) * inv : 0;
        if (dg == 0 && w == 0) {
            continue; // what is dropped is not read
        }
        for (size_t d = 0; d < a->head_dim; d++) {
            a->dq[d] += dg * k[d];
            a->dk[j * a->ldk + d] += dg * a->q[d];
            a->dv[j * a->ldv + d] += w * a->d_o[d];
        }
    }
}
