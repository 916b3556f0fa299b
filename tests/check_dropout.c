// Dropout with and without the sum beside it. y is one rounding of a fused product and sum, so its bound is u |y|; what
// is dropped is the sum's other side, bit for bit, whatever x holds there.
#include <math.h>
#include <string.h>

#include "check.h"
#include "philox.h"
#include "ref/ref.h"

typedef struct dropping {
    lod_keep keep;
    bool column;
    double p;
    enum { ALONE, APART, INTO_ADD, INTO_X, INTO_BOTH, PLACES } place; // where y lies, and whether anything is added
} dropping;

static bool is_kept(const lod_dropout_add_kernel_args *t, size_t i, size_t j) {
    if (t->keep != LOD_KEEP_DRAWN) {
        return t->keep == LOD_KEEP_ALL;
    }
    uint32_t row = t->row0 + (uint32_t)(t->column ? 0 : i);
    return lod_mask_u16(t->seed, t->site, t->draw, row, (uint32_t)j) >= t->threshold;
}

static lod_dropout_add_kernel_args operands(size_t rows, size_t n, const dropping *d) {
    const bool in_x = d->place == INTO_X || d->place == INTO_BOTH, in_add = d->place == INTO_ADD;
    lod_dropout_add_kernel_args t = {.rows = rows, .n = n, .ldx = n + 3, .keep = d->keep};
    t.column = d->column, t.row0 = (uint32_t)check_random(), t.seed = check_random();
    t.site = (uint32_t)check_random(), t.draw = (uint32_t)check_random(), t.threshold = lod_mask_threshold(d->p);
    t.scale = (float)(1 / (1 - t.threshold / 65536.0));
    float *x = check_floats("x", in_x ? CHECK_INOUT : CHECK_IN, rows, n, t.ldx), *add = NULL;
    t.ldy = in_x ? t.ldx : n + 5;
    if (d->place == INTO_BOTH) {
        add = x;
    } else if (d->place != ALONE) {
        add = check_floats("add", in_add ? CHECK_INOUT : CHECK_IN, rows, n, t.ldy);
        add[0] = -0.0f;
    }
    t.x = x, t.add = add, t.y = in_x ? x : in_add ? add : check_floats("y", CHECK_OUT, rows, n, t.ldy);
    return t;
}

static void check_case(const lod_kernel *kernel, size_t rows, size_t n, dropping d) {
    check_shape("rows=%zu n=%zu keep=%d column=%d p=%g place=%d", rows, n, d.keep, d.column, d.p, d.place);
    lod_dropout_add_kernel_args t = operands(rows, n, &d);
    double *x = check_widen(t.x), *want = check_doubles(rows * n), *bound = check_doubles(rows * n);
    const double *add = t.add ? check_widen(t.add) : NULL;
    uint8_t *keep = check_operand("keep", CHECK_IN, 1, rows, (n + 7) / 8, (n + 7) / 8, 1);
    for (size_t cell = 0; cell < rows * n; cell++) {
        size_t i = cell / n, j = cell % n;
        keep[i * ((n + 7) / 8) + j / 8] |= (uint8_t)(is_kept(&t, i, j) << (j % 8));
        bool poison = check_mode_now() == CHECK_POISON && cell % 3 && d.place != INTO_BOTH;
        if (poison && !is_kept(&t, i, j)) {
            ((float *)(uintptr_t)t.x)[i * t.ldx + j] = cell % 3 == 1 ? NAN : INFINITY;
            x[cell] = NAN;
        }
    }
    lod_dropout_add_f64(&(lod_dropout_add_f64_args){.rows = rows,
                                                    .n = n,
                                                    .x = x,
                                                    .ldx = n,
                                                    .add = add,
                                                    .keep = keep,
                                                    .ldkeep = (n + 7) / 8,
                                                    .scale = t.scale,
                                                    .y = want,
                                                    .ldy = n});
    for (size_t cell = 0; cell < rows * n; cell++) {
        bound[cell] = CHECK_U * fabs(want[cell]) * (1 + 0x1p-20) + 0x1p-150;
    }
    CHECK_CALL(kernel->fn.dropout_add_f32(&t));
    check_near(t.y, want, bound);
    for (size_t cell = 0; cell < rows * n; cell++) {
        float dropped = add ? (float)add[cell] : 0, got = t.y[cell / n * t.ldy + cell % n];
        CHECK_THAT(is_kept(&t, cell / n, cell % n) || memcmp(&got, &dropped, sizeof got) == 0);
    }
    check_share(t.y);
}

CHECK_KERNEL(dropout_add_f32, 0x3902d1968368a44c) {
    static const size_t widths[] = {1, 15, 16, 127, 128, 129, 300};
    static const size_t heights[] = {1, 8, 19};
    static const double rates[] = {0, 0.1, 0.5, 0.999};
    for (size_t c = 0; c < 7 * 3 * 4; c++) {
        size_t n = widths[c % 7], rows = heights[c / 7 % 3];
        double p = rates[c / 21];
        check_case(kernel, rows, n, (dropping){LOD_KEEP_DRAWN, false, p, c % PLACES});
        check_case(kernel, rows, n, (dropping){LOD_KEEP_DRAWN, true, p, (c + 1) % PLACES});
        check_case(kernel, rows, n, (dropping){LOD_KEEP_ALL, false, p, (c + 2) % PLACES});
        check_case(kernel, rows, n, (dropping){LOD_KEEP_NONE, false, p, (c + 3) % PLACES});
    }
}
