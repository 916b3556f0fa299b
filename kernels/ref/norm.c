// RMSNorm, arXiv 1910.07467.
#include "ref.h"

#include <math.h>
#include <stdlib.h>

void lod_rmsnorm_fwd_f64(const lod_rmsnorm_fwd_f64_args *a) {
    for (size_t i = 0; i < a->rows; i++) {
        const double *x = a->x + i * a->ldx;
        double ss = 0;
        for (size_t j = 0; j < a->n; j++) {
            ss += x[j] * x[j];
        }
        a->rstd[i] = 1 / sqrt(ss / (double)a->n + a->eps);
        for (size_t j = 0; j < a->n; j++) {
            a->y[i * a->ldy + j] = x[j] * a->rstd[i] * a->g[j];
        }
    }
}

void lod_rmsnorm_fwd_f32__ref(const lod_rmsnorm_fwd_kernel_args *a) {
    double *x = lod_ref_widen(a->rows, a->n, a->x, a->ldx);
    double *g = lod_ref_widen(1, a->n, a->g, a->n);
    double *rstd = lod_ref_alloc(a->rows);
    double *y = lod_ref_alloc(a->rows * a->n);
    lod_rmsnorm_fwd_f64(&(lod_rmsnorm_fwd_f64_args){
        .rows = a->rows,
        .n = a->n,
        .x = x,
        .ldx = a->n,
        .g = g,
        .eps = a->eps,
        .rstd = rstd,
        .y = y,
        .ldy = a->n,
    });
    lod_ref_round(a->rows, a->n, y, a->y, a->ldy);
    lod_ref_round(1, a->rows, rstd, a->rstd, a->rows);
    free(g);
    free(x);
}

void lod_rmsnorm_bwd_f64(const lod_rmsnorm_bwd_f64_args *a) {
    for (size_t i = 0; i < a->rows; i++) {
        const double *x = a->x + i * a->ldx, *dy = a->dy + i * a->lddy;
        double rstd = a->rstd[i], c = 0;
        for (size_t j = 0; j < a->n; j++) {
            c += dy[j] * a->g[j] * x[j];
        }
        double t = c / (double)a->n * rstd * rstd * rstd;
        for (size_t j = 0; j < a->n; j++) {
            double d = dy[j] * a->g[j] * rstd - x[j] * t;
            a->dx[i * a->lddx + j] = a->add ? a->add[i * a->lddx + j] + d : d;
        }
    }
}

void lod_rmsnorm_bwd_f32__ref(const lod_rmsnorm_bwd_kernel_args *a) {
    double *x = lod_ref_widen(a->rows, a->n, a->x, a->ldx);
    double *g = lod_ref_widen(1, a->n, a->g, a->n);
    double *rstd = lod_ref_widen(1, a->rows, a->rstd, a->rows);
    double *dy = lod_ref_widen(a->rows, a->n, a->dy, a->lddy);
    double *add = lod_ref_widen(a->rows, a->n, a->add, a->lddx);
    double *dx = lod_ref_alloc(a->rows * a->n);
    lod_rmsnorm_bwd_f64(&(lod_rmsnorm_bwd_f64_args){
        .rows = a->rows,
        .n = a->n,
        .x = x,
        .ldx = a->n,
        .g = g,
        .rstd = rstd,
        .dy = dy,
        .lddy = a->n,
        .add = add,
        .dx = dx,
        .lddx = a->n,
    });
    lod_ref_round(a->rows, a->n, dx, a->dx, a->lddx);
    free(add);
    free(dy);
    free(rstd);
    free(g);
    free(x);
}
