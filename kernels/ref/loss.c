// Softmax cross-entropy over a row of logits, and its gradient in their place.
#include "ref.h"

#include <math.h>
#include <stdlib.h>

void lod_xent_f64(const lod_xent_f64_args *a) {
    for (size_t i = 0; i < a->rows; i++) {
        double *z = a->z + i * a->ldz, max = z[0], sum = 0;
        for (size_t j = 1; j < a->n; j++) {
            max = z[j] > max ? z[j] : max;
        }
        for (size_t j = 0; j < a->n; j++) {
            sum += exp(z[j] - max);
        }
        a->loss[i] = max + log(sum) - z[a->target[i]];
        for (size_t j = 0; a->gradient && j < a->n; j++) {
            z[j] = exp(z[j] - max) / sum - (j == a->target[i]);
        }
    }
}

void lod_xent_f32__ref(const lod_xent_kernel_args *a) {
    double *z = lod_ref_widen(a->rows, a->n, a->z, a->ldz);
    double *loss = lod_ref_alloc(a->rows);
    lod_xent_f64(&(lod_xent_f64_args){
        .rows = a->rows,
        .n = a->n,
        .z = z,
        .ldz = a->n,
        .target = a->target,
        .loss = loss,
        .gradient = a->gradient,
    });
    lod_ref_round(1, a->rows, loss, a->loss, a->rows);
    lod_ref_round(a->rows, a->n, z, a->z, a->ldz);
}
