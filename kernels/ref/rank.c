// The tall-skinny products of a low-rank layer: U and dU, dA and dB.
#include "ref.h"

#include <stdlib.h>

void lod_rank_dot_f64(const lod_rank_dot_f64_args *a) {
    for (size_t t = 0; t < a->tokens; t++) {
        for (size_t q = 0; q < a->r; q++) {
            double acc = 0;
            for (size_t k = 0; k < a->n; k++) {
                if (lod_ref_kept(a->keep, a->ldkeep, t, k)) {
                    acc += a->x[t * a->ldx + k] * a->a[q * a->lda + k];
                }
            }
            a->u[t * a->ldu + q] = acc * a->scale;
        }
    }
}

void lod_rank_dot_f32__ref(const lod_rank_dot_args *a) {
    double *x = lod_ref_widen(a->tokens, a->n, a->x, a->ldx);
    double *w = lod_ref_widen(a->r, a->n, a->a, a->lda);
    double *u = lod_ref_alloc(a->tokens * a->r);
    lod_rank_dot_f64(&(lod_rank_dot_f64_args){
        .tokens = a->tokens,
        .n = a->n,
        .r = a->r,
        .x = x,
        .ldx = a->n,
        .keep = a->keep,
        .ldkeep = a->ldkeep,
        .a = w,
        .lda = a->n,
        .scale = a->scale,
        .u = u,
        .ldu = a->r,
    });
    lod_ref_round(a->tokens, a->r, u, a->u, a->ldu);
    free(w);
    free(x);
}

void lod_rank_grad_f64(const lod_rank_grad_f64_args *a) {
    for (size_t q = 0; q < a->r; q++) {
        for (size_t j = 0; j < a->n; j++) {
            double acc = 0;
            for (size_t t = 0; t < a->tokens; t++) {
                if (lod_ref_kept(a->keep, a->ldkeep, t, a->keep_col + j)) {
                    acc += a->s[t * a->lds + q] * a->x[t * a->ldx + j];
                }
            }
            a->g[q * a->ldg + j] = acc * a->scale;
        }
    }
}

void lod_rank_grad_f32__ref(const lod_rank_grad_args *a) {
    double *s = lod_ref_widen(a->tokens, a->r, a->s, a->lds);
    double *x = lod_ref_widen(a->tokens, a->n, a->x, a->ldx);
    double *g = lod_ref_alloc(a->r * a->n);
    lod_rank_grad_f64(&(lod_rank_grad_f64_args){
        .tokens = a->tokens,
        .n = a->n,
        .r = a->r,
        .s = s,
        .lds = a->r,
        .x = x,
        .ldx = a->n,
        .keep = a->keep,
        .ldkeep = a->ldkeep,
        .keep_col = a->keep_col,
        .scale = a->scale,
        .g = g,
        .ldg = a->n,
    });
    lod_ref_round(a->r, a->n, g, a->g, a->ldg);
    free(x);
    free(s);
}
