#include "ref.h"

#include <stdlib.h>

void lod_add_f64(const lod_add_f64_args *a) {
    for (size_t i = 0; i < a->n; i++) {
        a->y[i] = a->a[i] + a->b[i];
    }
}

void lod_add_f32__ref(const lod_add_kernel_args *a) {
    double *x = lod_ref_widen(1, a->n, a->a, a->n);
    double *b = lod_ref_widen(1, a->n, a->b, a->n);
    lod_add_f64(&(lod_add_f64_args){.n = a->n, .a = x, .b = b, .y = x});
    lod_ref_round(1, a->n, x, a->y, a->n);
    free(b);
}
