// The tall-skinny products of a low-rank layer: U and dU, dA and dB.
#include "ref.h"

#include <stdlib.h>

static double dot(const lod_rank_dot_f64_args *a, size_t t, size_t q) {
    double acc = 0;
    size_t k = 0;
    for (size_t j = 0; j < a->n; j++) {
        bool there = lod_ref_kept(a->columns, 0, 0, j);
        if (there && lod_ref_kept(a->keep, a->ldkeep, t, j)) {
            acc += a->x[t * a->ldx + j] * a->a[q * a->lda + k];
        }
        k += there;
    }
    return acc;
}

void lod_rank_dot_f64(const lod_rank_dot_f64_args *a) {
    for (size_t t = 0; t < a->tokens; t++) {
        for (size_t q = 0; q < a->r; q++) {
            a->u[t * a->ldu + q] = dot(a, t, q) * a->scale;
        }
    }
}

// The columns that the rows of a hold.
static size_t depth(const lod_rank_dot_args *a) {
    size_t count = 0;
    for (size_t j = 0; j < a->n; j++) {
        count += lod_ref_kept(a->columns, 0, 0, j);
    }
    return count;
}

void lod_rank_dot_f32__ref(const lod_rank_dot_args *a) {
    double *x = lod_ref_widen(a->tokens, a->n, a->x, a->ldx);
    double *w = lod_ref_widen(a->r, depth(a), a->a, a->lda);
    double *u = lod_ref_alloc(a->tokens * a->r);
    lod_rank_dot_f64(&(lod_rank_dot_f64_args){
        .tokens = a->tokens,
        .n = a->n,
        .r = a->r,
        .x = x,
        .ldx = a->n,
        .keep = a->keep,
        .ldkeep = a->ldkeep,
        .columns = a->columns,
        .a = w,
        .lda = depth(a),
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
            for (size_t t = 0; t < a->tokens && lod_ref_kept(a->columns, 0, 0, a->keep_col + j); t++) {
                if (lod_ref_kept(a->keep, a->ldkeep, t, a->keep_col + j)) {
                    acc += a->s[t * a->lds + q] * a->x[t * a->ldx + j];
                }
            }
            a->g[q * a->ldg + j] = lod_ref_kept(a->columns, 0, 0, a->keep_col + j) ? acc * a->scale : 0;
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
        .columns = a->columns,
        .keep_col = a->keep_col,
        .scale = a->scale,
        .g = g,
        .ldg = a->n,
    });
    lod_ref_round(a->r, a->n, g, a->g, a->ldg);
    free(x);
    free(s);
}
