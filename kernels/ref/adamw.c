// AdamW with decoupled weight decay, arXiv 1711.05101.
#include "ref.h"

#include <math.h>
#include <stdlib.h>

void lod_adamw_f64(const lod_adamw_f64_args *a) {
    for (size_t i = 0; i < a->n; i++) {
        double g = a->g[i], decayed = a->w[i] - a->w[i] * a->lr_decay;
        a->m[i] += a->one_minus_beta1 * (g - a->m[i]);
        a->v[i] = a->beta2 * a->v[i] + a->one_minus_beta2 * g * g;
        a->w[i] = decayed - a->lr_correction1 * (a->m[i] / (sqrt(a->v[i]) / a->sqrt_correction2 + a->eps));
    }
}

void lod_adamw_f32__ref(const lod_adamw_kernel_args *a) {
    double *w = lod_ref_widen(1, a->n, a->w, a->n);
    double *g = lod_ref_widen(1, a->n, a->g, a->n);
    double *m = lod_ref_widen(1, a->n, a->m, a->n);
    double *v = lod_ref_widen(1, a->n, a->v, a->n);
    lod_adamw_f64(&(lod_adamw_f64_args){
        .n = a->n,
        .w = w,
        .g = g,
        .m = m,
        .v = v,
        .lr_decay = a->lr_decay,
        .lr_correction1 = a->lr_correction1,
        .sqrt_correction2 = a->sqrt_correction2,
        .one_minus_beta1 = a->one_minus_beta1,
        .beta2 = a->beta2,
        .one_minus_beta2 = a->one_minus_beta2,
        .eps = a->eps,
    });
    lod_ref_round(1, a->n, w, a->w, a->n);
    lod_ref_round(1, a->n, m, a->m, a->n);
    lod_ref_round(1, a->n, v, a->v, a->n);
    free(g);
}
