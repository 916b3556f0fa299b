// Dropout of activations and the sum beside it.
#include "ref.h"

#include <stdlib.h>

void lod_dropout_add_f64(const lod_dropout_add_f64_args *a) {
    for (size_t i = 0; i < a->rows; i++) {
        for (size_t j = 0; j < a->n; j++) {
            double x = a->x[i * a->ldx + j] * a->scale, add = a->add ? a->add[i * a->ldy + j] : 0;
            bool kept = lod_ref_kept(a->keep, a->ldkeep, i, j);
            a->y[i * a->ldy + j] = kept && a->add ? add + x : kept ? x : add;
        }
    }
}

// The mask's bits, to be freed; NULL: everything is kept. The masks of columns are one row.
static uint8_t *draw_bits(const lod_dropout_add_kernel_args *a, size_t ldbits) {
    if (a->keep == LOD_KEEP_ALL) {
        return NULL;
    }
    uint8_t *bits = calloc(a->rows + 1, ldbits);
    if (!bits) {
        abort();
    }
    if (a->keep == LOD_KEEP_DRAWN) {
        lod_keep_bits__ref(&(lod_keep_bits_args){
            .rows = a->column ? 1 : a->rows,
            .n = a->n,
            .row0 = a->row0,
            .seed = a->seed,
            .site = a->site,
            .draw = a->draw,
            .threshold = a->threshold,
            .bits = bits,
            .ldbits = ldbits,
        });
    }
    return bits;
}

void lod_dropout_add_f32__ref(const lod_dropout_add_kernel_args *a) {
    size_t ldbits = (a->n + 127) / 128 * 16;
    double *x = lod_ref_widen(a->rows, a->n, a->x, a->ldx);
    double *add = lod_ref_widen(a->rows, a->n, a->add, a->ldy);
    uint8_t *bits = draw_bits(a, ldbits);
    lod_dropout_add_f64(&(lod_dropout_add_f64_args){
        .rows = a->rows,
        .n = a->n,
        .x = x,
        .ldx = a->n,
        .add = add,
        .keep = bits,
        .ldkeep = a->column ? 0 : ldbits,
        .scale = a->scale,
        .y = x,
        .ldy = a->n,
    });
    lod_ref_round(a->rows, a->n, x, a->y, a->ldy);
    free(add);
    free(bits);
}
