// Softmax cross-entropy. e[j] = exp(z[j] - m) is off by u |z[j] - m| of its argument and 2 u (1 ulp) of exp.
#include <math.h>

#include "check.h"
#include "ref/ref.h"

static double exp_error(double argument) {
    return check_gamma(fabs(argument) + 2);
}

// Bounds of a row's loss and gradient; want is the f64 gradient.
static double bound_row(size_t n, const double *z, uint32_t target, double loss, const double *want, double *bound) {
    double max = z[0], sum = 0, sum_error = 0;
    for (size_t j = 1; j < n; j++) {
        max = z[j] > max ? z[j] : max;
    }
    for (size_t j = 0; j < n; j++) {
        double e = exp(z[j] - max);
        sum += e;
        sum_error += e > 0 ? e * exp_error(z[j] - max) : 0;
    }
    // relative: of the terms, of their 16 lane sums and the tree
    sum_error = sum_error / sum + check_gamma((double)(n + 15) / 16 + 4);
    for (size_t j = 0; j < n; j++) {
        double p = exp(z[j] - max) / sum;
        bound[j] = 0x1p-149 + (p > 0 ? p * (exp_error(z[j] - max) + sum_error + check_gamma(2)) : 0);
        bound[j] += j == target ? (fabs(want[j]) + bound[j]) * CHECK_U : 0;
    }
    double log_error = sum_error + 2 * CHECK_U * fabs(log(sum));
    return log_error + CHECK_U * (fabs(max + log(sum)) + log_error + fabs(loss));
}

static void check_rows(const lod_kernel *kernel, size_t rows, size_t n, bool gradient) {
    check_shape("rows=%zu n=%zu%s", rows, n, gradient ? " gradient" : "");
    lod_xent_kernel_args t = {.rows = rows, .n = n, .ldz = n + 3, .gradient = gradient};
    t.z = check_floats("z", gradient ? CHECK_INOUT : CHECK_IN, rows, n, t.ldz);
    t.loss = check_floats("loss", CHECK_OUT, 1, rows, rows);
    uint32_t *target = check_operand("target", CHECK_IN, sizeof *target, 1, rows, rows, sizeof *target);
    t.target = target;
    for (size_t i = 0; i < rows; i++) {
        target[i] = (uint32_t)check_below(n);
        for (size_t j = 0; j < n; j++) {
            t.z[i * t.ldz + j] *= 10;
        }
        if (check_mode_now() == CHECK_POISON) { // logits of -inf have no part; a row may lie far from 0
            t.z[i * t.ldz + (target[i] + 1) % n] = n > 1 ? -INFINITY : 0;
            t.z[i * t.ldz + target[i]] += (float)i * 400;
        }
    }
    double *want = check_widen(t.z), *loss = check_doubles(rows);
    double *bound = check_doubles(rows * n), *loss_bound = check_doubles(rows);
    const double *z = check_widen(t.z);
    lod_xent_f64(&(lod_xent_f64_args){
        .rows = rows, .n = n, .z = want, .ldz = n, .target = target, .loss = loss, .gradient = gradient});
    for (size_t i = 0; i < rows; i++) {
        loss_bound[i] = bound_row(n, z + i * n, target[i], loss[i], want + i * n, bound + i * n);
    }
    CHECK_CALL(kernel->fn.xent_f32(&t));
    check_near(t.loss, loss, loss_bound);
    check_near(t.z, want, gradient ? bound : NULL);
    check_share(t.loss);
    check_share(t.z);
}

CHECK_KERNEL(xent_f32, 0xee5a6eb02f460176) {
    static const size_t widths[] = {1, 2, 3, 15, 16, 17, 31, 45, 64, 100, 512, 1024};
    for (size_t n = 0; n < sizeof widths / sizeof widths[0]; n++) {
        for (size_t rows = 1; rows <= 3; rows++) {
            check_rows(kernel, rows, widths[n], false);
            check_rows(kernel, rows, widths[n], true);
        }
    }
}
