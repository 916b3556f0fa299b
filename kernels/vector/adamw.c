// AdamW (Loshchilov and Hutter, arXiv 1711.05101, decoupled decay), each element alone. Bound by memory: each array is
// read and written once.
#include "kernels.h"
#include "lanes.h"

void LOD_VARIANT(adamw_f32)(const lod_adamw_kernel_args *args) {
    const v16 decay = v16_set1(args->lr_decay), rate = v16_set1(args->lr_correction1), eps = v16_set1(args->eps);
    const v16 correction2 = v16_set1(args->sqrt_correction2), new1 = v16_set1(args->one_minus_beta1);
    const v16 beta2 = v16_set1(args->beta2), new2 = v16_set1(args->one_minus_beta2);
    for (size_t i = 0; i < args->n; i += 16) {
        size_t left = args->n - i;
        v16 w = v16_load_row(args->w + i, left), g = v16_load_row(args->g + i, left);
        v16 m = v16_load_row(args->m + i, left), v = v16_load_row(args->v + i, left);
        w = v16_fnma(w, decay, w);
        m = v16_fma(new1, v16_sub(g, m), m);
        v = v16_fma(v16_mul(g, g), new2, v16_mul(v, beta2));
        v16 step = v16_div(m, v16_add(v16_div(v16_sqrt(v), correction2), eps));
        v16_store_row(args->w + i, v16_fnma(step, rate, w), left);
        v16_store_row(args->m + i, m, left);
        v16_store_row(args->v + i, v, left);
    }
}
