// Softmax cross-entropy of rows of logits: one pass for the maximum, one for the exponentials and their sum, and,
// where the gradient is wanted, one that divides. The exponentials then stand in the logits' place between the passes,
// so exp is computed once.
#include "kernels.h"
#include "lanes.h"

void LOD_VARIANT(xent_f32)(const lod_xent_kernel_args *args) {
    for (size_t i = 0; i < args->rows; i++) {
        float *z = args->z + i * args->ldz, *at_target = z + args->target[i], z_target = *at_target;
        float max = v16_row_max(z, args->n);
        v16 sum = v16_set1(v16_row_exp(z, args->n, max, args->gradient));
        v16 lse = v16_add(v16_set1(max), v16_log(sum));
        args->loss[i] = v16_first(lse) - z_target;
        if (args->gradient) {
            v16 inverse = v16_div(v16_set1(1.0f), sum);
            for (size_t j = 0; j < args->n; j += 16) {
                size_t left = args->n - j;
                v16_store_row(z + j, v16_mul(v16_load_row(z + j, left), inverse), left);
            }
            *at_target -= 1.0f;
        }
    }
}
