// SwiGLU. Bounds: exp is within 1 ulp (2 u) by SLEEF's word; sig = 1 / (1 + exp(-gate)) is within 4 u: at most 2 u from
// exp, one rounding of the sum and one of the quotient.
#include <math.h>

#include "check.h"
#include "ref/ref.h"

// A product's error on top of the relative one, where it underflows.
static const double tiny = 0x1p-149;

// Gates over the range of float32's exp, and its ends.
static float *gates(check_role role, size_t n) {
    static const float ends[] = {0, -0.0f, 30, -30, 87.5f, -87.5f, 89, -89, 104, -104, 3e38f, -3e38f, 1e-40f};
    float *gate = check_floats("gate", role, 1, n, n);
    for (size_t i = 0; i < n; i++) {
        gate[i] *= 8;
        if (i % 5 == 4) {
            gate[i] = ends[i / 5 % (sizeof ends / sizeof ends[0])];
        }
    }
    if (check_mode_now() == CHECK_POISON) {
        gate[n - 1] = NAN;
        gate[n / 2] = INFINITY;
    }
    return gate;
}

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

// The same of sig: below -88.7, exp(-gate) overflows in float32 and sig is 0.
static double sigmoid_floor(double gate) {
    return gate < -88.7 ? exp(-88.7) : tiny;
}

static void check_forward(const lod_kernel *kernel, size_t n) {
    check_shape("n=%zu", n);
    lod_silu_mul_fwd_kernel_args t = {.n = n, .gate = gates(CHECK_IN, n)};
    t.up = check_floats("up", CHECK_IN, 1, n, n);
    t.y = check_floats("y", CHECK_OUT, 1, n, n);
    double *gate = check_widen(t.gate), *up = check_widen(t.up), *want = check_doubles(n), *bound = check_doubles(n);
    lod_silu_mul_fwd_f64(&(lod_silu_mul_fwd_f64_args){.n = n, .gate = gate, .up = up, .y = want});
    for (size_t i = 0; i < n; i++) {
        double floor = (sigmoid_floor(gate[i]) * fabs(gate[i]) + tiny) * fabs(up[i]) + tiny;
        bound[i] = fabs(want[i]) * check_gamma(4 + 2) + floor;
    }
    CHECK_CALL(kernel->fn.silu_mul_fwd_f32(&t));
    check_near(t.y, want, bound);
    check_share(t.y);
}

CHECK_KERNEL(silu_mul_fwd_f32, 0x3abb8ff599d7dbfb) {
    for (size_t n = 1; n < 70; n++) {
        check_forward(kernel, n);
    }
    check_forward(kernel, 1000);
}

// f = fma(gate, 1 - sig, 1): 1 - sig is off by 4 u sig + u (1 - sig).
static double factor_error(double gate) {
    double sig = sigmoid(gate), factor = 1 + gate * (1 - sig);
    return fabs(gate) * (sig * check_gamma(4) + (1 - sig) * CHECK_U) + fabs(factor) * CHECK_U;
}

static void check_backward(const lod_kernel *kernel, size_t n, bool in_place) {
    check_shape("n=%zu%s", n, in_place ? " in place" : "");
    check_role role = in_place ? CHECK_INOUT : CHECK_IN;
    float *gate = gates(role, n), *up = check_floats("up", role, 1, n, n);
    lod_silu_mul_bwd_kernel_args t = {.n = n, .gate = gate, .up = up, .dy = check_floats("dy", CHECK_IN, 1, n, n)};
    t.dgate = in_place ? gate : check_floats("dgate", CHECK_OUT, 1, n, n);
    t.dup = in_place ? up : check_floats("dup", CHECK_OUT, 1, n, n);
    const double *g = check_widen(gate), *u = check_widen(up), *dy = check_widen(t.dy);
    double *dgate = check_doubles(n), *dup = check_doubles(n), *dgate_bound = check_doubles(n);
    double *dup_bound = check_doubles(n);
    lod_silu_mul_bwd_f64(
        &(lod_silu_mul_bwd_f64_args){.n = n, .gate = g, .up = u, .dy = dy, .dgate = dgate, .dup = dup});
    for (size_t i = 0; i < n; i++) {
        double sig = sigmoid(g[i]), factor = fabs(1 + g[i] * (1 - sig)), outer = fabs(dy[i] * u[i]);
        dgate_bound[i] = outer * sig * factor_error(g[i]) + fabs(dgate[i]) * check_gamma(4 + 3);
        dgate_bound[i] += (sigmoid_floor(g[i]) * outer + tiny) * factor + tiny;
        dup_bound[i] = fabs(dup[i]) * check_gamma(4 + 2);
        dup_bound[i] += (sigmoid_floor(g[i]) * fabs(g[i]) + tiny) * fabs(dy[i]) + tiny;
    }
    CHECK_CALL(kernel->fn.silu_mul_bwd_f32(&t));
    check_near(t.dgate, dgate, dgate_bound);
    check_near(t.dup, dup, dup_bound);
    check_share(t.dgate);
    check_share(t.dup);
}

CHECK_KERNEL(silu_mul_bwd_f32, 0xe9fb25cbb778f0b4) {
    for (size_t n = 1; n < 70; n++) {
        check_backward(kernel, n, n % 2);
    }
    check_backward(kernel, 1000, false);
}
