// Rotary position embedding: one product and one fused product a cell.
#include <math.h>

#include "check.h"
#include "ref/ref.h"

static void check_heads(const lod_kernel *kernel, size_t rows, size_t heads, size_t head_dim, bool inverse) {
    enum { POSITIONS = 11 };
    check_shape("rows=%zu heads=%zu head_dim=%zu%s", rows, heads, head_dim, inverse ? " inverse" : "");
    size_t half = head_dim / 2, width = heads * head_dim;
    uint32_t *position = check_operand("position", CHECK_IN, sizeof *position, 1, rows, rows, sizeof *position);
    for (size_t t = 0; t < rows; t++) {
        position[t] = (uint32_t)check_below(POSITIONS);
    }
    lod_rope_kernel_args t = {
        .rows = rows,
        .heads = heads,
        .head_dim = head_dim,
        .x = check_floats("x", CHECK_INOUT, rows, width, width + 3),
        .ldx = width + 3,
        .position = position,
        .cosine = check_floats("cosine", CHECK_IN, POSITIONS, half, half),
        .sine = check_floats("sine", CHECK_IN, POSITIONS, half, half),
        .inverse = inverse,
    };
    double *want = check_widen(t.x), *bound = check_doubles(rows * width);
    const double *x = check_magnitudes(t.x), *c = check_magnitudes(t.cosine), *s = check_magnitudes(t.sine);
    lod_rope_f64(&(lod_rope_f64_args){
        .rows = rows,
        .heads = heads,
        .head_dim = head_dim,
        .x = want,
        .ldx = width,
        .position = position,
        .cosine = check_widen(t.cosine),
        .sine = check_widen(t.sine),
        .inverse = inverse,
    });
    for (size_t i = 0; i < rows * width; i++) {
        size_t at = i % head_dim, other = at < half ? i + half : i - half;
        size_t angle = position[i / width] * half + at % half;
        bound[i] = (x[i] * c[angle] + x[other] * s[angle]) * check_gamma(2);
    }
    CHECK_CALL(kernel->fn.rope_f32(&t));
    check_near(t.x, want, check_mode_now() == CHECK_INTEGERS ? NULL : bound);
    check_share(t.x);
}

CHECK_KERNEL(rope_f32, 0x96e006b4bf3369f6) {
    static const size_t head_dims[] = {2, 4, 8, 16, 24, 32, 40, 64, 80, 128, 256};
    for (size_t d = 0; d < sizeof head_dims / sizeof head_dims[0]; d++) {
        for (size_t rows = 1; rows <= 3; rows++) {
            check_heads(kernel, rows, 1 + d % 3, head_dims[d], false);
            check_heads(kernel, rows, 1 + d % 3, head_dims[d], true);
        }
    }
}
