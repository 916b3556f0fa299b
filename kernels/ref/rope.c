// Rotary position embedding in its rotate-half form, arXiv 2104.09864.
#include "ref.h"

#include <stdlib.h>

void lod_rope_f64(const lod_rope_f64_args *a) {
    size_t half = a->head_dim / 2;
    for (size_t t = 0; t < a->rows; t++) {
        const double *cosine = a->cosine + a->position[t] * half, *sine = a->sine + a->position[t] * half;
        for (size_t head = 0; head < a->heads; head++) {
            double *x = a->x + t * a->ldx + head * a->head_dim;
            for (size_t i = 0; i < half; i++) {
                double x1 = x[i], x2 = x[i + half], c = cosine[i], s = a->inverse ? -sine[i] : sine[i];
                x[i] = x1 * c - x2 * s;
                x[i + half] = x2 * c + x1 * s;
            }
        }
    }
}

void lod_rope_f32__ref(const lod_rope_kernel_args *a) {
    size_t width = a->heads * a->head_dim, positions = 0;
    for (size_t t = 0; t < a->rows; t++) {
        positions = a->position[t] < positions ? positions : (size_t)a->position[t] + 1;
    }
    double *x = lod_ref_widen(a->rows, width, a->x, a->ldx);
    double *cosine = lod_ref_widen(positions, a->head_dim / 2, a->cosine, a->head_dim / 2);
    double *sine = lod_ref_widen(positions, a->head_dim / 2, a->sine, a->head_dim / 2);
    lod_rope_f64(&(lod_rope_f64_args){
        .rows = a->rows,
        .heads = a->heads,
        .head_dim = a->head_dim,
        .x = x,
        .ldx = width,
        .position = a->position,
        .cosine = cosine,
        .sine = sine,
        .inverse = a->inverse,
    });
    lod_ref_round(a->rows, width, x, a->x, a->ldx);
    free(sine);
    free(cosine);
}
