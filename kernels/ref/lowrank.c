// The low-rank linear layer: a product that starts with the adapter's and runs on over the frozen one.
#include "ref.h"

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
    double c = a->first ? 0 : *a->c;
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
