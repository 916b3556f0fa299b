// AdamW: the error of each step of the contract's expression, followed through.
#include <math.h>

#include "check.h"
#include "ref/ref.h"

// By multiplication alone: the same bits on every machine.
static double power(double base, unsigned exponent) {
    double result = 1;
    while (exponent-- > 0) {
        result *= base;
    }
    return result;
}

static void check_step(const lod_kernel *kernel, size_t n, unsigned step) {
    check_shape("n=%zu step=%u", n, step);
    lod_adamw_kernel_args t = {
        .n = n,
        .w = check_floats("w", CHECK_INOUT, 1, n, n),
        .g = check_floats("g", CHECK_IN, 1, n, n),
        .m = check_floats("m", CHECK_INOUT, 1, n, n),
        .v = check_floats("v", CHECK_INOUT, 1, n, n),
        .lr_decay = 2e-6f,
        .lr_correction1 = (float)(2e-4 / (1 - power(0.9, step))),
        .sqrt_correction2 = (float)sqrt(1 - power(0.999, step)),
        .one_minus_beta1 = (float)(1 - 0.9),
        .beta2 = 0.999f,
        .one_minus_beta2 = (float)(1 - 0.999),
        .eps = 1e-8f,
    };
    for (size_t i = 0; i < n; i++) {
        t.v[i] *= t.v[i];
        t.m[i] = step == 1 ? 0 : t.m[i];
        t.v[i] = step == 1 ? 0 : t.v[i];
    }
    lod_adamw_f64_args wide = {
        .n = n,
        .w = check_widen(t.w),
        .g = check_widen(t.g),
        .m = check_widen(t.m),
        .v = check_widen(t.v),
        .lr_decay = t.lr_decay,
        .lr_correction1 = t.lr_correction1,
        .sqrt_correction2 = t.sqrt_correction2,
        .one_minus_beta1 = t.one_minus_beta1,
        .beta2 = t.beta2,
        .one_minus_beta2 = t.one_minus_beta2,
        .eps = t.eps,
    };
    double *w_bound = check_doubles(n), *m_bound = check_doubles(n), *v_bound = check_doubles(n);
    for (size_t i = 0; i < n; i++) {
        w_bound[i] = fabs(wide.w[i] * (1 - wide.lr_decay)) * CHECK_U;
        m_bound[i] = fabs(wide.one_minus_beta1 * (wide.g[i] - wide.m[i])) * CHECK_U; // of g - m
    }
    lod_adamw_f64(&wide);
    for (size_t i = 0; i < n; i++) {
        m_bound[i] += (fabs(wide.m[i]) + m_bound[i]) * CHECK_U;
        v_bound[i] = wide.v[i] * check_gamma(2);
        // the denominator: half of v's two roundings, the root, the quotient, the sum
        double denominator = sqrt(wide.v[i]) / wide.sqrt_correction2 + wide.eps;
        double quotient_error = (m_bound[i] + fabs(wide.m[i]) * check_gamma(1 + 1 + 1 + 1 + 1)) / denominator;
        w_bound[i] += wide.lr_correction1 * quotient_error;
        w_bound[i] += (fabs(wide.w[i]) + w_bound[i]) * CHECK_U;
    }
    CHECK_CALL(kernel->fn.adamw_f32(&t));
    check_near(t.w, wide.w, w_bound);
    check_near(t.m, wide.m, m_bound);
    check_near(t.v, wide.v, v_bound);
    check_share(t.w);
    check_share(t.m);
    check_share(t.v);
}

CHECK_KERNEL(adamw_f32, 0xe37a9bbdfd779c12) {
    for (size_t n = 1; n < 70; n++) {
        check_step(kernel, n, n % 2 ? 1 : 7);
    }
    check_step(kernel, 1000, 100);
}
