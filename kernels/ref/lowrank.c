// The low-rank linear layer: a product that starts with the adapter's and runs on over the frozen one.
#include "ref.h"

#include <stdlib.h>

static double start(const lod_lowrank_tile_f64_args *a, size_t i, size_t j) {
    if (!a->first) {
        return a->c[i * a->ldc + j];
    }
    if (!lod_ref_kept(a->keep, a->ldkeep, i, a->keep_col + j)) {
        return 0;
    }
    double acc = 0;
    for (size_t q = 0; q < a->r; q++) {
        acc += a->u[i * a->ldu + q] * a->b[q * a->ldb + j];
    }
    return a->keep ? acc * a->inv : acc;
}

void lod_lowrank_tile_f64(const lod_lowrank_tile_f64_args *a) {
    for (size_t i = 0; i < a->m; i++) {
        for (size_t j = 0; j < a->n; j++) {
            double acc = start(a, i, j);
            for (size_t k = 0; k < a->k; k++) {
                acc += a->x[i * a->ldx + k] * a->w[k * a->w_row + j * a->w_col];
            }
            a->c[i * a->ldc + j] = acc;
        }
    }
}

// One output, so that a plan's tails are all alike: m = n = 1.
void lod_lowrank_tile_f32__ref_1x1(const lod_lowrank_tile_args *a) {
    double x[LOD_KC_MAX], w[LOD_KC_MAX], u[LOD_RANK_MAX], b[LOD_RANK_MAX];
    for (size_t k = 0; k < a->k; k++) {
        x[k] = a->x[k];
        w[k] = a->w[k * LOD_PANEL];
    }
    size_t r = a->first ? a->r : 0;
    for (size_t q = 0; q < r; q++) {
        u[q] = a->u[q];
        b[q] = a->b[q * a->ldb];
    }
    double c = a->first ? 0 : *a->from;
    lod_lowrank_tile_f64(&(lod_lowrank_tile_f64_args){
        .m = 1,
        .n = 1,
        .k = a->k,
        .r = r,
        .x = x,
        .ldx = LOD_KC_MAX,
        .w = w,
        .w_row = 1,
        .w_col = 1,
        .u = u,
        .ldu = LOD_RANK_MAX,
        .b = b,
        .ldb = 1,
        .keep = a->keep,
        .ldkeep = a->ldkeep,
        .keep_col = a->keep_col,
        .inv = a->inv,
        .first = a->first,
        .c = &c,
        .ldc = 1,
    });
    *a->c = (float)c;
}

// Panel by panel.
void lod_lowrank_few_f32__ref(const lod_lowrank_few_args *a) {
    const size_t k = a->transposed ? a->n_in : a->n_out, width = a->end - a->begin;
    double *x = lod_ref_widen(a->tokens, k, a->x, a->ldx), *c = lod_ref_alloc(a->tokens * width);
    double *u = lod_ref_widen(a->tokens, a->r, a->u, a->ldu);
    double *b = lod_ref_widen(a->r, width, a->r ? a->b + a->begin : NULL, a->ldb);
    float *panel = (float *)lod_ref_alloc(k * LOD_PANEL / 2);
    for (size_t j = 0; j < width; j += LOD_PANEL) {
        lod_weight_panel_f32__ref(&(lod_weight_panel_args){
            .w = a->w, .n_in = a->n_in, .n_out = a->n_out, .transposed = a->transposed,
            .panel = (a->begin + j) / LOD_PANEL, .k = k, .out = panel});
        double *w = lod_ref_widen(k, LOD_PANEL, panel, LOD_PANEL);
        lod_lowrank_tile_f64(&(lod_lowrank_tile_f64_args){
            .m = a->tokens, .n = width - j < LOD_PANEL ? width - j : LOD_PANEL, .k = k, .r = a->r, .x = x, .ldx = k,
            .w = w, .w_row = LOD_PANEL, .w_col = 1, .u = u, .ldu = a->r, .b = b ? b + j : NULL, .ldb = width,
            .keep = a->keep, .ldkeep = a->ldkeep, .keep_col = a->begin + j, .inv = a->inv, .first = true, .c = c + j,
            .ldc = width});
        free(w);
    }
    free(panel);
    free(b);
    free(u);
    free(x);
    lod_ref_round(a->tokens, width, c, a->c + a->begin, a->ldc);
}
