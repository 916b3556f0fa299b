// SwiGLU, arXiv 2002.05202.
#include "ref.h"

#include <math.h>
#include <stdlib.h>

void lod_silu_mul_fwd_f64(const lod_silu_mul_fwd_f64_args *a) {
    for (size_t i = 0; i < a->n; i++) {
        double sig = 1 / (1 + exp(-a->gate[i]));
        a->y[i] = a->gate[i] * sig * a->up[i];
    }
}

void lod_silu_mul_fwd_f32__ref(const lod_silu_mul_fwd_kernel_args *a) {
    double *gate = lod_ref_widen(1, a->n, a->gate, a->n);
    double *up = lod_ref_widen(1, a->n, a->up, a->n);
    double *y = lod_ref_alloc(a->n);
    lod_silu_mul_fwd_f64(&(lod_silu_mul_fwd_f64_args){.n = a->n, .gate = gate, .up = up, .y = y});
    lod_ref_round(1, a->n, y, a->y, a->n);
    free(up);
    free(gate);
}

void lod_silu_mul_bwd_f64(const lod_silu_mul_bwd_f64_args *a) {
    for (size_t i = 0; i < a->n; i++) {
        double gate = a->gate[i], up = a->up[i], dy = a->dy[i];
        double sig = 1 / (1 + exp(-gate));
        a->dgate[i] = dy * up * sig * (1 + gate * (1 - sig));
        a->dup[i] = dy * gate * sig;
    }
}

void lod_silu_mul_bwd_f32__ref(const lod_silu_mul_bwd_kernel_args *a) {
    double *gate = lod_ref_widen(1, a->n, a->gate, a->n);
    double *up = lod_ref_widen(1, a->n, a->up, a->n);
    double *dy = lod_ref_widen(1, a->n, a->dy, a->n);
    lod_silu_mul_bwd_f64(
        &(lod_silu_mul_bwd_f64_args){.n = a->n, .gate = gate, .up = up, .dy = dy, .dgate = gate, .dup = up});
    lod_ref_round(1, a->n, gate, a->dgate, a->n);
    lod_ref_round(1, a->n, up, a->dup, a->n);
    free(dy);
}
