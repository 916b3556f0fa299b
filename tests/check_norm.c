// RMSNorm. Bounds: e(q) is a relative error in units of u; sums of 16 lanes of n/16 terms and a tree of 4.
#include <math.h>

#include "check.h"
#include "ref/ref.h"

static const size_t widths[] = {1, 2, 3, 15, 16, 17, 33, 64, 100, 288, 1027};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static double sum_roundings(size_t n) {
    return (double)((n + 15) / 16 + 4);
}

static void check_forward(const lod_kernel *kernel, size_t rows, size_t n) {
    check_shape("rows=%zu n=%zu", rows, n);
    lod_rmsnorm_fwd_kernel_args t = {.rows = rows, .n = n, .ldx = n + 3, .ldy = n + 5, .eps = 1e-5f};
    t.x = check_floats("x", CHECK_IN, rows, n, t.ldx);
    t.g = check_floats("g", CHECK_IN, 1, n, n);
    t.rstd = check_floats("rstd", CHECK_OUT, 1, rows, rows);
    t.y = check_floats("y", CHECK_OUT, rows, n, t.ldy);
    double *rstd = check_doubles(rows), *y = check_doubles(rows * n);
    lod_rmsnorm_fwd_f64(&(lod_rmsnorm_fwd_f64_args){
        .rows = rows,
        .n = n,
        .x = check_widen(t.x),
        .ldx = n,
        .g = check_widen(t.g),
        .eps = t.eps,
        .rstd = rstd,
        .y = y,
        .ldy = n,
    });
    // e(rstd) = (e(ss) + mean, eps) / 2 by the root, + the root, the division; y adds two products.
    double rstd_error = check_gamma((sum_roundings(n) + 2) / 2 + 2);
    double y_error = check_gamma((sum_roundings(n) + 2) / 2 + 4);
    double *rstd_bound = check_doubles(rows), *y_bound = check_doubles(rows * n);
    for (size_t i = 0; i < rows * n; i++) {
        rstd_bound[i / n] = rstd_error * rstd[i / n];
        y_bound[i] = y_error * fabs(y[i]);
    }
    CHECK_CALL(kernel->fn.rmsnorm_fwd_f32(&t));
    check_near(t.rstd, rstd, rstd_bound);
    check_near(t.y, y, y_bound);
    check_share(t.rstd);
    check_share(t.y);
}

CHECK_KERNEL(rmsnorm_fwd_f32, 0x6ea129e5c8fd3b37) {
    for (size_t n = 0; n < COUNT(widths); n++) {
        for (size_t rows = 1; rows <= 4; rows++) {
            check_forward(kernel, rows, widths[n]);
        }
    }
}

// dx = add + (dy g rstd - x t), t = c rstd^3 / n, c = sum(dy g x).
static void bound_backward(const lod_rmsnorm_bwd_f64_args *a, double *bound) {
    for (size_t i = 0; i < a->rows; i++) {
        const double *x = a->x + i * a->ldx, *dy = a->dy + i * a->lddy;
        double scale = a->rstd[i] * a->rstd[i] * a->rstd[i] / (double)a->n, c = 0, magnitude = 0;
        for (size_t j = 0; j < a->n; j++) {
            c += dy[j] * a->g[j] * x[j];
            magnitude += fabs(dy[j] * a->g[j] * x[j]);
        }
        // the products dy g, the sum, then four roundings of t on top of it
        double t_error = magnitude * fabs(scale) * check_gamma(sum_roundings(a->n) + 1 + 4);
        for (size_t j = 0; j < a->n; j++) {
            double first = dy[j] * a->g[j] * a->rstd[i], d = first - x[j] * c * scale;
            double d_error = fabs(x[j]) * t_error + fabs(first) * check_gamma(2);
            d_error += (fabs(d) + d_error) * CHECK_U;
            double added = a->add ? (fabs(a->add[i * a->lddx + j] + d) + d_error) * CHECK_U : 0;
            bound[i * a->n + j] = d_error + added;
        }
    }
}

enum place { OWN, OF_ADD, OF_DY }; // of dx

static void check_backward(const lod_kernel *kernel, size_t rows, size_t n, bool added, enum place place) {
    check_shape("rows=%zu n=%zu%s%s", rows, n, added ? " add" : "",
                place == OF_ADD ? " over add" : place == OF_DY ? " over dy" : "");
    lod_rmsnorm_bwd_kernel_args t = {.rows = rows, .n = n, .ldx = n + 3, .lddx = n + 5};
    t.lddy = place == OF_DY ? t.lddx : n + 1;
    t.x = check_floats("x", CHECK_IN, rows, n, t.ldx);
    t.g = check_floats("g", CHECK_IN, 1, n, n);
    t.rstd = check_floats("rstd", CHECK_IN, 1, rows, rows);
    float *dy = check_floats("dy", place == OF_DY ? CHECK_INOUT : CHECK_IN, rows, n, t.lddy);
    float *add = added ? check_floats("add", place == OF_ADD ? CHECK_INOUT : CHECK_IN, rows, n, t.lddx) : NULL;
    t.dy = dy, t.add = add;
    t.dx = place == OF_ADD ? add : place == OF_DY ? dy : check_floats("dx", CHECK_OUT, rows, n, t.lddx);
    lod_rmsnorm_bwd_f64_args wide = {
        .rows = rows,
        .n = n,
        .x = check_widen(t.x),
        .ldx = n,
        .g = check_widen(t.g),
        .rstd = check_widen(t.rstd),
        .dy = check_widen(t.dy),
        .lddy = n,
        .add = added ? check_widen(add) : NULL,
        .dx = check_doubles(rows * n),
        .lddx = n,
    };
    double *bound = check_doubles(rows * n);
    lod_rmsnorm_bwd_f64(&wide);
    bound_backward(&wide, bound);
    CHECK_CALL(kernel->fn.rmsnorm_bwd_f32(&t));
    check_near(t.dx, wide.dx, bound);
    check_share(t.dx);
}

CHECK_KERNEL(rmsnorm_bwd_f32, 0xf41c2f2d1939101b) {
    for (size_t n = 0; n < COUNT(widths); n++) {
        for (size_t rows = 1; rows <= 3; rows++) {
            for (enum place place = OWN; place <= OF_DY; place++) {
                if (place != OF_ADD)
                    check_backward(kernel, rows, widths[n], false, place);
                check_backward(kernel, rows, widths[n], true, place);
            }
        }
    }
}
