// The residual sum, bound by memory.
#include "kernels.h"
#include "lanes.h"

void LOD_VARIANT(add_f32)(const lod_add_kernel_args *args) {
    for (size_t i = 0; i < args->n; i += 16) {
        size_t left = args->n - i;
        v16 sum = v16_add(v16_load_row(args->a + i, left), v16_load_row(args->b + i, left));
        v16_store_row(args->y + i, sum, left);
    }
}
