// SwiGLU's product (Shazeer, arXiv 2002.05202), y = silu(gate) * up, and its gradient. SLEEF's exp is out of line and
// spills every vector register, so nothing but the operands lives across it.
#include "kernels.h"
#include "lanes.h"

LOD_INLINE v16 sigmoid(v16 x) {
    v16 one = v16_set1(1.0f);
    return v16_div(one, v16_add(one, v16_exp(v16_neg(x))));
}

void LOD_VARIANT(silu_mul_fwd_f32)(const lod_silu_mul_fwd_kernel_args *args) {
    for (size_t i = 0; i < args->n; i += 16) {
        size_t left = args->n - i;
        v16 gate = v16_load_row(args->gate + i, left), up = v16_load_row(args->up + i, left);
        v16_store_row(args->y + i, v16_mul(v16_mul(gate, sigmoid(gate)), up), left);
    }
}

void LOD_VARIANT(silu_mul_bwd_f32)(const lod_silu_mul_bwd_kernel_args *args) {
    const v16 one = v16_set1(1.0f);
    for (size_t i = 0; i < args->n; i += 16) {
        size_t left = args->n - i;
        v16 gate = v16_load_row(args->gate + i, left), sig = sigmoid(gate);
        v16 up = v16_load_row(args->up + i, left), dy = v16_load_row(args->dy + i, left);
        v16 slope = v16_fma(gate, v16_sub(one, sig), one);
        v16_store_row(args->dgate + i, v16_mul(v16_mul(v16_mul(dy, up), sig), slope), left);
        v16_store_row(args->dup + i, v16_mul(dy, v16_mul(gate, sig)), left);
    }
}
