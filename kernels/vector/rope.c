// Rotary position embedding, rotate-half form (Su et al., arXiv 2104.09864): lanes over the first half of a head,
// whose partners stand head_dim / 2 further on. The tables come from outside; the inverse, which is the backward pass,
// negates the sine.
#include "kernels.h"
#include "lanes.h"

LOD_INLINE void rotate_head(float *x, size_t half, const float *cosine, const float *sine, bool inverse) {
    for (size_t i = 0; i < half; i += 16) {
        size_t left = half - i;
        v16 x1 = v16_load_row(x + i, left), x2 = v16_load_row(x + half + i, left);
        v16 c = v16_load_row(cosine + i, left), s = v16_load_row(sine + i, left);
        if (inverse) {
            s = v16_neg(s);
        }
        v16_store_row(x + i, v16_fnma(x2, s, v16_mul(x1, c)), left);
        v16_store_row(x + half + i, v16_fma(x1, s, v16_mul(x2, c)), left);
    }
}

void LOD_VARIANT(rope_f32)(const lod_rope_kernel_args *args) {
    size_t half = args->head_dim / 2;
    for (size_t t = 0; t < args->rows; t++) {
        size_t at = args->position[t] * half;
        for (size_t h = 0; h < args->heads; h++) {
            float *x = args->x + t * args->ldx + h * args->head_dim;
            rotate_head(x, half, args->cosine + at, args->sine + at, args->inverse);
        }
    }
}
